"""A break in the form of each API, and what the openai package makes of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import openai
import pytest
from openai.types.responses import Response, ResponseFailedEvent

from tests.conftest import StartProxy
from tests.exchange.test_routes import MESSAGE, RESPONSE
from tests.fakes import (
    CHAT,
    JSON,
    Answer,
    Request,
    Script,
    Upstream,
    Wire,
    ask,
    event,
    lifecycle,
    tool_call,
)

pytestmark = pytest.mark.usefixtures("quiet")

EARLY: Final = {"server.heartbeat_before_first_byte": True, "server.heartbeat_s": 0.05}
TARGETS: Final = {"chat": CHAT, "responses": "/v1/responses", "messages": "/v1/messages"}
BEGINNINGS: Final = {"chat": (tool_call(),), "responses": RESPONSE[:2], "messages": MESSAGE[:2]}
CUT: Final = ("call_1", "completed", "upstream_error")


def breaking(*events: bytes) -> Script:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*events)
        wire.close()

    return script


def refusing(body: bytes, status: str = "429 Too Many Requests") -> Script:
    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.12)
        await wire.answer(body, status, JSON)

    return script


async def stream(url: str, api: str) -> Answer:
    body = b'{"model": "asked", "stream": true}'
    return await ask(url, "POST", TARGETS[api], JSON, body=body)


def events(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Name and payload of each event."""
    found = []
    for block in body.split(b"\n\n"):
        lines = block.decode().split("\n")
        names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        found += [(names[0] if names else "", json.loads(data[0]))] if data else []
    return found


@pytest.mark.parametrize("api", TARGETS)
async def test_a_break_is_told_in_the_form_of_the_api(
    upstream: Upstream, proxy: str, api: str
) -> None:
    upstream.script = breaking(*BEGINNINGS[api])
    answer = await stream(proxy, api)
    assert lifecycle(answer.body)[-1] == CUT
    name, payload = events(answer.body)[-1]
    error = payload["response"]["error"] if api == "responses" else payload["error"]
    assert error["type"] == "proxy_error"
    assert error["code"] == "upstream_protocol"
    assert "broke off" in error["message"]
    expected = {"chat": "", "responses": "response.failed", "messages": "error"}
    assert (name, payload.get("type", "")) == (expected[api], expected[api])
    assert answer.end == "cut"


async def test_a_failed_response_is_the_one_that_had_begun(upstream: Upstream, proxy: str) -> None:
    first = {"id": "resp_1", "model": "up", "created_at": 7}
    created = {"type": "response.created", "response": first, "sequence_number": 0}
    again = {**created, "response": {**first, "id": "resp_2"}, "sequence_number": 41}
    upstream.script = breaking(event(created), event(again))
    name, payload = events((await stream(proxy, "responses")).body)[-1]
    assert name == "response.failed"
    assert payload["sequence_number"] == 42
    told = payload["response"]
    assert (told["id"], told["model"], told["created_at"]) == ("resp_2", "up", 7)
    assert told["status"] == "failed"


async def test_a_break_behind_a_whole_answer_fails_another_one(
    upstream: Upstream, proxy: str
) -> None:
    """A stream may hold several answers, and break where the next is due."""
    completed = {"type": "response.completed", "response": {"id": "resp_1"}, "sequence_number": 9}
    upstream.script = breaking(*RESPONSE[:3], event(completed))
    answer = await stream(proxy, "responses")
    told = events(answer.body)[-2:]
    assert [name for name, _ in told] == ["response.created", "response.failed"]
    assert {payload["response"]["id"] for _, payload in told} == {
        f"resp_{answer.headers['X-Stream-Id']}"
    }
    assert [payload["sequence_number"] for _, payload in told] == [10, 11]


async def test_a_break_in_a_second_answer_fails_that_one(upstream: Upstream, proxy: str) -> None:
    second = {"type": "response.created", "response": {"id": "resp_2"}, "sequence_number": 9}
    upstream.script = breaking(*RESPONSE, event(second), *RESPONSE[1:2])
    name, payload = events((await stream(proxy, "responses")).body)[-1]
    assert (name, payload["response"]["id"]) == ("response.failed", "resp_2")


async def test_a_failed_response_has_all_that_the_type_asks_for(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = breaking(*RESPONSE[:2])
    payload = events((await stream(proxy, "responses")).body)[-1][1]
    assert set(payload) == {name for name, f in ResponseFailedEvent.model_fields.items()}
    needed = {name for name, f in Response.model_fields.items() if f.is_required()}
    assert needed <= set(payload["response"])


async def test_a_response_that_never_began_is_created_and_fails(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = breaking(b": processing\n\n")
    answer = await stream(proxy, "responses")
    told = events(answer.body)
    assert [name for name, _ in told] == ["response.created", "response.failed"]
    ids = {payload["response"]["id"] for _, payload in told}
    assert ids == {f"resp_{answer.headers['X-Stream-Id']}"}
    assert told[0][1]["response"]["status"] == "in_progress"
    assert [payload["sequence_number"] for _, payload in told] == [1, 2]


# --- behind early heartbeats ----------------------------------------------------------------------


@pytest.mark.parametrize("api", TARGETS)
async def test_every_api_has_heartbeats_before_the_first_byte(
    upstream: Upstream, start_proxy: StartProxy, api: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.12)
        await wire.stream(*BEGINNINGS[api], b"")

    upstream.script = script
    answer = await stream(await start_proxy(EARLY), api)
    assert answer.body.startswith(b": keep-alive\n\n")
    assert lifecycle(answer.body)[0] == ("call_1", "running", None)
    assert answer.end == "clean"


@pytest.mark.parametrize("api", TARGETS)
async def test_a_refusal_behind_early_heartbeats_keeps_the_upstreams_words(
    upstream: Upstream, start_proxy: StartProxy, api: str
) -> None:
    upstream.script = refusing(b'{"error": {"message": "slow down", "code": "rate_limit"}}')
    answer = await stream(await start_proxy(EARLY), api)
    name, payload = events(answer.body)[-1]
    error = payload["response"]["error"] if api == "responses" else payload["error"]
    assert error == {"message": "slow down", "code": "rate_limit", "status": 429}
    assert name == {"chat": "", "responses": "response.failed", "messages": "error"}[api]
    assert answer.end == "cut"


@pytest.mark.parametrize("api", TARGETS)
async def test_a_failure_behind_early_heartbeats_has_the_form_of_the_api(
    upstream: Upstream, start_proxy: StartProxy, api: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.left()

    upstream.script = script
    answer = await stream(await start_proxy({**EARLY, "upstream.first_byte_timeout_s": 0.2}), api)
    payload = events(answer.body)[-1][1]
    error = payload["response"]["error"] if api == "responses" else payload["error"]
    assert (error["type"], error["code"]) == ("proxy_error", "upstream_timeout")


# --- the openai package ---------------------------------------------------------------------------


async def until_it_breaks(stream: AsyncIterator[Any]) -> list[Any]:
    """What the SDK hands out before it raises: which error that is depends on its HTTP library."""
    seen: list[Any] = []
    try:
        async for one in stream:
            seen.append(one)  # noqa: PERF401  those before the break count
    except Exception:
        return seen
    raise AssertionError("the stream ended as if nothing had happened")


@pytest.mark.parametrize("begun", [RESPONSE[:2], ()], ids=["begun", "not begun"])
async def test_a_loop_over_a_response_gets_the_error(
    upstream: Upstream, proxy: str, begun: tuple[bytes, ...]
) -> None:
    upstream.script = breaking(*begun)
    async with openai.AsyncOpenAI(base_url=f"{proxy}/v1", api_key="x", max_retries=0) as client:
        stream = await client.responses.create(model="m", input="hi", stream=True)
        failed = (await until_it_breaks(stream))[-1]
    assert isinstance(failed, ResponseFailedEvent)
    assert failed.response.status == "failed"
    assert failed.response.error is not None
    assert "broke off" in failed.response.error.message
    assert str(failed.response.error.code) == "upstream_protocol"


async def test_the_stream_helper_gets_the_error_of_a_response_that_never_began(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = breaking()
    async with (
        openai.AsyncOpenAI(base_url=f"{proxy}/v1", api_key="x", max_retries=0) as client,
        client.responses.stream(model="m", input="hi") as stream,
    ):
        seen = await until_it_breaks(stream)
    assert [one.type for one in seen] == ["response.created", "response.failed"]
    assert "broke off" in seen[-1].response.error.message
