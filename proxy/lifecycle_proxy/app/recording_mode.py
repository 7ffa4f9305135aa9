"""The modes of ``[recording]``: which exchanges are recorded, which are answered by recordings."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from multidict import CIMultiDict

from lifecycle_proxy.config.model import ConfigError, Mode, Recording, Settings
from lifecycle_proxy.exchange import headers, streamed_body
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.ports import UpstreamClient, UpstreamRequest, UpstreamResponse
from lifecycle_proxy.recording.cassette import RecordedExchange, load
from lifecycle_proxy.recording.cassette_file import SUFFIXES, CassetteError
from lifecycle_proxy.recording.live_tapes import LiveTapes
from lifecycle_proxy.recording.recorder import Recorder
from lifecycle_proxy.recording.redactor import Redaction
from lifecycle_proxy.replay.matching import BY_QUESTION, Rules, cleaned_by
from lifecycle_proxy.replay.near_miss import Miss
from lifecycle_proxy.replay.schedule import playable
from lifecycle_proxy.replay.upstream import PlayedUpstream
from lifecycle_proxy.upstream.client import HttpUpstream
from lifecycle_proxy.upstream.pool import UpstreamPool
from lifecycle_proxy.upstream.routes import UpstreamUrls

HEADER: Final = "X-Lifecycle-Record"
_MODES: Final = ("off", "record", "once", "new_episodes", "replay")
_RECORDING: Final = ("record", "new_episodes")
_WEBSOCKET: Final = "a WebSocket"

MakeUpstream = Callable[[Settings], UpstreamClient]
Data = bytes | AsyncIterator[bytes] | None


class RecordingMode:
    """The recorder, if there is one, and what requests say of it.

    Args:
        settings: ``[recording]``, and the keys that must not be recorded.
        lost: called for each exchange that could not be kept.
        omitted: called for each of which something is not recorded on purpose.
        live: what people look into while it happens.

    Raises:
        ConfigError: there is nothing to play, and nothing else may be done.
    """

    def __init__(
        self,
        settings: Settings,
        lost: Callable[[], None],
        omitted: Callable[[], None] = lambda: None,
        live: LiveTapes | None = None,
    ) -> None:
        self._live = live
        self._settings = settings
        self._lost, self._omitted = lost, omitted
        self._recorder: Recorder | None = None
        self._mode, exchanges = opened(settings.recording)
        self._played = _played(settings, exchanges, self._mode) if exchanges else None

    def upstream(self, settings: Settings, agent: MakeUpstream) -> UpstreamClient:
        """Where requests go: to the upstream, or, if nothing else may be asked, to recordings.

        Args:
            settings: of the upstreams.
            agent: makes the client of an upstream that is an agent.
        """
        if self._played is not None and self._mode == "replay":
            return self._played

        def make(own: Settings) -> UpstreamClient:
            return agent(own) if own.upstream.is_agent else HttpUpstream(own)

        return UpstreamPool(settings, make=make) if settings.is_routed else make(settings)

    def start(self) -> None:
        """Open what is written to.

        Raises:
            OSError: the folder cannot be made.
        """
        own = self._settings.recording
        if self._mode not in _RECORDING:
            return
        try:
            self._recorder = Recorder(
                Path(own.path),
                redaction_of(self._settings),
                self._lost,
                omitted=self._omitted,
                max_file_bytes=own.max_file_bytes,
                max_body_bytes=own.max_body_bytes,
                compress=own.compress,
            )
        except OSError as error:
            why = f"recording.path: {own.path}: {error.strerror or error}"
            raise type(error)(error.errno, why) from None

    async def close(self) -> None:
        """Write what is waiting."""
        if self._recorder is not None:
            await asyncio.to_thread(self._recorder.close)

    def remove_unplayable(self) -> None:
        """After ``close``: leave no files behind if the upstream could never be reached."""
        if self._recorder is not None:
            self._recorder.remove_unplayable()

    def concerns(self, request: ClientRequest) -> bool:
        """Whether recording is on, or the request asks for a mode."""
        is_watched = self._live is not None and self._live.watchers > 0
        return self._mode != "off" or is_watched or HEADER in request.headers

    async def whole(self, request: ClientRequest, data: Data) -> Data:
        """The body, read if a recording may answer and the upstream may have to be asked.

        Args:
            request: the client's, which may ask for a mode.
            data: its body.
        """
        mode = self._mode_of(request)
        if self._played is None or self._mode == "replay" or mode != "new_episodes":
            return data
        return await streamed_body.whole(data)

    async def maybe_replay(
        self, request: ClientRequest, wanted: UpstreamRequest
    ) -> UpstreamResponse | None:
        """A recording's response, in the mode that asks the upstream only for what is new.

        Args:
            request: the client's, which may ask for a mode.
            wanted: what the upstream would be sent.

        Raises:
            ProxyError: ``bad_request``: a recording is asked for where there is none, or a mode
                that does not exist.
        """
        mode = self._mode_of(request)
        if self._mode == "replay" or mode not in ("new_episodes", "replay"):
            return None
        if self._played is None:
            if mode == "replay":
                raise ProxyError("bad_request", "there is nothing to play (recording.mode)", HEADER)
            return None
        if mode == "replay":
            return await self._played.open(wanted, _no_retry)
        if not (wanted.body is None or isinstance(wanted.body, bytes)):
            return None
        found = await self._played.find(wanted)
        return None if isinstance(found, Miss) else await self._played.play(wanted, found)

    def begin(self, request: ClientRequest, data: Data, sent: CIMultiDict[str]) -> None:
        """Record a request, unless nobody wants that.

        Args:
            sent: headers for the upstream. The response is asked for uncompressed: no secret can be
                found in a compressed one.

        Raises:
            ProxyError: ``bad_request``: the request names a mode that there is not.
        """
        recorder, live = self._recorder, self._live
        if self._mode_of(request) in _RECORDING and recorder is not None:
            _follow(request, data, recorder)
            if request.exchange.route != "websocket":
                sent["Accept-Encoding"] = "identity"
        if live is not None and live.watchers:
            _follow(request, data, live)

    def _mode_of(self, request: ClientRequest) -> Mode:
        asked = request.headers.get(HEADER)
        if asked is None:
            return self._mode
        match asked.strip().lower():
            case "off":
                return "off"
            case "record" if self._mode == "replay":
                message = "nothing is recorded here, recordings are played (recording.mode)"
                raise ProxyError("bad_request", message, HEADER)
            case "once" if self._mode != "off":
                return "new_episodes"  # of one request it says the same
            case ("record" | "new_episodes" | "replay") as mode if self._mode != "off":
                return mode
            case mode if mode in _MODES:
                raise ProxyError("bad_request", "recording is off (recording.mode)", HEADER)
            case mode:
                known = ", ".join(_MODES)
                message = f"unknown recording mode {mode[:40]!r}; known are {known}"
                raise ProxyError("bad_request", message, HEADER)


def _follow(request: ClientRequest, data: Data, recorder: Recorder | LiveTapes) -> None:
    """Record a request, and what becomes of it."""
    exchange = request.exchange
    tape = recorder.tape(f"ex_{exchange.token}", exchange.started)
    exchange.listeners.add(tape)
    is_socket = exchange.route == "websocket"
    body = data if isinstance(data, bytes) else None  # it is streamed: see on_request_body
    if data is None:
        body = None if is_socket else b""
    what = (exchange.route, request.method, request.raw_path)
    tape.request(what, headers.raw(request.raw_headers), body, _WEBSOCKET if is_socket else "")
    if is_socket:
        tape.omit(_WEBSOCKET)


def opened(own: Recording) -> tuple[Mode, list[RecordedExchange]]:
    """The mode that a start results in, and the recordings to play.

    Args:
        own: ``[recording]``.

    Raises:
        ConfigError: there is nothing to play, or what is there cannot be read.
    """
    place = Path(own.path)
    if own.mode not in ("replay", "once", "new_episodes"):
        return own.mode, []
    try:
        exchanges, _ = playable(load(place), "upstream")
    except CassetteError as error:
        if own.mode == "replay" or place.is_file() or _cassettes(place):
            raise ConfigError("", "recording.path", str(error)) from None
        exchanges = []
    if exchanges:
        return ("replay" if own.mode == "once" else own.mode), exchanges
    if own.mode == "replay":
        raise ConfigError("", "recording.path", f"{place}: nothing that can be played")
    return "record", []


def redaction_of(settings: Settings) -> Redaction:
    """What a recording does not hold, and so is not asked of it either."""
    own, keys = settings.recording, [*settings.server.api_keys, settings.upstream.api_key]
    keys += [one.api_key for one in settings.upstreams]
    return Redaction(
        headers=own.redact_headers,
        patterns=own.redact_patterns,
        paths=own.redact_paths,
        secrets=[key for key in keys if key],
    )


def _cassettes(place: Path) -> bool:
    return place.is_dir() and any(f.name.endswith(SUFFIXES) for f in place.rglob("*"))


def _played(settings: Settings, exchanges: list[RecordedExchange], mode: Mode) -> PlayedUpstream:
    # A page may be loaded again; but where the upstream can be asked, it is to be.
    is_strict = mode != "replay"
    clean = cleaned_by(redaction_of(settings))
    return PlayedUpstream(
        exchanges,
        UpstreamUrls(settings.upstream_base, settings.upstream_origin),
        Rules(stages=BY_QUESTION, strict=is_strict, clean=clean),
        speed=settings.recording.speed,
        first_byte_s=settings.upstream.first_byte_timeout_s or None,
    )


def _no_retry() -> None:
    """Recordings are asked once."""
