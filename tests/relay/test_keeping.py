"""A response that comes in the moment in which its client leaves."""

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from lifecycle_proxy.relay.detect import Begun
from lifecycle_proxy.relay.early_response import EarlyForm, open_with_heartbeats
from lifecycle_proxy.relay.keeping import outlasting

Opening = Coroutine[Any, Any, Begun]


class Answer:
    """A response of the upstream's, as far as it can be let go."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Keeper:
    """Wants the stream for no longer than its client."""

    async def until_unwanted(self) -> None:
        """At once."""


def with_heartbeats(opening: Opening) -> Coroutine[Any, Any, Begun | None]:
    nobody, form = cast(Any, None), EarlyForm(b":\n\n", lambda fields: b"", ends_properly=True)
    return open_with_heartbeats(nobody, opening, web.StreamResponse(), 60, form)


def kept(opening: Opening) -> Coroutine[Any, Any, Begun | None]:
    request = cast(Any, SimpleNamespace(transport=object()))
    return outlasting(request, opening, Keeper())


@pytest.mark.parametrize("wait", [with_heartbeats, kept])
async def test_it_is_closed(wait: Callable[[Opening], Coroutine[Any, Any, Begun | None]]) -> None:
    answer, has_come = Answer(), asyncio.Event()

    async def opening() -> Begun:
        await has_come.wait()
        return Begun(cast(Any, answer))

    waiting = asyncio.create_task(wait(opening()))
    await asyncio.sleep(0.01)
    has_come.set()
    await asyncio.sleep(0)  # it is there, and nobody knows yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert answer.is_closed
