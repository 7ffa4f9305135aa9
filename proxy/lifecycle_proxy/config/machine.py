"""What depends on the machine: its addresses, its folders, what is there already."""

import errno
import ipaddress
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from lifecycle_proxy.config.plain import quoted
from lifecycle_proxy.config.targets import settings_for, upstreams_of

if TYPE_CHECKING:
    from lifecycle_proxy.config.model import Recording, Settings

Found = Iterator[tuple[str, str]]  # keys and texts

CASSETTES: Final = (".jsonl", ".jsonl.gz")
_PORTS: Final = {"http": 80, "https": 443}
_ANY: Final = ("0.0.0.0", "::")  # noqa: S104  compared, not bound


def is_open(settings: "Settings") -> bool:
    """Whether other machines can reach the listener, as far as its address says."""
    if settings.listen_socket is not None:
        return False
    host = settings.address[0].lower()
    with suppress(ValueError):
        return not ipaddress.ip_address(host.partition("%")[0]).is_loopback
    return host != "localhost" and not host.endswith(".localhost")


def is_for_this_machine(settings: "Settings") -> bool:
    """Whether only programs of this machine are to be served, and none of them needs a key."""
    is_loopback = settings.listen_socket is None and not is_open(settings)
    return is_loopback and not settings.server.api_keys


# --- an upstream that is the proxy itself -------------------------------------------------------


def loops(settings: "Settings") -> Found:
    """The upstream is the proxy itself: each request would come back to it, again and again.

    Names are looked up only where the ports are the same. A replay asks no upstream.
    """
    keys = {f"upstreams[{at}].url": one for at, one in enumerate(settings.upstreams)}
    for key, own in keys.items() or [("upstream.url", upstreams_of(settings)[0])]:
        if settings.recording.mode != "replay" and _is_itself(settings_for(settings, own)):
            url, listen = quoted(own.url), quoted(settings.server.listen)
            text = f"{url} is this proxy itself, which listens on {listen}; name the backend"
            yield key, f"{text}, or let the proxy listen on another port"


def _is_itself(settings: "Settings") -> bool:
    if settings.upstream.agent:
        return False
    if settings.listen_socket is not None or settings.upstream_socket is not None:
        return settings.listen_socket == settings.upstream_socket
    url, (host, port) = urlsplit(settings.upstream.url), settings.address
    if port == 0 or (url.port or _PORTS[url.scheme]) != port:
        return False
    own, theirs = _addresses(host), _addresses(url.hostname or "")
    is_any = any(one in _ANY for one in own)
    return bool(own & theirs) or (is_any and any(map(_is_local, theirs)))


def _addresses(host: str) -> set[str]:
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        return {str(getattr(address, "ipv4_mapped", None) or address)}
    with suppress(OSError, UnicodeError):
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    return set()


def _is_local(address: str) -> bool:
    """Whether an address is one of this machine: no other can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with suppress(OSError), closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
        probe.bind((address, 0))
        return True
    return False


# --- agents that are not installed -------------------------------------------------------------


def agents(settings: "Settings") -> Found:
    """The program of an agent is not there: the first chat would fail. A replay starts none."""
    keys = {f"upstreams[{at}].agent": one for at, one in enumerate(settings.upstreams)}
    for key, own in keys.items() or [("upstream.agent", upstreams_of(settings)[0])]:
        if own.agent and settings.recording.mode != "replay":
            program = own.agent[0]
            if "/" in program and not (own.cwd or Path(program).is_absolute()):
                continue  # below a folder that the client names
            path = own.env.get("PATH") or os.environ.get("PATH") or os.defpath
            found = str(Path(own.cwd, program)) if "/" in program else program
            if shutil.which(found, path=path) is None:
                where = "cannot be run" if "/" in program else "is not a program in PATH"
                yield key, f"{quoted(program)} {where}; install it, or write its whole path"


# --- what a start would fail with ---------------------------------------------------------------


def problems(settings: "Settings") -> Found:
    """What ``serve`` would fail with on this machine. A port in use is ``in_use``."""
    error = _bind(settings)
    if error is not None and error.errno != errno.EADDRINUSE:
        cure = "choose an address of this machine"
        if isinstance(error, PermissionError):
            cure = "choose a port above 1023"
        if settings.listen_socket is not None:
            cure = "make the folder, or choose another path"
        why = (error.strerror or str(error)).lower()
        yield "server.listen", f"cannot listen on {settings.server.listen}: {why}; {cure}"
    yield from _recordings(settings.recording)


def in_use(settings: "Settings") -> bool:
    """Whether something listens where the proxy would: perhaps the proxy that is to be replaced."""
    error = _bind(settings)
    return error is not None and error.errno == errno.EADDRINUSE


def _bind(settings: "Settings") -> OSError | None:
    """Why the address cannot be listened on. Nothing is left behind."""
    if settings.listen_socket is not None:
        folder = Path(settings.listen_socket).parent
        return None if folder.is_dir() else FileNotFoundError(errno.ENOENT, f"no folder {folder}")
    host, port = settings.address
    kind, passive = socket.SOCK_STREAM, socket.AI_PASSIVE
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=kind, flags=passive)[
            0
        ]
        with closing(socket.socket(family, kind, proto)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as error:
        return error
    return None


def _recordings(own: "Recording") -> Found:
    path = Path(own.path)
    if own.mode == "off":
        return
    if own.mode == "replay":
        if not path.exists():
            yield "recording.path", f"there is no {path}, so mode replay has nothing to play"
        return
    folder = path.parent if own.path.endswith(CASSETTES) else path
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        yield "recording.path", f"{folder} is a file, where a folder is needed; choose another path"
    elif not os.access(folder, os.W_OK | os.X_OK):
        cure = "give this user the right to, or choose another path"
        yield "recording.path", f"cannot write into {folder.absolute()}; {cure}"
