"""The real openai package, with and without the proxy: what it gives must be the same."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from tests.conftest import StartProxy
from tests.fakes import (
    DONE,
    JSON,
    Request,
    Upstream,
    Wire,
    delta,
    text,
    tool_call,
    usage,
)

pytestmark = pytest.mark.usefixtures("quiet")

OLD_PYTHON = os.environ.get("OPENAI_OLD_PYTHON", "")
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
SAFE = ["chunk", "plain", "comment", "off"]
HEAD = b'"model": "up", "system_fingerprint": "fp_up", "service_tier": "default"'
EVENTS = (
    delta(role="assistant"),
    text("Let me look. "),
    tool_call("call_1", "terminal", '{"command": '),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '"ls"}'}}]),
    delta(
        tool_calls=[
            {
                "index": 1,
                "id": "call_2",
                "type": "function",
                "function": {"name": "web_search", "arguments": '{"query": "x"}'},
            }
        ]
    ),
    text("Häuser 🏠"),
    delta("stop"),
)


@dataclass
class Story:
    """What a reader made of a stream."""

    text: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)
    tokens: int = 0
    finish: str | None = None
    told: list[tuple[str, str]] = field(default_factory=list)

    def read(self, chunk: ChatCompletionChunk) -> None:
        """The careful loop."""
        if chunk.usage:
            self.tokens = chunk.usage.total_tokens
        extra = chunk.model_extra or {}
        if "toolCallId" in extra:
            self.told.append((extra["toolCallId"], extra["status"]))
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
            self.finish = choice.finish_reason or self.finish
            for call in choice.delta.tool_calls or ():
                parts = self.calls.setdefault(call.index, ["", "", ""])
                parts[0] += call.id or ""
                if call.function:
                    parts[1] += call.function.name or ""
                    parts[2] += call.function.arguments or ""


TOLD = [
    ("call_1", "running"),
    ("call_2", "running"),
    ("call_1", "completed"),
    ("call_2", "completed"),
]
WHOLE = Story(
    text="Let me look. Häuser 🏠",
    calls={
        0: ["call_1", "terminal", '{"command": "ls"}'],
        1: ["call_2", "web_search", '{"query": "x"}'],
    },
    tokens=3,
    finish="stop",
)


@pytest.fixture
def agent(upstream: Upstream) -> Upstream:
    """The upstream as an agent; usage is told if it is asked for."""

    async def script(request: Request, wire: Wire) -> None:
        asked = request.json().get("stream_options", {}).get("include_usage")
        events = (*EVENTS, *([usage()] if asked else []), DONE, b"")
        await wire.stream(*(one.replace(b'"model": "up"', HEAD) for one in events))

    upstream.script = script
    return upstream


@pytest.fixture(params=["direct", *SAFE])
def base(request: pytest.FixtureRequest, agent: Upstream, proxy: str) -> str:
    """A base URL: the upstream's own, or the proxy's in each dialect that is safe for SDKs."""
    if request.param == "direct":
        return f"{agent.origin}/v1"
    return f"{proxy}/-/as/{request.param}/v1"


@pytest.fixture
def client(base: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base, api_key="sk-test", max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(base: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=base, api_key="sk-test", max_retries=0) as made:
        yield made


async def test_a_plain_loop_reads_the_same_text(client: openai.OpenAI) -> None:
    def loop() -> str:
        said = ""
        for chunk in client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
            said += chunk.choices[0].delta.content or ""
        return said

    assert await asyncio.to_thread(loop) == WHOLE.text


async def test_a_careful_loop_reads_the_same_text_calls_and_usage(
    client: openai.OpenAI, base: str
) -> None:
    def loop() -> Story:
        story = Story()
        for chunk in client.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        ):
            story.read(chunk)
        return story

    story = await asyncio.to_thread(loop)
    told, story.told = story.told, []
    assert story == WHOLE
    assert sorted(told) == (sorted(TOLD) if "/chunk/" in base or "/plain/" in base else [])


@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize("dialect", SAFE)
async def test_the_stream_helper_assembles_the_same_completion(
    agent: Upstream, proxy: str, dialect: str, include_usage: bool
) -> None:
    async def assemble(base_url: str) -> dict[str, Any]:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="x") as client:
            manager = client.chat.completions.stream(
                model="m", messages=MESSAGES, stream_options={"include_usage": include_usage}
            )
            async with manager as stream:
                return (await stream.get_final_completion()).model_dump()

    direct = await assemble(f"{agent.origin}/v1")
    assert direct["choices"][0]["message"]["content"] == WHOLE.text
    assert bool(direct["usage"]) == include_usage
    assert await assemble(f"{proxy}/-/as/{dialect}/v1") == direct


async def test_the_async_client_reads_the_same(async_client: openai.AsyncOpenAI) -> None:
    story = Story()
    stream = await async_client.chat.completions.create(
        model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        story.read(chunk)
    story.told = []
    assert story == WHOLE


async def test_lifecycle_fields_can_be_read_from_the_chunks(agent: Upstream, proxy: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{proxy}/v1", api_key="sk-test") as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        told: list[Any] = [chunk async for chunk in stream if hasattr(chunk, "toolCallId")]
    running, completed = (one for one in told if one.toolCallId == "call_2")
    assert (running.tool, running.emoji, running.label) == ("web_search", "🔍", "x")
    assert (running.status, completed.status) == ("running", "completed")
    assert completed.durationMs >= 0
    assert running.choices[0].delta.content is None


async def test_an_error_of_ours_is_raised_by_the_client(start_proxy: StartProxy) -> None:
    url = await start_proxy({"upstream.url": "http://nowhere.invalid/v1"})
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError, match="nowhere") as caught:
            await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_unreachable")
    assert caught.value.type == "proxy_error"


async def test_a_broken_stream_is_raised_by_the_client(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("half"))
        wire.close()

    upstream.script = script
    async with openai.AsyncOpenAI(base_url=f"{proxy}/v1", api_key="x", max_retries=0) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        first = await anext(stream)
        with pytest.raises(openai.APIError, match="broke off") as caught:
            await anext(stream)
    assert first.choices[0].delta.content == "half"
    assert caught.value.code == "upstream_protocol"


async def test_a_completion_that_is_no_stream_is_the_same(upstream: Upstream, proxy: str) -> None:
    message = {"role": "assistant", "content": "Häuser"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = {"id": "c", "object": "chat.completion", "created": 7, "model": "m"}

    async def script(request: Request, wire: Wire) -> None:
        body = json.dumps({**whole, "choices": [choice]}).encode()
        await wire.answer(body, "200 OK", JSON)

    upstream.script = script
    given = []
    for base_url in (f"{upstream.origin}/v1", f"{proxy}/v1"):
        async with openai.AsyncOpenAI(base_url=base_url, api_key="x") as client:
            given.append(await client.chat.completions.create(model="m", messages=MESSAGES))
    assert given[0] == given[1]


@pytest.mark.skipif(not OLD_PYTHON, reason="OPENAI_OLD_PYTHON names no python with an old openai")
async def test_an_sdk_that_wraps_named_events_reads_the_same(agent: Upstream, proxy: str) -> None:
    script = Path(__file__).with_name("old_sdk.py")
    process = await asyncio.create_subprocess_exec(
        OLD_PYTHON,
        str(script),
        f"{proxy}/v1",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    read = json.loads(out)
    assert read["text"] == WHOLE.text
    assert sorted(read["told"]) == sorted([list(pair) for pair in TOLD])
