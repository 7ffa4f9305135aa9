"""The upstream of the soak: plain asyncio, every answer from its script, faults included.

``python bench/faulty.py`` prints its port and serves until its input ends.
"""

import asyncio
import json
import re
import socket
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress

from scripts import REFUSING, Script, script

_SEED = re.compile(rb'"seed": ?(\d+)')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"


class Faulty:
    """Counts what it serves, and serves ``GET /stats``."""

    def __init__(self) -> None:
        self.busy = self.left = self.served = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            self.left += 1
        except asyncio.CancelledError:
            pass  # the end of it all
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; False where no other can follow on this connection."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        if (length := _LENGTH.search(head)) is None:
            stats = json.dumps({"busy": self.busy, "left": self.left, "served": self.served})
            writer.write(_whole(200, stats.encode()))
            return True
        found = _SEED.search(await reader.readexactly(int(length[1])))
        assert found is not None, "a request of the soak"
        self.busy += 1
        self.served += 1
        try:
            return await self._answer(reader, writer, script(int(found[1])))
        finally:
            self.busy -= 1

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wanted: Script
    ) -> bool:
        if wanted.fault in REFUSING:
            if wanted.fault == "closed":
                return False
            writer.write(_whole(REFUSING[wanted.fault], b'{"error":{"message":"scripted"}}'))
            return True
        zipped = wanted.fault == "gzip"
        writer.write(_STREAM + (b"Content-Encoding: gzip\r\n\r\n" if zipped else b"\r\n"))
        for piece in _cut(_gzip(wanted.sent) if zipped else wanted.sent, wanted):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            if wanted.pause_s and len(piece) > 1:
                await asyncio.sleep(wanted.pause_s)
        match wanted.fault:
            case "short":
                return False
            case "rst":
                _reset(writer)
                return False
            case "framing":
                writer.write(b"zz not a length\r\n")
            case "stall":
                await reader.read()  # until the proxy has had enough
                return False
            case _:
                writer.write(b"0\r\n\r\n")
        await writer.drain()
        return wanted.fault != "framing"


def _cut(body: bytes, wanted: Script) -> Iterator[bytes]:
    at = 0
    for number in range(wanted.pieces):
        piece = body[at : at + wanted.cut[number % len(wanted.cut)]]
        if not piece:
            return
        yield piece
        at += len(piece)
    if body[at:]:
        yield body[at:]


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def _whole(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d Scripted\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _main() -> None:
    faulty = Faulty()
    server = await asyncio.start_server(faulty.serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)  # its end is the order to stop
    server.close()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_main())
