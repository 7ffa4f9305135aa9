"""The paths below ``/-/streams/``: what is kept of a stream, for readers that may have it."""

import asyncio
import re
from typing import Final

from aiohttp import web

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.streams import PROCESS_KEY
from lifecycle_proxy.core.dialects.fields import dumps
from lifecycle_proxy.core.vocabularies import DEFAULT, VOCABULARIES
from lifecycle_proxy.exchange.client_scope import owner_of
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.routes import STREAMS_PREFIX, fields_of, maybe_token
from lifecycle_proxy.handlers.stream_reader import StreamReader, refusal
from lifecycle_proxy.handlers.stream_replay import StreamReplay
from lifecycle_proxy.handlers.stream_tokens import StreamTokens
from lifecycle_proxy.state.event_log import EventLog
from lifecycle_proxy.state.stream_records import (
    LogUnavailableError,
    StreamExpiredError,
    StreamKey,
    StreamStatus,
    StreamUnknownError,
)
from lifecycle_proxy.telemetry.stream_metrics import StreamMetrics

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CURSOR: Final = re.compile(r"[0-9]{1,16}")
_MAX_CURSOR: Final = 2**53 - 1  # what JavaScript counts to
_CURSORS: Final = ("after", "starting_after")
_CHAT: Final = "chat"
_PARTS: Final = ("", "events", _CHAT, "token")
_NO_STORE: Final = {"Cache-Control": "no-store"}


class StreamEndpoints:
    """Handlers for streams.

    Args:
        log: of all streams.
        tokens: for readers that can send no headers.
        reader: answers those that read.
        replay: gives a chat again.
    """

    def __init__(
        self, log: EventLog, tokens: StreamTokens, reader: StreamReader, replay: StreamReplay
    ) -> None:
        self._replay = replay
        self._log = log
        self._tokens = tokens
        self._reader = reader

    async def handle(self, request: ClientRequest) -> web.StreamResponse:
        """Any request for a path below ``/-/streams/``.

        Raises:
            ProxyError: what is wrong with it.
        """
        stream_id, _, what = request.exchange.path.removeprefix(STREAMS_PREFIX).partition("/")
        if not _ID.fullmatch(stream_id) or what not in _PARTS:
            raise ProxyError("not_found", f"the proxy has nothing at {request.path[:200]}")
        if what == "token":
            if request.method != "POST":
                raise ProxyError("method_not_allowed", "a token is asked for with POST", "POST")
            return await self._token(request, StreamKey(owner_of(request.headers), stream_id))
        if request.method not in ("GET", "HEAD"):
            raise ProxyError("method_not_allowed", "streams are read with GET")
        target = request.exchange.target
        owner = owner_of(request.headers)
        if (token := maybe_token(request.method, target)) is not None:
            owner = self._tokens.owner(token, stream_id)
        key = StreamKey(owner, stream_id)
        if what == "events":
            dialect = fields_of(target).get("dialect", DEFAULT)
            return await self.events(request, key, dialect)
        if what == _CHAT and request.method == "GET":
            return await self._chat(request, key)
        return await self._status(key)

    async def compat(
        self, request: ClientRequest, dialect: str, stream_id: str
    ) -> web.StreamResponse:
        """The events of a stream, at a path of another system. One that is not there is a 404.

        Args:
            request: the reader's.
            dialect: that system's vocabulary.
            stream_id: of the stream.

        Raises:
            ProxyError: ``method_not_allowed``, or see ``StreamReader.answer``.
        """
        if request.method not in ("GET", "HEAD"):
            raise ProxyError("method_not_allowed", "streams are read with GET")
        key = StreamKey(owner_of(request.headers), stream_id)
        cursor = cursor_of(request)
        return await self._reader.answer(request, key, cursor, dialect, may_wait=False)

    async def events(
        self, request: ClientRequest, key: StreamKey, dialect: str, *, may_wait: bool = True
    ) -> web.StreamResponse:
        """The events of a stream, live.

        Args:
            request: the reader's, with its cursor.
            key: of the stream.
            dialect: a vocabulary's name.
            may_wait: for a stream that has not begun.

        Raises:
            ProxyError: ``bad_request``, or see ``StreamReader.answer``.
        """
        if dialect not in VOCABULARIES:
            known = ", ".join(VOCABULARIES)
            message = f"unknown dialect {dialect[:40]!r}; known are {known}"
            raise ProxyError("bad_request", message, "dialect")
        cursor = cursor_of(request)
        return await self._reader.answer(request, key, cursor, dialect, may_wait=may_wait)

    async def _chat(self, request: ClientRequest, key: StreamKey) -> web.StreamResponse:
        """What the client of the chat got, from the event on that the cursor names.

        Raises:
            ProxyError: ``not_found``, ``stream_expired``, ``streams_unavailable``.
        """
        try:
            offset = await self._log.offset_of(key, cursor_of(request))
        except (StreamUnknownError, StreamExpiredError, LogUnavailableError) as failure:
            raise refusal(failure) from None
        response = await self._replay.maybe_answer(request, key, offset)
        if response is None:
            raise ProxyError("not_found", "the bytes of this stream are not kept: streams.resume_s")
        return response

    async def _status(self, key: StreamKey) -> web.StreamResponse:
        report = await self._report(key)
        done = report.done
        return web.json_response(
            {
                "id": key.id,
                "status": "running" if done is None else done["status"],
                "startedAt": round(report.started_at, 3),
                "firstSeq": report.first,
                "lastSeq": report.last,
                "openCalls": report.open_calls,
                "done": done,
                "expiresAt": None if report.expires_at is None else round(report.expires_at, 3),
                "resumable": report.is_resumable,
            },
            dumps=lambda fields: dumps(fields).decode(),
            headers=_NO_STORE,
        )

    async def _token(self, request: ClientRequest, key: StreamKey) -> web.StreamResponse:
        await self._report(key)
        token, expires_at = self._tokens.make(key)
        url = f"{STREAMS_PREFIX}{key.id}/events?token={token}"
        return web.json_response(
            {"token": token, "url": url, "expiresAt": expires_at}, headers=_NO_STORE
        )

    async def _report(self, key: StreamKey) -> StreamStatus:
        """What is known of a stream.

        Raises:
            ProxyError: ``not_found``, ``stream_expired`` or ``streams_unavailable``.
        """
        try:
            return await self._log.status(key)
        except (StreamUnknownError, StreamExpiredError, LogUnavailableError) as failure:
            raise refusal(failure) from None


def stream_endpoints(
    settings: Settings,
    log: EventLog,
    metrics: StreamMetrics,
    is_ending: asyncio.Event,
    replay: StreamReplay,
) -> StreamEndpoints:
    """The handlers, and what they need.

    Args:
        settings: everything.
        log: of all streams.
        metrics: readers are counted there.
        is_ending: set when the process is about to end.
        replay: gives a chat again.
    """
    tokens = StreamTokens(settings.streams.token_key or PROCESS_KEY)
    return StreamEndpoints(log, tokens, StreamReader(settings, log, metrics, is_ending), replay)


def cursor_of(request: ClientRequest) -> int:
    """The number of the last event that a reader knows; 0 for none.

    The header counts: a browser that connects anew sends it, with the URL that it had at first.
    LangGraph's SDK sends -1 where it knows none.

    Raises:
        ProxyError: ``bad_request``.
    """
    query = fields_of(request.exchange.target)
    name, sent = "Last-Event-ID", request.headers.get("Last-Event-ID", "").strip()
    for other in _CURSORS:
        if not sent:
            name, sent = other, query.get(other, "").strip()
    if sent in ("", "-1"):
        return 0
    if not _CURSOR.fullmatch(sent) or int(sent) > _MAX_CURSOR:
        message = "a cursor is the number of an event, as its id field has it"
        raise ProxyError("bad_request", message, name)
    return int(sent)
