"""Heads of the answers that clients get."""

from typing import Final

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from lifecycle_proxy.exchange import headers
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import EXCHANGE
from lifecycle_proxy.exchange.ports import UpstreamResponse

# On every stream that frames may be added to: nobody between here and the client may hold it back
# (nginx reads X-Accel-Buffering, CDNs and compressing proxies read no-transform).
_STREAM_HEADERS: Final = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
_LENGTH_AND_CODING: Final = ("Content-Length", "Content-Encoding")
# aiohttp adds these where they are missing; an answer is passed on without them.
_ADDED: Final = ("Server", "Content-Type")
_RETRY_AFTER_S: Final = "5"
_UNSAID: Final = web.ResponseKey("unsaid", tuple)


def error_response(failure: ProxyError, request_id: str | None = None) -> web.Response:
    """The answer to a request that could not be forwarded."""
    response = web.Response(
        status=failure.status, body=failure.body(), content_type="application/json", charset="utf-8"
    )
    if request_id is not None:
        response.headers["X-Request-Id"] = request_id
    if failure.code == "bad_request":
        response.force_close()  # what was wrong with it may go on behind it
    if failure.code == "draining":
        response.headers["Retry-After"] = _RETRY_AFTER_S
    if failure.code == "invalid_api_key":
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def copy_head(answer: UpstreamResponse) -> web.StreamResponse:
    """The upstream's own head."""
    return _response(answer, headers.for_client(answer.headers))


def stream_head(
    request: web.Request, answer: UpstreamResponse, stream_id: str
) -> web.StreamResponse:
    """The upstream's head for a stream that grows on the way: no length, nothing compressed."""
    kept = headers.for_client(answer.headers)
    for name in _LENGTH_AND_CODING:
        kept.popall(name, None)
    kept.update(_own(request, stream_id, answer.headers.get("X-Request-Id")))
    return _response(answer, kept)


def early_head(request: web.Request, stream_id: str) -> web.StreamResponse:
    """A head of ours, sent before the upstream has said anything."""
    own = _own(request, stream_id, None)
    return web.StreamResponse(headers={"Content-Type": "text/event-stream", **own})


def capabilities(dialect: str, request_id: str) -> web.Response:
    """``/v1/capabilities``, where the upstream has none: clients of Hermes ask for it."""
    features = {"tool_progress_events": dialect != "off", "chat_completions_streaming": True}
    payload = {"object": "lifecycle_proxy.capabilities", "features": features}
    return web.json_response(payload, headers={"X-Request-Id": request_id})


async def strip_default_headers(request: web.Request, response: web.StreamResponse) -> None:
    """A signal handler: undo what aiohttp adds to a head of the upstream's.

    And where only the end of the connection ends a body, that is to come, though a client of
    HTTP/1.0 has asked to keep it.
    """
    if request.version < HttpVersion11 and response.content_length is None:
        response.force_close()
    for name in response.get(_UNSAID, ()):
        response.headers.pop(name, None)


def _response(answer: UpstreamResponse, kept: CIMultiDict[str]) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=kept)
    response[_UNSAID] = tuple(name for name in _ADDED if name not in kept)
    return response


def switching_protocols(answer: UpstreamResponse) -> web.StreamResponse:
    """The upstream's 101, with the hop-by-hop part of the handshake for this hop."""
    kept = headers.for_client(answer.headers)
    kept["Connection"] = "Upgrade"
    kept["Upgrade"] = answer.headers.get("Upgrade", "websocket")
    return _response(answer, kept)


def _own(request: web.Request, stream_id: str, upstream_request_id: str | None) -> dict[str, str]:
    return {
        **_STREAM_HEADERS,
        "X-Stream-Id": stream_id,
        "X-Request-Id": upstream_request_id or request[EXCHANGE].request_id,
    }
