"""Keys as real SDKs send them: OpenAI's, Anthropic's, and OpenAI's for Azure."""

import json
from typing import Any

import openai
import pytest

from tests.conftest import StartProxy
from tests.fakes import DONE, JSON, Request, Upstream, Wire, delta, event, text

pytestmark = pytest.mark.usefixtures("quiet")

OURS, THEIRS = "sk-ours-0123456789", "sk-theirs-0123456789"
SETTINGS = {"server.api_keys": [OURS], "upstream.api_key": THEIRS}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


async def script(request: Request, wire: Wire) -> None:
    """A little of each API."""
    if request.target.endswith("/messages"):
        said = {"type": "text_delta", "text": "hi"}
        events = (
            {"type": "message_start", "message": MESSAGE},
            {"type": "content_block_start", "index": 0, "content_block": {**said, "type": "text"}},
            {"type": "content_block_delta", "index": 0, "delta": said},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_stop"},
        )
        await wire.stream(*(event(one, str(one["type"])) for one in events), b"")
    elif request.method == "POST":
        await wire.stream(text("hi"), delta("stop"), DONE, b"")
    else:
        await wire.answer(json.dumps({"object": "list", "data": []}).encode(), "200 OK", JSON)


def assert_exchanged(request: Request) -> None:
    assert OURS.encode() not in request.raw
    assert request.headers["Authorization"] == f"Bearer {THEIRS}"


async def said_by(client: openai.AsyncOpenAI) -> str:
    stream = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    return "".join([one.choices[0].delta.content or "" async for one in stream if one.choices])


async def test_openai(upstream: Upstream, start_proxy: StartProxy) -> None:
    upstream.script = script
    url = await start_proxy(SETTINGS)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=OURS, max_retries=0) as client:
        assert await said_by(client) == "hi"
        assert (await client.models.list()).data == []
    for request in upstream.requests:
        assert_exchanged(request)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="a valid API key of this proxy"):
            await said_by(client)
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("header", ["", "api-key"])
async def test_azure(upstream: Upstream, start_proxy: StartProxy, header: str) -> None:
    upstream.script = script
    url = await start_proxy({**SETTINGS, "upstream.api_key_header": header})
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=url, api_key=OURS, api_version="2024-10-21", max_retries=0
    ) as client:
        assert await said_by(client) == "hi"
    request = upstream.request
    assert request.target == "/openai/deployments/m/chat/completions?api-version=2024-10-21"
    assert OURS.encode() not in request.raw
    assert request.headers.get("Api-Key") == (THEIRS if header else None)
    assert request.headers.get("Authorization") == (None if header else f"Bearer {THEIRS}")


async def test_anthropic(upstream: Upstream, start_proxy: StartProxy) -> None:
    anthropic = pytest.importorskip("anthropic", reason="the anthropic package is not installed")
    upstream.script = script
    url = await start_proxy(SETTINGS)
    async with anthropic.AsyncAnthropic(base_url=url, api_key=OURS, max_retries=0) as client:
        asked: Any = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
        async with client.messages.stream(**asked) as stream:
            assert "".join([part async for part in stream.text_stream]) == "hi"
    assert_exchanged(upstream.request)
    assert upstream.request.headers.getall("X-Api-Key") == [THEIRS]
    async with anthropic.AsyncAnthropic(base_url=url, api_key="wrong", max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError, match="a valid API key of this proxy"):
            await client.messages.create(**asked)
    assert len(upstream.requests) == 1
