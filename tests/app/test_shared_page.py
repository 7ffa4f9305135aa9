"""The live page of a proxy with several workers: it shows all of them, whichever it reached."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.commands import LISTEN, serving
from tests.fakes import DONE, Answer, Client, Request, Upstream, Wire, chat, delta, text, tool_call

OWN = "X-Lifecycle-Page: 1"
KEYS = ["key-of-alice-" + "a" * 30, "key-of-bob-" + "b" * 30]
ALICE, BOB = (f"Authorization: Bearer {key}" for key in KEYS)


class Feed:
    """What one page knows."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._rest = b""
        self.rows: dict[str, Any] = {}
        self.marks: dict[str, list[Any]] = {}

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(30):
            while not holds(self.rows):
                await self.take()

    async def take(self) -> None:
        *lines, self._rest = (self._rest + await anext(self._answer.pieces)).split(b"\n")
        for line in lines:
            change = json.loads(line)
            for row in change.get("rows", ()):
                self.rows[row["i"]] = row
                start, marks = row.get("l", (0, []))
                self.marks.setdefault(row["i"], [])[start:] = marks
            for gone in change.get("gone", ()):
                self.rows.pop(gone, None)


@asynccontextmanager
async def a_feed(url: str, *lines: str) -> AsyncIterator[Feed]:
    async with Client(url) as client:
        await client.send("GET", "/-/page/changes", *lines)
        yield Feed(await client.head())


async def ask(url: str, method: str, path: str, *lines: str) -> Answer:
    async with Client(url) as client:
        body = b"" if method == "POST" else None
        await client.send(method, path, *lines, body=body)
        return await (await client.head()).read()


def plays(upstream: Upstream) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("Let me look. "), tool_call("call_1", "ls"), delta("tool_calls"))
        if request.json().get("model") == "slow":
            await wire.left(60)
        for piece in (text("It will rain. "), delta("stop"), DONE, b""):
            await wire.chunk(piece)

    upstream.script = script


async def test_a_page_shows_all_workers_and_ends_what_others_have(upstream: Upstream) -> None:
    plays(upstream)
    arguments = (*LISTEN, "--workers", "3", "--upstream", f"{upstream.origin}/v1")
    with serving(*arguments) as (_, url, _upstream):
        async with a_feed(url) as feed, AsyncExitStack() as stack:
            for number in range(12):  # the kernel spreads connections over the workers
                await chat(url, model=f"m{number}", messages=[])
            await feed.until(lambda rows: len(rows) == 12)
            await feed.until(lambda rows: {one["e"] for one in rows.values()} == {"done"})
            await asyncio.sleep(1.5)  # all of them know by now that somebody looks
            streams = []
            for _ in range(9):
                client = await stack.enter_async_context(Client(url))
                asked = [{"role": "user", "content": "Will it rain?"}]
                streams.append(await client.chat(model="slow", messages=asked))
                await streams[-1].until(b"running")
            await feed.until(
                lambda rows: sum(one["w"] == "Will it rain?" for one in rows.values()) == 9
            )
            slow = [one["i"] for one in feed.rows.values() if one["m"] == "slow"]
            for one in slow:  # by whichever worker is asked
                whole = await ask(url, "GET", f"/-/page/exchanges/{one}")
                assert (whole.status, whole.json()["line"]) == (200, "slow: Will it rain?")
                assert (await ask(url, "GET", f"/-/page/exchanges/{one}.jsonl")).status == 200
                path = f"/-/page/exchanges/{one}/end"
                assert (await ask(url, "POST", path, OWN)).status == 200
            for stream in streams:
                await stream.read()
                assert b'"stopped"' in stream.body
            await feed.until(lambda rows: all(rows[one]["e"] == "stopped" for one in slow))


async def test_each_key_sees_its_own_in_all_workers(upstream: Upstream) -> None:
    plays(upstream)
    arguments = (*LISTEN, "--workers", "2", "--upstream", f"{upstream.origin}/v1")
    keys = json.dumps(KEYS)
    with serving(*arguments, LIFECYCLE_PROXY_SERVER__API_KEYS=keys) as (_, url, _upstream):
        async with a_feed(url, ALICE) as alices, a_feed(url, BOB) as bobs:
            for number in range(8):
                await chat(url, (ALICE, BOB)[number % 2], model=f"of-{number % 2}", messages=[])
            await alices.until(lambda rows: len(rows) == 4)
            await bobs.until(lambda rows: len(rows) == 4)
            assert {one["m"] for one in alices.rows.values()} == {"of-0"}
            assert {one["m"] for one in bobs.rows.values()} == {"of-1"}
            assert all("o" not in one for one in alices.rows.values())
            for one in alices.rows:
                path = f"/-/page/exchanges/{one}"
                assert (await ask(url, "GET", path, BOB)).status == 404
                assert (await ask(url, "POST", f"{path}/end", OWN, BOB)).status == 404
