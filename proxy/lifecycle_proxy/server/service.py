"""What a runner serves: the proxy, or a replay."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable

from aiohttp import HttpVersion11, web

from lifecycle_proxy.exchange.handler import ClientRequest


class Service(ABC):
    """Answers every request, whatever its path: aiohttp's router knows some targets to be wrong.

    Attributes:
        max_body_bytes: of a request that is read as a whole; larger ones are refused.
    """

    max_body_bytes = 1 << 20

    async def start(self) -> None:  # noqa: B027  may stay as it is
        """Before connections are taken.

        Raises:
            OSError: a part does not start.
        """

    async def close(self) -> None:  # noqa: B027
        """After the last connection has ended, also where ``start`` failed half-way."""

    @abstractmethod
    def handle(self, request: ClientRequest) -> Awaitable[web.StreamResponse]:
        """Answer a request. Cancelled when its client goes away."""

    def finish_headers(  # noqa: B027
        self, request: ClientRequest, response: web.StreamResponse
    ) -> None:
        """Change the headers of a response before they are sent.

        Args:
            request: of the client.
            response: with the headers that aiohttp has added.
        """


async def ask_for_body(request: ClientRequest) -> None:
    """Ask for the body of a client that waits to be asked. Other expectations are met by silence.

    aiohttp's router answers those with a 417, and fails on bytes that are no text.
    """
    asks = request.headers.get("Expect", "").lower() == "100-continue"
    if asks and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the response itself has not begun
        await request.writer.drain()
