"""Blocks the network while a test runs: connections to other machines raise an exception.

The resolver and ``connect`` of sockets are patched, because all clients in Python use them, and
uvloop's own counterparts.
"""

import ipaddress
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

EXEMPT: Final = "lifecycle-proxy"  # threads whose names begin with this: a proxy that records
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class NetworkBlockedError(RuntimeError):
    """A test tried to connect to another machine.

    Not an OSError, so that no client handles it as an ordinary failure of the network.
    """


@contextmanager
def blocked(why: str) -> Iterator[None]:
    """Let no connection leave this machine.

    Args:
        why: is part of the exception's text.
    """

    def check(host: object, port: object) -> None:
        if not is_local(host) and not threading.current_thread().name.startswith(EXEMPT):
            place = f"{_text(host)}:{port}"
            raise NetworkBlockedError(f"a connection to {place} is blocked in this test: {why}")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _connecting(getattr(socket.socket, name), check))
        patch.setattr(socket, "getaddrinfo", _resolving(socket.getaddrinfo, check))
        # uvloop resolves and connects by itself, not with the socket module.
        if (uvloop := sys.modules.get("uvloop")) is not None:
            own = uvloop.Loop
            patch.setattr(own, "create_connection", _creating(own.create_connection, check))
            patch.setattr(own, "getaddrinfo", _looking_up(own.getaddrinfo, check))
        yield


def is_local(host: object) -> bool:
    """Whether a host, as a client gives it, is this machine's loopback."""
    name = _text(host).rstrip(".").lower()
    if name in ("", "none", "localhost") or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


_Check = Callable[[object, object], None]


def _connecting(original: Any, check: _Check) -> Any:
    def connect(self: socket.socket, address: Any, /) -> Any:
        if self.family in _FAMILIES and isinstance(address, tuple):
            check(*address[:2])
        return original(self, address)

    return connect


def _resolving(original: Any, check: _Check) -> Any:
    def getaddrinfo(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        check(host, port)
        return original(host, port, *args, **more)

    return getaddrinfo


def _creating(original: Any, check: _Check) -> Any:
    async def create_connection(
        self: Any, factory: Any, host: Any = None, port: Any = None, **more: Any
    ) -> Any:
        check(host, port)
        return await original(self, factory, host, port, **more)

    return create_connection


def _looking_up(original: Any, check: _Check) -> Any:
    async def getaddrinfo(self: Any, host: Any, port: Any, **more: Any) -> Any:
        check(host, port)
        return await original(self, host, port, **more)

    return getaddrinfo


def _text(host: object) -> str:
    return host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host)
