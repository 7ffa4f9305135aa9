"""The beginning of a stream's log: its id, what is kept of it, and for whom."""

import re
from typing import Final

from aiohttp import web

from lifecycle_proxy.config.machine import is_open
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.core.argument_pieces import ArgumentPieces
from lifecycle_proxy.core.labels import Labels
from lifecycle_proxy.exchange.client_scope import ANONYMOUS, owner_of
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.request_body import ParsedBody
from lifecycle_proxy.handlers.stream_resuming import RESUMABLE, Resuming, StreamKeeper
from lifecycle_proxy.state.event_log import EventLog, LogWriter
from lifecycle_proxy.state.stream_log import FollowedStreamLog, StreamLog
from lifecycle_proxy.state.stream_records import StreamInUseError, StreamKey
from lifecycle_proxy.telemetry.stream_metrics import StreamMetrics

ID_HEADER: Final = "X-Event-Stream-Id"
TEXT_HEADER: Final = "X-Lifecycle-Text"
ARGUMENTS_HEADER: Final = "X-Lifecycle-Arguments"
CHOSEN_ID: Final = re.compile(r"(?!st_)[A-Za-z0-9_-]{8,64}")
# Where nobody has a key, knowing an id is the right to read: 22 characters are 128 bits, if they
# are random as those of a UUID are.
_SECRET_ID_LENGTH: Final = 22
_ON_OFF: Final = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
_KEEPER: web.RequestKey[StreamKeeper] = web.RequestKey("keeper", StreamKeeper)


def maybe_keeper(request: ClientRequest) -> StreamKeeper | None:
    """Who knows how long the stream of a request is wanted; None where it ends with its client."""
    return request.get(_KEEPER) if request.exchange.is_resumable else None


class StreamOpener:
    """Begins the logs of streams.

    Args:
        settings: ``[streams]``, and ``lifecycle.redact``.
        log: of all streams.
        metrics: what could not be kept is counted there.
        resuming: finds the stream of a request that is sent again.
    """

    def __init__(
        self, settings: Settings, log: EventLog, metrics: StreamMetrics, resuming: Resuming
    ) -> None:
        self._resuming = resuming
        self._is_on = settings.streams.max_streams > 0
        self._text = settings.streams.text
        self._arguments = settings.streams.arguments
        self._presenter = Labels() if settings.lifecycle.redact else None
        self._others_read = is_open(settings)
        self._log = log
        self._metrics = metrics

    def has_wishes(self, request: ClientRequest, asked: ParsedBody) -> bool:
        """Whether a request may wish anything of its stream: see ``maybe_resumed``.

        Args:
            request: the client's.
            asked: its body.
        """
        headers = request.headers
        is_asked = ID_HEADER in headers or TEXT_HEADER in headers or ARGUMENTS_HEADER in headers
        return is_asked or self._resuming.may_join(request, asked)

    async def maybe_resumed(
        self, request: ClientRequest, asked: ParsedBody
    ) -> web.StreamResponse | None:
        """Read what a request wishes of its stream, before the upstream is asked.

        The stream of a client that has chosen its id begins here, and so does one that can be
        resumed.

        Args:
            request: the client's.
            asked: its body.

        Returns:
            The stream that it continues, if it does.

        Raises:
            ProxyError: ``bad_request``: a wish that cannot be had; ``stream_in_use``;
                ``idempotency_conflict``.
        """
        self._read_wishes(request)
        resumed = await self._resuming.maybe_joined(request, asked)
        exchange = request.exchange
        if resumed is None and (exchange.chosen_id or exchange.is_resumable):
            await self.begin(request)
        return resumed

    def _read_wishes(self, request: ClientRequest) -> None:
        headers = request.headers
        request.keeps_text = _wish(request, TEXT_HEADER)
        request.keeps_arguments = _wish(request, ARGUMENTS_HEADER)
        if ID_HEADER in headers:
            request.exchange.chosen_id = self._chosen(request)
            if request.keeps_text is None:
                request.keeps_text = True

    def keeps_arguments(self, request: ClientRequest) -> bool:
        """Whether readers of the request's stream get the arguments of its calls."""
        wish = request.keeps_arguments
        return self._is_on and (self._arguments if wish is None else wish)

    async def begin(self, request: ClientRequest, *, with_text: bool | None = None) -> None:
        """Begin the log of a response that is an event stream, if it has not begun.

        Args:
            request: the client's.
            with_text: whether text is kept where the request does not say; None for the setting.

        Raises:
            ProxyError: ``stream_in_use``.
        """
        if not self._is_on or request.has_log:
            return
        request.has_log = True
        exchange = request.exchange
        key = StreamKey(owner_of(request.headers), exchange.stream_id)
        try:
            writer = await self._log.create(
                key, is_chosen=bool(exchange.chosen_id), is_resumable=exchange.is_resumable
            )
        except StreamInUseError:
            message = f"the stream {exchange.stream_id} has not ended; choose another id"
            raise ProxyError("stream_in_use", message, ID_HEADER) from None
        if writer is None:
            self._metrics.not_kept()
            return
        exchange.stream_url = f"/-/streams/{exchange.stream_id}/events"
        text = self._text if with_text is None else with_text
        listener = self._listener(request, writer, with_text=text)
        listener.begin(exchange)
        exchange.listeners.add(listener)

    def _listener(self, request: ClientRequest, writer: LogWriter, *, with_text: bool) -> StreamLog:
        if request.keeps_text is not None:
            with_text = request.keeps_text
        arguments = ArgumentPieces(self._presenter) if self.keeps_arguments(request) else None
        if request.exchange.is_resumable:
            resumable = request[RESUMABLE]
            request[_KEEPER] = StreamKeeper(self._log, writer, resumable.resume_s)
            return FollowedStreamLog(
                writer,
                with_text=with_text,
                arguments=arguments,
                release=resumable.release,
                is_promised=bool(request.exchange.chosen_id),
            )
        if with_text or arguments is not None:
            return FollowedStreamLog(writer, with_text=with_text, arguments=arguments)
        return StreamLog(writer)

    def _chosen(self, request: ClientRequest) -> str:
        """The id that the client has chosen.

        Raises:
            ProxyError: ``bad_request``.
        """
        chosen = request.headers[ID_HEADER].strip()
        if not CHOSEN_ID.fullmatch(chosen):
            message = "a stream's id has 8 to 64 of A-Z a-z 0-9 _ - and does not begin with st_"
            raise ProxyError("bad_request", message, ID_HEADER)
        is_anonymous = owner_of(request.headers) == ANONYMOUS
        if is_anonymous and self._others_read and len(chosen) < _SECRET_ID_LENGTH:
            message = (
                f"without a key, everybody who knows a stream's id can read it: choose a random "
                f"one of at least {_SECRET_ID_LENGTH} characters, such as a UUID"
            )
            raise ProxyError("bad_request", message, ID_HEADER)
        return chosen


def _wish(request: ClientRequest, name: str) -> bool | None:
    """Whether a header says on or off; None where it is not there.

    Raises:
        ProxyError: ``bad_request``.
    """
    value = request.headers.get(name)
    if value is None:
        return None
    wish = _ON_OFF.get(value.strip().lower())
    if wish is None:
        raise ProxyError("bad_request", "expected on or off", name)
    return wish
