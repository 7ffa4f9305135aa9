"""Spans, as a receiver gets them."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.app.factory import ProxyApp
from lifecycle_proxy.app.tracing import maybe_telemetry, urls
from lifecycle_proxy.config.model import ConfigError, Settings, load
from lifecycle_proxy.config.traces import TraceSettings, are_on
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.telemetry import trace_names as names
from lifecycle_proxy.telemetry.genai_metrics import GenAiMetrics
from lifecycle_proxy.telemetry.otel import OpenTelemetry
from lifecycle_proxy.telemetry.span_encoding import resource
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

from tests.conftest import StartProxy
from tests.fakes import (
    DONE,
    JSON,
    Client,
    Request,
    Upstream,
    Wire,
    chat,
    delta,
    event,
    text,
    tool_call,
)
from tests.handlers.test_approvals import decide, page_in
from tests.handlers.test_follow_up import FOLLOW_UP, LAST, STEP
from tests.telemetry.receiver import Receiver
from tests.upstream.test_agents import says
from tests.upstream.test_agents import settings as agent_settings

pytestmark = pytest.mark.usefixtures("quiet")

CLIENT, INTERNAL = 3, 1
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"traceparent: 00-{TRACE}-{PARENT}-01"
CALL = tool_call("call_1", "terminal", '{"command": "ls"}')
RESULT = delta(role="tool", tool_call_id="call_1", content="12 files")
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
ANSWER = (CALL, delta("tool_calls"), RESULT, text("b"), delta("stop"))


@pytest.fixture(autouse=True)
def _no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """No receiver has TLS. To read the authorities of this machine takes most of a start."""
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as one:
        yield one


class Traced:
    """A proxy with spans and metrics, and where they go."""

    def __init__(self, receiver: Receiver, start: StartProxy, **environ: str) -> None:
        self.receiver = receiver
        self.environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "50",
            **environ,
        }
        self._loop = asyncio.get_running_loop()
        self.lost = 0
        self.has_lost = asyncio.Event()
        self._start = start
        self._made: OpenTelemetry | None = None

    def _lose(self, number: int) -> None:
        self.lost += number
        self._loop.call_soon_threadsafe(self.has_lost.set)

    async def start(self, settings: dict[str, Any] | None = None) -> str:
        return await self._start(settings, create=self._create)

    def _create(self, settings: Settings) -> ProxyApp:
        app = ProxyApp(settings)
        made = OpenTelemetry(urls(settings), self._lose, self.environ, traces=True, metrics=True)
        app.gateway.listeners.extend(made.listeners)
        made.start()
        self._made = made
        return app

    async def stop(self) -> None:
        if self._made is not None:
            await self._made.close()


@pytest.fixture
async def traced(receiver: Receiver, start_proxy: StartProxy) -> AsyncIterator[Traced]:
    one = Traced(receiver, start_proxy)
    yield one
    await one.stop()


def script(upstream: Upstream, *events: bytes) -> None:
    async def answer(request: Request, wire: Wire) -> None:
        await wire.stream(*events)
        await wire.chunk()

    upstream.script = answer


async def test_a_chat_with_a_tool(upstream: Upstream, traced: Traced) -> None:
    script(upstream, *ANSWER, event({"choices": [], "usage": USAGE}), DONE)
    await chat(await traced.start(), model="gpt-x")
    await traced.receiver.until(lambda: len(traced.receiver.spans) == 2)
    [said], [tool] = (traced.receiver.named(n) for n in ("chat gpt-x", "execute_tool terminal"))
    port = int(upstream.origin.rpartition(":")[2])
    assert said.kind == CLIENT
    assert not said.is_error
    assert said.attributes.pop(names.FIRST_CHUNK) > 0
    assert said.attributes.pop(names.REQUEST_ID).startswith("req_")
    assert said.attributes.pop(names.RESPONSE_ID)
    assert said.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-x",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": said.attributes["gen_ai.response.model"],
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "server.address": "localhost",
        "server.port": port,
        "http.response.status_code": 200,
        "lifecycle_proxy.dialect": "chunk",
        "lifecycle_proxy.ended": "done",
    }
    assert (tool.kind, tool.trace, tool.parent) == (INTERNAL, said.trace, said.id)
    assert tool.attributes == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "terminal",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": "call_1",
        "lifecycle_proxy.tool.outcome": "ok",
        "lifecycle_proxy.tool.hosted": tool.attributes["lifecycle_proxy.tool.hosted"],
    }
    assert said.start_ns <= tool.start_ns <= tool.end_ns <= said.end_ns


async def test_traceparent_is_continued_and_passed_on(upstream: Upstream, traced: Traced) -> None:
    script(upstream, text("a"), DONE)
    await chat(await traced.start(), TRACEPARENT, "tracestate: a=b")
    await traced.receiver.until(lambda: traced.receiver.spans)
    [said] = traced.receiver.spans
    assert (said.trace, said.parent) == (TRACE, PARENT)
    sent = upstream.request.headers
    assert sent["traceparent"] == f"00-{TRACE}-{said.id}-01"
    assert sent["tracestate"] == "a=b"


@pytest.mark.parametrize("value", ["", "00-x", f"00-{'0' * 32}-{PARENT}-01", "é" * 9, "x" * 5000])
async def test_without_a_good_one_the_upstream_gets_ours(
    upstream: Upstream, traced: Traced, value: str
) -> None:
    script(upstream, text("a"), DONE)
    await chat(await traced.start(), f"traceparent: {value}")
    await traced.receiver.until(lambda: traced.receiver.spans)
    [said] = traced.receiver.spans
    assert said.parent == ""
    assert upstream.request.headers["traceparent"][:-2] == f"00-{said.trace}-{said.id}-"


async def test_off_a_traceparent_passes_as_it_is(upstream: Upstream, proxy: str) -> None:
    script(upstream, text("a"), DONE)
    await chat(proxy, TRACEPARENT)
    await chat(proxy)
    given, none = (request.headers.get("traceparent") for request in upstream.requests)
    assert (given, none) == (TRACEPARENT.partition(": ")[2], None)


KEY = "Authorization: Bearer sk-alice"


async def test_a_tool_of_the_client_is_one_span_over_two_requests(
    upstream: Upstream, traced: Traced
) -> None:
    url = await traced.start({"lifecycle.span": "execution"})
    script(upstream, *STEP)
    await chat(url, KEY, "X-Session-Id: s")
    script(upstream, *LAST)
    await chat(url, KEY, "X-Session-Id: s", messages=FOLLOW_UP)
    await traced.receiver.until(lambda: len(traced.receiver.spans) == 3)
    first, second = sorted(traced.receiver.named("chat m") or _chats(traced), key=_start)
    [tool] = traced.receiver.named("execute_tool terminal")
    assert (tool.parent, tool.links) == (first.id, [first.id, second.id])
    assert first.start_ns <= tool.start_ns <= first.end_ns <= second.start_ns <= tool.end_ns


def _start(span: Any) -> int:
    start: int = span.start_ns
    return start


def _chats(traced: Traced) -> list[Any]:
    return [span for span in traced.receiver.spans if span.name.startswith("chat")]


async def test_an_approval_is_an_event(traced: Traced, tmp_path: Path) -> None:
    url = await traced.start(agent_settings(env={"EXECUTED": str(tmp_path / "executed")}))
    async with Client(url) as client:
        answer = await client.chat(messages=says("ask c1 bash rm -rf build\nsay Done."))
        await answer.until(b"needs your permission")
        await decide(url, page_in(answer), "once")
        await answer.read()
    await traced.receiver.until(lambda: len(traced.receiver.spans) == 2)
    [said] = _chats(traced)
    assert (said.events, said.fields) == (["approval"], [{"gen_ai.tool.name": "bash"}])
    assert "server.address" not in said.attributes
    [tool] = traced.receiver.named("execute_tool bash")
    assert tool.attributes["lifecycle_proxy.tool.outcome"] == "ok"


async def test_a_tool_of_the_client_before_a_slow_answer(
    upstream: Upstream, traced: Traced
) -> None:
    """It ended with the second request, not with the first chunk of its answer."""
    url = await traced.start({"lifecycle.span": "execution"})
    script(upstream, *STEP)
    await chat(url, KEY, "X-Session-Id: s")

    async def slow(request: Request, wire: Wire) -> None:
        await asyncio.sleep(2.2)
        await wire.stream(*LAST)
        await wire.chunk()

    upstream.script = slow
    await chat(url, KEY, "X-Session-Id: s", messages=FOLLOW_UP)
    await traced.receiver.until(lambda: len(traced.receiver.spans) == 3)
    first, second = sorted(_chats(traced), key=_start)
    [tool] = traced.receiver.named("execute_tool terminal")
    assert (tool.parent, tool.links) == (first.id, [first.id, second.id])
    assert tool.end_ns <= second.start_ns + 100_000_000


async def test_a_tool_of_the_client_before_a_whole_answer(
    upstream: Upstream, traced: Traced
) -> None:
    url = await traced.start({"lifecycle.span": "execution"})
    script(upstream, *STEP)
    await chat(url, KEY, "X-Session-Id: s")

    async def whole(request: Request, wire: Wire) -> None:
        await wire.answer(b'{"choices": []}')

    upstream.script = whole
    await chat(url, KEY, "X-Session-Id: s", messages=FOLLOW_UP, stream=False)
    await traced.receiver.until(lambda: len(traced.receiver.spans) == 3)
    first, second = sorted(_chats(traced), key=_start)
    [tool] = traced.receiver.named("execute_tool terminal")
    assert (tool.parent, tool.links) == (first.id, [first.id, second.id])


WHOLE = {
    "chat/completions": (
        {
            "id": "chatcmpl-9",
            "model": "gpt-9",
            "choices": [{"index": 0, "finish_reason": "length"}],
            "usage": USAGE,
        },
        ("chatcmpl-9", "gpt-9", ["length"], 7, 3),
    ),
    "responses": (
        {
            "id": "resp_9",
            "model": "gpt-9",
            "status": "completed",
            "usage": {"input_tokens": 5, "output_tokens": 6},
        },
        ("resp_9", "gpt-9", ["completed"], 5, 6),
    ),
    "messages": (
        {
            "id": "msg_9",
            "model": "claude",
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 8, "output_tokens": 9},
        },
        ("msg_9", "claude", ["end_turn"], 8, 9),
    ),
}


@pytest.mark.parametrize("path", WHOLE)
async def test_tokens_of_a_whole_answer(upstream: Upstream, traced: Traced, path: str) -> None:
    answer, expected = WHOLE[path]
    body = json.dumps(answer).encode()

    async def whole(request: Request, wire: Wire) -> None:
        await wire.answer(body, "200 OK", JSON)

    upstream.script = whole
    async with Client(await traced.start()) as client:
        asked = json.dumps({"model": "m", "messages": []}).encode()
        await client.send("POST", f"/v1/{path}", JSON, body=asked)
        given = await (await client.head()).read()
    assert given.body == body
    await traced.receiver.until(lambda: traced.receiver.spans)
    [said] = traced.receiver.spans
    keys = (
        *(names.RESPONSE_ID, names.RESPONSE_MODEL, names.FINISH_REASONS),
        *(names.INPUT_TOKENS, names.OUTPUT_TOKENS),
    )
    assert tuple(said.attributes[key] for key in keys) == expected
    await traced.receiver.until(lambda: names.METRIC_TOKENS in traced.receiver.points)
    found = {
        one.attributes[names.TOKEN_TYPE]: one.sum
        for one in traced.receiver.points[names.METRIC_TOKENS]
    }
    assert found == {"input": expected[3], "output": expected[4]}


@pytest.mark.parametrize(
    "body",
    [
        *(b"{", b"[]", b'{"usage": 7, "id": [], "choices": {}}'),
        b'{"usage": {"prompt_tokens": "x"}}',
        b'{"pad": "' + b"x" * 600_000 + b'", "usage": {"prompt_tokens": 7}}',
    ],
    ids=["broken", "a list", "odd", "odd tokens", "large"],
)
async def test_a_whole_answer_that_says_nothing(
    upstream: Upstream, traced: Traced, body: bytes
) -> None:
    async def whole(request: Request, wire: Wire) -> None:
        await wire.answer(body, "200 OK", JSON)

    upstream.script = whole
    given = await chat(await traced.start(), stream=False)
    assert (given.status, given.body) == (200, body)
    await traced.receiver.until(lambda: traced.receiver.spans)
    [said] = traced.receiver.spans
    assert names.INPUT_TOKENS not in said.attributes


async def test_time_to_the_first_chunk_is_not_that_of_the_headers(
    upstream: Upstream, traced: Traced
) -> None:
    async def late(request: Request, wire: Wire) -> None:
        await wire.stream()
        await asyncio.sleep(0.3)
        await wire.chunk(text("a"))
        await wire.chunk(DONE)
        await wire.chunk()

    upstream.script = late
    await chat(await traced.start())
    await traced.receiver.until(lambda: traced.receiver.spans)
    [said] = traced.receiver.spans
    assert said.attributes[names.FIRST_CHUNK] >= 0.3


# --- metrics --------------------------------------------------------------------------------------


async def test_metrics_of_the_conventions(upstream: Upstream, traced: Traced) -> None:
    script(upstream, *ANSWER, event({"choices": [], "usage": USAGE}), DONE)
    url = await traced.start()
    for _ in range(3):
        await chat(url, model="gpt-x")
    points = traced.receiver.points

    def is_whole() -> bool:
        return [one.count for one in points.get(names.METRIC_TOOL, ())] == [3]

    await traced.receiver.until(is_whole)
    common = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-x",
        "server.address": "localhost",
        "server.port": int(upstream.origin.rpartition(":")[2]),
    }
    [duration] = points["gen_ai.client.operation.duration"]
    common["gen_ai.response.model"] = duration.attributes["gen_ai.response.model"]
    assert (duration.attributes, duration.count, duration.unit) == (common, 3, "s")
    assert (len(duration.bounds), sum(duration.buckets)) == (14, 3)
    assert (duration.bounds[0], round(duration.bounds[-1], 2)) == (0.01, 81.92)
    [first] = points["gen_ai.client.operation.time_to_first_chunk"]
    assert (first.attributes, first.count) == (common, 3)
    assert first.sum <= duration.sum
    tokens = {one.attributes.pop("gen_ai.token.type"): one for one in points[names.METRIC_TOKENS]}
    assert {which: one.sum for which, one in tokens.items()} == {"input": 21, "output": 9}
    assert tokens["input"].attributes == common
    assert (tokens["input"].unit, tokens["input"].bounds[:3]) == ("{token}", [1, 4, 16])
    [tool] = points["gen_ai.execute_tool.duration"]
    assert tool.attributes == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "terminal",
        "gen_ai.tool.type": "function",
    }


async def test_a_failure_is_in_the_metrics(upstream: Upstream, traced: Traced) -> None:
    async def refuses(request: Request, wire: Wire) -> None:
        await wire.answer(b"{}", "429 Too Many Requests")

    upstream.script = refuses
    await chat(await traced.start())
    await traced.receiver.until(lambda: names.METRIC_DURATION in traced.receiver.points)
    [duration] = traced.receiver.points[names.METRIC_DURATION]
    assert duration.attributes["error.type"] == "429"


async def test_a_receiver_without_metrics_is_left_alone(
    upstream: Upstream, traced: Traced, caplog: pytest.LogCaptureFixture
) -> None:
    script(upstream, text("a"), DONE)
    traced.receiver.takes_metrics = False
    url = await traced.start()
    with caplog.at_level(logging.INFO):
        await chat(url)
        await traced.receiver.until(lambda: len(traced.receiver.headers) == 2)
        await asyncio.sleep(0.3)
    assert len(traced.receiver.headers) == 2
    assert "takes no metrics" in caplog.text


async def test_series_have_a_limit() -> None:
    """Clients choose the names of models."""
    one = GenAiMetrics(resource({}), {"": {}})
    for number in range(2500):
        exchange = Exchange("req", "POST", "/", "::1", route="chat", model=f"m{number}")
        exchange.ended, exchange.status = "done", 200
        one.on_end(exchange)
    sent = ExportMetricsServiceRequest.FromString(one.encode())
    [metric] = sent.resource_metrics[0].scope_metrics[0].metrics
    points = metric.histogram.data_points
    assert len(points) == 2001
    assert sum(point.count for point in points) == 2500
    [rest] = [point for point in points if point.attributes[0].key == "otel.metric.overflow"]
    assert rest.count == 500


# --- on their way ---------------------------------------------------------------------------------


async def test_a_busy_receiver_is_asked_again(upstream: Upstream, traced: Traced) -> None:
    traced.receiver.refused = 1
    script(upstream, text("a"), DONE)
    await chat(await traced.start())
    await traced.receiver.until(lambda: traced.receiver.spans)
    assert traced.lost == 0


async def test_the_variables_are_heard(
    upstream: Upstream, receiver: Receiver, start_proxy: StartProxy
) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{receiver.url}/v1/traces",
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20x,a=b",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=chats,team=a",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", environ["OTEL_RESOURCE_ATTRIBUTES"])
        traced = Traced(receiver, start_proxy, **environ)
        script(upstream, text("a"), DONE)
        await chat(await traced.start())
    await receiver.until(lambda: receiver.spans)
    sent = receiver.headers[0]
    assert (sent["Authorization"], sent["A"], sent["Content-Encoding"]) == (
        "Bearer x",
        "b",
        "gzip",
    )
    assert receiver.resources[0]["team"] == "a"
    assert receiver.resources[0]["service.name"] == "chats"
    await traced.stop()


async def test_a_sampler_decides(
    upstream: Upstream,
    receiver: Receiver,
    start_proxy: StartProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    traced = Traced(receiver, start_proxy)
    script(upstream, text("a"), DONE)
    url = await traced.start()
    await chat(url)
    await chat(url, TRACEPARENT)
    sent = [request.headers["traceparent"] for request in upstream.requests]
    assert [one[-3:] for one in sent] == ["-00", "-01"]
    await receiver.until(lambda: receiver.spans)
    await traced.stop()
    assert [span.parent for span in receiver.spans] == [PARENT]


async def test_an_unsampled_parent_is_heard(upstream: Upstream, traced: Traced) -> None:
    script(upstream, text("a"), DONE)
    url = await traced.start()
    await chat(url, f"traceparent: 00-{TRACE}-{PARENT}-00")
    assert upstream.request.headers["traceparent"].startswith(f"00-{TRACE}-")
    assert upstream.request.headers["traceparent"].endswith("-00")
    await traced.stop()
    assert traced.receiver.spans == []


async def test_what_waits_has_an_end(
    upstream: Upstream, receiver: Receiver, start_proxy: StartProxy
) -> None:
    few = {"OTEL_BSP_MAX_QUEUE_SIZE": "3", "OTEL_BSP_SCHEDULE_DELAY": "60000"}
    traced = Traced(receiver, start_proxy, **few)
    receiver.is_slow.set()
    script(upstream, text("a"), DONE)
    url = await traced.start()
    for _ in range(20):
        assert (await chat(url)).end == "clean"
    await traced.stop()
    async with asyncio.timeout(20):
        while traced.lost < 14:
            traced.has_lost.clear()
            await traced.has_lost.wait()
    assert len(receiver.spans) <= 6


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318", "is not a URL of http or https"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[x", "is not a URL of http or https"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem", "a certificate of OTEL_"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "is not a number"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "is not a positive number"),
    ],
)
def test_a_variable_that_cannot_work_turns_it_off(
    name: str, value: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"} | {name: value}
    assert maybe_telemetry(Settings(), environ, lambda number: None) is None
    assert said in caplog.text


async def test_failures_are_errors(upstream: Upstream, traced: Traced) -> None:
    async def dies(request: Request, wire: Wire) -> None:
        await wire.stream(CALL)
        await asyncio.sleep(0.02)
        wire.reset()

    upstream.script = dies
    url = await traced.start()
    await chat(url)
    await traced.receiver.until(lambda: len(traced.receiver.spans) == 2)
    [tool] = traced.receiver.named("execute_tool terminal")
    [said] = _chats(traced)
    assert said.is_error
    assert said.attributes["error.type"].startswith("upstream_")
    assert (tool.is_error, tool.attributes["error.type"]) == (True, "upstream_error")

    async def refuses(request: Request, wire: Wire) -> None:
        await wire.answer(b'{"error": "x"}', "429 Too Many Requests")

    upstream.script = refuses
    await chat(url)
    await traced.receiver.until(lambda: len(_chats(traced)) == 2)
    assert _chats(traced)[1].attributes["error.type"] == "429"


async def test_a_failover_is_an_event(upstream: Upstream, traced: Traced) -> None:
    script(upstream, text("a"), DONE)
    upstreams = [
        {"name": "dead", "url": "http://127.0.0.1:9/v1", "models": ["m"]},
        {"name": "live", "url": f"{upstream.origin}/v1", "models": ["m"]},
    ]
    targets = {"m": ["dead/m", "live/m"]}
    await chat(await traced.start({"upstreams": upstreams, "models": targets}), model="m")
    await traced.receiver.until(lambda: traced.receiver.spans)
    [said] = traced.receiver.spans
    assert (said.events, said.is_error) == (["failover"], False)
    assert said.attributes["server.port"] == int(upstream.origin.rpartition(":")[2])


async def test_what_never_reached_the_upstream_has_no_span(
    upstream: Upstream, traced: Traced
) -> None:
    script(upstream, text("a"), DONE)
    url = await traced.start({"server.api_keys": ["k" * 32]})
    assert (await chat(url)).status == 401
    await chat(url, f"Authorization: Bearer {'k' * 32}")
    await traced.receiver.until(lambda: traced.receiver.spans)
    assert len(traced.receiver.spans) == 1


async def test_odd_names_arrive(upstream: Upstream, traced: Traced) -> None:
    odd = "\ud800\x00<b>\u202e" + "x" * 5000
    function = {"index": 0, "id": odd, "type": "function"} | {
        "function": {"name": odd, "arguments": "{}"}
    }
    called = json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [function]}}]})
    script(upstream, b"data: " + called.encode() + b"\n\n", delta("tool_calls"), DONE)
    await chat(await traced.start(), model="m\x00<b>" + "x" * 5000)
    await traced.receiver.until(lambda: len(traced.receiver.spans) == 2)
    assert all(len(span.name) < 250 for span in traced.receiver.spans)


@pytest.mark.parametrize("how", ["down", "500", "slow"])
async def test_a_bad_receiver_harms_no_chat_and_is_said_once(
    upstream: Upstream, traced: Traced, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    script(upstream, *ANSWER, DONE)
    receiver, url = traced.receiver, await traced.start()
    if how == "down":
        await receiver.__aexit__()
    elif how == "500":
        receiver.status = 500
    else:
        receiver.is_slow.set()
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            answer = await chat(url)
            assert (answer.status, answer.end) == (200, "clean")
        async with asyncio.timeout(20):
            await traced.has_lost.wait()
        await chat(url)
        await traced.stop()
    said = [r for r in caplog.records if "cannot be sent" in r.getMessage()]
    assert len([one for one in said if one.getMessage().startswith("spans")]) == 1
    assert len(said) <= 2
    assert traced.lost > 0


async def test_arguments_and_results_only_if_asked_for(
    upstream: Upstream,
    receiver: Receiver,
    start_proxy: StartProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(names.CAPTURE, "true")
    traced = Traced(receiver, start_proxy)
    script(upstream, *ANSWER, DONE)
    url = await traced.start({"lifecycle.result_preview": 100})
    await chat(url, "X-Lifecycle-Events: openwebui", tools=[])
    await receiver.until(lambda: receiver.named("execute_tool terminal"))
    [tool] = receiver.named("execute_tool terminal")
    assert json.loads(tool.attributes["gen_ai.tool.call.arguments"]) == {"command": "ls"}
    assert tool.attributes["gen_ai.tool.call.result"] == "12 files"
    await traced.stop()


async def test_the_command_is_turned_on_by_the_standard_variables(receiver: Receiver) -> None:
    from tests.commands import LISTEN, serving

    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_SERVICE_NAME": "chats"}

    async def ask(url: str) -> None:
        async with Client(url) as client:
            await (await client.chat()).read()

    def started() -> Any:
        return serving("--upstream", "http://127.0.0.1:9/v1", *LISTEN, **environ)

    context = await asyncio.to_thread(started)
    process, url, _ = await asyncio.to_thread(context.__enter__)
    try:
        await ask(url)
        process.terminate()
        await receiver.until(lambda: receiver.spans)
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)
    [said] = receiver.spans
    assert said.attributes["error.type"] == "upstream_unreachable"
    assert receiver.resources[0]["service.name"] == "chats"
    assert receiver.schemas == {names.SCHEMA_URL}


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("enabled", "environ", "on"),
    [
        ("auto", {}, False),
        ("auto", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ("auto", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ("auto", {"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ("auto", {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, False),
        ("auto", {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, False),
        (True, {}, True),
        (False, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
    ],
)
def test_when_it_is_on(enabled: Any, environ: dict[str, str], on: bool) -> None:
    assert are_on(TraceSettings(enabled=enabled), environ) is on


@pytest.mark.parametrize(
    ("enabled", "environ", "on"),
    [
        ("auto", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ("auto", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, False),
        ("auto", {"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, False),
        (True, {}, True),
        (True, {"OTEL_METRICS_EXPORTER": "none"}, False),
        (False, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
    ],
)
def test_when_metrics_are_sent(enabled: Any, environ: dict[str, str], on: bool) -> None:
    assert are_on(TraceSettings(enabled=enabled), environ, "METRICS") is on


def test_off_nothing_is_imported() -> None:
    code = (
        "import sys; from lifecycle_proxy.app.factory import ProxyApp\n"
        "from lifecycle_proxy.config.model import Settings; ProxyApp(Settings())\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_the_setting_is_checked() -> None:
    assert load(environ={}, flags={"traces.enabled": True}).traces.enabled is True
    with pytest.raises(ConfigError, match=r"traces\.enabled"):
        load(environ={}, flags={"traces.enabled": "yes"})


def test_off_there_is_no_listener() -> None:
    assert maybe_telemetry(Settings(), {}, lambda number: None) is None


# --- the conventions ------------------------------------------------------------------------------


def test_the_names_are_those_of_the_conventions() -> None:
    known = {
        value
        for module in (gen_ai_attributes, gen_ai_metrics)
        for name, value in vars(module).items()
        if name.startswith("GEN_AI_") and isinstance(value, str)
    }
    known.add("gen_ai.execute_tool.duration")  # newer than the package
    own = {
        value
        for name, value in vars(names).items()
        if name.isupper() and isinstance(value, str) and value.startswith("gen_ai.")
    }
    assert len(own) > 20
    assert own <= known
