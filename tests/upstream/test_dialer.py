"""Connections that are made: names that are looked up, limits, and what fails."""

import asyncio
import socket
import time

import pytest
from lifecycle_proxy.upstream.http1.connection import HttpConnection
from lifecycle_proxy.upstream.http1.dialer import Dialer, DialTarget
from lifecycle_proxy.upstream.http1.failures import ConnectFailedError, ConnectTimedOutError
from yarl import URL

from tests.fakes import Upstream


async def test_an_upstream_that_comes_back_is_found_again() -> None:
    """What is remembered of a name does not outlast a failure."""
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    dialer = Dialer(DialTarget(URL(f"http://localhost:{port}")), 5)
    for number in range(2):
        fake = Upstream()
        await fake.start(sock if not number else socket.create_server(("127.0.0.1", port)))
        connection = await dialer.dial()
        assert connection.is_usable
        connection.close()
        await fake.stop()
        with pytest.raises(ConnectFailedError) as caught:
            await dialer.dial()
        assert not caught.value.is_tls


async def test_a_name_that_does_not_resolve_is_a_failure_to_connect() -> None:
    with pytest.raises(ConnectFailedError) as caught:
        await Dialer(DialTarget(URL("http://backend.invalid")), 20).dial()
    assert caught.value.reason


async def test_a_connection_that_is_not_taken_in_time_is_given_up() -> None:
    """A queue that is full takes none: on Linux the system tries again for minutes."""
    held: list[HttpConnection] = []

    async def fill(dialer: Dialer) -> None:
        while len(held) < 50:
            held.append(await dialer.dial())

    with socket.create_server(("127.0.0.1", 0), backlog=0) as sock:
        began = time.monotonic()
        with pytest.raises(ConnectTimedOutError):
            await fill(Dialer(DialTarget(URL(f"http://127.0.0.1:{sock.getsockname()[1]}")), 0.2))
        assert time.monotonic() - began >= 0.2
        for connection in held:
            connection.close()
        await asyncio.sleep(0)
