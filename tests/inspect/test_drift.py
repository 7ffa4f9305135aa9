"""Drift: two answers compared by shape, and a live upstream asked again."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.config import model as config
from lifecycle_proxy.exchange.ends import SideEnd
from lifecycle_proxy.inspect.compare import compare
from lifecycle_proxy.inspect.drift import Report, drift, render
from lifecycle_proxy.inspect.signature import Reply, Verdict, signature_of
from lifecycle_proxy.recording.cassette import Piece, RecordedExchange, Request, Side

from tests import fakes
from tests.fakes import CHAT, DONE, JSON, Upstream, Wire, delta, event, text, tool_call, usage

CORPUS = sorted(Path("tests/corpus").glob("*.sse"))
STREAM = "text/event-stream; charset=utf-8"
PLAIN = "application/json"


def reply(*events: bytes, status: int = 200, content_type: str = STREAM) -> Reply:
    return Reply(status, content_type, b"".join(events))


def answer(body: Any, status: int = 200) -> Reply:
    return Reply(status, PLAIN, json.dumps(body).encode())


def piece(arguments: str, index: int = 0) -> bytes:
    return delta(tool_calls=[{"index": index, "function": {"arguments": arguments}}])


STOP = delta("stop")
TOOLS = delta("tool_calls")
SAID = reply(text("Hello"), text(" you"), STOP, usage(), DONE)
CALLED = reply(tool_call(arguments=""), piece('{"command":'), piece('"ls"}'), TOOLS, DONE)


# --- comparing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)
def test_any_stream_is_identical_to_itself(file: Path) -> None:
    same = reply(file.read_bytes())
    assert compare(same, same).verdict is Verdict.IDENTICAL


BENIGN = [
    (SAID, reply(text("Hi"), text(" you"), STOP, usage(), DONE), ["other wording"]),
    (
        SAID,
        reply(text("Hello you"), STOP, usage(), DONE),
        ["3 events, 4 before"],
    ),
    (
        SAID,
        reply(delta(content="Hello", reasoning="x"), text(" you"), STOP, usage(), DONE),
        ["new: choices[].delta.reasoning"],
    ),
    (CALLED, reply(tool_call(arguments='{"command":"ls"}'), TOOLS, DONE), ["2 events, 4 before"]),
    (
        CALLED,
        reply(tool_call(arguments='{"command":"ls","cwd":"/"}'), piece(""), piece(""), TOOLS, DONE),
        ["the arguments of terminal are now command, cwd", "other wording"],
    ),
    (reply(text("a"), STOP), reply(text("a"), STOP, DONE), ["[DONE] is new"]),
    (
        reply(text("I look"), tool_call(), TOOLS),
        reply(tool_call(), tool_call("call_2", "other"), TOOLS),
        [
            "not there: choices[].delta.content",
            "more tools are called: other",
            "other wording",
        ],
    ),
    (
        answer({"service_tier": "default", "choices": []}),
        answer({"service_tier": None, "choices": []}),
        ["null: service_tier"],
    ),
    (answer({"usage": {"total": 1}}), answer({"usage": {"total": 1.5}}), []),
]


@pytest.mark.parametrize(("before", "after", "told"), BENIGN)
def test_what_a_client_has_to_bear(before: Reply, after: Reply, told: list[str]) -> None:
    found = compare(before, after)
    assert found.breaking == ()
    assert list(found.benign) == told


BREAKING = [
    (SAID, reply(status=404), "status 200 is now 404"),
    (
        SAID,
        answer({"error": {"message": "no\nsuch model"}}, 404),
        "status 200 is now 404: no such model",
    ),
    (SAID, answer({"error": "gone"}, 410), "status 200 is now 410: gone"),
    (SAID, answer({}), "content type text/event-stream is now application/json"),
    (SAID, Reply(200, STREAM, b"", "the answer broke off"), "the answer broke off"),
    (SAID, reply(text("Hello"), STOP, DONE), "missing: usage"),
    (SAID, reply(text("Hello"), STOP, usage()), "no [DONE]"),
    (
        SAID,
        reply(text("Hello"), delta("length"), usage(), DONE),
        "finish stop is now length",
    ),
    (SAID, reply(delta(text="Hello"), STOP, usage(), DONE), "no text"),
    (SAID, reply(text("H"), usage(), DONE), "finish stop is now none"),
    (SAID, reply(text("H"), event({"error": {"message": "x"}})), "finish stop is now error"),
    (reply(text("H")), reply(text("H"), event({"error": 1})), "there is an error in it"),
    (CALLED, reply(text("I cannot"), STOP, DONE), "no call of terminal"),
    (CALLED, reply(tool_call(name="other"), TOOLS, DONE), "no call of terminal"),
    (
        CALLED,
        reply(tool_call(arguments='{"input":"ls"}'), TOOLS, DONE),
        "the arguments of terminal: command are now input",
    ),
    (
        CALLED,
        reply(tool_call(arguments="ls"), TOOLS, DONE),
        "the arguments of terminal are not a JSON object",
    ),
    (answer({"a": [1]}), answer({"a": ["1"]}), "type of a[]: number is now string"),
    (answer({"a": {"b": {"c": 1}}}), answer({"a": {}}), "missing: a.b"),
    (answer({"a": 1}), Reply(200, PLAIN, b"<html>"), "missing: the body"),
]


@pytest.mark.parametrize(("before", "after", "told"), BREAKING)
def test_what_breaks_a_client(before: Reply, after: Reply, told: str) -> None:
    found = compare(before, after)
    assert told in found.breaking
    assert found.verdict is Verdict.BREAKING


def test_a_long_list_is_cut() -> None:
    found = compare(answer({f"key{n:02}": 1 for n in range(13)}), answer({}))
    assert found.breaking[:2] == ("missing: key00", "missing: key01")
    assert found.breaking[-1] == "missing: 3 more"


def test_calls_that_share_a_place_are_told_apart() -> None:
    """Ollama gives all calls the index 0; LM Studio has sent a new id with each piece."""
    ollama = signature_of(reply(tool_call("a", "one", '{"x":1}'), tool_call("b", "two", '{"y":1}')))
    assert ollama.tools() == {"one": {"x"}, "two": {"y"}}
    begun = {"index": 0, "id": "1", "function": {"name": "one", "arguments": '{"x"'}}
    goes_on = {"index": 0, "id": "2", "function": {"arguments": ":1}"}}
    lm_studio = signature_of(reply(delta(tool_calls=[begun]), delta(tool_calls=[goes_on])))
    assert lm_studio.tools() == {"one": {"x"}}


def test_legacy_function_calls() -> None:
    said = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    old = signature_of(answer({"choices": [{"message": said, "finish_reason": "function_call"}]}))
    assert old.tools() == {"f": set()}
    assert old.finishes == {"tools"}


ITEM = {"type": "function_call", "name": "f", "call_id": "c", "arguments": '{"x":1}'}
MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}


def responses(item: dict[str, Any], *more: dict[str, Any], status: str = "completed") -> Reply:
    told: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"id": "r", "status": "in_progress"}},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        *more,
        {"type": f"response.{status}", "response": {"id": "r", "status": status}},
    ]
    return reply(*(event(one, one["type"]) for one in told))


def test_responses_streams() -> None:
    delta = {"type": "response.output_text.delta", "delta": "Hi"}
    before = responses(ITEM, delta)
    assert signature_of(before).tools() == {"f": {"x"}}
    assert signature_of(before).finishes == {"completed"}
    assert signature_of(before).text == "Hi"
    assert compare(before, responses(ITEM)).breaking == ()  # with or without a word
    assert compare(before, responses(ITEM, delta, status="incomplete")).breaking == (
        "missing: response.completed",
        "finish completed is now incomplete",
    )
    assert compare(before, responses(MESSAGE, delta)).breaking == (
        "missing: response.output_item.done: item[function_call]",
        "no call of f",
    )


def test_responses_in_one_piece() -> None:
    body = {"object": "response", "status": "completed", "output": [MESSAGE, ITEM]}
    assert signature_of(answer(body)).text == "Hi"
    assert signature_of(answer(body)).tools() == {"f": {"x"}}
    web = {"object": "response", "status": "completed", "output": [{"type": "web_search_call"}]}
    assert signature_of(answer(web)).tools() == {"web_search_call": set()}


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"[[[", b"[" * 5000, b"null", b'{"choices":[1,{"delta":[]}],"item":3}', b"[{}]"],
)
def test_any_bytes_have_a_shape(body: bytes) -> None:
    for content_type in (PLAIN, STREAM, ""):
        for data in (body, b"data: " + body + b"\n\n"):
            same = Reply(200, content_type, data)
            assert compare(same, same).verdict is Verdict.IDENTICAL


# --- asking -------------------------------------------------------------------------------------

Ask = Callable[..., Awaitable[Report]]


def exchange(
    *events: bytes, target: str = CHAT, headers: dict[str, str] | None = None, **more: Any
) -> RecordedExchange:
    body = b"".join(events)
    sent = {"Content-Type": PLAIN, **(headers or {})}
    request = Request("POST", target, tuple(sent.items()), b'{"model": "m", "stream":true}')
    side = Side(200, "OK", (("Content-Type", STREAM),), 1.0, [Piece(1.0, body)], "eof", 2.0)
    fields = {"route": "chat", "upstream": side, "is_complete": True, **more}
    return RecordedExchange("ex_1", "2026-01-01T00:00:00Z", request=request, **fields)


@pytest.fixture
def ask(upstream: Upstream) -> Ask:
    """Asks the scripted upstream again."""

    async def run(*exchanges: RecordedExchange, key: str = "", **more: Any) -> Report:
        flags = {"upstream.url": f"{upstream.origin}/api/v1", "upstream.api_key": key}
        settings = config.load(environ={}, flags=flags)
        async with asyncio.timeout(5):
            return await drift(exchanges, settings, **more)

    return run


def says(*events: bytes) -> fakes.Script:
    async def script(_: fakes.Request, wire: Wire) -> None:
        await wire.stream(*events)
        await wire.chunk()

    return script


async def test_the_same_request_is_sent(upstream: Upstream, ask: Ask) -> None:
    upstream.script = says(*EVENTS)
    once = exchange(
        *EVENTS,
        target="/-/as/openwebui/v1/chat/completions?a=1",
        headers={
            "Authorization": "[redacted:9f86d081884c]",
            "X-Custom": "[redacted:9f86d081884c]",
            "X-Api-Key": "sk-live-0123456789abcdef",
            "Cookie": "session=0123456789abcdef",
            "Host": "old.example",
            "Content-Length": "999",
            "Accept-Encoding": "br",
            "X-Lifecycle-Dialect": "bare",
            "X-Kept": "yes",
        },
    )
    report = await ask(once, key="sk-now")
    assert report.verdict is Verdict.IDENTICAL
    assert report.exit_code == 0
    sent = upstream.request
    assert (sent.method, sent.target) == ("POST", "/api/v1/chat/completions?a=1")
    assert sent.body == b'{"model": "m", "stream":true}'
    assert {name.lower(): value for name, value in sent.headers.items()} == {
        "host": upstream.origin.removeprefix("http://"),
        "content-type": PLAIN,
        "x-kept": "yes",
        "accept-encoding": "identity",
        "authorization": "Bearer sk-now",
        "content-length": str(len(sent.body)),
    }


EVENTS = (text("Hello"), STOP, DONE)


async def test_what_the_proxy_forwarded_is_asked(upstream: Upstream, ask: Ask) -> None:
    upstream.script = says(*EVENTS)
    forwarded = Request("POST", "/elsewhere/chat/completions", (), b"{}")
    await ask(exchange(*EVENTS, forwarded=forwarded))
    assert upstream.request.body == b"{}"
    assert upstream.request.target == "/api/v1/chat/completions"
    assert "authorization" not in upstream.request.headers


async def test_other_words_are_benign(upstream: Upstream, ask: Ask) -> None:
    upstream.script = says(text("Hi"), STOP, DONE)
    report = await ask(exchange(*EVENTS))
    assert (report.verdict, report.exit_code) == (Verdict.BENIGN, 3)


async def test_the_worst_counts(upstream: Upstream, ask: Ask) -> None:
    upstream.script = says(*EVENTS)
    report = await ask(exchange(*EVENTS), exchange(*EVENTS, usage()))
    assert (report.verdict, report.exit_code) == (Verdict.BREAKING, 1)


async def test_a_body_in_one_piece(upstream: Upstream, ask: Ask) -> None:
    async def script(_: fakes.Request, wire: Wire) -> None:
        await wire.answer(b'{"object": "response", "status": "failed"}', "200 OK", JSON)

    upstream.script = script
    body = b'{"object":"response","status":"completed"}'
    head = (("content-type", PLAIN),)
    side = Side(200, "OK", head, 1.0, [Piece(1.0, body)], "eof", 2.0)
    once = exchange(target="/v1/responses", route="responses", upstream=side)
    report = await ask(once)
    assert report.results[0].comparison.breaking == ("finish completed is now failed",)


async def test_a_recorded_body_that_is_compressed(upstream: Upstream, ask: Ask) -> None:
    import gzip

    upstream.script = says(*EVENTS)
    head = (("Content-Type", STREAM), ("Content-Encoding", "gzip"))
    packed = gzip.compress(b"".join(EVENTS))
    side = Side(200, "OK", head, 1.0, [Piece(1.0, packed)], "eof", 2.0)
    assert (await ask(exchange(upstream=side))).verdict is Verdict.IDENTICAL


async def test_an_answer_that_is_compressed_though_nobody_asked(
    upstream: Upstream, ask: Ask
) -> None:
    import gzip

    packed = gzip.compress(b"".join(EVENTS))

    async def script(_: fakes.Request, wire: Wire) -> None:
        lines = (f"Content-Type: {STREAM}", "Content-Encoding: gzip")
        await wire.answer(packed, "200 OK", *lines)

    upstream.script = script
    assert (await ask(exchange(*EVENTS))).verdict is Verdict.IDENTICAL


async def test_an_answer_that_breaks_off(upstream: Upstream, ask: Ask) -> None:
    async def script(_: fakes.Request, wire: Wire) -> None:
        await wire.stream(EVENTS[0])
        wire.close()

    upstream.script = script
    report = await ask(exchange(*EVENTS))
    assert report.results[0].comparison.breaking == ("the answer broke off",)


async def test_an_answer_that_does_not_come(upstream: Upstream, ask: Ask) -> None:
    async def script(_: fakes.Request, wire: Wire) -> None:
        await wire.stream(EVENTS[0])
        await wire.left()

    upstream.script = script
    report = await ask(exchange(*EVENTS), timeout_s=0.1)
    assert report.results[0].comparison.breaking == ("no whole answer within 0.1 s",)


async def test_an_answer_without_end(upstream: Upstream, ask: Ask) -> None:
    async def script(_: fakes.Request, wire: Wire) -> None:
        await wire.stream()
        for _number in range(20):
            await wire.chunk(b"x" * (4 << 20))
            await asyncio.sleep(0)  # a connection that is gone takes all without a wait

    upstream.script = script
    report = await ask(exchange(*EVENTS))
    assert report.results[0].comparison.breaking == ("the answer is larger than 64 MiB",)


async def test_an_upstream_that_is_not_there(upstream: Upstream, ask: Ask) -> None:
    upstream.refuse()
    report = await ask(exchange(*EVENTS))
    assert (report.results, report.verdict, report.exit_code) == ((), None, 4)
    (line,) = render(report)
    assert line.startswith("unreachable: cannot reach the upstream http://localhost:")


async def test_an_upstream_that_closes_the_connection_has_changed(
    upstream: Upstream, ask: Ask
) -> None:
    async def script(request: fakes.Request, wire: Wire) -> None:
        if request.method == "GET":
            await wire.answer(b"{}")
        wire.close()

    upstream.script = script
    report = await ask(exchange(*EVENTS))
    assert "closed the connection" in report.results[0].comparison.breaking[0]
    assert report.exit_code == 1


async def test_a_request_that_cannot_be_sent(ask: Ask) -> None:
    (result,) = (await ask(exchange(*EVENTS, headers={"X-Kept": "a\r\nb: c"}))).results
    assert "the request cannot be sent" in result.comparison.breaking[0]


def ended(end: SideEnd, *headers: tuple[str, str]) -> Side:
    return Side(200, "OK", headers, 1.0, [], end, 2.0)


SKIPPED = [
    (exchange(route="messages"), "not a chat or Responses request"),
    (exchange(target="/v1/chat/completions?key=[redacted:0123]"), "its URL contained a secret"),
    (exchange(omitted="too large"), "its answer was not recorded: too large"),
    (exchange(is_complete=False), "no answer to compare with"),
    (exchange(upstream=Side()), "no answer to compare with"),
    (exchange(upstream=ended("reset")), "broke off when it was recorded (reset)"),
    (exchange(upstream=ended("eof", ("Content-Encoding", "br"))), "is compressed: br"),
    (
        exchange(forwarded=Request("POST", CHAT, (), None, "too large")),
        "its body was not recorded: too large",
    ),
]


@pytest.mark.parametrize(("skipped", "reason"), SKIPPED)
async def test_what_cannot_be_asked_again(
    upstream: Upstream, ask: Ask, skipped: RecordedExchange, reason: str
) -> None:
    report = await ask(skipped)
    assert not upstream.requests
    assert (report.verdict, report.exit_code) == (None, 1)
    assert reason in report.skipped[0][1]
    assert list(render(report))[-1] == "nothing to ask again (1 not asked)"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_progress_is_for_terminals(upstream: Upstream, ask: Ask) -> None:
    upstream.script = says(*EVENTS)
    terminal, file = Terminal(), io.StringIO()
    await ask(exchange(*EVENTS), progress=terminal)
    await ask(exchange(*EVENTS), progress=file)
    assert terminal.getvalue() == f"\r\x1b[K1 of 1: POST {CHAT}\r\x1b[K"
    assert file.getvalue() == ""


async def test_the_report(upstream: Upstream, ask: Ask) -> None:
    upstream.script = says(text("Hi"), STOP)
    once = exchange(*EVENTS)
    once.id = "ex_\x1b[31m"
    report = await ask(once, exchange(text("Hi"), STOP), exchange(route="other"))
    assert list(render(report)) == [
        rf"breaking   ex_\x1b[31m  POST {CHAT}",
        "  ! no [DONE]",
        "  ~ other wording",
        f"identical  ex_1  POST {CHAT}",
        "not asked  ex_1  not a chat or Responses request",
        "breaking (1 identical, 1 breaking, 1 not asked)",
    ]
    assert next(render(report, colour=True)).startswith("\x1b[31mbreaking \x1b[0m  ex_")
    assert list(render(Report((), ()))) == ["nothing to ask again (no exchanges)"]
