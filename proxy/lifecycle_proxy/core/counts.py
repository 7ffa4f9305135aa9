"""What is ignored in one stream, how much of one is followed, and what it says of itself."""

from dataclasses import dataclass, field
from typing import Any, Final

# No agent makes as many calls in one answer. What is known of them stays until the stream ends.
MAX_CALLS: Final = 4096
MAX_OPEN_CALLS: Final = 256  # they may all end at once
_ERROR: Final = "upstream_error"


@dataclass(slots=True)
class Counts:
    """What was ignored in one stream, and what the upstream says of it."""

    undecodable: int = 0  # data that is not JSON
    page_events: int = 0  # of the upstream's, that a page was not to get
    dropped: int = 0  # results of unknown ids, second results, repeated events
    observer_failures: int = 0
    failure: BaseException | None = field(default=None, repr=False)
    followed: int = field(default=0, compare=False)  # calls
    not_followed: int = 0  # calls above the limit; they pass unchanged
    usage: dict[str, Any] = field(default_factory=dict, compare=False)  # as the API has it
    end_reason: str = field(default="", compare=False)  # the upstream's word; an error's beats all

    def add_usage(self, usage: object) -> None:
        """Note how many tokens were used. Messages say it in two parts."""
        if isinstance(usage, dict):
            self.usage = {**self.usage, **usage}

    def note_end(self, reason: str | None) -> None:
        """Note why an answer, or a choice of it, has ended."""
        if reason and self.end_reason != _ERROR:
            self.end_reason = reason

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
