"""The summary of the settings: at the start of ``serve``, and from ``check-config``."""

import io
import os
import queue
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TextIO
from urllib.parse import urlsplit

import msgspec

from lifecycle_proxy import __version__
from lifecycle_proxy.app import route_report
from lifecycle_proxy.config import checks
from lifecycle_proxy.config.hidden import redacted
from lifecycle_proxy.config.machine import is_open
from lifecycle_proxy.config.model import Loaded, Settings
from lifecycle_proxy.config.plain import shown
from lifecycle_proxy.config.shared_store import without_secrets
from lifecycle_proxy.core.printable import printable, wants_colour

Connect = Callable[[tuple[str, int], float], socket.socket]

_PROBE_S: Final = 0.5
_PORTS: Final = {"http": 80, "https": 443}
_MOST_CHANGED: Final = 20
_SHOWN: Final = (
    *("server.listen", "server.api_keys", "upstream.url", "upstream.api_key"),
    *("lifecycle.dialect", "lifecycle.clients", "recording.mode", "recording.path"),
    "streams.store",
)
_BOLD: Final = "\x1b[1m"
_YELLOW: Final = "\x1b[33m"
_RED: Final = "\x1b[1;31m"
_PLAIN: Final = "\x1b[0m"


class Banner:
    """Writes the first lines of ``serve``. Called with the URL once it accepts connections.

    On a terminal the summary, then the line ``listening on``, which scripts read. Elsewhere only
    that line.

    Args:
        loaded: the settings, and where they come from.
        stream: standard output, if not given.
    """

    def __init__(self, loaded: Loaded, stream: TextIO | None = None) -> None:
        self._loaded = loaded
        self._stream = sys.stdout if stream is None else stream

    @property
    def is_shown(self) -> bool:
        """Whether the summary is shown: on a terminal."""
        return self._stream.isatty()

    def __call__(self, where: str) -> None:
        settings = self._loaded.settings
        lines = list(self._lines()) if self.is_shown else []
        lines.append(f"listening on {where} -> {', '.join(route_report.bases(settings))}")
        write(lines, self._stream)

    def _lines(self) -> Iterator[str]:
        settings = self._loaded.settings
        paint = _painted if coloured(self._stream) else _unpainted
        yield paint(f"lifecycle-proxy {__version__}", _BOLD)
        yield _line("settings", _sources(self._loaded))
        each = route_report.each(settings)
        with ThreadPoolExecutor(len(each)) as threads:
            problems = list(threads.map(probe, each.values()))
        for (name, own), problem in zip(each.items(), problems, strict=True):
            text = f"{name}{own.shown_upstream}"
            text = text if problem is None else f"{text} ({problem or 'connected'})"
            yield paint(_line("upstream", text), _YELLOW) if problem else _line("upstream", text)
        yield _line("events", _events(settings))
        yield _line("recording", _recording(settings))
        yield from _notices(settings, paint)


def report(loaded: Loaded, most: int = _MOST_CHANGED) -> Iterator[str]:
    """The summary that ``check-config`` prints.

    Args:
        loaded: the settings.
        most: how many changes are named.
    """
    settings = loaded.settings
    yield _line("settings", _sources(loaded))
    yield _line("listen", _listen(settings))
    if settings.is_routed:
        for number, text in enumerate(route_report.lines(settings)):
            yield _line("" if number else "upstreams", text)
    else:
        yield _line("upstream", f"{settings.shown_upstream} ({_key(settings)})")
    yield _line("events", _events(settings))
    yield _line("recording", _recording(settings))
    if settings.streams.store != "memory":
        yield _line("store", without_secrets(settings.streams.store))
    if settings.faults.rules:
        yield _line("faults", _faults(settings))
    changed = list(_changed(settings))
    for number, text in enumerate(changed[:most]):
        yield _line("" if number else "changed", text)
    if len(changed) > most:
        yield _line("", f"and {len(changed) - most} more")


def in_force(loaded: Loaded, stream: TextIO) -> Iterator[str]:
    """The part of the summary that the demo prints: what differs from its defaults.

    Args:
        loaded: the settings, and where they come from.
        stream: where it will be written; decides about colour.
    """
    settings = loaded.settings
    paint = _painted if coloured(stream) else _unpainted
    if loaded.file or loaded.variables:
        yield _line("settings", _sources(loaded))
    if settings.recording.mode != "off":
        yield _line("recording", _recording(settings))
    yield from _notices(settings, paint)


def write(lines: Iterable[str], stream: TextIO) -> None:
    """Write lines. Characters that the stream cannot encode, such as in a path, are escaped.

    Args:
        lines: without line ends.
        stream: a text stream.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    print("\n".join(lines), file=stream, flush=True)


def coloured(stream: TextIO) -> bool:
    """Whether to use colour: on a terminal, unless the environment has ``NO_COLOR``."""
    return wants_colour(stream.isatty(), os.environ)


def _notices(settings: Settings, paint: Callable[[str, str], str]) -> Iterator[str]:
    """Faults and warnings."""
    if settings.faults.rules:
        yield paint(_line("faults", _faults(settings)), _YELLOW)
    for one in checks.warnings(settings):
        colour = _RED if one.is_serious else _YELLOW
        yield paint(_line("warning", f"{one.key}: {one.text}"), colour)


def _line(name: str, text: str) -> str:
    return f"  {name:<9}  {printable(text)}"


def _painted(text: str, colour: str) -> str:
    return f"{colour}{text}{_PLAIN}"


def _unpainted(text: str, colour: str) -> str:
    return text


def _sources(loaded: Loaded) -> str:
    file = () if loaded.file is None else (str(loaded.file),)
    found = (*file, *loaded.variables, *dict.fromkeys(filter(None, loaded.flags)))
    return ", ".join(found) or "all at their defaults"


def _listen(settings: Settings) -> str:
    scheme = "https://" if settings.server.tls_cert else "http://"
    where = ("" if settings.listen_socket else scheme) + settings.server.listen
    keys = len(settings.server.api_keys)
    who = "other machines too" if is_open(settings) else "this machine only"
    return f"{where} ({who}, {_count(keys, 'key') if keys else 'no key needed'})"


def _key(settings: Settings) -> str:
    if settings.upstream.agent:
        return f"permissions {settings.upstream.permissions}"
    return "with upstream.api_key" if settings.upstream.api_key else "with the clients' own key"


def _events(settings: Settings) -> str:
    own = settings.lifecycle
    parts = [f"dialect {own.dialect}"]
    if own.clients:
        parts.append(f"{_count(len(own.clients), 'client rule')} before it")
    if own.builtin_clients:
        parts.append("Open WebUI, LobeChat and old OpenAI SDKs are recognised")
    return ", ".join(parts)


def _recording(settings: Settings) -> str:
    mode, path = settings.recording.mode, Path(settings.recording.path).absolute()
    match mode:
        case "off":
            return "off"
        case "replay":
            return f"answers come from {path}, the upstream is not asked"
        case "record":
            return f"prompts and answers are written to {path}"
        case _:
            return f"mode {mode}: requests that {path} does not hold are recorded there"


def _faults(settings: Settings) -> str:
    return f"{_count(len(settings.faults.rules), 'rule')}: answers are broken on purpose"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _changed(settings: Settings) -> Iterator[str]:
    """The settings that differ from their default and are in no other line. No secrets."""
    default, tree = Settings(), redacted(settings)
    for table in ("server", "upstream", "failover", "lifecycle", "recording", "streams"):
        own, usual = getattr(settings, table), getattr(default, table)
        for name in own.__struct_fields__:
            key, value = f"{table}.{name}", msgspec.to_builtins(getattr(own, name))
            if key not in _SHOWN and value != msgspec.to_builtins(getattr(usual, name)):
                yield f"{key} = {shown(tree[table][name], key)}"


# --- the upstream -------------------------------------------------------------------------------


def probe(
    settings: Settings, limit_s: float = _PROBE_S, connect: Connect = socket.create_connection
) -> str | None:
    """Why the upstream does not accept connections; "" if it does, None if it is not tried.

    Args:
        settings: those of the upstream count.
        limit_s: how long to wait, in seconds. A thread that still waits then (perhaps for a name
            server) is left running: it is a daemon, so the process can end.
        connect: makes a connection to a host and port.
    """
    own = settings.upstream
    if settings.recording.mode == "replay" or own.use_proxy_env or own.agent:
        return None
    result: queue.SimpleQueue[str] = queue.SimpleQueue()
    work = threading.Thread(
        target=lambda: result.put(_connected(settings, limit_s, connect)), name="probe", daemon=True
    )
    work.start()
    try:
        return result.get(timeout=limit_s)
    except queue.Empty:
        return "no connection yet: is it reachable from here?"


def _connected(settings: Settings, limit_s: float, connect: Connect) -> str:
    try:
        with _connection(settings, limit_s, connect) as sock:
            if settings.upstream_base.startswith("https:"):
                name = settings.upstream.server_name or urlsplit(settings.upstream.url).hostname
                _context(settings).wrap_socket(sock, server_hostname=name).close()
    except TimeoutError:
        return "no connection yet: is it reachable from here?"
    except (ConnectionRefusedError, FileNotFoundError):
        return "cannot connect: is it running?"
    except socket.gaierror:
        return "cannot connect: there is no such host; check the name"
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not accepted: {error.verify_message}"
    except ssl.SSLError:
        return "cannot connect with TLS: is it http:// instead of https://?"
    except (OSError, ValueError) as error:  # ValueError: a host name that is not valid
        return f"cannot connect: {(getattr(error, 'strerror', None) or str(error)).lower()}"
    return ""


def _connection(settings: Settings, limit_s: float, connect: Connect) -> socket.socket:
    if settings.upstream_socket is not None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(limit_s)
        try:
            sock.connect(settings.upstream_socket)
        except OSError:
            sock.close()
            raise
        return sock
    url = urlsplit(settings.upstream.url)
    return connect((url.hostname or "", url.port or _PORTS[url.scheme]), limit_s)


def _context(settings: Settings) -> ssl.SSLContext:
    own = settings.upstream
    context = ssl.create_default_context(cafile=own.ca_file or None)
    if not own.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
