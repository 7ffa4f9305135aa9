"""What is ignored in one stream, and how much of one is followed."""

from dataclasses import dataclass, field
from typing import Final

# No agent makes as many calls in one answer. What is known of them stays until the stream ends.
MAX_CALLS: Final = 4096
MAX_OPEN_CALLS: Final = 256  # they may all end at once


@dataclass(slots=True)
class Counts:
    """What an observer and the lifecycle ignored in one stream."""

    undecodable: int = 0  # data that is not JSON
    dropped: int = 0  # results of unknown ids, second results, repeated events
    observer_failures: int = 0
    failure: BaseException | None = field(default=None, repr=False)
    followed: int = field(default=0, compare=False)  # calls
    not_followed: int = 0  # calls above the limit; they pass unchanged

    def may_follow(self, *, has_place: bool = True) -> bool:
        """Whether one more call may be followed. It is counted, either way.

        Args:
            has_place: False where it may not be for another reason.
        """
        if has_place and self.followed < MAX_CALLS:
            self.followed += 1
            return True
        self.not_followed += 1
        return False
