"""aiohttp's server protocol, with errors in the shape of ours and no traceback for bad requests."""

import logging

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.http_exceptions import LineTooLong

from lifecycle_proxy.exchange import responses
from lifecycle_proxy.exchange.errors import ProxyError

log = logging.getLogger("proxy.http")


class Protocol(web.RequestHandler):
    """One client connection."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no HTTP that this proxy would forward."""
        log.info("refused a request from %s: %s", request.remote, type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("a response has begun; an error response cannot follow")
        response = responses.error_response(_refusal(status, exc, message))
        response.force_close()  # where the next request begins is anybody's guess
        return response


def _refusal(status: int, exc: BaseException | None, message: str | None) -> ProxyError:
    if isinstance(exc, LineTooLong) or (message and "headers" in message):
        return ProxyError("header_too_large", "a header, or the request line, is too long")
    if isinstance(exc, HttpProcessingError) or status < 500:
        return ProxyError("bad_request", "malformed HTTP request")
    return ProxyError("internal", "the proxy failed; its log says why")
