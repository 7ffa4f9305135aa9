"""What every request passes first and last: hosts, CORS, drain, keys; errors, the access log."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from aiohttp import HttpVersion10, HttpVersion11, web

from lifecycle_proxy.config.machine import is_for_this_machine
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.targets import settings_for, upstreams_of
from lifecycle_proxy.exchange import responses, routes
from lifecycle_proxy.exchange.connection import break_connection, head_of
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest, Handler
from lifecycle_proxy.exchange.hops import Hops
from lifecycle_proxy.exchange.model import Exchange, Listener, Listeners
from lifecycle_proxy.middleware.auth import ApiKeys
from lifecycle_proxy.middleware.beginning import begin_exchange
from lifecycle_proxy.middleware.cors import Cors
from lifecycle_proxy.middleware.hosts import Hosts
from lifecycle_proxy.middleware.redirects import HEADERS, Redirects
from lifecycle_proxy.middleware.tokens import RandomTokens

log = logging.getLogger("proxy.middleware")

_CLIENT_GONE: Final = 499  # as nginx logs it; nobody is there to be sent it
_OPEN: Final = ("/-/", "/-/healthy", "/-/ready")
_LOCATION, _CONTENT_LOCATION, _OPERATION_LOCATION = HEADERS


class GatewayMiddleware:
    """aiohttp middleware around every handler: hosts, CORS, drain, keys, errors.

    Args:
        settings: ``[server]``: for whom the proxy is there.
        keys: who is let in.
        listeners: follow every exchange.
        failed: called with one that raised.
    """

    def __init__(
        self,
        settings: Settings,
        keys: ApiKeys,
        listeners: Sequence[Listener],
        failed: Callable[[Listener, Exception], None],
    ) -> None:
        self.draining = False  # no new requests: the process is about to end
        self._expired = False  # nor any more patience with the old ones
        self._active: dict[asyncio.Task[Any], Exchange] = {}
        self._stopped: dict[asyncio.Task[Any], ProxyError] = {}
        self._idle = asyncio.Event()
        self._keys = keys
        own = settings.server
        self._hosts = Hosts(own.hosts, restricted=is_for_this_machine(settings))
        bases = {one.name: settings_for(settings, one) for one in upstreams_of(settings)}
        bases[""] = settings
        self._redirects = {name: Redirects(one.upstream_base) for name, one in bases.items()}
        self._hops = Hops()
        self._tokens = RandomTokens()
        self._has_compat_paths = settings.streams.compat_paths
        self._is_socket = settings.listen_socket is not None
        self._cors = Cors(own.cors_origins, has_keys=bool(own.api_keys))
        self.listeners = list(listeners)
        self._failed = failed

    async def dispatch(
        self, request: ClientRequest, own: Handler, forward: Handler
    ) -> web.StreamResponse:
        """The middleware.

        Args:
            request: the client's.
            own: handles requests for the proxy's own paths.
            forward: handles all others.

        Raises:
            ConnectionError: a response has begun, so that no error response can follow.
        """
        listeners = Listeners(self.listeners, self._failed)
        exchange = request.exchange = begin_exchange(request, self._tokens.next(), listeners)
        is_read = self._has_compat_paths and request.method in ("GET", "HEAD")
        if is_read and routes.maybe_compat(exchange.path) is not None:
            exchange.route = "own"
        exchange.listeners.on_request(exchange)
        task = asyncio.current_task(request.task.get_loop())  # without: a system call
        assert task is not None
        self._active[task] = exchange
        try:
            handler = own if exchange.route == "own" else forward
            response = self._maybe_answer(request) or await handler(request)
            exchange.status = response.status
            if exchange.detached is None and listeners.follow_bytes:
                await _report(request, response)
            return response
        except ProxyError as failure:
            exchange.ended = exchange.ended or "refused"
            return await _refused(request, _of_client(request) or failure)
        except asyncio.CancelledError:
            if (stopped := self._stopped.pop(task, None)) is not None:
                task.uncancel()
                exchange.ended = "stopped"
                return await _refused(request, stopped)
            is_gone = not self._expired or request.transport is None
            exchange.ended = exchange.ended or ("client_gone" if is_gone else "drained")
            if is_gone or request.writer.output_size:
                exchange.status = exchange.status or _CLIENT_GONE
                raise
            task.uncancel()
            late = ProxyError("draining", "the proxy is shutting down; try again")
            return await _refused(request, late)
        except Exception as failure:
            return await _broken(request, failure)
        finally:
            if (detached := exchange.detached) is None:
                self._ended(task)
            else:
                self._active[detached] = self._active.pop(task)
                detached.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """The exchange that a task worked on is over."""
        exchange = self._active.pop(task)
        self._stopped.pop(task, None)
        exchange.ended = exchange.ended or "done"
        if self.draining and not self._active:
            self._idle.set()
        exchange.listeners.on_end(exchange)

    async def drained(self, limit_s: float | None) -> bool:
        """Wait until the last request has been answered; False where the limit comes first."""
        self.draining = True
        if self._active:
            self._idle.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await self._idle.wait()
        return not self._active

    def cancel_pending(self) -> None:
        """Give up what still waits for the upstream; what streams is the watch's to break."""
        self._expired = True
        for task, exchange in self._active.items():
            if exchange.first_byte is None:
                task.cancel()

    def refuse(self, exchange: Exchange, failure: ProxyError) -> bool:
        """Answer with an error, instead of waiting for the upstream; whether that can be done.

        Args:
            exchange: that waits.
            failure: the answer.
        """
        task = next((task for task, one in self._active.items() if one is exchange), None)
        has_begun = exchange.first_byte is not None or exchange.sent_bytes
        if task is None or has_begun or exchange.detached:
            return False
        self._stopped[task] = failure
        exchange.error = failure.code
        return task.cancel()

    def finish_headers(self, request: ClientRequest, response: web.StreamResponse) -> None:
        """What the headers of every response still need.

        Args:
            request: the client's.
            response: its headers may be changed.
        """
        own = response.headers
        if _LOCATION in own or _CONTENT_LOCATION in own or _OPERATION_LOCATION in own:
            exchange, host = request.exchange, request.headers.get("Host", "")
            prefix = routes.split_prefixes(exchange.target).prefix
            self._redirects[exchange.upstream].rewrite(own, host, prefix)
        self._cors.mark(request, own)

    def _maybe_answer(self, request: ClientRequest) -> web.Response | None:
        """Let a request in; the answer, where a preflight needs nobody else's.

        Raises:
            ProxyError: it is refused. Nothing reaches the upstream then.
        """
        if request.version != HttpVersion11:
            _check_version(request)
        coding = request.headers.get("Transfer-Encoding")
        if coding is not None and coding.strip().lower() != "chunked":
            # aiohttp would drop the others without undoing them, and take an empty one for no body.
            raise ProxyError("bad_request", "a transfer coding other than chunked")
        routes.check_target(request)
        exchange = request.exchange
        # A person opens such a page, within another page perhaps: its path is the only
        # credential that it can have. It is for a stream that is open, in a drain too.
        if routes.is_framed(exchange.path):
            return None
        if not self._is_socket:
            self._hosts.check(request)
        if (preflight := self._cors.maybe_preflight(request)) is not None:
            return preflight
        if not (exchange.path in _OPEN or exchange.path.startswith(routes.VIEW_PREFIX)):
            if self.draining:
                raise ProxyError("draining", "the proxy is shutting down; try again")
            if routes.maybe_token(exchange.method, exchange.target) is None:
                self._keys.check(request.headers)
        self._cors.check(request)
        exchange.hops = "" if exchange.route == "own" else self._hops.with_own(request.headers)
        return None


def _check_version(request: ClientRequest) -> None:
    """Refuse what only looks like HTTP/1.1: its message could be read in two ways."""
    version = request.version
    if version == HttpVersion10:
        return
    responses.as_http11(request)
    if version < HttpVersion10:
        raise ProxyError("bad_request", "a request without a version of HTTP")
    raise ProxyError("http_version_not_supported", "only HTTP/1.1 and HTTP/1.0 are understood")


def _of_client(request: ClientRequest) -> ProxyError | None:
    """What went wrong with a body while it was streamed on: for the upstream a mere end."""
    failure = request.content.exception()
    return failure if isinstance(failure, ProxyError) else None


async def _broken(request: ClientRequest, failure: Exception) -> web.StreamResponse:
    """The response where a handler raised: a bug, unless the client has just left.

    Raises:
        ConnectionError: a response has begun, or the client is gone.
    """
    exchange, transport = request.exchange, request.transport
    if isinstance(failure, ConnectionError) and (transport is None or transport.is_closing()):
        exchange.ended = exchange.ended or "client_gone"
        exchange.status = exchange.status or _CLIENT_GONE
        raise failure
    log.error("a bug in the proxy (request %s)", exchange.request_id, exc_info=failure)
    internal = ProxyError("internal", "the proxy failed; its log says why")
    if request.writer.output_size:
        exchange.error, exchange.ended = internal.code, "upstream_error"
        break_connection(request, delimited=request.version >= HttpVersion11)
        raise ConnectionError("a response has begun; an error response cannot follow") from None
    return await _refused(request, internal)


async def _refused(request: ClientRequest, failure: ProxyError) -> web.StreamResponse:
    """An error in the answer's place."""
    exchange = request.exchange
    exchange.status, exchange.error = failure.status, failure.code
    exchange.cause = failure.for_log()
    response = responses.error_response(failure, exchange.request_id)
    if exchange.listeners.follow_bytes:
        await _report(request, response)
    return response


async def _report(request: ClientRequest, response: web.StreamResponse) -> None:
    """Report a response of the proxy's own to listeners. The relay reports the upstream's."""
    exchange = request.exchange
    listeners = exchange.listeners
    if isinstance(response, web.Response):
        with suppress(ConnectionError):  # the client is gone, which sending the body shows
            await response.prepare(request)  # what aiohttp adds to the head is recorded, too
        body = response.body if isinstance(response.body, bytes) else b""
        listeners.on_head(exchange, "client", *head_of(response))
        if request.method != "HEAD":
            listeners.on_write(exchange, body, ((0, len(body)),))
        listeners.on_side_end(exchange, "client", "eof")
