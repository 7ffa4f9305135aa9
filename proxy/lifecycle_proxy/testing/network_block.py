"""No network, for as long as a test runs: whoever would leave this machine gets an exception.

What is patched is what all clients of Python end up in: the resolver and ``connect`` of a socket,
and what uvloop has of its own instead.
"""

import ipaddress
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

EXEMPT: Final = "lifecycle-proxy"  # threads whose names begin so, for a proxy that records
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class NetworkBlockedError(RuntimeError):
    """A test wanted to leave this machine.

    It is no OSError, so that no client takes it for an ordinary failure of the network.
    """


@contextmanager
def blocked(why: str) -> Iterator[None]:
    """Let no connection leave this machine.

    Args:
        why: said in the exception.
    """

    def check(host: object, port: object) -> None:
        if not is_local(host) and not threading.current_thread().name.startswith(EXEMPT):
            place = f"{_text(host)}:{port}"
            raise NetworkBlockedError(f"a connection to {place} is blocked in this test: {why}")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _connecting(getattr(socket.socket, name), check))
        patch.setattr(socket, "getaddrinfo", _resolving(socket.getaddrinfo, check))
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


Check = Callable[[object, object], None]


def _connecting(original: Any, check: Check) -> Any:
    def connect(self: socket.socket, address: Any, /) -> Any:
        if self.family in _FAMILIES and isinstance(address, tuple):
            check(*address[:2])
        return original(self, address)

    return connect


def _resolving(original: Any, check: Check) -> Any:
    def getaddrinfo(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        check(host, port)
        return original(host, port, *args, **more)

    return getaddrinfo


def _creating(original: Any, check: Check) -> Any:
    async def create_connection(
        self: Any, factory: Any, host: Any = None, port: Any = None, **more: Any
    ) -> Any:
        check(host, port)
        return await original(self, factory, host, port, **more)

    return create_connection


def _looking_up(original: Any, check: Check) -> Any:
    async def getaddrinfo(self: Any, host: Any, port: Any, **more: Any) -> Any:
        check(host, port)
        return await original(self, host, port, **more)

    return getaddrinfo


def _text(host: object) -> str:
    return host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host)
