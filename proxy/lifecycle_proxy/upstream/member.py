"""One upstream of several: its client, its key, its health, its list, what is open on it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from msgspec.structs import replace
from multidict import CIMultiDict

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.targets import NamedUpstream, settings_for
from lifecycle_proxy.core import model_field
from lifecycle_proxy.exchange import routes
from lifecycle_proxy.exchange.credentials import drop_credentials, set_key, without_credentials
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.headers import CREDENTIALS
from lifecycle_proxy.exchange.ports import UpstreamClient, UpstreamRequest
from lifecycle_proxy.upstream.health import Health
from lifecycle_proxy.upstream.listing import Listed, ModelList

log = logging.getLogger("proxy.upstream")

_SHOWN_MODELS: Final = 1_000
_THREAD_BYTES: Final = 1 << 17


class Member:
    """An upstream of a pool.

    Args:
        settings: everything.
        own: its table.
        make: makes its client.
        own_headers: where any upstream's key goes, in lower case: a client's must not go there.
        clock: seconds.

    Attributes:
        open_requests: sent, and not over.
        passes: it gets the client's own key.
    """

    def __init__(
        self,
        settings: Settings,
        own: NamedUpstream,
        make: Callable[[Settings], UpstreamClient],
        own_headers: frozenset[str],
        clock: Callable[[], float],
    ) -> None:
        self.name = own.name
        self.settings = settings_for(settings, own)
        self.client = make(self.settings)
        self.health = Health()
        self.list = ModelList(self.client, clock=clock)
        self.open_requests = 0
        self._own = own
        self._own_headers = own_headers
        self._clock = clock
        self.passes = own.client_key == "pass" and not own.api_key

    async def close(self) -> None:
        """Close the client."""
        await self.list.close()
        await self.client.close()

    def tenant(self, tenant: str) -> str:
        """Whose list it is: with the clients' own keys, each may have another."""
        return tenant if self.passes else ""

    def over(self, failure: ProxyError | None, before: int) -> None:
        """An answer is complete, given up, or broke off.

        Args:
            failure: what broke it off.
            before: see ``Health``.
        """
        self.open_requests -= 1
        if failure is not None:
            self.failed(failure.message, before)

    def failed(self, error: str, before: int = 0) -> None:
        """It could not be reached, or answered that it cannot, or broke an answer off.

        Args:
            error: for people.
            before: see ``Health``.
        """
        now = self._clock()
        was_aside = self.health.is_aside(now)
        self.health.failed(now, error, before)
        if not was_aside and self.health.is_aside(now):
            wait_s = self.health.free_at() - now
            log.warning("upstream %s is set aside for %g s: %s", self.name, wait_s, error)

    async def listed(
        self, headers: CIMultiDict[str], tenant: str, *, fresh_s: float
    ) -> Listed | None:
        """Its list of models.

        Args:
            headers: the client's.
            tenant: whose they are.
            fresh_s: how old the list may be, in seconds.
        """
        sent: CIMultiDict[str] = CIMultiDict()
        if self.passes:
            sent.extend((name, headers[name]) for name in CREDENTIALS if name in headers)
        self._authorize(sent, "/v1/models")
        return await self.list.get(sent, self.tenant(tenant), fresh_s=fresh_s)

    def adapted(self, request: UpstreamRequest) -> UpstreamRequest:
        """A request with this upstream's key, or the client's.

        Args:
            request: the client's; its headers are changed.
        """
        path = request.path
        if not self.passes and "?" in path:
            path = without_credentials(path)
            request = replace(request, path=path)
        self._authorize(request.headers, path)
        return request

    def _authorize(self, headers: CIMultiDict[str], path: str) -> None:
        """Only this upstream's key, or the client's if this upstream is to have it."""
        if self.passes:
            return
        drop_credentials(headers)
        for name in self._own_headers:
            headers.popall(name, None)
        if self._own.api_key:
            set_key(headers, self._own.api_key, self._own.api_key_header, path)

    def state(self) -> dict[str, Any]:
        """For people and for monitoring. No keys, and no names that depend on a client's key."""
        now, listed = self._clock(), self.list.known()
        wait_s = self.health.free_at() - now
        return {
            "name": self.name,
            "url": self.settings.shown_upstream,
            "state": "aside" if self.health.is_aside(now) else "ok",
            "aside_s": round(max(wait_s, 0.0), 1),
            "failures": self.health.failures,
            "open": self.open_requests,
            "last_error": self.health.last_error,
            "models": self._own.models or None,
            "listed": [] if listed is None else list(listed.entries)[:_SHOWN_MODELS],
            "list_error": self.list.error(),
        }


async def renamed(request: UpstreamRequest, model: str) -> UpstreamRequest:
    """A request with another name of its model.

    Args:
        request: the client's; its headers are changed.
        model: the new name.

    Raises:
        ProxyError: ``bad_request``: the name cannot be replaced in this body.
    """
    body = request.body
    if request.model_at is not None:
        return _renamed_form(request, model, *request.model_at)
    if not isinstance(body, bytes):
        return replace(request, path=routes.with_model(request.path, model))
    if len(body) > _THREAD_BYTES:
        body = await asyncio.to_thread(_renamed, body, model)
    else:
        body = _renamed(body, model)
    request.headers.popall("Content-Length", None)
    return replace(request, body=body)


def _renamed(body: bytes, model: str) -> bytes:
    found = model_field.model_spans(body)
    if found is None:
        text = "the body is too complex to replace the name of its model; name the upstream's own"
        raise ProxyError("bad_request", text, "model")
    return model_field.replaced(body, found, model)


def _renamed_form(request: UpstreamRequest, model: str, start: int, stop: int) -> UpstreamRequest:
    value, body, headers = model.encode(), request.body, request.headers
    if isinstance(body, bytes):
        headers.popall("Content-Length", None)
        return replace(request, body=b"".join((body[:start], value, body[stop:])))
    if "Content-Length" in headers:
        length = int(headers["Content-Length"]) + len(value) - (stop - start)
        headers["Content-Length"] = str(length)
    assert body is not None, "the name stands in it"
    return replace(request, body=_spliced(body, value, start, stop))


async def _spliced(
    body: AsyncIterator[bytes], value: bytes, start: int, stop: int
) -> AsyncIterator[bytes]:
    """A body with another value in one place. The place comes within one piece."""
    at = 0
    async for piece in body:
        if at <= start < at + len(piece):
            yield piece[: start - at] + value + piece[stop - at :]
        else:
            yield piece
        at += len(piece)
