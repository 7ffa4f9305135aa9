"""What a request asks for, by its method and its path.

Only the end of the path counts, so that base URLs of any form are alike: ``/v1/responses``,
``/responses``, ``/openai/v1/responses``.
"""

import re
from typing import Final
from urllib.parse import parse_qs

from aiohttp import web

from lifecycle_proxy.core.apis import APIS, RESPONSES, Api

PROFILE_PREFIX: Final = "/-/as/"
# A message is added to a thread of the Assistants API there; nothing is answered.
_THREAD: Final = re.compile(r"/threads/[^/]+/messages\Z")
# A stored response, which can be streamed again.
_RESPONSE: Final = re.compile(r"/responses/[^/]+\Z")


def maybe_api(method: str, target: str) -> Api | None:
    """The API of a conversation; None for any other request.

    Args:
        target: raw path and query.
    """
    path, _, query = target.partition("?")
    if method == "GET" and _RESPONSE.search(path):
        asked = parse_qs(query).get("stream", [""])[-1]
        return RESPONSES if asked.lower() in ("true", "1") else None
    if method == "POST":
        for api in APIS.values():
            if path.endswith(api.path):
                return None if _THREAD.search(path) else api
    return None


def is_upgrade(request: web.Request) -> bool:
    """Whether the client asks for a WebSocket."""
    headers = request.headers
    return (
        headers.get("Upgrade", "").lower() == "websocket"
        and "upgrade" in headers.get("Connection", "").lower()
        and request.method == "GET"
    )


def split_profile(path: str) -> tuple[str | None, str]:
    """``/-/as/NAME/v1/x`` as NAME and ``/v1/x``; any other path as it is."""
    if not path.startswith(PROFILE_PREFIX):
        return None, path
    name, slash, rest = path[len(PROFILE_PREFIX) :].partition("/")
    return name, slash + rest or "/"
