"""The interfaces between an upstream and the relay: what can answer a request, and the response.

An upstream may be an HTTP server, a recording that is played in this process, or anything else that
has a status, headers and a body of bytes. The relay knows these protocols only.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from msgspec import Struct
from multidict import CIMultiDict, CIMultiDictProxy

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import Headers

RequestBody = bytes | AsyncIterator[bytes] | None


# Gets status, reason and headers.
OnInterim = Callable[[int, str, Headers], None]


class AskedBy(Protocol):
    """Who sent a request.

    Attributes:
        headers: of the client's request, as they came.
        address: the peer's.
        dialect: that the client gets.
    """

    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def address(self) -> str: ...
    @property
    def dialect(self) -> str: ...

    def on_approval(self, fields: Mapping[str, Any]) -> None:
        """An agent asks a person.

        Args:
            fields: what for, and where that is answered.
        """
        ...

    def on_interim(self, status: int, reason: str, headers: Headers) -> None:
        """An interim response but 100 (RFC 9110 section 15.2) has come. It must not raise.

        Args:
            status: the code.
            reason: of the status line.
            headers: in order, with duplicates.
        """
        ...


class UpstreamRequest(Struct, frozen=True):
    """A request for an upstream.

    Attributes:
        method: of the request line.
        path: raw path and query, as the client sent them, without a dialect profile.
        headers: those to send.
        body: bytes can be sent again, an iterator cannot.
        asked_by: the client; None where the proxy itself asks.
        model_at: where the name of the model stands in the body of a form, as (start, stop); None
            where it has none, and for JSON.
    """

    method: str
    path: str
    headers: CIMultiDict[str]
    body: RequestBody
    asked_by: AskedBy | None = None
    model_at: tuple[int, int] | None = None


class BodySink(Protocol):
    """Receives the body of a response. It must not raise."""

    def data_received(self, data: bytes, framed: bytes = b"") -> None:
        """One read.

        Args:
            data: a part of the body.
            framed: the same as whole HTTP chunks (RFC 9112 section 7.1), if it came so.
        """
        ...

    def ended(self, failure: ProxyError | None) -> None:
        """The body is complete (None), or broke off. Called once; nothing follows."""
        ...


class UpstreamResponse(Protocol):
    """A response: its headers have come, its body is pushed to a sink.

    Attributes:
        status: of the status line.
        reason: of the status line; "" without one.
        headers: without order between names; for the exact form see ``raw_headers``.
        was_reset: the connection was reset, as opposed to closed too early.
    """

    @property
    def status(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def headers(self) -> "CIMultiDictProxy[str]": ...
    @property
    def raw_headers(self) -> Headers: ...
    @property
    def was_reset(self) -> bool: ...

    def attach(self, sink: BodySink) -> None:
        """Push the body to this sink, beginning with what has come already, and its end."""
        ...

    def detach(self) -> None:
        """Push no more. What comes waits for the next sink; the upstream is slowed down."""
        ...

    def pause(self) -> None:
        """Push nothing until ``resume``: the client is behind."""
        ...

    def resume(self) -> None:
        """Push on."""
        ...

    def close(self) -> None:
        """Nobody wants the rest. May be called more than once."""
        ...

    def maybe_upgraded(self) -> "Upgraded | None":
        """The way to the upstream behind a 101; None where there is none.

        What comes from there is pushed like a body, and ``close`` ends both.
        """
        ...


class Upgraded(Protocol):
    """Takes bytes for an upstream that has switched protocols."""

    @property
    def unsent_bytes(self) -> int:
        """What the upstream has not taken yet."""
        ...

    def write(self, data: bytes) -> None:
        """Send bytes, if the upstream is still there. Never waits."""
        ...

    async def drain(self) -> None:
        """Wait until there is room for more."""
        ...


class UpstreamClient(Protocol):
    """Gets responses. Started and closed with the application."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def open(
        self, request: UpstreamRequest, on_retry: Callable[[], None]
    ) -> UpstreamResponse:
        """Send a request and wait for the headers of its response.

        Args:
            request: what to send.
            on_retry: called when the request is sent once more on a fresh connection.

        Raises:
            ProxyError: ``upstream_unreachable``, ``upstream_timeout`` or ``upstream_protocol``.
        """
        ...

    def target(self, path: str) -> str:
        """Raw path and query that the upstream is sent for a client's path."""
        ...

    async def probe(self) -> str:
        """What is wrong with the upstream; "" where it can be asked."""
        ...
