"""The recorder's place in the proxy, and the player's: which exchanges are kept, which are played.

In the modes that play, a replay server of our own stands where the upstream would, behind a unix
socket that nobody else can open: what is played takes the very way that live answers take.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp import web
from multidict import CIMultiDict

from lifecycle_proxy.config.model import ConfigError, Mode, Recording, Settings
from lifecycle_proxy.exchange import headers
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import EXCHANGE
from lifecycle_proxy.recording.cassette import SUFFIXES, CassetteError, Exchange, load
from lifecycle_proxy.recording.recorder import Recorder
from lifecycle_proxy.recording.redactor import Redaction
from lifecycle_proxy.replay import server as replay
from lifecycle_proxy.replay.matching import BY_QUESTION, Rules, cleaned_by
from lifecycle_proxy.replay.near_miss import Miss
from lifecycle_proxy.replay.schedule import playable
from lifecycle_proxy.server.runner import Runner
from lifecycle_proxy.upstream.client import Upstream

HEADER: Final = "X-Lifecycle-Record"
_MODES: Final = ("off", "record", "once", "new_episodes", "replay")
_RECORDING: Final = ("record", "new_episodes")
_MISS: Final = "X-Lifecycle-Miss"
_STREAMED: Final = "a body that was streamed and not kept"

Data = bytes | AsyncIterator[bytes] | None


class RecordingMode:
    """The recorder, if there is one, and what requests say of it.

    Args:
        settings: ``[recording]``, and the keys that must not be recorded.
        lost: called for each exchange that could not be kept.

    Raises:
        ConfigError: there is nothing to play, and nothing else may be done.
    """

    def __init__(self, settings: Settings, lost: Callable[[], None]) -> None:
        self._settings = settings
        self._lost = lost
        self._recorder: Recorder | None = None
        self._runner: Runner | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._played: Upstream | None = None
        self._mode, self._exchanges = opened(settings.recording)

    def upstream(self) -> Upstream:
        """Where requests go: to the upstream, or, if nothing else may be asked, to the replay."""
        if not self._exchanges:
            return Upstream(self._settings)
        self._folder = tempfile.TemporaryDirectory(prefix="lifecycle-proxy-")  # mode 0700
        base = urlsplit(self._settings.upstream_base).path
        replace = msgspec.structs.replace
        url = f"unix:{self._socket}:{base}"
        own = replace(self._settings, upstream=replace(self._settings.upstream, url=url))
        self._played = _Played(own)
        return self._played if self._mode == "replay" else Upstream(self._settings)

    async def start(self) -> None:
        """Open what is written to, and what is played.

        Raises:
            OSError: the folder cannot be made, or the socket not be bound.
        """
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        own, redaction = self._settings.recording, redaction_of(self._settings)
        if self._exchanges:
            # Where the upstream is asked for the rest, a miss is nothing to tell of.
            on_miss = None if self._mode == "replay" else _ignore
            # A page may be loaded again; but where the upstream can be asked, it is to be.
            is_strict = self._mode != "replay"
            rules = Rules(stages=BY_QUESTION, strict=is_strict, clean=cleaned_by(redaction))
            options = replay.Options(speed=own.speed, rules=rules, on_miss=on_miss)
            app = replay.create_replay_app(self._exchanges, options)
            self._runner, _ = await replay.start_replay(app, f"unix:{self._socket}")
            if self._mode != "replay" and self._played is not None:
                await self._played.start()
        if self._mode in _RECORDING:
            try:
                self._recorder = Recorder(
                    Path(own.path),
                    redaction,
                    self._lost,
                    max_file_bytes=own.max_file_bytes,
                    compress=own.compress,
                )
            except OSError as error:
                why = f"recording.path: {own.path}: {error.strerror or error}"
                raise type(error)(error.errno, why) from None

    async def close(self) -> None:
        """Write what is waiting, and end the replay."""
        if self._runner is not None:
            if self._mode != "replay" and self._played is not None:
                await self._played.close()
            await replay.stop_replay(self._runner)
        if self._folder is not None:
            self._folder.cleanup()
        if self._recorder is not None:
            await asyncio.to_thread(self._recorder.close)

    def abandon(self) -> None:
        """Leave no folder behind: the process is about to end, and waits for nobody."""
        if self._folder is not None:
            shutil.rmtree(self._folder.name, ignore_errors=True)

    async def maybe_replay(
        self, request: web.Request, path: str, sent: CIMultiDict[str], data: Data
    ) -> aiohttp.ClientResponse | None:
        """A recording's answer, in the mode that asks the upstream only for what is new.

        Raises:
            ProxyError: ``bad_request``: a recording is asked for where there is none, or a mode
                that there is not.
        """
        mode = self._mode_of(request)
        if self._mode == "replay" or mode not in ("new_episodes", "replay"):
            return None
        if self._played is None:
            if mode == "replay":
                raise ProxyError("bad_request", "there is nothing to play (recording.mode)", HEADER)
            return None
        if mode != "replay" and not (data is None or isinstance(data, bytes)):
            return None
        url, exchange = self._played.url(path), request[EXCHANGE]
        answer = await self._played.open(request.method, url, sent, data, exchange)
        if _MISS not in answer.headers or mode == "replay":
            return answer
        answer.close()
        return None

    @property
    def _socket(self) -> str:
        assert self._folder is not None
        return f"{self._folder.name}/replay.sock"

    def begin(self, request: web.Request, data: Data, sent: CIMultiDict[str]) -> None:
        """Record a request, unless nobody wants that.

        Args:
            sent: headers for the upstream. The answer is asked for in clear: in a compressed one
                no secret can be found.

        Raises:
            ProxyError: ``bad_request``: the request names a mode that there is not.
        """
        if self._mode_of(request) not in _RECORDING or self._recorder is None:
            return
        exchange = request[EXCHANGE]
        tape = self._recorder.tape(f"ex_{exchange.token}", exchange.started)
        exchange.listeners.add(tape)
        body, omitted = (data if isinstance(data, bytes) else None), ""
        if exchange.route == "websocket":
            omitted = "a WebSocket"
        elif data is not None and body is None:
            omitted = _STREAMED
        if data is None and not omitted:
            body = b""
        what = (exchange.route, request.method, request.raw_path)
        tape.request(what, headers.raw(request.raw_headers), body, omitted)
        if omitted:
            tape.omit(omitted)
        else:
            sent["Accept-Encoding"] = "identity"

    def _mode_of(self, request: web.Request) -> Mode:
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


def opened(own: Recording) -> tuple[Mode, list[Exchange]]:
    """The mode that a start comes to, and what there is to play."""
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
    return Redaction(
        headers=own.redact_headers,
        patterns=own.redact_patterns,
        paths=own.redact_paths,
        secrets=[key for key in keys if key],
    )


def _cassettes(place: Path) -> bool:
    return place.is_dir() and any(f.name.endswith(SUFFIXES) for f in place.rglob("*"))


class _Played(Upstream):
    """The replay in the upstream's place."""

    async def probe(self) -> str:
        """Nothing is wrong with it. To ask would use a recording up, or be a miss."""
        return ""


def _ignore(miss: Miss) -> None:
    """It is asked of the upstream."""
