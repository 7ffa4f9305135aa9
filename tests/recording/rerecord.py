"""Records the cassettes of the engine's tests, through the proxy.

    python -m tests.recording.rerecord                 # all of them anew, from their upstream sides
    python -m tests.recording.rerecord FILE.sse ...    # new ones: what an upstream sent

After a change of what clients are told; the diff of ``cassettes/`` is the change.
"""

import asyncio
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from lifecycle_proxy.app import serve
from lifecycle_proxy.config import model as config
from lifecycle_proxy.exchange.headers import HOP_BY_HOP
from lifecycle_proxy.recording.cassette import RecordedExchange, Request, load
from lifecycle_proxy.replay import server as replay

from tests.fakes import CHAT, Answer, Client
from tests.recording import asked, exchange

CASSETTES: Final = Path(__file__).parent / "cassettes"
RESPONSES: Final = "/v1/responses"

_EVENT: Final = re.compile(rb".*?(?:\r\n\r\n|\n\n|\r\r|\Z)", re.DOTALL)
_OF_THE_HOP: Final = {*HOP_BY_HOP, "host", "content-length"}
# Each stream is asked for in these ways.
_HEADERS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    CHAT: (
        ("X-Lifecycle-Events", "chunk"),
        ("X-Lifecycle-Events", "openwebui"),
        ("X-Lifecycle-Span", "execution"),
    ),
    RESPONSES: (("X-Lifecycle-Events", "chunk"),),
}


def streamed(file: Path) -> list[RecordedExchange]:
    """What an upstream sent as exchanges to be recorded, an event a read."""
    body = file.read_bytes()
    pieces = [piece for piece in _EVENT.findall(body) if piece]
    target = RESPONSES if b"response.created" in body else CHAT
    told = {"model": "m", "stream": True, "messages": [{"role": "user", "content": file.stem}]}
    if target == RESPONSES:
        told["input"] = file.stem
        del told["messages"]
    usual = (("Content-Type", "application/json"), ("X-Session-Id", "s1"))
    requests = [asked(told, *usual, header, target=target) for header in _HEADERS[target]]
    return [exchange(request, pieces, gap_ms=0.0) for request in requests]


async def send(url: str, request: Request) -> Answer:
    """A recorded request once more, read to the end of its answer."""
    kept = [f"{k}: {v}" for k, v in request.headers if k.lower() not in _OF_THE_HOP]
    async with Client(url) as client:
        await client.send(request.method, request.target, *kept, body=request.body)
        return await (await client.head()).read()


async def through_the_proxy(
    exchanges: Sequence[RecordedExchange], settings: dict[str, str] | None = None, speed: float = 0
) -> list[Answer]:
    """Ask the proxy what was asked; behind it the upstream sides are played."""
    app = replay.ReplayApp(exchanges, replay.Options(speed=speed))
    upstream, where = await replay.start_replay(app, "127.0.0.1:0")
    flags = {"server.listen": "127.0.0.1:0", "upstream.url": f"{where}/v1", **(settings or {})}
    try:
        runner, url = await serve.start(config.load(environ={}, flags=flags))
        try:
            return [await send(url, one.request) for one in exchanges]
        finally:
            await serve.stop(runner, 0)
    finally:
        await upstream.stop()


def record(exchanges: Sequence[RecordedExchange], target: Path) -> None:
    """Write a cassette, in the place of the one that may be there. Its times stay."""
    fresh = target.with_name(f"new-{target.name}")
    settings = {"recording.mode": "record", "recording.path": str(fresh)}
    try:
        asyncio.run(through_the_proxy(exchanges, settings, speed=1))
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def main(files: Iterable[str]) -> None:
    """The command."""
    work = {CASSETTES / f"{Path(file).stem}.jsonl": streamed(Path(file)) for file in files}
    work = work or {file: load(file) for file in sorted(CASSETTES.glob("*.jsonl"))}
    CASSETTES.mkdir(exist_ok=True)
    for target, exchanges in work.items():
        record(exchanges, target)
        print(f"{target.name}: {len(exchanges)} exchanges")


if __name__ == "__main__":
    main(sys.argv[1:])
