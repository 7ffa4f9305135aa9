"""``/v1/models`` of all upstreams: their entries as they came, then the names of ``[models]``."""

import re
import time
from typing import Final
from urllib.parse import unquote

import orjson
from aiohttp import web
from multidict import CIMultiDict

from lifecycle_proxy.exchange.client_scope import tenant_of
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.headers import for_upstream
from lifecycle_proxy.exchange.routes import Prefixes
from lifecycle_proxy.middleware.auth import ApiKeys
from lifecycle_proxy.upstream.pool import UpstreamPool
from lifecycle_proxy.upstream.pooled_response import HEADER

_PATH: Final = re.compile(r"(?:/openai)?(?:/v1)?/models(?:/+([^?]*))?(?:\?.*)?")
_OWNER: Final = "lifecycle-proxy"


class ModelsEndpoint:
    """Answers ``GET /v1/models`` and ``GET /v1/models/NAME``.

    Args:
        pool: all upstreams.
        keys: those of the proxy, which no upstream gets.
    """

    def __init__(self, pool: UpstreamPool, keys: ApiKeys) -> None:
        self._pool = pool
        self._keys = keys
        self._created = int(time.time())

    async def maybe(self, request: ClientRequest, asked: Prefixes) -> web.Response | None:
        """The answer; None for any other request, and for one that names its upstream.

        Args:
            request: the client's.
            asked: its target.

        Raises:
            ProxyError: ``model_not_found``.
        """
        found = _PATH.fullmatch(asked.path) if request.method in ("GET", "HEAD") else None
        if found is None or asked.upstream is not None or HEADER in request.headers:
            return None
        tenant = tenant_of(request.headers)
        sent = for_upstream(request.headers)
        self._keys.exchange(sent, asked.path)
        entries = await self._entries(sent, tenant)
        name = unquote(found[1] or "")
        if not name:
            body = b'{"object":"list","data":[%b]}' % b",".join(entries.values())
        elif name in entries:
            body = entries[name]
        else:
            known = self._pool.known_names(name, tenant)
            raise ProxyError("model_not_found", f"no upstream lists this model; {known}", "model")
        request_id = request.exchange.request_id
        headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
        return web.Response(body=body, headers=headers)

    async def _entries(self, headers: CIMultiDict[str], tenant: str) -> dict[str, bytes]:
        """By name; where several have one name, that of the first counts."""
        table = self._pool.table
        lists = await self._pool.lists(table.names, headers, tenant)
        entries: dict[str, bytes] = {}
        for upstream, listed in lists.items():
            for name, entry in () if listed is None else listed.entries.items():
                if table.serves(upstream, name):
                    entries.setdefault(name, entry)
        for name in table.aliases:
            if name not in entries:
                own = {"id": name, "object": "model", "created": self._created}
                entries[name] = orjson.dumps({**own, "owned_by": _OWNER})
        return entries
