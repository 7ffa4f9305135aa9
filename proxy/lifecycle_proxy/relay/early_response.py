"""Heartbeats before the upstream has answered (``server.heartbeat_before_first_byte``).

The status 200 is sent with the first one, so an error of the upstream can only follow as an event.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

import orjson
from aiohttp import HttpVersion11, web

from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.exchange.connection import break_connection, end_properly, head_of
from lifecycle_proxy.exchange.ends import SideEnd
from lifecycle_proxy.exchange.errors import ProxyError, stopped
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.relay.detect import Begun
from lifecycle_proxy.relay.keeping import abandon
from lifecycle_proxy.relay.sse import HEARTBEAT
from lifecycle_proxy.upstream.collect import collect

_ERROR_BODY_BYTES: Final = 1 << 16
_NO_STREAM: Final = "the upstream answered with status {} and no event stream"


class EarlyForm(NamedTuple):
    """What stands in a stream before the upstream's response.

    Attributes:
        heartbeat: a comment.
        error: writes OpenAI's error object, which may have a ``status``, as an event.
        ends_properly: behind an error, instead of breaking the connection.
    """

    heartbeat: bytes
    error: Callable[[dict[str, Any]], bytes]
    ends_properly: bool


def form_of(exchange: Exchange) -> EarlyForm:
    """As clients of the API and the dialect expect it."""

    def error(fields: dict[str, Any]) -> bytes:
        return exchange.api.error_frame(fields, exchange.envelope(), is_first=True)

    return EarlyForm(HEARTBEAT, error, DIALECTS[exchange.dialect].ends_after_error)


async def open_with_heartbeats(
    request: ClientRequest,
    opening: Coroutine[Any, Any, Begun],
    head: web.StreamResponse,
    interval_s: float | None,
    form: EarlyForm,
    *,
    start: bytes = b"",
) -> Begun | None:
    """Wait for the upstream's headers; after each interval of silence send the client a comment.

    Args:
        request: the client's.
        opening: gets the response.
        head: response headers of the proxy's own, sent with the first comment.
        interval_s: seconds of silence; None to send none.
        form: of comments and errors.
        start: written at once; b"" to write nothing before the first comment.

    Returns:
        The response, or None if it failed after the headers were sent; the client has got an error
        event then.

    Raises:
        ProxyError: it failed before the headers were sent.
    """
    task, begun = asyncio.ensure_future(opening), None
    try:
        if start:
            await asyncio.sleep(0)  # the recorder begins, and records it
            await _write(request, head, start)
        while not (await asyncio.wait({task}, timeout=interval_s))[0]:
            await _write(request, head, form.heartbeat)
        begun = task.result()
        return begun
    except ProxyError as failure:
        if not head.prepared:
            raise
        await _fail(request, head, failure, form)
        return None
    except asyncio.CancelledError:
        if not (head.prepared and await _ended_by_drain(request, head, form)):
            raise  # the client is gone, or has got nothing yet
        return None
    finally:
        if begun is None:
            abandon(task)


async def send_upstream_error(
    request: ClientRequest,
    head: web.StreamResponse,
    begun: Begun,
    patience_s: float,
    form: EarlyForm,
) -> web.StreamResponse:
    """The upstream answered with an error, but a 200 has been sent: send the error as an event, and
    end the stream.

    Args:
        request: the client's.
        head: the response headers that were sent.
        begun: the upstream's response.
        patience_s: seconds that the error's body may take to come; 0 for no limit.
        form: of the event.

    Returns:
        The response to which the headers belong.
    """
    exchange, answer = request.exchange, begun.answer
    exchange.ended = "upstream_error"
    exchange.cause = _NO_STREAM.format(answer.status)
    body = begun.start
    end: SideEnd = "timeout"
    try:
        async with asyncio.timeout(patience_s or None):
            rest = await collect(answer, lambda data: len(body) + len(data) >= _ERROR_BODY_BYTES)
        body += rest.data
        end = "eof" if rest.is_complete else "gone" if rest.failure is None else "cut"
    except TimeoutError:
        pass  # its status is reported all the same
    except asyncio.CancelledError:
        end = "gone"
        if not await _ended_by_drain(request, head, form):
            raise
        return head
    finally:
        answer.close()
        if body:
            exchange.listeners.on_chunk(exchange, body, b"", (), time.monotonic())
        exchange.listeners.on_side_end(exchange, "upstream", end)
    error = _refusal(answer.status, body)
    await _write_and_abort(request, head, error, form)
    return head


async def _ended_by_drain(
    request: ClientRequest, head: web.StreamResponse, form: EarlyForm
) -> bool:
    """Whether a drain, or a person, cancelled a wait. The client has got an error event then."""
    current = asyncio.current_task()
    if request.transport is None or current is None:
        return False
    current.uncancel()
    failure = ProxyError("draining", "the proxy is shutting down")
    if request.exchange.error == "stopped":
        failure = stopped()
    await _fail(request, head, failure, form)
    return True


def _refusal(status: int, body: bytes) -> dict[str, Any]:
    """The error object of a response, or one of the proxy's."""
    try:
        error = orjson.loads(body).get("error")
    except (orjson.JSONDecodeError, AttributeError):
        error = None
    if not error:
        error = ProxyError("upstream_protocol", _NO_STREAM.format(status)).object()
    fields = error if isinstance(error, dict) else {"message": str(error)}
    return {**fields, "status": status}


async def _fail(
    request: ClientRequest, head: web.StreamResponse, failure: ProxyError, form: EarlyForm
) -> None:
    request.exchange.fail(failure.code, failure.for_log())
    await _write_and_abort(request, head, failure.object(), form)


async def _write_and_abort(
    request: ClientRequest, head: web.StreamResponse, error: dict[str, Any], form: EarlyForm
) -> None:
    await _write(request, head, form.error(error))
    if form.ends_properly:
        await end_properly(request, head)
    else:
        break_connection(request, delimited=request.version >= HttpVersion11)


async def _write(request: ClientRequest, head: web.StreamResponse, data: bytes) -> None:
    """Write bytes of the proxy's own; the first ones behind the headers."""
    exchange = request.exchange
    if not head.prepared:
        await head.prepare(request)
        exchange.listeners.on_head(exchange, "client", *head_of(head))
    exchange.listeners.on_write(exchange, data, ((0, len(data)),))
    await head.write(data)
