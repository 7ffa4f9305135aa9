"""The command ``export``: recordings as HAR or HTML, to a file or to standard output."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

from lifecycle_proxy.exchange.model import SideName
from lifecycle_proxy.inspect import har_writer, html_report
from lifecycle_proxy.inspect.choice import chosen
from lifecycle_proxy.recording import cassette
from lifecycle_proxy.recording.cassette import RecordedExchange

Form = Literal["har", "html"]


def export(
    path: Path,
    form: Form,
    out: Path | None = None,
    *,
    side: SideName = "client",
    exchange_id: str = "",
) -> None:
    """Write a cassette, or a folder of them, as HAR or as a page.

    Args:
        path: a cassette, or a folder of them.
        form: of the output.
        out: standard output, if not given. Only the owner can read a new file, as with cassettes.
        side: whose responses are in a HAR. A page has both.
        exchange_id: only this exchange; the beginning of its id is enough.

    Raises:
        CassetteError: it is not a cassette, or does not contain the exchange.
        OSError: the file cannot be written.
    """
    exchanges = cassette.load(path)
    if exchange_id:
        exchanges = [chosen(exchanges, exchange_id)]
    data = _FORMS[form](exchanges, path.name, side)
    if out is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    with open(out, "wb", opener=_private) as file:
        file.write(data)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _har(exchanges: Sequence[RecordedExchange], name: str, side: SideName) -> bytes:
    return har_writer.dumps(exchanges, side=side)


def _html(exchanges: Sequence[RecordedExchange], name: str, side: SideName) -> bytes:
    return html_report.page(exchanges, title=name).encode()


_FORMS: Final[dict[Form, Callable[[Sequence[RecordedExchange], str, SideName], bytes]]] = {
    "har": _har,
    "html": _html,
}
