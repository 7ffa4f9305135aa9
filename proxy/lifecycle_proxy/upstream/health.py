"""How well an upstream is: assumed to be well, until it fails three times in a row."""

from typing import Final

_FAILURES: Final = 3  # in a row
_FIRST_S: Final = 5.0
_LONGEST_S: Final = 60.0


class Health:
    """One upstream's. Times are seconds on a monotonic clock; 0 stands for never.

    An upstream is set aside after three failures in a row, for 5 s, then twice as long each time,
    up to 60 s. After each such time one request may try it; the others wait for what becomes of
    that one. An upstream that says when to come again (``Retry-After``) is set aside until then.

    Attributes:
        last_error: for people; "" if there has been none.
        failures: in a row.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.last_error = ""
        self._aside_until = 0.0
        self._aside_s = 0.0
        self._limited_until = 0.0
        self._is_tried = False

    def is_aside(self, now: float) -> bool:
        """Whether others are to be asked first."""
        if now < max(self._aside_until, self._limited_until):
            return True
        return bool(self._aside_s) and self._is_tried

    def free_at(self) -> float:
        """When it may be asked again."""
        return max(self._aside_until, self._limited_until)

    def asked(self) -> None:
        """A request is sent to it."""
        self._is_tried = True

    def abandoned(self) -> None:
        """That request was given up by its client: nothing is known."""
        self._is_tried = False

    def succeeded(self) -> None:
        """It has answered."""
        self._is_tried = False
        if not (self.failures or self._limited_until):
            return  # it was well
        self.failures, self._aside_s, self._aside_until = 0, 0.0, 0.0
        self._limited_until = 0.0

    def failed(self, now: float, error: str, before: int = 0) -> None:
        """It could not be reached, or answered that it cannot, or broke an answer off.

        Args:
            now: the time.
            error: for people.
            before: the failures in a row before an answer that broke off: that it had begun to
                answer was no success.
        """
        self.last_error = error
        self.failures = max(self.failures, before) + 1
        self._is_tried = False
        # What fails while it is aside was on its way before, or had nowhere else to go.
        if self.failures >= _FAILURES and now >= self._aside_until:
            self._aside_s = min(self._aside_s * 2, _LONGEST_S) if self._aside_s else _FIRST_S
            self._aside_until = now + self._aside_s

    def limited(self, now: float, wait_s: float, error: str) -> None:
        """It has a limit of requests, and says for how long.

        Args:
            now: the time.
            wait_s: until it may be asked again.
            error: for people.
        """
        self.last_error = error
        self._is_tried = False
        self._limited_until = now + min(wait_s, _LONGEST_S)
