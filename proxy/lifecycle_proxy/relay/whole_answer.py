"""A whole answer, JSON and no stream: what it says of itself is noted for listeners that ask."""

from typing import Any, Final

import orjson

from lifecycle_proxy.core.events import Envelope
from lifecycle_proxy.exchange.content_coding import coding
from lifecycle_proxy.exchange.media_type import media_type
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.exchange.ports import UpstreamResponse
from lifecycle_proxy.relay.body import PlainBody

_MAX_BYTES: Final = 512 << 10  # of a body that is read: parsing takes some milliseconds


def body_for(exchange: Exchange, upstream: UpstreamResponse) -> PlainBody:
    """What passes a body on unchanged, and reads it if that is wanted, and it can be.

    Args:
        exchange: whose answer it is.
        upstream: the answer.
    """
    headers = upstream.headers
    is_read = (
        exchange.reads_usage
        and upstream.status == 200
        and media_type(headers.get("Content-Type", "")) == "application/json"
        and coding(headers) == ""
    )
    return WholeAnswer(exchange) if is_read else PlainBody()


class WholeAnswer(PlainBody):
    """Keeps a copy of a body, up to a limit, and reads it at its proper end.

    Args:
        exchange: gets the id, the model, the tokens and the reason of the end.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._read = bytearray()

    def skim(self, data: bytes) -> bool:
        """See ``Body``. Each piece is kept."""
        return False

    def feed(self, data: bytes, now: float) -> bytes:
        """See ``Body``."""
        if len(self._read) <= _MAX_BYTES:
            self._read += data
        return data

    def eof(self, now: float) -> bytes:
        """See ``Body``."""
        if len(self._read) <= _MAX_BYTES:
            try:
                answer = orjson.loads(self._read)
            except orjson.JSONDecodeError:
                answer = None
            if isinstance(answer, dict):
                self._note(answer)
        return b""

    def _note(self, answer: dict[str, Any]) -> None:
        counts = self._exchange.counts
        counts.add_usage(answer.get("usage"))
        own = self._exchange.envelope()
        answer_id, model = answer.get("id"), answer.get("model")
        self._exchange.answer = Envelope(
            answer_id if isinstance(answer_id, str) else own.id,
            own.created,
            model if isinstance(model, str) else own.model,
        )
        if isinstance(reason := _finish(answer), str):
            counts.note_end(reason)


def _finish(answer: dict[str, Any]) -> object:
    """Why it ended, in the word of its API."""
    choices = answer.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0].get("finish_reason")
    return answer.get("stop_reason") or answer.get("status")
