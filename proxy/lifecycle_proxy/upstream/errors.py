"""The one place where failures of connections and responses become errors of the proxy.

Two tables by phase: before the response's headers, where a request may be sent again and the client
gets a status; and inside the body, where only an error frame or a broken end is left. Messages are
for people who run the proxy. They hold no headers and no query.
"""

from typing import Final

from lifecycle_proxy.exchange.errors import ProxyError, cause_of
from lifecycle_proxy.upstream.http1.failures import (
    ConnectFailedError,
    ConnectTimedOutError,
    DisconnectedError,
    InvalidResponseError,
    ResponseTimedOutError,
    TransportError,
)

BROKE: Final = "the connection to the upstream broke during the stream"
CUT: Final = "the upstream's answer broke off before its end"


def map_failure(failure: TransportError, origin: str) -> ProxyError:
    """What failed before the response's headers.

    Args:
        failure: of the client.
        origin: whom the request was for, without credentials.
    """
    where = f"the upstream {origin}"
    match failure:
        case ConnectTimedOutError():
            message, limit = f"{where} did not take the connection in time", "connect_timeout_s"
            return ProxyError("upstream_timeout", message, cause=f"upstream.{limit} is over")
        case ResponseTimedOutError():
            message, limit = f"{where} did not begin to answer in time", "first_byte_timeout_s"
            return ProxyError("upstream_timeout", message, cause=f"upstream.{limit} is over")
        case InvalidResponseError(reason=reason):
            message = f"the response of {where} is not valid HTTP: {reason}"
            return ProxyError("upstream_protocol", message)
        case DisconnectedError(in_headers=True, cause=cause):
            why = f"inside its headers: {cause_of(cause)}" if cause else "inside its headers"
            return ProxyError("upstream_protocol", f"the answer of {where} broke off", cause=why)
        case DisconnectedError(cause=None):
            message = f"{where} closed the connection without a response"
            return ProxyError("upstream_unreachable", message)
        case DisconnectedError(cause=cause):
            message = f"cannot reach {where}: {getattr(cause, 'strerror', None) or cause}"
            return ProxyError("upstream_unreachable", message, cause=cause_of(cause))
        case ConnectFailedError(is_tls=True, reason=reason):
            return ProxyError("upstream_unreachable", f"TLS with {where} failed: {reason}")
        case ConnectFailedError(reason=reason, cause=cause):
            message = f"cannot reach {where}: {reason}"
            return ProxyError("upstream_unreachable", message, cause=cause_of(cause))
        case _:
            return ProxyError("upstream_unreachable", f"cannot reach {where}", cause=repr(failure))


def cut(cause: BaseException | str) -> ProxyError:
    """A body whose end was still to come.

    Args:
        cause: of the end of the connection.
    """
    why = cause if isinstance(cause, str) else cause_of(cause)
    return ProxyError("upstream_protocol", CUT, cause=why)


def broke(cause: BaseException) -> ProxyError:
    """A body that ends with its connection, and that was reset: a part of it is missing.

    Args:
        cause: of the end of the connection.
    """
    return ProxyError("upstream_unreachable", BROKE, cause=cause_of(cause))


def invalid_body(why: str) -> ProxyError:
    """A body that cannot be read on.

    Args:
        why: without a byte of it.
    """
    message = "the upstream's response is not valid HTTP"
    return ProxyError("upstream_protocol", message, cause=why)
