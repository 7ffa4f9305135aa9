"""``failover.in_stream``: another upstream goes on with an answer that broke off."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from lifecycle_proxy.app.factory import ProxyApp
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.exchange.failover import Failover
from lifecycle_proxy.exchange.model import Exchange, Listener

from tests.backends import Backend, backends, several
from tests.conftest import StartProxy
from tests.fakes import DONE, Answer, Request, Wire, ask, chat, delta, lifecycle, payloads, text

pytestmark = pytest.mark.usefixtures("quiet")

ASKED = [{"role": "user", "content": "How full is the disk?"}]
WORDS = ("Let me ", "look at ", "the disk. ", "It is ", "61 % ", "full.")


def call(index: int, call_id: str, name: str, arguments: str) -> bytes:
    function = {"name": name, "arguments": arguments}
    one: dict[str, Any] = {"index": index, "function": function}
    if call_id:
        one |= {"id": call_id, "type": "function"}
    return delta(tool_calls=[one])


FIRST = [
    delta(role="assistant", content=""),
    text(WORDS[0]),
    text(WORDS[1]),
    text(WORDS[2]),
    call(0, "call_1", "terminal", ""),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"command":'}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": ' "df"}'}}]),
    call(1, "call_2", "web_search", '{"query": "df"}'),
    delta(role="tool", tool_call_id="call_1", content="61 %"),
    delta(role="tool", tool_call_id="call_2", content="none"),
    text(WORDS[3]),
    text(WORDS[4]),
    text(WORDS[5]),
    delta("stop"),
    DONE,
]


class Scripted(Backend):
    """Sends a whole answer, or as much of it as it is let; or what follows behind a beginning.

    Attributes:
        cut_at: the number of bytes of its answer after which it dies; None for never.
        goes_on: it knows prefill; else it begins anew.
    """

    cut_at: int | None = None
    goes_on = True

    async def echo(self, request: Request, wire: Wire) -> None:
        events = self._rest(request.json()) if self.goes_on else FIRST
        data = b"".join(events)
        await wire.stream()
        if self.cut_at is None:
            for event in events:
                await wire.chunk(event)
            await wire.chunk()
            return
        if self.cut_at:
            await wire.chunk(data[: self.cut_at])
        wire.close()

    def _rest(self, asked: dict[str, Any]) -> list[bytes]:
        """What follows behind the assistant's last message."""
        last = asked["messages"][-1]
        so_far = last["content"] if last["role"] == "assistant" else ""
        said, rest = "", list(FIRST)
        while said != so_far:
            payload = payloads(rest.pop(0))[0]["choices"][0]["delta"]
            said += payload.get("content", "") if payload.get("role") != "tool" else ""
        if so_far:  # the model's own tokens only
            rest = [one for one in rest if b'"role": "tool"' not in one or b"call_" in one]
        return rest


@pytest.fixture
async def scripted() -> AsyncIterator[list[Scripted]]:
    """Three backends, listening."""
    started = [Scripted(name) for name in "abc"]
    for backend in started:
        await backend.start()
    yield started
    for backend in started:
        await backend.stop()


def shown(answer: Answer) -> str:
    """The text that a client shows."""
    choices = [one["choices"][0] for one in payloads(answer.body) if one.get("choices")]
    deltas = [one["delta"] for one in choices if one["delta"].get("role") != "tool"]
    return "".join(one.get("content") or "" for one in deltas)


def assert_exact(answer: Answer) -> None:
    """One running and one completed for each call, and no call left open."""
    seen: dict[str, list[str]] = {}
    for call_id, status, _ in lifecycle(answer.body):
        seen.setdefault(call_id, []).append(status)
    assert all(pair == ["running", "completed"] for pair in seen.values()), seen


BOUNDARIES = [0]
for _event in FIRST:
    BOUNDARIES.append(BOUNDARIES[-1] + len(_event))
POINTS = sorted({point + shift for point in BOUNDARIES for shift in (0, 1, 20)})


@pytest.mark.parametrize("goes_on", [True, False], ids=["prefill", "anew"])
async def test_the_first_backend_dies_at_every_event_and_inside_of_it(
    start_proxy: StartProxy, scripted: list[Scripted], goes_on: bool
) -> None:
    one, two, _ = scripted
    two.goes_on = goes_on
    own = several(one.table(), two.table(), models={"m": ["a/x", "b/y"]}, failover__in_stream=True)
    for cut in POINTS:
        url = await start_proxy(own)  # with healthy upstreams, whatever came before
        one.cut_at = min(cut, BOUNDARIES[-1])
        answer = await chat(url, model="m", messages=ASKED)
        is_finished = cut >= BOUNDARIES[-2]  # nothing can follow behind that
        assert (answer.status, answer.end) == (200, "cut" if is_finished else "clean"), cut
        assert answer.body.endswith(DONE) or cut < BOUNDARIES[-1]
        assert is_finished or answer.body.endswith(DONE)
        assert_exact(answer)
        if cut < BOUNDARIES[10] or goes_on:
            assert shown(answer) == "".join(WORDS), cut
        roles = re.findall(rb'"role": ?"assistant"', answer.body)
        assert len(roles) <= 1
        # Every event is whole: no half of one stands between two.
        for line in answer.body.split(b"\n"):
            if line.startswith(b"data: {"):
                json.loads(line[6:])


class _Followed(Listener):
    def __init__(self) -> None:
        self.seen: list[Failover] = []

    def on_failover(self, exchange: Exchange, failover: Failover) -> None:
        self.seen.append(failover)


async def test_open_calls_are_completed_as_failed_over(
    start_proxy: StartProxy, scripted: list[Scripted]
) -> None:
    listener = _Followed()

    def create(settings: Settings) -> ProxyApp:
        app = ProxyApp(settings)
        app.gateway.listeners.append(listener)
        return app

    one, two, _ = scripted
    one.cut_at = BOUNDARIES[5]
    own = several(one.table(), two.table(), models={"m": ["a/x", "b/y"]}, failover__in_stream=True)
    answer = await chat(await start_proxy(own, create), model="m", messages=ASKED)
    seen = lifecycle(answer.body)
    assert seen[:2] == [("call_1", "running", None), ("call_1", "completed", "failover")]
    assert [one[:2] for one in seen[2:]] == [
        ("call_1-1", "running"),
        ("call_2", "running"),
        ("call_1-1", "completed"),
        ("call_2", "completed"),
    ]
    completed = [one for one in payloads(answer.body) if one.get("reason") == "failover"]
    assert [one["isError"] for one in completed] == [True]
    (request,) = two.asked
    asked = request.json()
    begun = {"role": "assistant", "content": "".join(WORDS[:3])}
    assert asked["messages"] == [*ASKED, begun]
    assert asked["model"] == "y"
    assert listener.seen == [Failover("a", "x", "b", "y", "stream_error")]


async def test_calls_of_the_next_backend_have_numbers_of_their_own(
    start_proxy: StartProxy,
    scripted: list[Scripted],
) -> None:
    one, two, _ = scripted
    one.cut_at = BOUNDARIES[5]
    own = several(one.table(), two.table(), models={"m": ["a/x", "b/y"]}, failover__in_stream=True)
    answer = await chat(await start_proxy(own), model="m", messages=ASKED)
    deltas = [one["choices"][0]["delta"] for one in payloads(answer.body) if one.get("choices")]
    calls = [call for one in deltas for call in one.get("tool_calls", ())]
    assert [(call["index"], call["id"]) for call in calls if call.get("id")] == [
        (0, "call_1"),
        (1, "call_1-1"),
        (2, "call_2"),
    ]


@pytest.mark.parametrize("last", ["closes", "refuses", "json"])
async def test_where_nobody_can_go_on_the_stream_is_broken(
    start_proxy: StartProxy, scripted: list[Scripted], last: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        if last == "closes":
            wire.close()
        else:
            await wire.answer(b"{}", "400 Bad" if last == "refuses" else "200 OK")

    one, two, _ = scripted
    one.cut_at, two.answer = BOUNDARIES[5] + 10, script
    own = several(one.table(), two.table(), models={"m": ["a/x", "b/y"]}, failover__in_stream=True)
    answer = await chat(await start_proxy(own), model="m", messages=ASKED)
    assert answer.end == "cut"
    assert lifecycle(answer.body) == [
        ("call_1", "running", None),
        ("call_1", "completed", "upstream_error"),
    ]
    assert payloads(answer.body)[-1]["error"]["code"] == "upstream_protocol"


async def test_three_go_on_one_after_another(
    start_proxy: StartProxy, scripted: list[Scripted]
) -> None:
    names = scripted
    names[0].cut_at = BOUNDARIES[2]
    names[1].cut_at = len(FIRST[2]) + 5
    models = {"m": ["a/x", "b/y", "c/z"]}
    tables = [backend.table() for backend in names]
    url = await start_proxy(several(*tables, models=models, failover__in_stream=True))
    answer = await chat(url, model="m", messages=ASKED)
    assert shown(answer) == "".join(WORDS)
    assert_exact(answer)
    states = (await ask(url, "GET", "/-/upstreams")).json()["upstreams"]
    assert [state["open"] for state in states] == [0, 0, 0]


async def test_vllm_is_asked_to_go_on_with_the_message(
    start_proxy: StartProxy, scripted: list[Scripted]
) -> None:
    one, two, _ = scripted

    async def script(request: Request, wire: Wire) -> None:
        if request.method == "GET":
            await wire.answer(b'{"data":[{"id":"y","owned_by":"vllm"}]}')
        else:
            await two.echo(request, wire)

    two.script, one.cut_at = script, BOUNDARIES[3]
    own = several(one.table(), two.table(), models={"m": ["a/x", "b/y"]}, failover__in_stream=True)
    url = await start_proxy(own)
    await ask(url, "GET", "/v1/models")
    answer = await chat(url, model="m", messages=ASKED)
    assert shown(answer) == "".join(WORDS)
    asked = two.asked[-1].json()
    assert asked["continue_final_message"] is True
    assert asked["add_generation_prompt"] is False


@pytest.mark.parametrize(
    ("more", "script"),
    [
        ({"failover__in_stream": False}, FIRST[:4]),
        ({"failover__in_stream": True}, [*FIRST[:3], delta("stop")]),
        ({"failover__in_stream": True}, [*FIRST[:3], b'data: {"error":{"message":"no"}}\n\n']),
        (
            {"failover__in_stream": True},
            [text("a").replace(b'"index": 0', b'"index": 1')],
        ),
    ],
    ids=["off", "finished", "error", "several answers"],
)
async def test_what_nobody_goes_on_with(
    start_proxy: StartProxy, more: dict[str, Any], script: list[bytes]
) -> None:
    async def cut(request: Request, wire: Wire) -> None:
        await wire.stream(*script)
        wire.close()

    async with backends(a=[], b=[]) as (one, two):
        one.answer = cut
        own = several(one.table(), two.table(), models={"m": ["a/x", "b/y"]}, **more)
        answer = await chat(await start_proxy(own), model="m", messages=ASKED)
        assert answer.end == "cut"
        assert two.asked == []


async def test_the_streams_log_has_an_event_for_each_step(
    start_proxy: StartProxy, scripted: list[Scripted]
) -> None:
    async def refuse(request: Request, wire: Wire) -> None:
        await wire.answer(b"{}", "429 No")

    one, two, three = scripted
    one.answer, two.cut_at = refuse, BOUNDARIES[5]
    models = {"m": ["a/x", "b/y", "c/z"]}
    tables = (one.table(), two.table(), three.table())
    url = await start_proxy(several(*tables, models=models, failover__in_stream=True))
    chosen = "X-Event-Stream-Id: my-stream-1"
    for line in (chosen, "X-Any: 1"):
        answer = await chat(url, line, model="m", messages=ASKED)
        log = await ask(url, "GET", f"/-/streams/{answer.headers['X-Stream-Id']}/events")
        names = re.findall(rb"event: (\S+)", log.body)
        calls = [b"tool.running", b"tool.completed"]
        steps = [name for name in names if name in (b"llm_failover", *calls)]
        assert steps[:4] == [b"llm_failover", b"tool.running", b"llm_failover", b"tool.completed"]
        (found,) = re.findall(rb"data: (\{[^\n]*stream_error[^\n]*)", log.body)
        assert json.loads(found)["from_provider"] == "b"
        assert json.loads(found)["to_model"] == "z"
