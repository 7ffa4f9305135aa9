"""Answers to approvals that are lost, doubled, late, foreign or forged: nothing runs without one.

    python fuzz/fuzz_approvals.py --sessions 1000
    python fuzz/fuzz_approvals.py --sessions 1000 --hermes

Each session is a prompt of one of several users to a scripted agent, which asks for permissions
before it executes; what it executes it writes into a file. Meanwhile somebody answers, in ways that
are drawn: properly, twice, at the same time with both answers, with the token of another session,
with tokens that were never given, when the time is over, when the client has left, by ``yes`` of
another user. With ``--hermes`` the agent is a Hermes API server, by its runs; some ask for a second
thing while the first is not decided. What must hold:

- What was executed was allowed, by an answer to its own token that the proxy accepted.
- What was allowed in time, with its client still there, was executed.
- No token is accepted twice.
- The agent's processes are gone in the end.

A failure can be played again: ``--seed N``.
"""

import argparse
import asyncio
import logging
import os
import random
import re
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lifecycle_proxy.app import serve as server
from lifecycle_proxy.config import model as config

from tests.hermes_server import HermesServer

_AGENT: Final = Path(__file__).resolve().parent.parent / "tests" / "acp_agent.py"
_TOKEN: Final = re.compile(r"/-/approvals/([0-9a-f]{32})")
_TIMEOUT_S: Final = 1.0
_LANES: Final = 8
_USERS: Final = ("one", "two", "three")
_WAYS: Final = (
    *("allow", "deny", "twice", "both", "foreign", "forged", "late", "silent", "leave"),
    *("malformed", "message"),
)


class Round:
    """All sessions.

    Args:
        url: of the proxy.
        seed: of what is drawn.
        is_hermes: whether the agent is Hermes' runs.
    """

    def __init__(self, url: str, seed: int, *, is_hermes: bool) -> None:
        self.url = url
        self.is_hermes = is_hermes
        self.random = random.Random(seed)  # noqa: S311  it has to be repeatable
        self.allowed: set[str] = set()  # commands with an accepted approval
        self.must_run: set[str] = set()
        self.accepted: list[str] = []  # tokens
        self.seen: list[str] = []  # tokens of all sessions
        self.counts = dict.fromkeys((*_WAYS, "two"), 0)
        self.failures: list[str] = []

    async def session(self, number: int, http: aiohttp.ClientSession) -> None:
        """One prompt, with one way to answer it."""
        way = self.random.choice((*_WAYS, "two") if self.is_hermes else _WAYS)
        self.counts[way] += 1
        user, command = self.random.choice(_USERS), f"command-{number}-{secrets.token_hex(4)}"
        call = "" if self.is_hermes else "c1 bash "
        script = f"ask {call}{command}\nsay over"
        if way == "two":
            script = f"two 0.05 {command} {command}-b\nsay over"
        headers = {"Authorization": f"Bearer {user}", "X-Session-Id": f"s{number % 5}"}
        if way == "message":
            await self._by_message(http, headers, script, command)
            return
        body = {"model": "a", "stream": True, "messages": [{"role": "user", "content": script}]}
        chat = f"{self.url}/v1/chat/completions"
        async with http.post(chat, json=body, headers=headers) as response:
            text = ""
            async for piece in response.content.iter_any():
                text += piece.decode("utf-8", "replace")
                if (found := _TOKEN.search(text)) is not None:
                    break
            else:
                if way == "two":  # both came at once: there was nothing to ask
                    return
                self.failures.append(f"{number} {way}: no question: {text[-300:]}")
                return
            token = found[1]
            self.seen.append(token)
            if way == "leave":
                response.close()
                await asyncio.sleep(self.random.random() * 0.02)
                await self._answer(http, token, "once", command)
                return
            await self._act(http, way, token, command)
            async for piece in response.content.iter_any():
                text += piece.decode("utf-8", "replace")
            if "[DONE]" not in text:
                self.failures.append(f"{number} {way}: no end: {text[-300:]}")

    async def _act(self, http: aiohttp.ClientSession, way: str, token: str, command: str) -> None:
        answer = self._answer
        if way == "allow" and await answer(http, token, "once", command):
            self.must_run.add(command)
        elif way == "two":  # in front of the second question, or behind it
            await asyncio.sleep(self.random.random() * 0.1)
            await answer(http, token, "once", command)
        elif way == "deny":
            await answer(http, token, "deny", command)
            await answer(http, token, "once", command)
        elif way in ("twice", "both"):
            both = ["once", "once" if way == "twice" else "deny"] * 2
            self.random.shuffle(both)
            await asyncio.gather(*(answer(http, token, one, command) for one in both))
        elif way == "malformed":
            await self._malformed(http, token)
        elif way in ("foreign", "forged"):
            for one in self._others(way, token):
                await answer(http, one, "once", f"{way} for {command}")
        elif way == "late":
            await asyncio.sleep(_TIMEOUT_S + 0.1)
            await answer(http, token, "once", f"late for {command}")

    def _others(self, way: str, token: str) -> list[str]:
        """Tokens that are not the session's: used ones of others, and such as never were."""
        if way == "foreign":
            return self.random.sample(self.accepted, min(3, len(self.accepted)))
        made = (secrets.token_hex(16), token[:-1], token + "0", token.upper(), "..", "")
        return [one for one in made if one != token]

    async def _malformed(self, http: aiohttp.ClientSession, token: str) -> None:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        for data in (b"decision=ONCE", b"decision=once&x=1", b"", b"once", b"=once", b"\xff" * 9):
            async with http.post(self._page(token), data=data, headers=form) as response:
                if response.status < 400:
                    self.failures.append(f"{data!r} was accepted")

    async def _by_message(
        self, http: aiohttp.ClientSession, headers: dict[str, str], script: str, command: str
    ) -> None:
        """The completion ends with the question; another user says yes, then perhaps the owner."""
        said = await self._whole(http, headers, {"role": "user", "content": script})
        if (found := _TOKEN.search(said)) is not None:
            self.seen.append(found[1])
        history = (
            {"role": "user", "content": script.replace("ask", "asked")},
            {"role": "assistant", "content": said},
            {"role": "user", "content": "yes"},
        )
        other = {**headers, "Authorization": "Bearer stranger"}
        await self._whole(http, other, *history)
        if self.random.random() < 0.5:
            own = ({"role": "user", "content": script}, *history[1:])
            self.allowed.add(command)
            await self._whole(http, headers, *own)

    async def _whole(
        self, http: aiohttp.ClientSession, headers: dict[str, str], *messages: Any
    ) -> str:
        body = {"model": "a", "messages": messages}
        chat = f"{self.url}/v1/chat/completions"
        async with http.post(chat, json=body, headers=headers) as response:
            answer = await response.json()
            is_good = response.status == 200
            return str(answer["choices"][0]["message"]["content"]) if is_good else ""

    def _page(self, token: str) -> str:
        return f"{self.url}/-/approvals/{token}"

    async def _answer(
        self, http: aiohttp.ClientSession, token: str, decision: str, command: str
    ) -> bool:
        """Answer; whether that counted."""
        async with http.post(self._page(token), json={"decision": decision}) as response:
            is_accepted = response.status == 200
        if is_accepted:
            if decision == "once":
                self.allowed.add(command)
            if token in self.accepted:
                self.failures.append(f"{token} was accepted twice")
            self.accepted.append(token)
        return is_accepted

    def judge(self, executed: list[str]) -> None:
        """Compare what was executed with what was allowed."""
        for command in executed:
            if command not in self.allowed:
                self.failures.append(f"{command} was executed without an approval")
        if len(set(executed)) != len(executed):
            self.failures.append("something was executed twice")
        self.failures += (f"{one} was not executed" for one in self.must_run - set(executed))


_Agent = tuple[dict[str, Any], Callable[[], list[str]]]


@asynccontextmanager
async def _acp() -> AsyncIterator[_Agent]:
    """Settings with the agent, and what it has executed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "executed"
        flags: dict[str, Any] = {
            "upstream.agent": [sys.executable, "-I", str(_AGENT), "ok"],
            "upstream.env": {"EXECUTED": str(path)},
        }
        yield flags, lambda: path.read_text("utf-8").splitlines() if path.exists() else []


@asynccontextmanager
async def _hermes() -> AsyncIterator[_Agent]:
    async with HermesServer(is_open=True) as hermes:
        url = {"upstream.url": f"{hermes.origin}/v1", "upstream.hermes_runs": True}
        yield url, lambda: hermes.executed


async def _run(sessions: int, seed: int, *, is_hermes: bool) -> int:
    async with _hermes() if is_hermes else _acp() as (flags, executed):
        settings = config.load(
            environ={},
            flags={
                "server.listen": "127.0.0.1:0",
                "server.access_log": False,
                "upstream.max_sessions": 4 * _LANES,
                "upstream.idle_s": 1,
                "approvals.timeout_s": _TIMEOUT_S,
                **flags,
            },
        )
        runner, url = await server.start(settings)
        state, numbers = Round(url, seed, is_hermes=is_hermes), iter(range(sessions))
        started = time.monotonic()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

            async def lane() -> None:
                for number in numbers:
                    try:
                        await state.session(number, http)
                    except (aiohttp.ClientError, TimeoutError) as error:
                        state.failures.append(f"{number}: {error!r}")

            await asyncio.gather(*(lane() for _ in range(_LANES)))
        await server.stop(runner, 5)
        state.judge(executed())
        count = len(executed())
    took = time.monotonic() - started
    print(f"{sessions} sessions in {took:.0f} s, {count} executions, {state.counts}")
    for failure in state.failures[:20]:
        print(f"FAILED (--seed {seed}): {failure}")
    return int(bool(state.failures))


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--hermes", action="store_true", help="by the runs of a Hermes API server")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    with suppress(KeyboardInterrupt):
        return asyncio.run(_run(arguments.sessions, arguments.seed, is_hermes=arguments.hermes))
    return 1


if __name__ == "__main__":
    sys.exit(main())
