"""Going on without the client: others may want the rest of its stream."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.relay.detect import Begun


class Keeper(Protocol):
    """Knows for how long a stream is wanted whose client has left."""

    async def until_unwanted(self) -> None:
        """Wait until nobody wants it any more."""
        ...


def may_outlast(request: ClientRequest, gone: BaseException) -> bool:
    """Whether it is the client that is gone. If so a cancellation is taken back.

    Args:
        request: the client's.
        gone: the cancellation, or the failure of a write.
    """
    if isinstance(gone, ConnectionError):
        return True
    current = asyncio.current_task()
    if request.transport is not None or current is None:
        return False  # the process ends, or has lost its patience
    current.uncancel()
    return True


async def wanted(work: asyncio.Future[Any], keeper: Keeper) -> bool:
    """Wait for something, without the client.

    Args:
        work: is not cancelled.
        keeper: says for how long.

    Returns:
        False where nobody wants it any more.
    """
    unwanted = asyncio.ensure_future(keeper.until_unwanted())
    try:
        await asyncio.wait((work, unwanted), return_when=asyncio.FIRST_COMPLETED)
    finally:
        unwanted.cancel()
    return work.done()


async def outlasting(
    request: ClientRequest, opening: Coroutine[Any, Any, Begun], keeper: Keeper
) -> Begun:
    """The upstream's response, also where the client leaves meanwhile.

    Args:
        request: the client's.
        opening: gets the response.
        keeper: of its stream.

    Raises:
        asyncio.CancelledError: nobody wants it any more.
    """
    task = asyncio.ensure_future(opening)
    try:
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as gone:
            if not may_outlast(request, gone) or not await wanted(task, keeper):
                raise
        return task.result()
    except asyncio.CancelledError:
        abandon(task)
        raise


def abandon(opening: asyncio.Task[Begun]) -> None:
    """Nobody wants the response, which may have come in the same moment."""
    opening.cancel()
    if opening.done() and not opening.cancelled() and opening.exception() is None:
        opening.result().answer.close()
