"""A link whose first connection is cut, as that of a phone that changes networks."""

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit


class Cutter:
    """Passes connections on; cuts the first one, in both directions.

    Args:
        url: to where.
        mark: what the last chunk contains.

    Attributes:
        url: of the link.
        cut_at: behind how many bytes of the response; negative: so many behind the beginning of the
            mark, from the end of it.
        connections: so far.
    """

    def __init__(self, url: str, mark: bytes) -> None:
        self.url = ""
        self.cut_at = 0
        self.connections = 0
        self._to = urlsplit(url)
        self._mark = mark
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
            await asyncio.wait((task,))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        is_cut = self.connections == 1
        up_reader, up_writer = await asyncio.open_connection(self._to.hostname, self._to.port)
        sending = asyncio.ensure_future(_pass(reader, up_writer))
        own = asyncio.current_task()
        assert own is not None
        self._tasks |= {sending, own}
        try:
            await self._answer(up_reader, writer, is_cut=is_cut)
        finally:
            sending.cancel()
            for one in (writer, up_writer):
                one.transport.abort()
            self._tasks -= {sending, own}

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_cut: bool
    ) -> None:
        seen = b""
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                seen += data
                if is_cut and (limit := self._limit(seen)) is not None:
                    writer.write(data[: max(0, len(data) - (len(seen) - limit))])
                    await writer.drain()
                    return
                writer.write(data)
                await writer.drain()

    def _limit(self, seen: bytes) -> int | None:
        """How many bytes pass, once they have come."""
        if self.cut_at >= 0:
            return self.cut_at if len(seen) > self.cut_at else None
        at = seen.find(self._mark)
        return None if at < 0 else at + len(self._mark) + self.cut_at


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
