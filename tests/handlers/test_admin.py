"""The proxy's own paths under ``/-/``, what the metrics say of real exchanges, and request ids."""

import asyncio
import logging
import re
from typing import Any, Final

import pytest
from lifecycle_proxy.app import serve
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import StartProxy
from tests.fakes import (
    CHAT,
    DONE,
    JSON,
    Client,
    Request,
    Upstream,
    Wire,
    ask,
    chat,
    delta,
    text,
    tool_call,
)

pytestmark = pytest.mark.usefixtures("quiet")

OWN: Final = "lifecycle_proxy_"


async def agent(request: Request, wire: Wire) -> None:
    await wire.stream(tool_call(), delta("tool_calls"), text("done"), delta("stop"), DONE, b"")


async def stuck_tool(request: Request, wire: Wire) -> None:
    await wire.stream(tool_call())
    await wire.gone.wait()


# --- health ---------------------------------------------------------------------------------------


async def test_healthy_and_ready_while_all_is_well(upstream: Upstream, proxy: str) -> None:
    for path in ("/-/healthy", "/-/ready"):
        answer = await ask(proxy, "GET", path)
        assert (answer.status, answer.json()) == (200, {"status": "ok"})


async def test_ready_is_a_503_while_the_upstream_is_down(upstream: Upstream, proxy: str) -> None:
    upstream.refuse()
    answer = await ask(proxy, "GET", "/-/ready")
    told = answer.json()
    assert (answer.status, told["status"]) == (503, "upstream_unreachable")
    assert "cannot reach" in told["message"]
    assert (await ask(proxy, "GET", "/-/healthy")).status == 200


async def test_an_upstream_that_answers_anything_is_up(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b"", "401 Unauthorized")

    upstream.script = script
    assert (await ask(proxy, "GET", "/-/ready")).status == 200


async def test_many_probes_are_one_for_the_upstream(upstream: Upstream, proxy: str) -> None:
    for _ in range(5):
        await ask(proxy, "GET", "/-/ready")
    assert len(upstream.requests) == 1


async def test_probes_at_the_same_time_share_one(upstream: Upstream, proxy: str) -> None:
    goes_on = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        await goes_on.wait()
        await wire.answer()

    upstream.script = script
    async with Client(proxy) as first:
        await first.send("GET", "/-/ready")
        waiting = [asyncio.create_task(ask(proxy, "GET", "/-/ready")) for _ in range(20)]
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.05)  # the one that asked first has left
    goes_on.set()
    assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
    assert len(upstream.requests) == 1


async def test_while_draining_it_is_healthy_and_not_ready(
    upstream: Upstream, proxy: str, runners: list[serve.Runner]
) -> None:
    upstream.script = stuck_tool
    async with Client(proxy) as client:
        await (await client.chat()).until(b"running")
        stop = asyncio.create_task(serve.stop(runners.pop(), 0.5))
        await asyncio.sleep(0.05)
        ready = await ask(proxy, "GET", "/-/ready")
        healthy = await ask(proxy, "GET", "/-/healthy")
        await stop
    assert (ready.status, ready.json()) == (503, {"status": "draining"})
    assert healthy.status == 200


# --- the other paths ------------------------------------------------------------------------------


async def test_the_settings_in_force_are_shown(upstream: Upstream, start_proxy: StartProxy) -> None:
    shown = (await ask(await start_proxy({"server.heartbeat_s": 7}), "GET", "/-/config")).json()
    assert set(shown) >= {"server", "upstream", "lifecycle"}
    assert shown["server"]["heartbeat_s"] == 7
    assert shown["upstream"]["url"] == f"{upstream.origin}/v1"
    assert shown["upstream"]["stall_timeout_s"] == 300


async def test_no_secret_of_the_settings_is_shown(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    rules = [
        {"header": "Authorization", "match": "Bearer sesame-1", "dialect": "off"},
        {"header": "x-api-key", "match": "sesame-2", "dialect": "off"},
        {"header": "X-Own", "match": "sesame-3", "dialect": "off"},
        {"header": "User-Agent", "match": "Reader/*", "dialect": "off"},
        {"header": "Cookie", "match": "*", "dialect": "plain"},
    ]
    settings = {
        "lifecycle.clients": rules,
        "recording.redact_patterns": ["sesame-4"],
        "recording.redact_headers": ["x-own"],
    }
    answer = await ask(await start_proxy(settings), "GET", "/-/config")
    assert b"sesame" not in answer.body
    shown = answer.json()
    assert [rule["match"] for rule in shown["lifecycle"]["clients"]] == [
        *("***", "***", "***", "Reader/*", "*")
    ]
    assert shown["recording"]["redact_patterns"] == ["***"]


@pytest.mark.parametrize("path", ["/-/nothing", "/-/metrics/", "/-/asx/plain/v1/models", "/-/as"])
async def test_an_unknown_path_of_ours_is_a_404(upstream: Upstream, proxy: str, path: str) -> None:
    for method in ("GET", "POST"):
        answer = await ask(proxy, method, path)
        error = answer.json()["error"]
        assert (answer.status, error["type"], error["code"]) == (404, "proxy_error", "not_found")
    assert upstream.requests == []


async def test_a_profile_is_the_upstreams_path_in_disguise(upstream: Upstream, proxy: str) -> None:
    await ask(proxy, "GET", "/-/as/plain/-/metrics")
    await ask(proxy, "GET", "/-/as/plain")
    assert [request.target for request in upstream.requests] == ["/-/metrics", "/"]


# --- metrics --------------------------------------------------------------------------------------


async def numbers(url: str) -> dict[tuple[str, frozenset[str]], float]:
    """All samples, by name and label values."""
    answer = await ask(url, "GET", "/-/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        (one.name.removeprefix(OWN), frozenset(one.labels.values())): one.value
        for family in text_string_to_metric_families(answer.body.decode())
        for one in family.samples
    }


def labels(*values: str) -> frozenset[str]:
    return frozenset(values)


async def test_openmetrics_is_sent_where_it_is_asked_for(proxy: str) -> None:
    answer = await ask(proxy, "GET", "/-/metrics", "Accept: application/openmetrics-text")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")


async def test_whole_streams_and_plain_answers_are_counted(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent
    sent = sum([len((await chat(proxy)).body) for _ in range(2)])
    await ask(proxy, "GET", "/v1/models")
    told = await numbers(proxy)
    assert told["requests_total", labels("chat", "POST", "200")] == 2
    assert told["requests_total", labels("other", "GET", "200")] == 1
    assert told["exchanges_ended_total", labels("chat", "done")] == 2
    assert told["exchanges_ended_total", labels("other", "done")] == 1
    assert told["frames_total", labels()] == 4
    assert told["sent_bytes_total", labels("chat")] == sent
    assert told["stream_duration_seconds_count", labels("done")] == 2
    assert told["first_byte_seconds_count", labels("chat")] == 2
    assert told["exchanges_open", labels("chat")] == 0


@pytest.mark.parametrize(
    ("dialect", "frames"),
    [
        ("chunk", 2),
        ("plain", 2),
        ("comment", 2),
        ("openwebui", 2),
        ("reasoning", 2),
        ("strip", 0),
        ("off", 0),
    ],
)
async def test_frames_are_those_that_were_written(
    upstream: Upstream, proxy: str, caplog: pytest.LogCaptureFixture, dialect: str, frames: int
) -> None:
    upstream.script = agent
    caplog.set_level(logging.INFO)
    assert (await chat(proxy, f"X-Lifecycle-Events: {dialect}")).end == "clean"
    told = await numbers(proxy)
    assert told["frames_total", labels()] == frames
    assert told["tool_calls_total", labels("terminal", "ok")] == 1
    lines: list[Any] = [r.msg for r in caplog.records if r.name == "proxy.access"]
    assert lines[0].frames == frames


async def test_frames_that_nobody_got_are_not_counted(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call())
        await wire.left()

    upstream.script = script
    async with Client(proxy) as client:
        await (await client.chat()).until(b"running")
    await upstream.wires[0].left()
    told = await numbers(proxy)
    assert told["frames_total", labels()] == 1
    assert told["tool_calls_total", labels("terminal", "cancelled")] == 1
    assert told["exchanges_ended_total", labels("chat", "client_gone")] == 1


async def test_a_stream_without_done_is_not_done(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(delta("stop"), b"")

    upstream.script = script
    await chat(proxy)
    assert (await numbers(proxy))["exchanges_ended_total", labels("chat", "eof")] == 1


async def test_tool_calls_are_counted_by_name_and_outcome(upstream: Upstream, proxy: str) -> None:
    rest: list[bytes] = []

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(
            tool_call("a", "terminal"), delta("tool_calls"), tool_call("b", "web_search"), *rest
        )
        wire.close()

    upstream.script = script
    await chat(proxy)  # a break
    rest.append(b"")
    await chat(proxy)  # an end
    calls = {key: n for key, n in (await numbers(proxy)).items() if key[0] == "tool_calls_total"}
    assert calls == {
        ("tool_calls_total", labels("terminal", "ok")): 2,
        ("tool_calls_total", labels("web_search", "cut")): 2,
    }


async def test_broken_streams_are_counted_by_how_they_ended(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def cut(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call())
        wire.close()

    url = await start_proxy({"upstream.stall_timeout_s": 0.2})
    upstream.script = cut
    await chat(url)
    upstream.script = stuck_tool
    await chat(url)
    told = await numbers(url)
    assert told["exchanges_ended_total", labels("chat", "upstream_error")] == 1
    assert told["exchanges_ended_total", labels("chat", "timeout")] == 1
    assert told["errors_total", labels("upstream_protocol")] == 1
    assert told["errors_total", labels("upstream_timeout")] == 1


async def test_refusals_are_counted_by_their_code(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    url = await start_proxy()
    await chat(url, "X-Lifecycle-Events: nonsense")
    await ask(url, "GET", "/-/nothing")
    upstream.refuse()
    await chat(url)
    told = await numbers(url)
    for code in ("bad_request", "not_found", "upstream_unreachable"):
        assert told["errors_total", labels(code)] == 1
    assert told["exchanges_ended_total", labels("chat", "refused")] == 2
    assert told["requests_total", labels("chat", "POST", "502")] == 1


async def test_a_client_gone_in_mid_stream_is_counted_with_the_status_it_was_sent(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = stuck_tool
    async with Client(proxy) as client:
        await (await client.chat()).until(b"running")
        assert (await numbers(proxy))["exchanges_open", labels("chat")] == 1
    await upstream.wires[0].left()
    told = await numbers(proxy)
    assert told["exchanges_open", labels("chat")] == 0
    assert told["exchanges_ended_total", labels("chat", "client_gone")] == 1
    assert told["tool_calls_total", labels("terminal", "cancelled")] == 1
    assert told["requests_total", labels("chat", "POST", "200")] == 1


async def test_a_client_that_leaves_at_done_has_got_all(upstream: Upstream, proxy: str) -> None:
    """As the SDKs of OpenAI do: they do not wait for the end of the body."""

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("hi"), DONE)
        await wire.gone.wait()

    upstream.script = script
    async with Client(proxy) as client:
        await (await client.chat()).until(DONE)
    await upstream.wires[0].left()
    told = await numbers(proxy)
    assert told["exchanges_ended_total", labels("chat", "done")] == 1


async def test_a_client_gone_before_the_answer_is_counted_as_a_499(
    upstream: Upstream, proxy: str
) -> None:
    asked = asyncio.Event()

    async def script(request: Request, wire: Wire) -> None:
        asked.set()
        await wire.gone.wait()

    upstream.script = script
    async with Client(proxy) as client:
        await client.ask_chat()
        await asked.wait()
    await upstream.wires[0].left()
    assert (await numbers(proxy))["requests_total", labels("chat", "POST", "499")] == 1


async def test_a_retry_is_counted(upstream: Upstream, proxy: str) -> None:
    async def once_a_connection(request: Request, wire: Wire) -> None:
        if sum(one.wire is wire for one in upstream.requests) > 1:
            wire.close()
        else:
            await wire.answer()

    upstream.script = once_a_connection
    for _ in range(2):
        assert (await ask(proxy, "POST", CHAT, JSON, body=b"{}")).status == 200
    assert (await numbers(proxy))["retries_total", labels()] == 1


async def test_the_connections_to_the_upstream_are_those_of_the_moment(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = stuck_tool
    async with Client(proxy) as client:
        await (await client.chat()).until(b"running")
        assert (await numbers(proxy))["upstream_connections", labels()] == 1
    await upstream.wires[0].left()
    assert (await numbers(proxy))["upstream_connections", labels()] == 0


# --- request ids ----------------------------------------------------------------------------------


async def test_a_request_id_is_made_for_streams_and_errors(upstream: Upstream, proxy: str) -> None:
    upstream.script = agent
    ids = [
        answer.headers["X-Request-Id"]
        for answer in (
            await chat(proxy),
            await chat(proxy),
            await ask(proxy, "GET", "/-/nothing"),
            await chat(proxy, "X-Lifecycle-Events: nonsense"),
        )
    ]
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", one) for one in ids)
    assert len(set(ids)) == 4
    assert "X-Request-Id" not in upstream.requests[0].headers


async def test_a_request_id_of_the_client_is_kept_and_forwarded(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = agent
    answer = await chat(proxy, "X-Request-Id: mine-1")
    assert answer.headers["X-Request-Id"] == "mine-1"
    assert upstream.request.headers["X-Request-Id"] == "mine-1"


@pytest.mark.parametrize("target", ["/-/nothing", "/-/as/none/x", "/v1/models"])
async def test_errors_of_ours_echo_the_request_id(
    upstream: Upstream, proxy: str, target: str
) -> None:
    upstream.refuse()
    answer = await ask(proxy, "GET", target, "X-Request-Id: mine-1")
    assert answer.status >= 400
    assert answer.headers["X-Request-Id"] == "mine-1"


@pytest.mark.parametrize("sent", ["", "two words", "x" * 201, "caf\xe9"])
async def test_a_request_id_that_cannot_stand_in_a_log_is_replaced(
    upstream: Upstream, proxy: str, sent: str
) -> None:
    answer = await ask(proxy, "GET", "/-/nothing", f"X-Request-Id: {sent}")
    assert answer.headers["X-Request-Id"].startswith("req_")


async def test_trace_context_is_passed_as_it_is(upstream: Upstream, proxy: str) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await chat(proxy, f"traceparent: {trace}", "tracestate: a=1,b=2", "baggage: k=v")
    sent = upstream.request.headers
    assert sent.getall("traceparent") == [trace]
    assert (sent["tracestate"], sent["baggage"]) == ("a=1,b=2", "k=v")
