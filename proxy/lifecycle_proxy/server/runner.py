"""What serves an application, be it the proxy or a replay."""

import asyncio

from aiohttp import web


class Runner(web.AppRunner):
    """aiohttp's runner, and the listener whose connections speak our protocol."""

    listener: asyncio.Server | None = None
