"""One request and its answer, as metrics and the access log see it. Filled in along the way."""

import time
from dataclasses import dataclass, field
from typing import Final, Literal

from aiohttp import web

from proxy.core.events import Counts, Envelope, LifecycleEvent, ToolCompleted
from proxy.recording.faults import Plan
from proxy.recording.recorder import Tape

# What an event stream speaks: chat completions, the Responses API, Anthropic's Messages.
Vocabulary = Literal["chat", "responses", "messages"]
Route = Vocabulary | Literal["websocket", "own", "other"]
# How an exchange ended: well, at the end of all that belongs to it; properly, but an event stream
# without its [DONE]; cut by the upstream, the client, a time limit or our own shutdown; or answered
# by an error of ours.
Ended = Literal["done", "eof", "upstream_error", "client_gone", "timeout", "drained", "refused", ""]
_ID_PREFIXES: Final[dict[Vocabulary, str]] = {
    "chat": "chatcmpl-",
    "responses": "resp_",
    "messages": "msg_",
}
_FAILED: Final[dict[str, Ended]] = {"upstream_timeout": "timeout", "draining": "drained"}


@dataclass(slots=True)
class Exchange:
    """What is known of one exchange. Times are ``time.monotonic()`` seconds.

    Attributes:
        token: random, hexadecimal; what ids of ours are made of.
        path: without the query, which may hold a key.
        client: the peer's address.
        model: as asked, "" where that is not known.
        error: the code of an error of ours, "" without one.
        cause: how the upstream failed, in words; "" where it did not.
        chunks: reads passed on.
        sent_bytes: of the body, frames of ours included.
        longest_gap_s: between two chunks.
        frames: lifecycle frames that were written.
        tools: the calls that were completed.
        retries: requests sent once more on a fresh connection.
        told: the lifecycle events that the client was told.
        plan: the faults that hit it, where faults are allowed.
        is_cleaned: something was taken out of the request's body.
        tape: records it; None where nobody does.
    """

    request_id: str
    method: str
    path: str
    client: str
    route: Route = "other"
    started: float = field(default_factory=time.monotonic)
    model: str = ""
    dialect: str = ""
    stream: bool = False
    status: int = 0
    error: str = ""
    cause: str = ""
    ended: Ended = ""
    first_byte: float | None = None
    last_byte: float | None = None
    chunks: int = 0
    sent_bytes: int = 0
    longest_gap_s: float = 0.0
    frames: int = 0
    tools: list[ToolCompleted] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    oversized: int = 0
    retries: int = 0
    token: str = ""
    told: list[LifecycleEvent] = field(default_factory=list)
    plan: Plan | None = None
    is_cleaned: bool = False
    tape: Tape | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """What its event stream speaks, if it is one of those that frames are added to."""
        return self.route if self.route in ("responses", "messages") else "chat"

    def envelope(self) -> Envelope:
        """What frames of ours copy until the upstream's first chunk has come."""
        answer_id = f"{_ID_PREFIXES[self.vocabulary]}st_{self.token}"
        return Envelope(answer_id, int(time.time()), self.model)

    def fail(self, code: str, cause: str) -> None:
        """The answer had begun when this error of ours broke it."""
        self.ended, self.error, self.cause = _FAILED.get(code, "upstream_error"), code, cause


EXCHANGE: web.RequestKey[Exchange] = web.RequestKey("exchange", Exchange)
