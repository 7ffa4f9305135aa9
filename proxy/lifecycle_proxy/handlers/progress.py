"""A plain chat request that wants an event stream: progress, and the answer at the end.

Asked for by ``Accept: text/event-stream`` without ``stream: true``, as Agentlang's clients do. The
upstream is asked for a stream; the client gets ``agent_start``, a pair of events for each call,
``llm_response``, and at last ``result`` with what the plain request would have given, or ``error``.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from msgspec.structs import replace

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.core.apis import CHAT, Api
from lifecycle_proxy.core.pipeline import Pipeline
from lifecycle_proxy.core.vocabularies import agentlang
from lifecycle_proxy.exchange import request_body, responses
from lifecycle_proxy.exchange.content_coding import coding
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.media_type import asks_for_event_stream
from lifecycle_proxy.handlers.sending import Sender
from lifecycle_proxy.relay import detect, early_response
from lifecycle_proxy.relay.detect import Begun
from lifecycle_proxy.relay.progress import FORM, ProgressBody, WholeProgressBody
from lifecycle_proxy.relay.relay import Relay

DIALECT: Final = "off"  # calls are followed, and no frame is added to the upstream's events


async def streaming(
    request: ClientRequest, api: Api, asked: request_body.ParsedBody
) -> request_body.ParsedBody | None:
    """A request that asks the upstream for a stream; None if it cannot be made one.

    Args:
        request: the client's.
        api: that is asked for.
        asked: the request's body.
    """
    if asked.is_unread or not isinstance(asked.data, bytes):
        return None
    if asked.stream:
        return asked
    body = await request_body.maybe_streaming(request, asked) if api is CHAT else None
    return None if body is None else replace(asked, data=body, stream=True)


async def ask_for_stream(
    sender: Sender,
    request: ClientRequest,
    path: str,
    asked: request_body.ParsedBody,
    patience_s: float,
) -> Begun:
    """The upstream's response to such a request.

    Args:
        sender: sends it.
        request: the client's.
        path: its target, without a dialect profile.
        asked: its body, which asks for a stream.
        patience_s: seconds that the first bytes may take to come; 0 for no limit.

    Raises:
        ProxyError: see ``UpstreamClient.open``.
    """
    sent = sender.headers(request, asked.data)
    if asked.data is not asked.original:
        request.exchange.body_rewritten = True
        sent.popall("Content-Encoding", None)
    sent.popall("Prefer", None)
    sent["Accept-Encoding"] = "identity"
    answer = await sender.open(request, path, sent, asked.data, original=asked.original)
    return detect.maybe_begun(answer, asked=True) or await detect.begun(answer, patience_s)


async def maybe_asked(
    request: ClientRequest, api: Api, asked: request_body.ParsedBody
) -> request_body.ParsedBody | None:
    """What to ask the upstream for, if the client asks for progress.

    Args:
        request: the client's.
        api: that is asked for.
        asked: the request's body.
    """
    return await streaming(request, api, asked) if is_asked(request, api, asked) else None


def is_asked(request: ClientRequest, api: Api, asked: request_body.ParsedBody) -> bool:
    """Whether the client asks for progress.

    Args:
        request: the client's.
        api: that is asked for.
        asked: the request's body.
    """
    if api is not CHAT or asked.stream:
        return False
    return asks_for_event_stream(request.headers.getall("Accept", ()))


class ProgressStreams:
    """Answers such requests.

    Args:
        settings: the limits of time.
        sender: sends requests to the upstream.
    """

    def __init__(self, settings: Settings, sender: Sender) -> None:
        self._sender = sender
        self._patience_s = settings.upstream.stall_timeout_s
        self._heartbeat_s = settings.server.heartbeat_s or None

    async def begin(
        self,
        request: ClientRequest,
        path: str,
        asked: request_body.ParsedBody,
        pipeline: Callable[[Begun], Awaitable[Pipeline]],
    ) -> Awaitable[web.StreamResponse]:
        """Begin the stream. The rest of it has no need of the request's body, which may be large.

        Args:
            request: the client's.
            path: its target, without a dialect profile.
            asked: its body, which asks for a stream.
            pipeline: makes what follows the calls, once the upstream has taken the request.

        Returns:
            The stream, to its end.
        """
        exchange = request.exchange
        exchange.stream = True
        head = responses.early_head(request)
        start = agentlang.CONNECTED + agentlang.agent_start(exchange.model)
        opening = ask_for_stream(self._sender, request, path, asked, self._patience_s)
        begun = await early_response.open_with_heartbeats(
            request, opening, head, self._heartbeat_s, FORM, start=start
        )
        if begun is None:
            return given(head)
        if begun.answer.status != 200:
            patience_s = self._patience_s
            return early_response.send_upstream_error(request, head, begun, patience_s, FORM)
        make = ProgressBody if begun.is_writable else WholeProgressBody
        is_compressed = coding(begun.answer.headers) != ""
        own = make(exchange, await pipeline(begun), is_compressed=is_compressed)
        return self._sender.relay(Relay(request, begun.answer, begun.start, head, own))


async def given(response: web.StreamResponse) -> web.StreamResponse:
    """A response that has been made already."""
    return response
