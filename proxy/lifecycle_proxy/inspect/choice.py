"""One exchange of a recording, by its id."""

from collections.abc import Sequence

from lifecycle_proxy.core.printable import printable
from lifecycle_proxy.recording.cassette import RecordedExchange
from lifecycle_proxy.recording.cassette_file import CassetteError


def chosen(exchanges: Sequence[RecordedExchange], wanted: str) -> RecordedExchange:
    """The exchange of this id; the beginning of it is enough where it is the only one.

    Args:
        exchanges: of a recording.
        wanted: the id.

    Raises:
        CassetteError: there is none, or there are several.
    """
    found = [one for one in exchanges if one.id == wanted]
    found = found or [one for one in exchanges if one.id.startswith(wanted)]
    if len({one.id for one in found}) != 1:
        problem = f"{len(found)} exchanges begin with" if found else "no exchange"
        shown = ", ".join(printable(one.id) for one in (found or list(exchanges))[:10])
        raise CassetteError(f"{problem} {printable(wanted)!r}; there are: {shown}")
    return found[-1]
