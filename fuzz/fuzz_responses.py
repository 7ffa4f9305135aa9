"""Hostile responses of an upstream, read by h11 and by the proxy.

    python fuzz/fuzz_responses.py --seconds 60

Each case is one response, often mutated, cut into reads, with an end of its connection. It is read
by h11 from the bytes that the upstream sent, through the port ``UpstreamClient``, and by a client
of the whole proxy. Behind each a marker request goes out. What must hold:

- What is complete for a client is byte for byte what h11 calls complete, and nothing follows it.
- What h11 calls incomplete or broken is not complete for a client, but for ``LENIENCIES``.
- A response that is correct arrives whole.
- A marker request gets its own response. A connection is not used again if its response
  contradicted itself.
- A refusal is a 502 with a code of the proxy's. Never a 500, a hang or an error in the log.

A failure can be played again: ``--seed N --count 1``.
"""

import argparse
import asyncio
import collections
import json
import logging
import re
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import h11
from multidict import CIMultiDict
from response_cases import Case, make

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lifecycle_proxy.app import serve as server
from lifecycle_proxy.config import model as config
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.ports import UpstreamClient, UpstreamRequest
from lifecycle_proxy.upstream.client import HttpUpstream

# What h11 says where the proxy reads on, and why that is left so. Each matches the beginning of a
# message of h11's.
LENIENCIES: Final = {
    # Some servers write a line end too many behind a body, and it comes with the next response.
    "line ends in front of a status line": r"no response|illegal status line: bytearray\(b'\\r",
    # RFC 9112 section 7.1 permits both; h11 does not.
    "more than 20 digits in the size of a chunk": r"illegal chunk header: bytearray\(b'0{10}",
    "a blank in front of a chunk extension": r"illegal chunk header: bytearray\(b'\w+ +;",
}

_LANES: Final = 24  # each has an upstream, a client and a proxy of its own, and one case at a time
_GRACE_S: Final = 0.02  # for what may come although nothing has to
_HANG_S: Final = 20.0  # behind the last byte; a loaded machine is slow, not wrong
_CASE_S: Final = 120.0

_ERROR_EVENT: Final = re.compile(rb'\n*data: {"error": {.*\Z', re.DOTALL)  # at the end of a stream
_MARKED: Final = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"


class BrokenError(AssertionError):
    """What must hold did not."""


def make_client(url: str) -> UpstreamClient:
    """What is tested: another implementation of the port goes here."""
    return HttpUpstream(config.load(environ={}, flags={"upstream.url": url}))


# --- what h11 says -------------------------------------------------------------------------------


class Reading:
    """One response as h11 reads it.

    Attributes:
        state: ``broken`` is not valid HTTP, ``cut`` is closed before its end.
        extra: what follows the response.
        may_follow: the connection can be used for another request.
    """

    def __init__(self, method: str) -> None:
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        self._h11.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        self._h11.send(h11.EndOfMessage())
        self.state: Literal["open", "complete", "cut", "broken", "refused"] = "open"
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.extra = b""
        self.why = ""

    def feed(self, data: bytes) -> None:
        """These bytes have come; none: the connection is closed."""
        if self.state != "open":
            self.extra += data
            return
        body = []
        try:
            self._h11.receive_data(data)
            while self.state == "open":
                event = self._h11.next_event()
                if isinstance(event, h11.Response):
                    self.status, self.headers = event.status_code, list(event.headers)
                elif isinstance(event, h11.Data):
                    body.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    self.state, self.extra = "complete", self._h11.trailing_data[0]
                elif isinstance(event, h11.ConnectionClosed):
                    self.state = "cut"
                elif not isinstance(event, h11.InformationalResponse):
                    break
        except h11.RemoteProtocolError as error:
            self.state, self.why = ("broken" if data else "cut"), str(error)
        self.body += b"".join(body)

    @property
    def may_follow(self) -> bool:
        return self.state == "complete" and self._h11.their_state is h11.DONE

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


def read_by_h11(case: Case) -> Reading:
    """What the case is."""
    reading = Reading(case.method)
    reading.feed(b"".join(case.reads) + case.late)
    if case.end == "close":
        reading.feed(b"")
    return reading


def maybe_lenient(truth: Reading) -> str:
    """The leniency by which this is a response nevertheless."""
    found = (name for name, pattern in LENIENCIES.items() if re.match(pattern, truth.why))
    return next(found, "") if truth.state == "broken" else ""


def contradicts(truth: Reading) -> bool:
    """Whether nothing that follows on this connection can be trusted.

    Line ends between two messages are skipped (RFC 9112, section 2.2).
    """
    if maybe_lenient(truth):
        return False
    if truth.state != "complete" or truth.extra.strip(b"\r\n"):
        return True
    lengths, codings = truth.values(b"content-length"), truth.values(b"transfer-encoding")
    has_body = any(length.strip(b"0") for length in lengths) or bool(codings)
    return len(lengths + codings) > 1 or (truth.status in {204, 304} and has_body)


# --- the upstream --------------------------------------------------------------------------------


class Hostile:
    """An upstream that answers with a case, or with the number that a marker request asks for.

    Attributes:
        case: the one that is played.
        over: all of it has been sent.
        failures: connections that were used again and must not.
    """

    def __init__(self) -> None:
        self.case: Case | None = None
        self.is_contradictory = False
        self.over = asyncio.Event()
        self.failures: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        spoilt = ""
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if length := re.search(rb"(?i)\r\ncontent-length: *(\d+)", head):
                    await reader.readexactly(int(length[1]))
                if spoilt:
                    self.failures.append(spoilt)
                if marker := re.search(rb"(?i)\r\nx-marker: *(\d+)", head):
                    writer.write(_MARKED % (len(marker[1]), marker[1]))
                elif self.case is not None:
                    if self.is_contradictory:
                        spoilt = f"a connection was used again after the response {self.case.seed}"
                    try:
                        await self._play(self.case, writer)
                    finally:
                        self.over.set()
        writer.close()

    async def _play(self, case: Case, writer: asyncio.StreamWriter) -> None:
        for piece in case.reads:
            writer.write(piece)
            await writer.drain()
            for _ in range(3):  # so that it is a read of its own
                await asyncio.sleep(0)
        if case.late:
            await asyncio.sleep(0.005)
            writer.write(case.late)
        if case.end == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        if case.end != "keep":
            raise ConnectionError


# --- one case, twice -----------------------------------------------------------------------------


def _in_chunks(framed: bytes) -> bytes:
    """The data of whole chunks."""
    data = b""
    while framed:
        size, _, rest = framed.partition(b"\r\n")
        stop = int(size, 16)
        data, end, framed = data + rest[:stop], rest[stop : stop + 2], rest[stop + 2 :]
        if end != b"\r\n":
            return b""
    return data


class _Sink:
    def __init__(self) -> None:
        self.body = b""
        self.ends: list[ProxyError | None] = []
        self.done = asyncio.Event()

    def data_received(self, data: bytes, framed: bytes = b"") -> None:
        if self.ends or (framed and _in_chunks(framed) != data):
            self.ends += [None, None]  # more than one end is a failure
        self.body += data

    def ended(self, failure: ProxyError | None) -> None:
        self.ends.append(failure)
        self.done.set()


class Lane:
    """An upstream, a client of the port and a proxy, which play one case after the other."""

    def __init__(self) -> None:
        self.upstream = Hostile()
        self.counts: collections.Counter[str] = collections.Counter()
        self._stop: list[Any] = []

    async def start(self) -> None:
        listening = await asyncio.start_server(self.upstream.serve, "127.0.0.1", 0)
        self._listening = listening
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        self.client = make_client(url)
        await self.client.start()
        flags = {"server.listen": "127.0.0.1:0", "upstream.url": url, "server.access_log": False}
        self._runner, where = await server.start(config.load(environ={}, flags=flags))
        self._port = int(where.rpartition(":")[2])

    async def stop(self) -> None:
        await self.client.close()
        await server.stop(self._runner, 0)
        self._listening.close()

    async def play(self, case: Case, errors: list[str]) -> None:
        """All that must hold for one case.

        Args:
            case: what the upstream answers.
            errors: of the log.

        Raises:
            BrokenError: something does not.
        """
        truth = read_by_h11(case)
        upstream = self.upstream
        upstream.case, upstream.is_contradictory = case, contradicts(truth)
        for way in (self._by_port, self._by_proxy):
            upstream.over.clear()
            try:
                async with asyncio.timeout(_CASE_S):
                    await way(case, truth)
            except TimeoutError:
                raise BrokenError("a hang") from None
            if found := upstream.failures + errors:
                raise BrokenError(f"with this one or one beside it: {found[0]}")

    async def _wait(self, done: "asyncio.Future[Any]", case: Case, truth: Reading) -> bool:
        """Wait as long as the end can take. Whether it came."""
        over = asyncio.ensure_future(self.upstream.over.wait())
        await asyncio.wait((done, over), return_when=asyncio.FIRST_COMPLETED)
        must_end = truth.state == "complete" or case.end != "keep"
        await asyncio.wait((done,), timeout=_HANG_S if must_end else _GRACE_S)
        if must_end and not done.done():
            raise BrokenError("a hang")
        await over
        await asyncio.sleep(0.003)  # what came last has been read then
        return done.done()

    # --- through the port -------------------------------------------------------------------------

    async def _by_port(self, case: Case, truth: Reading) -> None:
        seen = Reading(case.method)
        task = asyncio.ensure_future(self._pushed(case, ("X-Case", str(case.seed)), seen))
        if await self._wait(task, case, truth):
            task.result()
        else:
            task.cancel()
            await asyncio.wait((task,))
        self._judge(case, truth, seen)
        marker = Reading("GET")
        number = str(case.seed * 2)
        get = case._replace(method="GET", target="/v1/models")
        await self._pushed(get, ("X-Marker", number), marker)
        self._judge_marker(marker, number)

    async def _pushed(self, case: Case, header: tuple[str, str], seen: Reading) -> None:
        body = b'{"stream": true}' if case.method == "POST" else None
        request = UpstreamRequest(case.method, case.target, CIMultiDict((header,)), body)
        try:
            response = await self.client.open(request, lambda: None)
        except ProxyError as error:
            seen.state, seen.status, seen.why = "refused", error.status, error.code
            return
        sink = _Sink()
        seen.status = response.status
        seen.headers = [
            (name.lower().encode(), value.encode("utf-8", "surrogateescape"))
            for name, value in response.raw_headers
        ]
        try:
            response.attach(sink)
            await sink.done.wait()
            if len(sink.ends) != 1:
                raise BrokenError("two ends, data behind the end, or a wrong chunk")
            seen.state = "cut" if sink.ends[0] else "complete"
        finally:
            seen.body = sink.body
            response.close()

    # --- through the proxy ------------------------------------------------------------------------

    async def _by_proxy(self, case: Case, truth: Reading) -> None:
        seen, streams = Reading(case.method), await asyncio.open_connection("127.0.0.1", self._port)
        try:
            task = asyncio.ensure_future(_asked(streams, case, f"X-Case: {case.seed}", seen))
            if await self._wait(task, case, truth):
                task.result()
            else:
                task.cancel()
                await asyncio.wait((task,))
            if seen.state == "broken":
                raise BrokenError(f"the client gets invalid HTTP: {seen.why}")
            is_complete, may_follow = seen.state == "complete", seen.may_follow
            with suppress(ValueError, TypeError, KeyError):
                if seen.state == "complete" and seen.status >= 500:
                    seen.why = json.loads(seen.body)["error"]["code"]
                    seen.state = "refused"
            if case.method == "HEAD" and seen.status == 502:
                seen.state, seen.why = "refused", "upstream_protocol"
            self._judge(case, truth, seen)
            number = str(case.seed * 2 + 1)
            get = case._replace(method="GET", target="/v1/models")
            if not may_follow:
                if is_complete and (extra := await streams[0].read()):
                    raise BrokenError(f"bytes follow the last response: {extra[:200]!r}")
                streams[1].close()
                streams = await asyncio.open_connection("127.0.0.1", self._port)
            marker = Reading("GET")
            async with asyncio.timeout(_HANG_S):
                await _asked(streams, get, f"X-Marker: {number}", marker)
            self._judge_marker(marker, number)
        finally:
            streams[1].close()

    # --- what must hold ---------------------------------------------------------------------------

    def _judge(self, case: Case, truth: Reading, seen: Reading) -> None:
        self.counts[f"h11 {truth.state}, proxy {seen.state}"] += 1
        if seen.extra:
            raise BrokenError(f"bytes follow the response: {seen.extra[:200]!r}")
        if seen.state == "complete":
            self._judge_complete(case, truth, seen)
        elif seen.state == "refused":
            codes = set() if case.is_plain else {"upstream_protocol"}
            if case.end == "reset" or truth.state == "cut" or maybe_lenient(truth):
                codes |= {"upstream_protocol", "upstream_unreachable"}
            if seen.status != 502 or seen.why not in codes:
                raise BrokenError(f"refused with {seen.status} {seen.why}")
        elif case.is_plain and truth.state == "complete" and case.end != "reset":
            raise BrokenError(f"a correct response is {seen.state}")
        elif truth.state != "broken" and not truth.values(b"content-encoding"):
            # Event streams are decompressed, so what came of a compressed one cannot be compared.
            body = _ERROR_EVENT.sub(b"", seen.body)
            if not truth.body.startswith(body):
                raise BrokenError(f"h11 has {truth.body[:300]!r}, the proxy {body[:300]!r}")

    def _judge_complete(self, case: Case, truth: Reading, seen: Reading) -> None:
        if truth.state == "complete":
            for name in ("status", "body"):
                theirs, ours = getattr(truth, name), getattr(seen, name)
                if theirs != ours:
                    raise BrokenError(f"{name}: h11 has {theirs!r:.300}, the proxy {ours!r:.300}")
            theirs, ours = truth.values(b"x-a"), seen.values(b"x-a")
            if theirs != ours:
                raise BrokenError(f"X-A: h11 has {theirs!r:.300}, the proxy {ours!r:.300}")
            return
        if leniency := maybe_lenient(truth):
            self.counts[f"lenient: {leniency}"] += 1
            return
        raise BrokenError(f"complete for the client, {truth.state} for h11: {truth.why}")

    def _judge_marker(self, marker: Reading, number: str) -> None:
        if (marker.state, marker.status, marker.body) != ("complete", 200, number.encode()):
            text = f"{marker.state} {marker.status} {marker.body[:200]!r} {marker.why}"
            raise BrokenError(f"the next request did not get its response but: {text}")
        if marker.extra:
            raise BrokenError(f"bytes follow the next response: {marker.extra[:200]!r}")


async def _asked(
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    case: Case,
    header: str,
    seen: Reading,
) -> None:
    reader, writer = streams
    body = b'{"stream": true}' if case.method == "POST" else b""
    lines = [f"{case.method} {case.target} HTTP/1.1", "Host: x", header, "X-Lifecycle-Events: off"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    try:
        writer.write("\r\n".join((*lines, "", "")).encode() + body)
        while seen.state == "open":
            seen.feed(await reader.read(1 << 16))
    except ConnectionError:
        seen.state = "cut"


# --- the whole -----------------------------------------------------------------------------------


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.lines.append(self.format(record))


async def run(first: int, seconds: float, count: int, goes_on: bool) -> "collections.Counter[str]":
    """All cases; what came of them.

    Raises:
        ExceptionGroup: of ``BrokenError``.
    """
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    seeds, end = iter(range(first, first + count)), time.monotonic() + seconds
    lanes = [Lane() for _ in range(min(_LANES, count))]

    async def some(lane: Lane) -> None:
        for seed in seeds:
            case = make(seed)
            try:
                await lane.play(case, errors.lines)
            except BrokenError as failure:
                sent = b" ... ".join((b"".join(case.reads), case.late))
                text = f"--seed {seed}: {failure}: {case.method} {sent[:700]!r} {case.end}"
                if not goes_on:
                    raise BrokenError(text) from None
                print(f"FAILED: {text}", file=sys.stderr)
                lane.counts["failures"] += 1
                errors.lines.clear()
                lane.upstream.failures.clear()
            lane.counts["responses"] += 1
            if time.monotonic() > end:
                return

    try:
        for lane in lanes:
            await lane.start()
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(some(lane))
    finally:
        for lane in lanes:
            await lane.stop()
    return sum((lane.counts for lane in lanes), collections.Counter())


def main() -> int:
    """Run it. 0 if all held."""
    parser = argparse.ArgumentParser(description="Hostile responses, read by h11 and the proxy.")
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, help="of the first case (default: the time)")
    parser.add_argument("--count", type=int, default=1 << 60, help="how many cases at most")
    parser.add_argument("--go-on", action="store_true", help="do not stop at the first failure")
    asked = parser.parse_args()
    first = time.time_ns() // 1_000_000 if asked.seed is None else asked.seed
    try:
        counts = asyncio.run(run(first, asked.seconds, asked.count, asked.go_on))
    except BaseExceptionGroup as several:
        broken, rest = several.split(BrokenError)
        for failure in broken.exceptions if broken else ():
            print(f"FAILED: {failure}", file=sys.stderr)
        if rest:
            raise rest from None
        return 1
    for what in sorted(counts):
        print(f"{counts[what]:8} {what}")
    held = "not all held" if counts["failures"] else "all held"
    print(f"{counts['responses']} responses from --seed {first}: {held}")
    return bool(counts["failures"])


if __name__ == "__main__":
    sys.exit(main())
