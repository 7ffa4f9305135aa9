"""The same request once more continues its stream: no second answer is paid for.

A request that can be resumed claims its name: its ``Idempotency-Key``, or a fingerprint of what it
asks for. One that finds the name claimed for the same thing gets the bytes of the stream that is
there, from the beginning, and then live. Where the client leaves, the upstream is kept for a while.

Without a key only a request that says it is sent again joins (``x-stainless-retry-count`` of
OpenAI's SDKs): who asks the same question twice may well want two answers.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.exchange.client_scope import hashed, owner_of, scope_of
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.headers import prefers_async
from lifecycle_proxy.exchange.request_body import ParsedBody
from lifecycle_proxy.handlers.stream_replay import StreamReplay
from lifecycle_proxy.state.event_log import EventLog, LogWriter
from lifecycle_proxy.state.stream_records import (
    Claim,
    LogUnavailableError,
    StreamExpiredError,
    StreamKey,
    StreamUnknownError,
)
from lifecycle_proxy.telemetry.stream_metrics import StreamMetrics

HEADER: Final = "X-Lifecycle-Resume"
_KEY_HEADER: Final = "Idempotency-Key"
_RETRY_HEADER: Final = "X-Stainless-Retry-Count"
_MAX_RESUME_S: Final = 3_600.0
_CLAIM_S: Final = 6 * 3_600.0  # longer than any stream; what has ended can be claimed anew
_LOOK_S: Final = 0.5
_BEGIN_S: Final = 5.0  # for a claimed stream to be known to other processes


@dataclass(frozen=True, slots=True)
class Resumable:
    """What is known of a request that can be resumed.

    Attributes:
        resume_s: how long the upstream is kept without a client, in seconds.
        release: gives the claim up.
    """

    resume_s: float
    release: Callable[[], None]


RESUMABLE: web.RequestKey[Resumable] = web.RequestKey("resumable", Resumable)


class Resuming:
    """Finds the stream of a request that is sent again.

    Args:
        settings: ``[streams]``.
        log: of all streams.
        metrics: what became of such requests is counted there.
        replay: gives a stream again.
    """

    def __init__(
        self, settings: Settings, log: EventLog, metrics: StreamMetrics, replay: StreamReplay
    ) -> None:
        self._resume_s = settings.streams.resume_s if settings.streams.max_streams else 0
        self._is_on = settings.streams.max_streams > 0
        self._log = log
        self._metrics = metrics
        self._replay = replay

    def may_join(self, request: ClientRequest, asked: ParsedBody) -> bool:
        """Whether ``maybe_joined`` has anything to look at.

        Args:
            request: the client's.
            asked: its body.
        """
        return HEADER in request.headers or (self._resume_s > 0 and asked.stream)

    async def maybe_joined(
        self, request: ClientRequest, asked: ParsedBody
    ) -> web.StreamResponse | None:
        """The stream of the same request, which was sent before; None if it is to be asked for.

        Args:
            request: the client's.
            asked: its body.

        Raises:
            ProxyError: ``bad_request``; ``idempotency_conflict``: the key is another request's.
        """
        resume_s = _seconds(request.headers.get(HEADER), self._resume_s)
        if not (resume_s and self._is_on and asked.stream and isinstance(asked.original, bytes)):
            return None
        if prefers_async(request.headers):
            return None  # it is answered with a URL, not with a stream
        exchange, owner = request.exchange, owner_of(request.headers)
        fingerprint = _fingerprint(request, asked.original)
        key = request.headers.get(_KEY_HEADER, "").strip()
        name = _name(request, key or fingerprint)
        own = Claim(f"{exchange.stream_id}.{exchange.token}", fingerprint)  # of this request
        held = await self._log.claim(owner, name, own, _CLAIM_S)
        if held != own:
            if held.fingerprint != fingerprint:
                self._metrics.resumed("conflict")
                message = "this key has been used for another request"
                raise ProxyError("idempotency_conflict", message, _KEY_HEADER)
            if key or _is_retry(request):
                of = held.holder.partition(".")[0]
                joined = await self._maybe_stream(request, StreamKey(owner, of))
                self._metrics.resumed("given_up" if joined is None else "joined")
                if joined is not None:
                    return joined
            self._log.release(owner, name, held)
            await self._log.claim(owner, name, own, _CLAIM_S)
        exchange.is_resumable = True
        request[RESUMABLE] = Resumable(resume_s, lambda: self._log.release(owner, name, own))
        return None

    async def _maybe_stream(
        self, request: ClientRequest, key: StreamKey
    ) -> web.StreamResponse | None:
        """The stream that holds the name; None where there is nothing to give."""
        try:
            await self._log.status(key)
        except StreamUnknownError:  # another process has begun it just now, perhaps
            await self._log.wait_for(key, _BEGIN_S)
        except (StreamExpiredError, LogUnavailableError):
            return None
        return await self._replay.maybe_answer(request, key)


class StreamKeeper:
    """Keeps the upstream of a client that left, for as long as somebody may want the stream.

    Args:
        log: of all streams.
        writer: of this one.
        resume_s: how long to wait for a client, in seconds.
    """

    def __init__(self, log: EventLog, writer: LogWriter, resume_s: float) -> None:
        self._log = log
        self._writer = writer
        self._resume_s = resume_s

    async def until_unwanted(self) -> None:
        """Wait until nobody has read the stream for so long, or it cannot be resumed any more."""
        left_at = time.monotonic()
        while self._writer.keeps_bytes:
            idle_s = time.monotonic() - left_at
            with suppress(LogUnavailableError):
                idle_s = min(idle_s, await self._log.idle_s(self._writer.key))
            if idle_s >= self._resume_s:
                return
            await asyncio.sleep(min(_LOOK_S, self._resume_s - idle_s))


def _seconds(value: str | None, default: float) -> float:
    """How long to keep the upstream of a client that left.

    Raises:
        ProxyError: ``bad_request``.
    """
    if value is None:
        return default
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= _MAX_RESUME_S:
        message = f"expected a number of seconds, at most {_MAX_RESUME_S:.0f}; 0 turns it off"
        raise ProxyError("bad_request", message, HEADER)
    return seconds


def _is_retry(request: ClientRequest) -> bool:
    """Whether an SDK says that it sends the request again."""
    return request.headers.get(_RETRY_HEADER, "").strip() not in ("", "0")


def _name(request: ClientRequest, what: str) -> str:
    """The name that a request claims: nobody else's request has it.

    One key may be shared by many users, and a backend may know its users by their cookies.
    """
    headers = request.headers
    return hashed("\0".join((scope_of(headers), *headers.getall("Cookie", ()), what)))


def _fingerprint(request: ClientRequest, body: bytes) -> str:
    """A hash of what is asked for, and in which form it is wanted."""
    exchange = request.exchange
    return hashed(f"{exchange.method}\0{exchange.target}\0{exchange.dialect}\0", body)
