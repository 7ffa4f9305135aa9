"""The exchange that a request begins: what is known of it before anything is decided."""

import re
from typing import Final

from lifecycle_proxy.exchange import routes
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.model import Exchange, Listeners, Route

_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,200}")


def begin_exchange(request: ClientRequest, token: str, listeners: Listeners) -> Exchange:
    """An exchange.

    Args:
        request: the client's.
        token: random; the proxy's own ids are made of it.
        listeners: follow it.
    """
    target = routes.split_absolute(request.raw_path)[1]
    path = target.partition("?")[0]
    return Exchange(
        token=token,
        request_id=_request_id(request, token),
        method=request.method,
        path=path,
        target=target,
        client=request.remote or "unix",
        route=_route(request, path, target),
        traceparent=request.headers.get("traceparent", ""),
        listeners=listeners,
    )


def _route(request: ClientRequest, path: str, target: str) -> Route:
    """What kind of request it is."""
    if routes.is_own(path):
        return "own"
    if routes.is_upgrade(request):
        return "websocket"
    api = routes.maybe_api(request.method, target)
    return "other" if api is None else api.name


def _request_id(request: ClientRequest, token: str) -> str:
    """The client's own, if it is one that can stand in a log, else a new one."""
    sent = request.headers.get("X-Request-Id", "")
    return sent if sent and _REQUEST_ID.fullmatch(sent) else f"req_{token}"
