"""SDKs whose connection breaks get the same stream again, and the upstream is asked once."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

import openai
import pytest

from tests import npm
from tests.conftest import StartProxy
from tests.fakes import DONE, Client, Request, Upstream, Wire, chat, delta, text, tool_call
from tests.sdks.cutter import Cutter

pytestmark = pytest.mark.usefixtures("quiet")

TEXTS: Final = [f"piece {number} " for number in range(6)]
BODY: Final = (*map(text, TEXTS), tool_call(), delta("tool_calls"), DONE)
# Behind how many bytes the connection is cut: in front of the headers, in the middle, at the end.
CUTS: Final = {"head": 0, "middle": 900, "last chunk": -3}
RESUMES: Final = {"streams.resume_s": 60}


async def slow(request: Request, wire: Wire) -> None:
    await wire.stream()
    for one in (*BODY, b""):
        await asyncio.sleep(0.01)
        await wire.chunk(one)


@pytest.fixture
async def cutter(upstream: Upstream, start_proxy: StartProxy) -> AsyncIterator[Cutter]:
    """A link to the proxy whose first connection is cut."""
    upstream.script = slow
    cutting = Cutter(await start_proxy(RESUMES), DONE)
    await cutting.start()
    yield cutting
    await cutting.stop()


async def asked(client: openai.AsyncOpenAI, headers: dict[str, str]) -> list[str]:
    """The texts of one stream."""
    stream = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], stream=True, extra_headers=headers
    )
    chunks = [chunk async for chunk in stream]
    return [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]


@pytest.mark.parametrize("where", CUTS)
async def test_openai_python(upstream: Upstream, cutter: Cutter, where: str) -> None:
    cutter.cut_at = CUTS[where]
    headers = {"Idempotency-Key": "k-1"}
    async with openai.AsyncOpenAI(base_url=f"{cutter.url}/v1", api_key="k") as client:
        if where != "head":  # there it tries again by itself
            with pytest.raises(openai.APIError):
                await asked(client, headers)
        texts = await asked(client, headers)
    assert [one for one in texts if one] == TEXTS
    assert len(upstream.requests) == 1


async def test_openai_python_tries_again_by_itself(upstream: Upstream, cutter: Cutter) -> None:
    """Without a key: it says which of its requests are retries."""
    cutter.cut_at = 0
    async with openai.AsyncOpenAI(base_url=f"{cutter.url}/v1", api_key="k") as client:
        texts = await asked(client, {})
    assert [one for one in texts if one] == TEXTS
    assert len(upstream.requests) == 1
    assert cutter.connections == 2


@pytest.mark.parametrize("where", CUTS)
async def test_openai_node(upstream: Upstream, cutter: Cutter, where: str) -> None:
    folder = npm.installed("openai@6.49.0")
    cutter.cut_at = CUTS[where]
    script = __file__.replace("test_resuming.py", "resuming.mjs")
    process = await asyncio.create_subprocess_exec(
        "node",
        script,
        str(folder),
        f"{cutter.url}/v1",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    given: dict[str, Any] = json.loads(out)
    assert [one for one in given["texts"] if one] == TEXTS
    assert given["broken"] == (where != "head")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("where", CUTS)
async def test_raw_bytes(
    upstream: Upstream, cutter: Cutter, start_proxy: StartProxy, where: str
) -> None:
    """The body that comes is the one that would have come."""
    cutter.cut_at = CUTS[where]
    lines = ("Idempotency-Key: k-1", "X-Lifecycle-Events: bare")  # without durations
    async with Client(cutter.url) as client:
        await client.ask_chat(*lines)
        with suppress(asyncio.IncompleteReadError):
            assert (await (await client.head()).read()).end != "clean"
    again = await chat(cutter.url, *lines)
    assert len(upstream.requests) == 1
    assert again.body == (await chat(await start_proxy(), *lines)).body
    assert again.end == "clean"
