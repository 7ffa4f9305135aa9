"""``Prefer: respond-async``: the request is answered at once, and its stream goes on by itself.

As rdev's clients start a command: 202 with the ``stream_url`` at which its output is read. What the
client prefers is done where it can be (RFC 7240): the stream must be kept, or nobody could read it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.core.apis import Api
from lifecycle_proxy.core.pipeline import Pipeline
from lifecycle_proxy.exchange import headers, request_body
from lifecycle_proxy.exchange.content_coding import coding
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.exchange.routes import COMPAT_PREFIX
from lifecycle_proxy.handlers.progress import ask_for_stream, streaming
from lifecycle_proxy.handlers.sending import Sender
from lifecycle_proxy.handlers.stream_opening import StreamOpener
from lifecycle_proxy.relay.detached import DetachedStream
from lifecycle_proxy.relay.detect import Begun
from lifecycle_proxy.relay.sse import StreamBody

log = logging.getLogger("proxy.handlers")

_MAX_STREAMS: Final = 1000  # at a time: nobody waits for their ends, so nothing else bounds them
MakePipeline = Callable[[Begun], Awaitable[Pipeline]]


class DetachedStreams:
    """Starts such streams.

    Args:
        settings: the limits of time, and where the stream's URL is.
        sender: sends requests to the upstream.
        streams: begins what is kept of a stream.
        max_streams: at a time.
    """

    def __init__(
        self,
        settings: Settings,
        sender: Sender,
        streams: StreamOpener,
        *,
        max_streams: int = _MAX_STREAMS,
    ) -> None:
        self._sender = sender
        self._streams = streams
        self._patience_s = settings.upstream.stall_timeout_s
        self._place = "/" if settings.streams.compat_paths else COMPAT_PREFIX
        self._left = max_streams

    async def maybe_start(
        self,
        request: ClientRequest,
        path: str,
        asked: request_body.ParsedBody,
        api: Api,
        pipeline: MakePipeline,
    ) -> web.Response | None:
        """The answer, if that is asked for and can be done.

        Args:
            request: the client's.
            path: its target, without a dialect profile.
            asked: its body.
            api: that is asked for.
            pipeline: makes what follows the calls, once the upstream has taken the request.
        """
        if not headers.prefers_async(request.headers) or self._left <= 0:
            return None
        wanted = await streaming(request, api, asked)
        if wanted is None:
            return None
        await self._streams.begin(request, with_text=True)
        exchange = request.exchange
        if not exchange.stream_url:
            return None
        self._left -= 1
        exchange.stream = True
        running = self._run(request, path, wanted, api, pipeline)
        exchange.detached = asyncio.create_task(running)
        return _accepted(exchange, self._place)

    async def _run(
        self,
        request: ClientRequest,
        path: str,
        asked: request_body.ParsedBody,
        api: Api,
        pipeline: MakePipeline,
    ) -> None:
        exchange = request.exchange
        try:
            begun = await ask_for_stream(self._sender, request, path, asked, self._patience_s)
            del asked  # it may be large, and the stream long
            if not begun.is_writable:
                begun.answer.close()
                cause = f"the upstream answered with status {begun.answer.status} and no stream"
                exchange.fail("upstream_protocol", cause)
                return
            is_compressed = coding(begun.answer.headers) != ""
            body = StreamBody(exchange, await pipeline(begun), api, is_compressed=is_compressed)
            stream = DetachedStream(exchange, begun.answer, begun.start, body)
            await self._sender.watched(stream, stream.run())
        except ProxyError as failure:
            exchange.fail(failure.code, failure.for_log())
        except asyncio.CancelledError:
            exchange.fail("draining", "")
            raise
        except Exception:
            log.exception("a bug in the proxy (request %s)", exchange.request_id)
            exchange.fail("internal", "")
        finally:
            self._left += 1


def _accepted(exchange: Exchange, place: str) -> web.Response:
    url = f"{place}projects/default/events/{exchange.stream_id}"
    own = {
        "Preference-Applied": headers.RESPOND_ASYNC,
        "Location": url,
        "Cache-Control": "no-store",
        "X-Stream-Id": exchange.stream_id,
        "X-Stream-Url": exchange.stream_url,
        "X-Request-Id": exchange.request_id,
    }
    body = {"stream_id": exchange.stream_id, "stream_url": url, "status": "running"}
    return web.json_response(body, status=202, headers=own)
