"""Makes connections: TCP with happy eyeballs, unix sockets, TLS, and tunnels through a proxy."""

import asyncio
import base64
import socket
import ssl
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import aiohappyeyeballs
from msgspec.structs import replace
from multidict import CIMultiDict
from yarl import URL

from lifecycle_proxy.exchange.ports import UpstreamRequest
from lifecycle_proxy.upstream.http1.connection import HttpConnection
from lifecycle_proxy.upstream.http1.failures import ConnectFailedError, ConnectTimedOutError
from lifecycle_proxy.upstream.http1.request import RequestWriter

_EYEBALLS_S: Final = 0.25  # RFC 8305 section 5
_DNS_S: Final = 5.0
_TLS_GOODBYE_S: Final = 1.0  # an upstream that does not say it either is not waited for
_PROXY_SCHEMES: Final = ("http", "https")


class DialTarget(NamedTuple):
    """Whom to connect to.

    Attributes:
        origin: scheme, host and port.
        socket_path: of a unix socket, instead; "" for none.
        tls: for ``https``.
        server_name: to ask for and to check, instead of the host; "" for the host.
        proxy: through which the origin is reached, with its credentials.
    """

    origin: URL
    socket_path: str = ""
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    proxy: URL | None = None


def proxy_headers(proxy: URL | None) -> CIMultiDict[str]:
    """What a proxy is sent besides: the credentials in its URL."""
    headers: CIMultiDict[str] = CIMultiDict()
    if proxy is not None and (proxy.raw_user or proxy.raw_password):
        pair = f"{unquote(proxy.raw_user or '')}:{unquote(proxy.raw_password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return headers


class Dialer:
    """Makes connections to one target.

    Args:
        target: whom to connect to.
        timeout_s: seconds that a connection may take, TLS included; None for no limit.
        dns_s: seconds for which addresses are remembered.
    """

    def __init__(
        self, target: DialTarget, timeout_s: float | None = None, *, dns_s: float = _DNS_S
    ) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._dns_s = dns_s
        self._addresses: list[aiohappyeyeballs.AddrInfoType] = []
        self._resolved_at = float("-inf")

    async def dial(self) -> HttpConnection:
        """Connect.

        Raises:
            ConnectFailedError: no connection could be made.
            ConnectTimedOutError: not in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                return await self._connect()
        except TimeoutError as error:
            if limit.expired():
                raise ConnectTimedOutError from None
            raise ConnectFailedError(_reason(error), error) from None
        except (ssl.SSLError, ssl.CertificateError) as error:
            raise ConnectFailedError(str(error), error, is_tls=True) from None
        except (OSError, UnicodeError) as error:
            raise ConnectFailedError(_reason(error), error) from None

    async def _connect(self) -> HttpConnection:
        origin, socket_path, tls, server_name, proxy = self._target
        loop = asyncio.get_running_loop()
        connection = HttpConnection(loop)
        name = server_name or (origin.host or "").rstrip(".")
        if socket_path:
            await loop.create_unix_connection(lambda: connection, socket_path)
        elif proxy is None:
            await self._tcp(origin, connection, tls, name)
        elif proxy.scheme not in _PROXY_SCHEMES:
            raise ConnectFailedError(f"a proxy of scheme {proxy.scheme} is not supported")
        elif tls is None:
            await self._to_proxy(proxy, connection)
        else:
            tunnel = HttpConnection(loop)
            await self._to_proxy(proxy, tunnel)
            try:
                await self._open_tunnel(tunnel, origin, proxy)
                transport = await loop.start_tls(
                    tunnel.transport, connection, tls, server_hostname=name
                )
            except BaseException:
                tunnel.close()
                raise
            assert transport is not None
            connection.connection_made(transport)
        return connection

    async def _to_proxy(self, proxy: URL, connection: HttpConnection) -> None:
        tls = ssl.create_default_context() if proxy.scheme == "https" else None
        await self._tcp(proxy, connection, tls, proxy.host or "")

    async def _tcp(
        self, to: URL, connection: HttpConnection, tls: ssl.SSLContext | None, name: str
    ) -> None:
        """Connect.

        Args:
            to: has the host and the port.
            connection: to be.
            tls: None for none.
            name: for TLS.
        """
        loop = asyncio.get_running_loop()
        own: dict[str, Any] = {}
        if tls is not None:
            own = {"ssl": tls, "server_hostname": name, "ssl_shutdown_timeout": _TLS_GOODBYE_S}
        addresses = await self._resolved(loop, to)
        family, _, _, _, address = addresses[0]
        try:
            if len(addresses) == 1 and family == socket.AF_INET:  # as nearly always
                host, port = address[:2]
                await loop.create_connection(lambda: connection, host, port, **own)
                return
            sock = await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=_EYEBALLS_S, interleave=1, loop=loop
            )
        except OSError:
            self._resolved_at = float("-inf")  # it may have moved
            raise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.create_connection(lambda: connection, sock=sock, **own)

    async def _resolved(
        self, loop: asyncio.AbstractEventLoop, to: URL
    ) -> list[aiohappyeyeballs.AddrInfoType]:
        if loop.time() - self._resolved_at > self._dns_s:
            self._addresses = [
                *await loop.getaddrinfo(
                    to.host or "", to.port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
                )
            ]
            self._resolved_at = loop.time()
        return self._addresses

    async def _open_tunnel(self, tunnel: HttpConnection, origin: URL, proxy: URL) -> None:
        """Ask the proxy for a tunnel (RFC 9110 section 9.3.6).

        Raises:
            ConnectFailedError: it refuses.
        """
        where = f"{origin.host_subcomponent}:{origin.port}"
        writer = RequestWriter(where, more=proxy_headers(proxy))
        asked = UpstreamRequest("CONNECT", "", CIMultiDict(), None)
        outgoing = replace(writer.write(asked, where), may_switch=True)
        response = await tunnel.send(outgoing, None)
        if not 200 <= response.status < 300:
            raise ConnectFailedError(f"the proxy refused a tunnel with status {response.status}")


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
