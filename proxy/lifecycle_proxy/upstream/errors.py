"""The one place where exceptions of aiohttp and of the system become errors of the proxy.

Two tables by phase: before the response's headers, where a request may be sent again and the client
gets a status; and inside the body, where only an error frame or a broken end is left. Messages are
for people who run the proxy. They hold no headers and no query: aiohttp's texts quote both.
"""

import re
from typing import Final

import aiohttp
from yarl import URL

from lifecycle_proxy.exchange.errors import ProxyError, cause_of

TRANSPORT_ERRORS: Final = (
    aiohttp.ClientError,
    aiohttp.http.HttpProcessingError,
    OSError,
    TimeoutError,
)
BROKE: Final = "the connection to the upstream broke during the stream"
CUT: Final = "the upstream's answer broke off before its end"


def map_exception(error: Exception, url: URL) -> ProxyError:
    """What failed before the response's headers.

    Args:
        error: one of ``TRANSPORT_ERRORS``.
        url: whom the request was for. Only its origin is shown.
    """
    where, cause = f"the upstream {url.origin()}", cause_of(error)
    match error:
        case aiohttp.ConnectionTimeoutError():
            message, limit = f"{where} did not take the connection in time", "connect_timeout_s"
            return ProxyError("upstream_timeout", message, cause=f"upstream.{limit} is over")
        case TimeoutError():
            message, limit = f"{where} did not begin to answer in time", "first_byte_timeout_s"
            return ProxyError("upstream_timeout", message, cause=f"upstream.{limit} is over")
        case aiohttp.ClientResponseError() | aiohttp.http.HttpProcessingError():
            # aiohttp quotes headers behind it, and the log must hold none.
            reason = re.split(r"\n|:? (bytearray\()?b['\"]", str(error.message).strip())[0][:200]
            return ProxyError(
                "upstream_protocol", f"the response of {where} is not valid HTTP: {reason}"
            )
        case aiohttp.ServerDisconnectedError() if isinstance(error.message, str):
            message = f"{where} closed the connection without a response"
            return ProxyError("upstream_unreachable", message, cause=cause)
        case aiohttp.ServerDisconnectedError():
            message = f"the answer of {where} broke off"
            return ProxyError("upstream_protocol", message, cause="inside its headers")
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return ProxyError("upstream_unreachable", f"TLS with {where} failed: {error}")
        case _:
            why = getattr(error, "strerror", None) or error
            return ProxyError("upstream_unreachable", f"cannot reach {where}: {why}", cause=cause)


def map_body_exception(error: Exception) -> ProxyError:
    """What failed inside the body.

    Args:
        error: one of ``TRANSPORT_ERRORS``.
    """
    cause = cause_of(error)
    if isinstance(error, aiohttp.ClientPayloadError):
        return ProxyError("upstream_protocol", CUT, cause=cause)
    return ProxyError("upstream_unreachable", BROKE, cause=cause)
