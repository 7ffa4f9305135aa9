"""The least that an aiohttp proxy can be: it forwards bytes. ``bench/compare.py`` runs it.

python bench/plain_proxy.py PORT HOST:PORT
"""

import sys
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
from aiohttp import web

_NOT_FORWARDED: Final = frozenset(
    ("connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host")
)
_SESSION: Final = web.AppKey("session", aiohttp.ClientSession)


async def _forward(request: web.Request) -> web.StreamResponse:
    sent = {k: v for k, v in request.headers.items() if k.lower() not in _NOT_FORWARDED}
    url = f"http://{sys.argv[2]}{request.path_qs}"
    body = await request.read()
    async with request.app[_SESSION].request(
        request.method, url, data=body or None, headers=sent
    ) as upstream:
        got = {k: v for k, v in upstream.headers.items() if k.lower() not in _NOT_FORWARDED}
        response = web.StreamResponse(status=upstream.status, headers=got)
        await response.prepare(request)
        async for piece in upstream.content.iter_any():
            await response.write(piece)
        await response.write_eof()
        return response


async def _session(app: web.Application) -> AsyncIterator[None]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        app[_SESSION] = session
        yield


def main() -> None:
    """Serve until the process is ended."""
    app = web.Application()
    app.cleanup_ctx.append(_session)
    app.router.add_route("*", "/{path:.*}", _forward)
    loop = None
    try:
        import uvloop  # noqa: PLC0415  not everywhere

        loop = uvloop.new_event_loop()
    except ImportError:
        pass
    web.run_app(
        app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, loop=loop
    )


if __name__ == "__main__":
    main()
