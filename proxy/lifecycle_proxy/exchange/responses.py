"""The status lines and headers of responses to clients."""

from collections.abc import Iterable, Mapping
from typing import Final

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from lifecycle_proxy.exchange import headers
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.forwarded_response import ForwardedResponse
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.exchange.ports import UpstreamResponse

# On every stream that frames may be added to: no proxy between here and the client may buffer it
# (nginx reads X-Accel-Buffering; CDNs and compressing proxies read no-transform).
_STREAM_HEADERS: Final = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
_LENGTH_AND_CODING: Final = ("Content-Length", "Content-Encoding")
_SERVER: Final = "lifecycle-proxy"
# The next bytes may still belong to such a request.
_CLOSING: Final = ("bad_request", "request_timeout", "http_version_not_supported")
_RETRY_AFTER_S: Final = "5"


def error_response(failure: ProxyError, request_id: str | None = None) -> web.Response:
    """The response to a request that could not be forwarded.

    Args:
        failure: has the status and the body.
        request_id: for ``X-Request-Id``; None to send none.
    """
    response = web.Response(
        status=failure.status, body=failure.body(), content_type="application/json", charset="utf-8"
    )
    if request_id is not None:
        response.headers["X-Request-Id"] = request_id
    name_server(response)
    if failure.code in _CLOSING:
        response.force_close()
    if failure.is_final:
        response.headers["X-Should-Retry"] = "false"  # OpenAI's SDKs would ask once more
    if failure.code == "draining":
        response.headers["Retry-After"] = _RETRY_AFTER_S
    if failure.code == "method_not_allowed":
        response.headers["Allow"] = failure.param or "GET, HEAD"
    if failure.code == "invalid_api_key":
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def as_http11(request: ClientRequest) -> None:
    """Answer in HTTP/1.1 what is in no version that the proxy knows, or cannot be read at all."""
    request.version = HttpVersion11  # it goes into the status line


def copy_head(answer: UpstreamResponse) -> ForwardedResponse:
    """The upstream's status and headers."""
    return ForwardedResponse(answer.status, answer.reason, headers.for_client(answer.headers))


def stream_head(request: ClientRequest, answer: UpstreamResponse) -> ForwardedResponse:
    """The upstream's status and headers for a stream that gets frames: no length, no compression.

    Args:
        request: of the client.
        answer: of the upstream.
    """
    kept = headers.for_client(answer.headers)
    for name in _LENGTH_AND_CODING:
        kept.popall(name, None)
    kept.update(_own(request, answer.headers.get("X-Request-Id")))
    return ForwardedResponse(answer.status, answer.reason, kept)


def early_head(request: ClientRequest) -> web.StreamResponse:
    """Status 200 and the headers of a stream, sent before the upstream has responded."""
    own = _own(request, None)
    return web.StreamResponse(headers={"Content-Type": "text/event-stream", **own})


def kept_head(status: int, reason: bytes, kept: Iterable[tuple[bytes, bytes]]) -> ForwardedResponse:
    """A head that another client has got before.

    Args:
        status: the code.
        reason: of the status line.
        kept: headers that do not belong to the connection.
    """
    own, text = CIMultiDict(headers.raw(kept)), reason.decode("utf-8", "surrogateescape")
    return ForwardedResponse(status, text, own)


def own_stream(headers: Mapping[str, str]) -> web.StreamResponse:
    """The head of an event stream of the proxy's own."""
    return web.StreamResponse(headers={**headers, **_STREAM_HEADERS})


def capabilities(dialect: str, request_id: str) -> web.Response:
    """``/v1/capabilities``, if the upstream has none: clients of Hermes Agent request it.

    Args:
        dialect: of this client.
        request_id: for ``X-Request-Id``.
    """
    features = {"tool_progress_events": dialect != "off", "chat_completions_streaming": True}
    payload = {"object": "lifecycle_proxy.capabilities", "features": features}
    return web.json_response(payload, headers={"X-Request-Id": request_id})


def finish_own(request: ClientRequest, response: web.StreamResponse) -> None:
    """What the headers of a response of the proxy's own need beside aiohttp's.

    Args:
        request: of the client.
        response: before its headers are sent.
    """
    name_server(response)
    if request.version < HttpVersion11 and response.content_length is None:
        # Only the end of the connection ends the body, even if the client asked to keep it.
        response.force_close()


def name_server(response: web.StreamResponse) -> None:
    """aiohttp would name itself, Python and their versions.

    Args:
        response: of the proxy's own, before its headers are sent.
    """
    response.headers["Server"] = _SERVER


def forward_interim(request: ClientRequest, status: int, reason: str, own: Headers) -> None:
    """Pass an interim response on, as a proxy must (RFC 9110 section 15.2).

    Not to a client of HTTP/1.0, behind headers that have been sent, or to a client that is behind.

    Args:
        request: of the client.
        status: of the upstream's status line.
        reason: of the upstream's status line.
        own: the upstream's headers.
    """
    transport, kept = request.transport, headers.for_client(CIMultiDict(own))
    if transport is None or transport.is_closing() or transport.get_write_buffer_size():
        return
    if request.version < HttpVersion11 or request.writer.output_size:
        return
    lines = (f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in kept.items()))
    transport.write("\r\n".join((*lines, "", "")).encode("utf-8", "surrogateescape"))


def switching_protocols(answer: UpstreamResponse) -> ForwardedResponse:
    """The upstream's 101, with the hop-by-hop headers of the handshake (RFC 6455 section 4.2.2)."""
    kept = headers.for_client(answer.headers)
    kept["Connection"] = "Upgrade"
    kept["Upgrade"] = answer.headers.get("Upgrade", "websocket")
    return ForwardedResponse(answer.status, answer.reason, kept)


def _own(request: ClientRequest, upstream_request_id: str | None) -> dict[str, str]:
    exchange = request.exchange
    own = {
        **_STREAM_HEADERS,
        "X-Stream-Id": exchange.stream_id,
        "X-Request-Id": upstream_request_id or exchange.request_id,
    }
    if exchange.stream_url:
        own["X-Stream-Url"] = exchange.stream_url
    return own
