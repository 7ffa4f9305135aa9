"""Records sessions with real agents, through the proxy. See the README beside this file.

python -m tests.recording.sessions [--hermes URL] [--litellm URL] [--out DIR]
"""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
from lifecycle_proxy.app import serve
from lifecycle_proxy.config import model as config
from lifecycle_proxy.recording.cassette import load

from tests.fakes import CHAT
from tests.recording.model import SCRIPTS
from tests.recording.rerecord import CASSETTES, RESPONSES

Json = dict[str, Any]
_COUNT, _SEARCH, _FAIL, _OSLO, _BOTH = SCRIPTS
_MCP: Final = {"type": "mcp", "server_label": "litellm", "server_url": "litellm_proxy"}


async def by_messages(session: aiohttp.ClientSession, turns: Sequence[str], more: Json) -> None:
    """A conversation of which the client sends all each time."""
    messages: list[Json] = []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        said = ""
        asked = {"stream": True, "messages": messages, **more}
        for chunk in await _told(session, CHAT, asked):
            for choice in chunk.get("choices", ()):
                said += choice["delta"].get("content") or ""
        messages.append({"role": "assistant", "content": said})


async def by_id(session: aiohttp.ClientSession, turns: Sequence[str], more: Json) -> None:
    """A conversation that the server remembers."""
    for turn in turns:
        told = await _told(session, RESPONSES, {"stream": True, "input": turn, **more})
        more = {**more, "previous_response_id": told[-1]["response"]["id"]}


Talk = Callable[[aiohttp.ClientSession, Sequence[str], Json], Awaitable[None]]


class Session(NamedTuple):
    """What is asked of whom, and in which dialect."""

    agent: str
    dialect: str
    talk: Talk
    turns: tuple[str, ...]
    more: Json


SESSIONS: Final = {
    "hermes-session-turns": Session(
        "hermes",
        "chunk",
        by_messages,
        (_COUNT, _SEARCH, "Thank you."),
        {"model": "hermes-agent"},
    ),
    "hermes-session-failing": Session(
        "hermes", "openwebui", by_messages, (_FAIL, _COUNT), {"model": "hermes-agent"}
    ),
    "hermes-session-responses": Session(
        "hermes", "chunk", by_id, (_COUNT, _SEARCH), {"model": "hermes-agent"}
    ),
    "litellm-session-mcp": Session(
        "litellm",
        "chunk",
        by_messages,
        (_OSLO, _BOTH),
        {"model": "scripted", "tools": [{**_MCP, "require_approval": "never"}]},
    ),
}


async def _told(session: aiohttp.ClientSession, target: str, asked: Json) -> list[Json]:
    """The data of a stream's events."""
    async with session.post(target, json=asked) as answer:
        body = await answer.text()
        answer.raise_for_status()
    data = [line[6:] for line in body.splitlines() if line.startswith("data: {")]
    return [json.loads(text) for text in data]


async def record(name: str, url: str, key: str, target: Path) -> None:
    """Record one session, in the place of the one that may be there."""
    one = SESSIONS[name]
    fresh = target.with_name(f"new-{target.name}")
    flags = {"server.listen": "127.0.0.1:0", "upstream.url": url}
    flags |= {"recording.mode": "record", "recording.path": str(fresh)}
    runner, where = await serve.start(config.load(environ={}, flags=flags))
    try:
        headers = {"Authorization": f"Bearer {key}", "X-Lifecycle-Events": one.dialect}
        async with aiohttp.ClientSession(where, headers=headers) as session:
            await one.talk(session, one.turns, one.more)
    finally:
        await serve.stop(runner, 1)
    fresh.replace(target)
    tools = sum(told["status"] == "running" for each in load(target) for told in each.tools)
    print(f"{target.name}: {len(load(target))} exchanges, {tools} tools")


async def _main(args: argparse.Namespace) -> None:
    for name, one in SESSIONS.items():
        url, key = getattr(args, one.agent), getattr(args, f"{one.agent}_key")
        if url:
            await record(name, url, key, Path(args.out) / f"{name}.jsonl")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    for agent in ("hermes", "litellm"):
        parser.add_argument(f"--{agent}", default="", metavar="URL", help="with /v1")
        parser.add_argument(f"--{agent}-key", default="", metavar="KEY")
    parser.add_argument("--out", default=CASSETTES, help="folder (default: the tests' cassettes)")
    args = parser.parse_args()
    Path(args.out).mkdir(parents=True, exist_ok=True)
    asyncio.run(_main(args))


if __name__ == "__main__":
    main()
