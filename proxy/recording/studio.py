"""Which exchanges are recorded, and how: the recorder's place in the proxy."""

from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Final

from aiohttp import web

from proxy.config import Mode, Settings
from proxy.errors import ProxyError
from proxy.exchange import EXCHANGE
from proxy.recording.cassette import Headers
from proxy.recording.recorder import Recorder
from proxy.recording.redaction import Redaction

HEADER: Final = "X-Lifecycle-Record"
_MODES: Final = ("off", "record", "once", "new_episodes", "replay")
_RECORDING: Final = ("record", "once", "new_episodes")
_STREAMED: Final = "a body that was streamed on without being kept"

Data = bytes | AsyncIterator[bytes] | None


class Studio:
    """The recorder, if there is one, and what requests say of it.

    Args:
        settings: ``[recording]``, and the keys that must not be recorded.
        lost: called for each exchange that could not be kept.
    """

    def __init__(self, settings: Settings, lost: Callable[[], None]) -> None:
        self._settings = settings
        self._mode = settings.recording.mode
        self._lost = lost
        self._recorder: Recorder | None = None

    def start(self) -> None:
        """Open what is written to.

        Raises:
            OSError: the folder cannot be made.
        """
        own = self._settings.recording
        if self._mode in _RECORDING:
            secrets = [*self._settings.server.api_keys, self._settings.upstream.api_key]
            redaction = Redaction(
                headers=own.redact_headers,
                patterns=own.redact_patterns,
                paths=own.redact_paths,
                secrets=[secret for secret in secrets if secret],
            )
            self._recorder = Recorder(
                Path(own.path),
                redaction,
                self._lost,
                max_file_bytes=own.max_file_bytes,
                compress=own.compress,
            )

    def close(self) -> None:
        """Write what is waiting."""
        if self._recorder is not None:
            self._recorder.close()

    def begin(self, request: web.Request, data: Data, omitted: str = "") -> None:
        """Record a request, unless nobody wants that.

        Raises:
            ProxyError: ``bad_request``: the request names a mode that there is not.
        """
        if self._mode_of(request) not in _RECORDING or self._recorder is None:
            return
        exchange = request[EXCHANGE]
        tape = exchange.tape = self._recorder.tape(f"ex_{exchange.token}", exchange.started)
        body = data if isinstance(data, bytes) else None
        if data is not None and body is None:
            omitted = _STREAMED
        if data is None and not omitted:
            body = b""
        what = (exchange.route, request.method, request.raw_path)
        tape.request(what, raw(request.raw_headers), body, omitted)
        if omitted:
            tape.omit(omitted)

    def changed(self, request: web.Request, data: Data) -> bytes | None:
        """The body that the upstream is sent, if it is not the client's."""
        exchange = request[EXCHANGE]
        return data if isinstance(data, bytes) and exchange.is_cleaned else None

    def _mode_of(self, request: web.Request) -> Mode:
        asked = request.headers.get(HEADER)
        if asked is None:
            return self._mode
        match asked.strip().lower():
            case "off":
                return "off"
            case ("record" | "once" | "new_episodes" | "replay") as mode if self._mode != "off":
                return mode
            case mode if mode in _MODES:
                raise ProxyError("bad_request", "recording is off (recording.mode)", HEADER)
            case mode:
                known = ", ".join(_MODES)
                message = f"unknown recording mode {mode[:40]!r}; known are {known}"
                raise ProxyError("bad_request", message, HEADER)


def raw(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Headers as they came: in order, with duplicates, in their case."""
    return tuple(
        (name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape"))
        for name, value in headers
    )
