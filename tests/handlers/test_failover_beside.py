"""Failover, as readers beside a stream and clients of progress see it."""

import json
from typing import Any, Final

import pytest

from tests.backends import backends, several
from tests.conftest import StartProxy
from tests.fakes import CHAT, DONE, JSON, Request, Wire, ask, delta, payloads, text, tool_call

pytestmark = pytest.mark.usefixtures("quiet")

BODY: Final = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()


async def refusing(_: Request, wire: Wire) -> None:
    await wire.answer(b'{"error": "no"}', "503 No", JSON)


async def breaking(_: Request, wire: Wire) -> None:
    await wire.stream(text("Hel"), tool_call("c1", "ls", "{}"))
    wire.close()


async def whole(request: Request, wire: Wire) -> None:
    said = request.json()["messages"][-1]["content"]
    rest = "Hello".removeprefix(said)
    await wire.stream(text(rest), tool_call("c2", "ls", "{}"), delta("tool_calls"), DONE, b"")


@pytest.mark.parametrize("first", [refusing, breaking])
@pytest.mark.parametrize("header", ["Accept: text/event-stream", "Prefer: respond-async"])
async def test_another_upstream_answers(start_proxy: StartProxy, first: Any, header: str) -> None:
    async with backends(a=(), b=()) as (one, two):
        one.answer, two.answer = first, whole
        own = several(
            one.table(),
            two.table(),
            models={"m": ["a/x", "b/y"]},
            failover__in_stream=True,
        )
        url = await start_proxy(own)
        answer = await ask(url, "POST", CHAT, JSON, header, body=BODY)
        if answer.status == 200:
            result = json.loads(answer.body.rpartition(b"event: result\ndata: ")[2])
            (choice,) = result["choices"]
            assert choice["message"]["content"] == "Hello"
            assert [call["id"] for call in choice["message"]["tool_calls"]] == ["c2"]
        stream_id = answer.headers["X-Stream-Id"]
        run = payloads((await ask(url, "GET", f"/-/compat/runs/{stream_id}/events")).body)
        (failover,) = [event for event in run if event.get("event") == "llm_failover"]
        assert (failover["from_provider"], failover["from_model"]) == ("a", "x")
        assert (failover["to_provider"], failover["to_model"]) == ("b", "y")
        assert failover["reason"]
        assert [event["event"] for event in run if "event" in event][-1] == "run_completed"
