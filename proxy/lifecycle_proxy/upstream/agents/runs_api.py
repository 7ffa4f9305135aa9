"""Where the runs of a Hermes API server are."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from multidict import CIMultiDict

from lifecycle_proxy.core.dialects.fields import dumps
from lifecycle_proxy.exchange.ports import UpstreamClient, UpstreamRequest, UpstreamResponse


class RunsApi(NamedTuple):
    """Where runs are, for one request.

    Attributes:
        client: the server.
        path: of the runs.
        headers: with the key.
    """

    client: UpstreamClient
    path: str
    headers: CIMultiDict[str]

    async def open(self, method: str, rest: str, body: bytes | None = None) -> UpstreamResponse:
        """Send a request.

        Args:
            method: of it.
            rest: of the path.
            body: JSON.

        Raises:
            ProxyError: there is no answer.
        """
        headers = self.headers.copy()
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = UpstreamRequest(method, self.path + rest, headers, body)
        return await self.client.open(request, lambda: None)

    async def post(self, rest: str, payload: Mapping[str, Any]) -> int:
        """Send JSON; the status of the answer.

        Args:
            rest: of the path.
            payload: the JSON.

        Raises:
            ProxyError: there is no answer.
        """
        response = await self.open("POST", rest, dumps(dict(payload)))
        response.close()
        return response.status
