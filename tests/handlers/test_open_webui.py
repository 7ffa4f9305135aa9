"""What Open WebUI gets by default: cards instead of calls, and an end that it does not throw away.

It is known here by its header or its user agent, as in the field. ``tests/open_webui`` runs the
real page.
"""

import asyncio
from collections.abc import Callable

import pytest
from lifecycle_proxy.app import serve
from lifecycle_proxy.core.dialects import DIALECTS

from tests.conftest import StartProxy
from tests.fakes import (
    CHAT,
    DONE,
    JSON,
    Answer,
    Client,
    Request,
    Script,
    Upstream,
    Wire,
    chat,
    delta,
    event,
    lifecycle,
    payloads,
    text,
    tool_call,
    without_frames,
)

pytestmark = pytest.mark.usefixtures("quiet")

AGENT = "User-Agent: Python/3.11 aiohttp/3.14.5"
NAMED = "X-OpenWebUI-User-Id: 1"
OWN = [{"type": "function", "function": {"name": "clock", "parameters": {}}}]
RESULT = delta(role="tool", tool_call_id="call_1", content="12 files")
CALL = tool_call("call_1", "terminal", '{"command": "ls"}')
OWN_CALL = tool_call("call_2", "clock", "{}")
EARLY = {"server.heartbeat_s": 0.05, "server.heartbeat_before_first_byte": True}
STALL = {"upstream.stall_timeout_s": 0.15}


def streams(*events: bytes, end: Callable[[Wire], None] | None = None) -> Script:
    """A script: these events, and a proper end unless one is given."""

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*events)
        if end is None:
            await wire.chunk()
        else:
            await asyncio.sleep(0.02)
            end(wire)

    return script


ROUNDS = (text("a"), CALL, delta("tool_calls"), RESULT, text("b"), delta("stop"), DONE)


def cards(body: bytes) -> list[str]:
    """The cards, in order: a call by its name, its output by its text."""
    items = [payload["item"] for payload in payloads(body) if "item" in payload]
    return [item.get("name") or item["output"][0]["text"] for item in items]


def calls(body: bytes) -> list[str]:
    """The names of the calls that a client would run."""
    deltas = [c["delta"] for p in payloads(body) for c in p.get("choices", ())]
    return [call["function"]["name"] for d in deltas for call in d.get("tool_calls", ())]


# --- cards instead of calls -----------------------------------------------------------------------


@pytest.mark.parametrize("line", [AGENT, NAMED, "X-Lifecycle-Events: openwebui"])
async def test_tools_that_the_request_does_not_name_are_cards(
    upstream: Upstream, proxy: str, line: str
) -> None:
    upstream.script = streams(*ROUNDS)
    answer = await chat(proxy, line, tools=OWN)
    assert without_frames(answer.body) == text("a") + text("b") + delta("stop") + DONE
    name, output = cards(answer.body)
    assert (name, output[:7]) == ("terminal", "done in")
    assert answer.end == "clean"


async def test_tools_that_it_names_stay_calls(upstream: Upstream, proxy: str) -> None:
    upstream.script = streams(text("a"), OWN_CALL, delta("tool_calls"), DONE)
    answer = await chat(proxy, NAMED, tools=OWN)
    assert without_frames(answer.body) == text("a") + OWN_CALL + delta("tool_calls") + DONE
    assert (calls(answer.body), cards(answer.body)) == (["clock"], [])
    assert [status for _, status, _ in lifecycle(answer.body)] == ["running", "completed"]


@pytest.mark.parametrize(
    "named",
    [
        {"tools": [{"type": "custom", "custom": {"name": "clock"}}]},
        {"tools": [{"type": "function", "name": "clock"}]},
        {"functions": [{"name": "clock"}]},
        {"tools": [None, {"function": "x"}, {"function": {"name": 5}}, *OWN]},
    ],
)
async def test_tools_may_be_named_in_several_forms(
    upstream: Upstream, proxy: str, named: dict[str, object]
) -> None:
    upstream.script = streams(OWN_CALL, CALL, delta("tool_calls"), DONE)
    answer = await chat(proxy, NAMED, **named)
    assert (calls(answer.body), cards(answer.body)[0]) == (["clock"], "terminal")


@pytest.mark.parametrize("tools", [None, [], 5, "clock", {"function": {"name": "terminal"}}])
async def test_a_request_that_names_no_tool_can_run_none(
    upstream: Upstream, proxy: str, tools: object
) -> None:
    upstream.script = streams(*ROUNDS)
    answer = await chat(proxy, NAMED, tools=tools)
    assert (calls(answer.body), cards(answer.body)[0]) == ([], "terminal")


@pytest.mark.parametrize(
    "name", sorted(set(DIALECTS) - {"openwebui", "openwebui-status", "quote", "reasoning"})
)
async def test_by_default_other_clients_get_every_byte(
    upstream: Upstream, proxy: str, name: str
) -> None:
    assert not DIALECTS[name].merges_rounds
    upstream.script = streams(*ROUNDS)
    answer = await chat(proxy, f"X-Lifecycle-Events: {name}", tools=OWN)
    assert all(piece in answer.body for piece in ROUNDS)


async def test_false_gives_open_webui_every_byte(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = streams(*ROUNDS)
    answer = await chat(await start_proxy({"lifecycle.merge_rounds": False}), NAMED, tools=OWN)
    assert without_frames(answer.body) == b"".join(ROUNDS)
    assert cards(answer.body) == []


async def test_true_merges_for_everybody_and_takes_calls_from_open_webui_only(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = streams(*ROUNDS)
    url = await start_proxy({"lifecycle.merge_rounds": True})
    answer = await chat(url, tools=OWN)
    assert without_frames(answer.body) == b"".join(ROUNDS).replace(delta("tool_calls"), b"")
    assert calls((await chat(url, NAMED, tools=OWN)).body) == []


async def test_other_apis_are_left_alone(upstream: Upstream, start_proxy: StartProxy) -> None:
    """A finish of theirs has another form: nothing is held back for it."""
    half = b'data: {"type": "response.output_text.delta", "delta": "a'

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(half)
        await wire.gone.wait()

    upstream.script = script
    for merge in ("auto", True):
        settings = {"lifecycle.merge_rounds": merge, "lifecycle.page_events": "all"}
        async with Client(await start_proxy(settings)) as client:
            await client.send("POST", "/v1/responses", JSON, AGENT, body=b'{"stream": true}')
            await (await client.head()).until(half)


# --- tools that are not known ---------------------------------------------------------------------


PICTURE = [{"role": "user", "content": "x" * (9 << 20)}]


async def test_the_tools_of_a_body_too_large_to_look_at_are_found_at_its_end(
    upstream: Upstream, proxy: str
) -> None:
    """Where Open WebUI puts them: a few pictures are enough for such a body."""
    upstream.script = streams(OWN_CALL, CALL, delta("tool_calls"), RESULT, text("b"), DONE)
    told = [{"type": "function", "function": {"name": "t", "description": '"tools": []'}}]
    answer = await chat(proxy, NAMED, messages=PICTURE, tools=OWN + told)
    assert without_frames(answer.body).startswith(OWN_CALL)
    assert (calls(answer.body), cards(answer.body)[0]) == (["clock"], "terminal")
    assert upstream.request.json()["messages"] == PICTURE


@pytest.mark.parametrize(
    "more",
    [
        {"tools": OWN, "user": "x" * (1 << 19)},  # too far from the end
        {"user": {"tools": []}},  # not the tools of the request
        {"user": "none at all"},
    ],
)
async def test_where_they_are_not_found_no_call_is_taken_away(
    upstream: Upstream, proxy: str, more: dict[str, object]
) -> None:
    """Its own tools would never run. Rounds are merged all the same."""
    upstream.script = streams(OWN_CALL, delta("tool_calls"), text("b"), delta("stop"), DONE)
    answer = await chat(proxy, NAMED, messages=PICTURE, **more)
    assert without_frames(answer.body) == OWN_CALL + text("b") + delta("stop") + DONE
    assert (calls(answer.body), cards(answer.body)) == (["clock"], [])


@pytest.mark.parametrize("body", [b"[]", b"no JSON", b'{"stream": true'])
async def test_of_a_body_that_says_nothing_no_call_is_taken_away(
    upstream: Upstream, proxy: str, body: bytes
) -> None:
    upstream.script = streams(*ROUNDS)
    async with Client(proxy) as client:
        await client.send("POST", CHAT, JSON, NAMED, body=body)
        answer = await (await client.head()).read()
    assert calls(answer.body) == ["terminal"]


# --- nothing but a finish waits -------------------------------------------------------------------


async def test_text_waits_for_nothing(upstream: Upstream, proxy: str) -> None:
    """Nor does a card. One event at a time, each seen by the client before the next is sent."""
    seen = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream()
        for one in (text("a"), CALL, text("b"), delta("tool_calls"), text("c"), RESULT, text("d")):
            await wire.chunk(one)
            await seen.wait()
            seen.clear()

    upstream.script = script
    async with Client(proxy) as client:
        answer = await client.chat(NAMED, tools=OWN)
        for mark in (text("a"), b'"running"', text("b"), None, text("c"), None, text("d")):
            if mark is not None:
                await answer.until(mark)
            seen.set()
            await asyncio.sleep(0.02)
        assert answer.body.count(b'"completed"') == 3  # the card's two items, and the status


async def test_a_call_of_its_own_waits_for_nothing(upstream: Upstream, proxy: str) -> None:
    seen = asyncio.Event()
    head = tool_call("call_2", "clock", "")
    rest = delta(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}])

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(head)
        await seen.wait()
        await wire.chunk(rest)
        await wire.gone.wait()

    upstream.script = script
    async with Client(proxy) as client:
        answer = await (await client.chat(NAMED, tools=OWN)).until(head)
        seen.set()
        await answer.until(rest)


# --- it ends properly behind an error -------------------------------------------------------------


def error_of(answer: Answer) -> str:
    """The code of the error at the end; whatever is open has been completed in front of it."""
    whole = answer.body.removesuffix(HALF)  # held back; a client drops it
    told = [payload for payload in payloads(whole) if "error" in payload]
    assert payloads(whole)[-1:] == told
    assert len(told) == 1
    assert told[0]["error"]["message"]
    statuses = [status for _, status, _ in lifecycle(whole)]
    assert statuses.count("running") == statuses.count("completed")
    names = cards(whole)
    assert len(names) % 2 == 0
    assert DONE not in answer.body
    code: str = told[0]["error"]["code"]
    return code


def progress(status: str) -> bytes:
    told = {"tool": "terminal", "toolCallId": "call_n", "status": status, "label": "ls"}
    return event(told, "hermes.tool.progress")


HALF = text("b")[:-9]
PLACES = {
    "before the first byte": (),
    "in text": (text("a"),),
    "in half a text": (text("a"), HALF),
    "in a call": (text("a"), tool_call("call_1", "terminal", '{"comm')),
    "in half a call": (text("a"), CALL[:-40]),
    "in a line of a call": (text("a"), CALL[:-1]),
    "in a call of its own": (text("a"), tool_call("call_2", "clock", '{"zo')),
    "in a tool of the backend": (text("a"), progress("running")),
    "behind a tool of the backend": (text("a"), progress("running"), progress("completed")),
    "behind a call": (text("a"), CALL, RESULT),
    "behind a finish": (text("a"), delta("stop")),
    "behind a finish of calls": (text("a"), CALL, delta("tool_calls")),
}
at_each_place = pytest.mark.parametrize("events", PLACES.values(), ids=PLACES.keys())


@at_each_place
@pytest.mark.parametrize("end", [Wire.close, Wire.reset])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_break_ends_properly(
    upstream: Upstream,
    proxy: str,
    events: tuple[bytes, ...],
    end: Callable[[Wire], None],
    version: str,
) -> None:
    upstream.script = streams(*events, end=end)
    async with Client(proxy) as client:
        answer = await (await client.chat(NAMED, version=version, tools=OWN)).read()
    assert answer.end == "clean"
    assert error_of(answer) == "upstream_protocol"
    assert "terminal" not in calls(answer.body.removesuffix(HALF))


@at_each_place
async def test_a_stall_ends_properly(
    upstream: Upstream, start_proxy: StartProxy, events: tuple[bytes, ...]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*events)
        await wire.gone.wait()

    upstream.script = script
    answer = await chat(await start_proxy(STALL), NAMED, tools=OWN)
    assert (answer.end, error_of(answer)) == ("clean", "upstream_timeout")


async def test_a_drain_ends_properly(
    upstream: Upstream, start_proxy: StartProxy, runners: list[serve.Runner]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("a"), progress("running"))
        await wire.gone.wait()

    upstream.script = script
    async with Client(await start_proxy()) as client:
        answer = await (await client.chat(NAMED)).until(b'"running"')
        await serve.stop(runners.pop(), 0.05)
        await answer.read()
    assert (answer.end, error_of(answer)) == ("clean", "draining")


async def test_a_break_behind_done_ends_properly(upstream: Upstream, proxy: str) -> None:
    """It has got all there is."""
    upstream.script = streams(text("a"), DONE, end=Wire.reset)
    answer = await chat(proxy, NAMED)
    assert (answer.body, answer.end) == (text("a") + DONE, "clean")
    answer = await chat(proxy)
    assert (answer.body, answer.end) == (text("a") + DONE, "cut")


async def test_its_connection_can_be_used_again(upstream: Upstream, proxy: str) -> None:
    upstream.script = streams(text("a"), end=Wire.close)
    async with Client(proxy) as client:
        await (await client.chat(NAMED)).read()
        upstream.script = streams(text("b"), DONE)
        answer = await (await client.chat(NAMED)).read()
    assert answer.body == text("b") + DONE


async def test_a_client_that_does_not_read_keeps_no_upstream_and_holds_up_no_shutdown(
    upstream: Upstream, start_proxy: StartProxy, runners: list[serve.Runner]
) -> None:
    async def flood(request: Request, wire: Wire) -> None:
        await wire.stream()
        while not wire.gone.is_set():
            await wire.chunk(text("x" * 65536))

    upstream.script = flood
    async with Client(await start_proxy()) as client:
        await client.chat(NAMED)
        client.wire.transport.pause_reading()
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            await serve.stop(runners.pop(), 0.1)
    await upstream.wires[0].left()


async def test_a_client_that_leaves_at_the_error_is_no_failure(
    upstream: Upstream, proxy: str, runners: list[serve.Runner]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("x" * 65536))
        wire.close()

    upstream.script = script
    async with Client(proxy) as client:
        await client.ask_chat(NAMED)
        client.wire.reset()
    await asyncio.sleep(0.05)
    assert (await chat(proxy, NAMED)).end == "clean"


async def test_other_streams_of_its_end_properly_too(upstream: Upstream, proxy: str) -> None:
    upstream.script = streams(b'data: {"type": "response.created"}\n\n', end=Wire.close)
    async with Client(proxy) as client:
        await client.send("POST", "/v1/responses", JSON, AGENT, body=b'{"stream": true}')
        answer = await (await client.head()).read()
    assert answer.end == "clean"
    assert b"upstream_protocol" in answer.body


async def test_what_is_no_stream_stays_broken(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.head("200 OK", JSON, "Content-Length: 100")
        await wire.send(b'{"id":')
        wire.close()

    upstream.script = script
    assert (await chat(proxy, NAMED)).end == "cut"


@pytest.mark.parametrize("name", sorted(set(DIALECTS) - {"openwebui", "openwebui-status"}))
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_for_all_others_a_break_stays_visible(
    upstream: Upstream, start_proxy: StartProxy, name: str, version: str
) -> None:
    assert not DIALECTS[name].ends_after_error
    upstream.script = streams(text("a"), CALL, end=Wire.reset)
    async with Client(await start_proxy()) as client:
        line = f"X-Lifecycle-Events: {name}"
        answer = await (await client.chat(line, version=version)).read()
    assert answer.end == ("reset" if version == "1.0" else "cut")


# --- behind early heartbeats ----------------------------------------------------------------------


async def failing(request: Request, wire: Wire) -> None:
    await asyncio.sleep(0.12)
    wire.close()


async def refusing(request: Request, wire: Wire) -> None:
    await asyncio.sleep(0.12)
    await wire.answer(b'{"error": {"message": "busy", "code": "x"}}', "429 Busy", JSON)


async def never(request: Request, wire: Wire) -> None:
    await wire.gone.wait()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    ("script", "code"),
    [
        (failing, "upstream_unreachable"),
        (refusing, "x"),
        (never, "upstream_timeout"),
    ],
)
async def test_a_failure_behind_early_heartbeats_ends_properly(
    upstream: Upstream, start_proxy: StartProxy, script: Script, code: str, version: str
) -> None:
    upstream.script = script
    url = await start_proxy({**EARLY, "upstream.first_byte_timeout_s": 0.3})
    async with Client(url) as client:
        answer = await (await client.chat(NAMED, version=version)).read()
    assert (answer.end, error_of(answer)) == ("clean", code)


async def test_a_break_behind_an_early_head_ends_properly(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.12)
        await wire.stream(text("a"), CALL)
        wire.close()

    upstream.script = script
    answer = await chat(await start_proxy(EARLY), NAMED)
    assert (answer.end, error_of(answer)) == ("clean", "upstream_protocol")
    assert cards(answer.body)[0] == "terminal"


async def test_a_drain_behind_early_heartbeats_ends_properly(
    upstream: Upstream, start_proxy: StartProxy, runners: list[serve.Runner]
) -> None:
    upstream.script = never
    async with Client(await start_proxy(EARLY)) as client:
        answer = await client.chat(NAMED)
        await serve.stop(runners.pop(), 0.05)
        await answer.read()
    assert (answer.end, error_of(answer)) == ("clean", "draining")
