"""The listening socket, and the word to systemd."""

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from lifecycle_proxy.config.model import Settings


def bind(settings: Settings, *, shared: bool = False, port: int | None = None) -> socket.socket:
    """The listening socket.

    Args:
        settings: ``server.listen``.
        shared: several processes will bind the same port (``SO_REUSEPORT``).
        port: instead of the one in the settings, where that is 0.

    Raises:
        OSError: the address cannot be bound.
    """
    try:
        return _bound(settings, shared=shared, port=port)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        message = f"cannot listen on {settings.server.listen}: {reason}"
        raise OSError(error.errno, message) from None


def _bound(settings: Settings, *, shared: bool, port: int | None) -> socket.socket:
    address: Any
    path = settings.listen_socket
    if path is not None:
        _remove_dead_socket(Path(path))
        sock, address = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path
    else:
        host, configured = settings.address
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port or configured, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def url(sock: socket.socket, settings: Settings) -> str:
    """The URL of a bound socket.

    Args:
        sock: bound.
        settings: ``server.tls_cert`` decides the scheme.
    """
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    scheme = "https" if settings.server.tls_cert else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def remove_socket_file(settings: Settings) -> None:
    """Behind the last use of a unix socket. The system leaves its file."""
    if settings.listen_socket is not None:
        with suppress(OSError):
            Path(settings.listen_socket).unlink()


def notify(state: str) -> None:
    """Tell systemd (``Type=notify``), if it is listening. See sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(state.encode())


def _remove_dead_socket(path: Path) -> None:
    """A socket file that nobody listens on any more. A live one is left, and binding fails."""
    if not (path.exists() and stat.S_ISSOCK(path.stat().st_mode)):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
