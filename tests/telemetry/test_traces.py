"""Spans, as a receiver gets them."""

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from lifecycle_proxy.app.factory import ProxyApp
from lifecycle_proxy.app.tracing import maybe_traces
from lifecycle_proxy.config.model import ConfigError, Settings, load
from lifecycle_proxy.config.targets import upstreams_of
from lifecycle_proxy.config.traces import TraceSettings, are_on
from lifecycle_proxy.telemetry import trace_names as names
from lifecycle_proxy.telemetry.span_export import CountingExporter, stop_provider
from lifecycle_proxy.telemetry.traces import Traces
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from tests.conftest import StartProxy
from tests.fakes import (
    DONE,
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
from tests.handlers.test_follow_up import FOLLOW_UP, LAST, STEP
from tests.telemetry.receiver import Receiver

pytestmark = pytest.mark.usefixtures("quiet")

CLIENT, INTERNAL = 3, 1
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"traceparent: 00-{TRACE}-{PARENT}-01"
CALL = tool_call("call_1", "terminal", '{"command": "ls"}')
RESULT = delta(role="tool", tool_call_id="call_1", content="12 files")
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
ANSWER = (CALL, delta("tool_calls"), RESULT, text("b"), delta("stop"))


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as one:
        yield one


class Traced:
    """A proxy with spans, and where they go."""

    def __init__(self, receiver: Receiver, start: StartProxy) -> None:
        self.receiver = receiver
        self._loop = asyncio.get_running_loop()
        self.has_lost = asyncio.Event()
        self.provider = TracerProvider(shutdown_on_exit=False)
        exporter = OTLPSpanExporter(f"{receiver.url}/v1/traces", timeout=2)
        counting = CountingExporter(exporter, self._lose)
        self.provider.add_span_processor(BatchSpanProcessor(counting, schedule_delay_millis=50))
        self._start = start

    def _lose(self, number: int) -> None:
        self._loop.call_soon_threadsafe(self.has_lost.set)

    async def start(self, settings: dict[str, Any] | None = None) -> str:
        return await self._start(settings, create=self._create)

    def _create(self, settings: Settings) -> ProxyApp:
        app = ProxyApp(settings)
        upstreams = {one.name: one.url for one in upstreams_of(settings)}
        app.gateway.listeners.append(Traces(upstreams, provider=self.provider))
        return app


@pytest.fixture
async def traced(receiver: Receiver, start_proxy: StartProxy) -> AsyncIterator[Traced]:
    one = Traced(receiver, start_proxy)
    yield one
    await stop_provider(one.provider)


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
        receiver.status = 400  # which is not tried again
    else:
        receiver.is_slow.set()
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            answer = await chat(url)
            assert (answer.status, answer.end) == (200, "clean")
        if how != "slow":
            async with asyncio.timeout(20):
                await traced.has_lost.wait()
        await chat(url)
        await stop_provider(traced.provider, 0.5)
    said = [r for r in caplog.records if "cannot be sent" in r.getMessage()]
    assert len(said) <= 1
    assert not [r for r in caplog.records if r.name.startswith("opentelemetry")]


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
    await stop_provider(traced.provider)


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
    assert maybe_traces(Settings(), {}, lambda number: None) is None


# --- the conventions ------------------------------------------------------------------------------


def test_the_names_are_those_of_the_conventions() -> None:
    known = {
        getattr(gen_ai_attributes, name)
        for name in vars(gen_ai_attributes)
        if name.startswith("GEN_AI_") and isinstance(getattr(gen_ai_attributes, name), str)
    }
    own = {
        value
        for name, value in vars(names).items()
        if name.isupper() and isinstance(value, str) and value.startswith("gen_ai.")
    }
    assert len(own) > 10
    assert own <= known
