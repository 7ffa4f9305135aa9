"""Mutated requests over raw sockets, through a proxy in this process, to an upstream that records.

    python fuzz/fuzz_http.py --seconds 60

Each case is one connection with one head, mutated, and a body that holds another request. What must
hold: never a 500, never a hang, nothing logged as an error, every head that reaches the upstream is
beyond doubt, and the request in the body gets there only where the head leaves no doubt that it is
no part of the body. A failure can be played again: ``--seed N --count 1``.
"""

import argparse
import asyncio
import logging
import random
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lifecycle_proxy.app import serve as server
from lifecycle_proxy.config import model as config

_AT_A_TIME: Final = 32
_ANSWER_S: Final = 0.2  # for what comes; an incomplete request is waited for in vain
_HANG_S: Final = 10.0
_METHODS: Final = (b"GET", b"POST", b"POST", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"X")
_TARGETS: Final = (
    *(b"/v1/chat/completions", b"/v1/models", b"/v1/a?b=c", b"/", b"/-/healthy", b"/-/metrics"),
    *(b"/-/as/off/v1/a", b"/-/as/x/v1/a", b"http://x/v1/a", b"http://evil.example/a", b"*", b"//a"),
    *(b"/v1/../a", b"/%00", b"/v1/\xc3\xa9", b"/a#b", b"evil.example:443", b"", b"/-/config"),
)
_HEADERS: Final = (
    *(b"Content-Length: %d", b"Content-Length: %d", b"content-length: %d", b"Content-Length: 0"),
    *(b"Content-Length: +%d", b"Content-Length: -1", b"Content-Length: 0x%x", b"Content-Length: "),
    *(
        b"Content-Length: %d, %d",
        b"Content-Length : %d",
        b"Content_Length: %d",
        b"Content-Length:%d",
    ),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", b"transfer-encoding: Chunked"),
    *(b"Transfer-Encoding: identity", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding:"),
    *(b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: xchunked", b" chunked"),
    *(b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding : chunked", b"TE: trailers"),
    *(b"Host: x", b"Host: evil.example", b"Host:", b"Connection: close", b"Connection: keep-alive"),
    *(b"Connection: Content-Length", b"Connection: Transfer-Encoding", b"Connection: Upgrade"),
    *(b"Upgrade: websocket", b"Upgrade: h2c", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    *(
        b"Expect: 100-continue",
        b"Expect: x",
        b"Content-Encoding: gzip",
        b"Accept: text/event-stream",
    ),
    *(
        b"X-Lifecycle-Events: off",
        b"X-Lifecycle-Events: \xff",
        b"X-Request-Id: \x01",
        b"A: b\rC: d",
    ),
    *(
        b"A: b\nC: d",
        b"A: \x00",
        b": x",
        b"A",
        b"A: " + b"x" * 70000,
        b"Cookie: a=\xe9",
        b"Range: x",
    ),
    *(b"Origin: https://a.example", b"Access-Control-Request-Method: POST", b"Authorization: x y"),
    *(b"Trailer: X", b"Keep-Alive: timeout=1", b"Proxy-Authorization: x", b"X-Stainless-Lang: js"),
)
_BYTES: Final = (
    *(
        b"\x00",
        b"\r",
        b"\n",
        b"\t",
        b" ",
        b":",
        b",",
        b"\xff",
        b"\x0b",
        b"\x7f",
        b"\xa0",
        b"0",
        b"/",
    ),
    *(b"Content-Length: 1", b"chunked", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b"HTTP/9.9", b"\r\n "),
)
_BODIES: Final = (
    b'{"stream":true,"messages":[]}',
    b"",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"ffffffffffffffffff\r\n",
    b"-1\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhelloXX0\r\n\r\n",
)
_HEAD_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t\x20-\x7e\x80-\xff]*\Z")
_REQUEST_LINE: Final = re.compile(rb"[!-~]+ [!-~]+ HTTP/1\.1\Z")
_FRAMING: Final = (b"content-length", b"transfer-encoding")
_EMPTY: Final = re.compile(rb"transfer-encoding:\s*\Z", re.IGNORECASE)
_ODD: Final = re.compile(rb"[\x00-\x20\x7f-\xff]")


class BrokenError(AssertionError):
    """What must hold did not."""


# --- the upstream --------------------------------------------------------------------------------


class Recording:
    """An upstream that doubts everything: whatever it does not understand is a failure."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.doubts: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                await self._body(reader, self._judge(head))
                keep = b"" if head.startswith(b"HEAD ") else b"{}"
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + keep)
        writer.close()

    def _judge(self, head: bytes) -> dict[bytes, list[bytes]]:
        line, *lines = head[:-4].split(b"\r\n")
        fields: dict[bytes, list[bytes]] = {}
        if not _REQUEST_LINE.match(line):
            self.doubts.append(f"request line {line!r}")
        for text in lines:
            if not _HEAD_LINE.match(text):
                self.doubts.append(f"header {text!r}")
            name, _, value = text.partition(b":")
            fields.setdefault(name.lower(), []).append(value.strip())
        lengths = fields.get(b"content-length", []) + fields.get(b"transfer-encoding", [])
        if len(lengths) > 1 or len(fields.get(b"host", [])) != 1:
            self.doubts.append(f"framing or host of {head!r}")
        return fields

    async def _body(self, reader: asyncio.StreamReader, fields: dict[bytes, list[bytes]]) -> None:
        if b"content-length" in fields:
            await reader.readexactly(int(fields[b"content-length"][0]))
        elif fields.get(b"transfer-encoding") == [b"chunked"]:
            while size := int(await reader.readline() or b"0", 16):
                await reader.readexactly(size + 2)
            await reader.readline()


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


# --- one case ------------------------------------------------------------------------------------


def request(seed: int) -> tuple[bytes, bytes]:
    """Head and body of this number. The head holds no blank line but its last."""
    rng = random.Random(seed)  # noqa: S311  not for secrets
    inner = b"GET /smuggled-%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % seed
    body = rng.choice(_BODIES) + inner
    lines = [rng.choice(_METHODS) + b" " + rng.choice(_TARGETS) + b" HTTP/1.1", b"Host: x"]
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 6))):
        header = rng.choice(_HEADERS)
        length = rng.choice((len(body), len(body) - len(inner), len(body) + 5, 3))
        lines.append(header % ((length,) * header.count(b"%")))
    head = bytearray(b"\r\n".join(lines))
    for _ in range(rng.choice((0, 0, 0, 1, 2, 5))):
        at = rng.randint(0, len(head))
        head[at : at + rng.choice((0, 0, 1, 3))] = rng.choice(_BYTES)
    text = re.sub(rb"([\r\n]\s*){2,}", b"\r\n", bytes(head)).strip(b"\r\n")
    return text + b"\r\n\r\n", body


def may_follow(head: bytes, body: bytes, inner: int) -> bool:
    """Whether the head leaves no doubt that the body ends in front of the other request.

    Empty lines in front of a request are skipped (RFC 9112, section 2.2).
    """
    lines = head[:-4].split(b"\r\n")[1:]
    framing = [line for line in lines if _ODD.sub(b"", line.partition(b":")[0]).lower() in _FRAMING]
    # llhttp takes an empty one for none. It is not forwarded.
    framing = [line for line in framing if not _EMPTY.match(line)]
    if len(framing) > 1:
        return False
    text = framing[0] if framing else b"content-length:0"
    if found := re.fullmatch(rb"content-length:[ \t]*(\d+)[ \t]*", text, re.IGNORECASE):
        length = int(found[1])
        return length <= inner and not body[length:inner].strip(b"\r\n")
    if re.fullmatch(rb"transfer-encoding:[ \t]*([^:]*,[ \t]*)?chunked[ \t]*", text, re.IGNORECASE):
        return inner > 0 and body[:inner].endswith(b"\r\n\r\n")
    return False


async def one(seed: int, port: int, upstream: Recording) -> None:
    """One connection.

    Raises:
        BrokenError: something does not hold.
    """
    head, body = request(seed)
    try:
        async with asyncio.timeout(_HANG_S):
            answer = await _sent(port, head + body)
    except TimeoutError:
        raise BrokenError(f"--seed {seed}: a hang after {head!r}") from None
    statuses = re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)
    if bad := [status for status in statuses if status >= b"500"]:
        raise BrokenError(f"--seed {seed}: {bad} for {head!r}: {answer[:500]!r}")
    marker = b"/smuggled-%d " % seed
    if any(marker in seen.split(b"\r\n")[0] for seen in upstream.heads):
        inner = body.index(b"GET " + marker)
        if not may_follow(head, body, inner):
            raise BrokenError(f"--seed {seed}: two requests out of {head + body!r}")
    if upstream.doubts:
        raise BrokenError(f"--seed {seed} or one beside it: {upstream.doubts} from {head!r}")


async def _sent(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        writer.write(data)
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_S):
                while piece := await reader.read(1 << 16):
                    answer += piece
        writer.write_eof()
        while piece := await reader.read(1 << 16):  # until it closes; else it is a hang
            answer += piece
    except (ConnectionError, OSError):
        pass
    finally:
        writer.close()
    return answer


# --- the whole -----------------------------------------------------------------------------------


async def run(first: int, seconds: float, count: int) -> int:
    """All cases; how many there were."""
    upstream, errors = Recording(), _Errors()
    logging.getLogger().addHandler(errors)
    listening = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, limit=1 << 20)
    port = listening.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    flags = {"server.listen": "127.0.0.1:0", "upstream.url": url, "server.access_log": False}
    runner, where = await server.start(config.load(environ={}, flags=flags))
    seeds, end, done = iter(range(first, first + count)), time.monotonic() + seconds, 0

    async def some() -> None:
        nonlocal done
        for seed in seeds:
            await one(seed, int(where.rpartition(":")[2]), upstream)
            done += 1
            if len(upstream.heads) > 10_000:
                del upstream.heads[:5_000]
            if errors.lines:
                raise BrokenError(f"--seed {seed} or one beside it: {errors.lines[0]}")
            if time.monotonic() > end:
                return

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_A_TIME):
                group.create_task(some())
        answer = await _sent(
            int(where.rpartition(":")[2]),
            b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
        if b" 200 OK" not in answer:
            raise BrokenError("it is not healthy afterwards")
    finally:
        await server.stop(runner, 1)
        listening.close()
    return done


def main() -> int:
    """Run it. 0 if all held."""
    parser = argparse.ArgumentParser(description="Mutated requests through the proxy.")
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, help="of the first case (default: the time)")
    parser.add_argument("--count", type=int, default=1 << 60, help="how many cases at most")
    asked = parser.parse_args()
    first = time.time_ns() // 1_000_000 if asked.seed is None else asked.seed
    try:
        done = asyncio.run(run(first, asked.seconds, asked.count))
    except BaseExceptionGroup as several:
        broken, rest = several.split(BrokenError)
        for failure in broken.exceptions if broken else ():
            print(f"FAILED: {failure}", file=sys.stderr)
        if rest:
            raise rest from None
        return 1
    print(f"{done} requests from --seed {first}: all held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
