"""Hermes' runs behind chat completions: what a real server said, approvals, faults."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from lifecycle_proxy.app import serve
from lifecycle_proxy.app.factory import ProxyApp
from lifecycle_proxy.config import model

from tests.conftest import StartProxy
from tests.fakes import CHAT, JSON, Answer, Client, ask, chat
from tests.hermes_server import KEY, HermesServer
from tests.loop_watch import best_of_five, watched_proxy
from tests.upstream.test_agents import chunks, content, pairs, says

pytestmark = pytest.mark.usefixtures("quiet")

AUTH: Final = f"Authorization: Bearer {KEY}"
STREAM: Final = "hermes-stream-0123456789"
dialects = pytest.mark.parametrize("dialect", ["chunk", "openwebui"])


@pytest.fixture
async def hermes() -> AsyncIterator[HermesServer]:
    """A scripted Hermes, listening."""
    async with HermesServer() as server:
        yield server


def settings(hermes: HermesServer, **more: Any) -> dict[str, Any]:
    own = {f"upstream.{key}": value for key, value in more.items()}
    return {"upstream.url": f"{hermes.origin}/v1", "upstream.hermes_runs": True, **own}


async def say(url: str, *texts: str, headers: tuple[str, ...] = (), **more: Any) -> Answer:
    return await chat(url, AUTH, *headers, messages=says(*texts), **more)


async def settled(condition: Any) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  the server is in this process, and has no event
            await asyncio.sleep(0.01)


def token_in(answer: Answer) -> str:
    return str(re.findall(rb"/-/approvals/([0-9a-f]{32})", answer.body)[-1], "ascii")


async def decide(url: str, token: str, decision: str) -> int:
    body = json.dumps({"decision": decision}).encode()
    return (await ask(url, "POST", f"/-/approvals/{token}", JSON, body=body)).status


def calls(answer: Answer) -> list[tuple[str, str, bool]]:
    """Tool, status and failure of the frames, once ids are known to be pairs."""
    found = pairs(answer)
    ids = [one[0] for one in found]
    assert all(ids.count(one) == 2 for one in ids)
    return [one[1:] for one in found]


# --- what a real server said ---------------------------------------------------------------------

READ: Final = ("read_file", "running", False)
EXPECTED: Final = {
    "ok": [("terminal", "running", False), ("terminal", "completed", False)],
    "fail": [
        ("terminal", "running", False),
        ("terminal", "completed", True),
        READ,
        ("read_file", "completed", True),
    ],
    "parallel": [
        READ,
        READ,
        ("search_files", "running", False),
        ("read_file", "completed", True),
        ("read_file", "completed", True),
        ("search_files", "completed", False),
    ],
}


@dialects
@pytest.mark.parametrize("name", EXPECTED)
async def test_runs_as_they_were(
    start_proxy: StartProxy, hermes: HermesServer, name: str, dialect: str
) -> None:
    url = await start_proxy(settings(hermes))
    answer = await say(url, f"play {name}", headers=(f"X-Lifecycle-Events: {dialect}",))
    assert calls(answer) == EXPECTED[name]
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert answer.end == "clean"
    labels = [one["label"] for one in chunks(answer) if one.get("status") == "running"]
    assert (
        labels
        == {
            "ok": ["echo hi"],
            "fail": ["exit 3", "missing.txt"],
            "parallel": ["a.txt", "b.txt L1-5", "needle"],
        }[name]
    )
    assert "reasoning_content" not in answer.body.decode()  # it repeats the text


async def test_text_usage_and_model(start_proxy: StartProxy, hermes: HermesServer) -> None:
    url = await start_proxy(settings(hermes))
    usage = {"include_usage": True}
    answer = await say(url, "play ok", model="hermes-agent", stream_options=usage)
    assert content(answer) == "Let me check. \n\nThe command printed hi."
    assert chunks(answer)[-1]["usage"]["total_tokens"] == 220
    assert {one["model"] for one in chunks(answer) if "model" in one} == {"hermes-agent"}
    whole = await say(url, "play ok", model="hermes-agent", stream=False)
    assert whole.json()["choices"][0]["message"]["content"] == content(answer)
    assert whole.json()["model"] == "hermes-agent"


@dialects
@pytest.mark.parametrize(("decision", "name"), [("once", "approved"), ("deny", "denied")])
async def test_a_real_approval(
    start_proxy: StartProxy, hermes: HermesServer, decision: str, name: str, dialect: str
) -> None:
    """By the page, in each form in which it is shown."""
    url = await start_proxy({**settings(hermes), "server.public_url": "http://proxy.example"})
    async with Client(url) as client:
        answer = await client.chat(
            AUTH,
            f"X-Lifecycle-Events: {dialect}",
            f"X-Event-Stream-Id: {STREAM}",
            messages=says(f"play {name}"),
        )
        await answer.until(b'"approval"')
        await answer.until(b"\n\n")
        token = token_in(answer)
        page = await ask(url, "GET", f"/-/approvals/{token}")
        assert b"rm -rf ./ws/x &amp;&amp; chmod -R 777 ./ws" in page.body
        assert b"recursive delete" in page.body
        assert hermes.executed == []
        assert await decide(url, token, decision) == 200
        await answer.read()
    assert calls(answer)[-1] == ("terminal", "completed", decision == "deny")
    assert hermes.answers == [(hermes.runs[0].id, decision)]
    assert bool(hermes.executed) == (decision == "once")
    is_embedded = b'"embeds"' in answer.body
    assert is_embedded == (dialect == "openwebui")
    assert (b"needs your permission" in answer.body) != is_embedded
    events = await ask(url, "GET", f"/-/streams/{STREAM}/events", AUTH)
    assert b"event: approval.request\n" in events.body


async def test_a_reply_decides(start_proxy: StartProxy, hermes: HermesServer) -> None:
    url = await start_proxy(settings(hermes))
    script = "ask rm -rf build\nsay Done."
    first = (await say(url, script, stream=False)).json()["choices"][0]["message"]["content"]
    assert "`terminal`: `rm -rf build` needs your permission" in first
    answer = await say(url, script, first, "yes", stream=False)
    assert answer.json()["choices"][0]["message"]["content"].endswith("Allowed.\n\nDone.")
    assert hermes.executed == ["rm -rf build"]
    assert len(hermes.runs) == 1


async def test_another_message_is_a_no(start_proxy: StartProxy, hermes: HermesServer) -> None:
    url = await start_proxy(settings(hermes))
    script = "ask rm -rf build\nsay Done."
    first = (await say(url, script, stream=False)).json()["choices"][0]["message"]["content"]
    answer = await say(url, script, first, "say never mind", stream=False)
    assert answer.json()["choices"][0]["message"]["content"] == "never mind"
    await settled(lambda: hermes.answers)
    assert hermes.answers[0] == (hermes.runs[0].id, "deny")
    assert hermes.runs[0].stopped.is_set()
    assert hermes.executed == []


async def test_silence_is_a_no(start_proxy: StartProxy, hermes: HermesServer) -> None:
    url = await start_proxy({**settings(hermes), "approvals.timeout_s": 0.2})
    answer = await say(url, "ask rm -rf build\nsay Done.")
    assert calls(answer)[-1] == ("terminal", "completed", True)
    assert hermes.answers == [(hermes.runs[0].id, "deny")]
    assert hermes.executed == []


@pytest.mark.parametrize("mode", ["deny", "allow-reads"])
async def test_permissions_of_the_settings(
    start_proxy: StartProxy, hermes: HermesServer, mode: str
) -> None:
    """What Hermes asks for is never a mere reading."""
    own = settings(hermes, permissions=mode)
    url = await start_proxy({**own, "approvals.timeout_s": 0.2})
    await say(url, "ask rm -rf build")
    assert hermes.executed == []


@pytest.mark.parametrize("later_s", [0, 0.2])
async def test_two_at_a_time_are_both_denied(
    start_proxy: StartProxy,
    hermes: HermesServer,
    caplog: pytest.LogCaptureFixture,
    later_s: float,
) -> None:
    """Hermes gives an answer to its oldest request: a yes could be for the other one."""
    url = await start_proxy(settings(hermes))
    answer = await say(url, f"two {later_s} first second\nsay Done.")
    assert content(answer).endswith("Done.")
    assert hermes.executed == []
    assert "both are denied" in caplog.text


async def test_hermes_own_limit_withdraws(start_proxy: StartProxy, hermes: HermesServer) -> None:
    url = await start_proxy(settings(hermes))
    answer = await say(url, "impatient rm -rf build\nask rm -rf other\nsay Done.", stream=False)
    shown = answer.json()["choices"][0]["message"]["content"]
    token = str(re.findall(r"/-/approvals/([0-9a-f]{32})", shown)[0])
    async with asyncio.timeout(20):
        while (await ask(url, "GET", f"/-/approvals/{token}")).status != 404:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await decide(url, token, "once") == 404
    assert hermes.answers == []  # it would be for the next one
    assert hermes.executed == []


async def test_an_answer_elsewhere(start_proxy: StartProxy, hermes: HermesServer) -> None:
    url = await start_proxy(settings(hermes))
    answer = await say(url, "elsewhere ls\nsay Done.")
    assert calls(answer)[-1] == ("terminal", "completed", False)
    assert await decide(url, token_in(answer), "once") == 404


# --- conversations -------------------------------------------------------------------------------


async def test_a_run_is_told_what_was_said(start_proxy: StartProxy, hermes: HermesServer) -> None:
    url = await start_proxy(settings(hermes))
    system = {"role": "system", "content": "Be brief."}
    messages = [system, *says("say one", "one", "say two")]
    await chat(url, AUTH, messages=messages, model="hermes-agent")
    body = hermes.runs[0].body
    assert body["input"] == "say two"
    assert body["conversation_history"] == [
        {"role": "user", "content": "say one"},
        {"role": "assistant", "content": "one"},
    ]
    assert body["instructions"] == "Be brief."
    assert body["model"] == "hermes-agent"


async def test_a_conversation_keeps_its_session(
    start_proxy: StartProxy, hermes: HermesServer
) -> None:
    url = await start_proxy(settings(hermes))
    first = content(await say(url, "say one"))
    await say(url, "say one", first, "say two")
    await say(url, "say one", "edited", "say two")
    ids = [run.body["session_id"] for run in hermes.runs]
    assert ids[0] == ids[1] != ids[2]


async def test_what_is_no_chat_is_passed_on(start_proxy: StartProxy, hermes: HermesServer) -> None:
    url = await start_proxy(settings(hermes))
    models = await ask(url, "GET", "/v1/models", AUTH)
    assert models.json()["data"] == [{"id": "hermes-agent"}]
    body = json.dumps({"messages": says("hi")}).encode()
    own = await ask(url, "POST", CHAT, JSON, AUTH, "X-Hermes-Session-Id: mine", body=body)
    assert own.json()["object"] == "chat.completion"
    assert hermes.chats == [body]
    assert hermes.runs == []


async def test_pictures_are_mentioned(start_proxy: StartProxy, hermes: HermesServer) -> None:
    url = await start_proxy(settings(hermes))
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": "say hi"}, picture]
    await chat(url, AUTH, messages=[{"role": "user", "content": parts}])
    assert hermes.runs[0].body["input"].endswith("(1 pictures are not shown to you.)")


async def test_keys_of_the_settings(start_proxy: StartProxy, hermes: HermesServer) -> None:
    """Also where there are several upstreams."""
    own = {"name": "hermes", "url": f"{hermes.origin}/v1", "api_key": KEY, "hermes_runs": True}
    url = await start_proxy({"upstreams": [own]})
    answer = await chat(
        url, "Authorization: Bearer mine", model="hermes/x", messages=says("say hi")
    )
    assert content(answer) == "hi"
    assert hermes.runs[0].body["model"] == "x"


# --- the end of runs -----------------------------------------------------------------------------


async def test_a_client_that_leaves(start_proxy: StartProxy, hermes: HermesServer) -> None:
    """Hermes is asked to stop at once. What it says then is kept for readers beside the stream."""
    url = await start_proxy(settings(hermes))
    async with Client(url) as client:
        answer = await client.chat(
            AUTH, f"X-Event-Stream-Id: {STREAM}", messages=says("play cancelled")
        )
        await answer.until(b'"status":"running"')
    left = asyncio.get_running_loop().time()
    await asyncio.wait_for(hermes.runs[0].stopped.wait(), 20)
    assert hermes.runs[0].stopped_at - left < 5  # measured: 2 ms
    events = await ask(url, "GET", f"/-/streams/{STREAM}/events", AUTH)
    kinds = [line for line in events.body.decode().split("\n") if line.startswith("event: tool.")]
    assert kinds == ["event: tool.running", "event: tool.completed"]


async def test_a_client_that_leaves_while_it_is_asked(
    start_proxy: StartProxy, hermes: HermesServer
) -> None:
    url = await start_proxy(settings(hermes))
    async with Client(url) as client:
        answer = await client.chat(AUTH, messages=says("ask rm -rf build\nsay Done."))
        await answer.until(b"needs your permission")
        token = token_in(answer)
    await asyncio.wait_for(hermes.runs[0].stopped.wait(), 20)
    assert await decide(url, token, "once") == 404
    await settled(lambda: hermes.answers)
    assert hermes.answers[0][1] == "deny"
    assert hermes.executed == []


async def test_a_client_that_leaves_before_the_start(
    start_proxy: StartProxy, hermes: HermesServer
) -> None:
    hermes.start_s = 0.3
    url = await start_proxy(settings(hermes))
    async with Client(url) as client:
        await client.ask_chat(AUTH, messages=says("wait"))
        await settled(lambda: hermes.runs)
    await asyncio.wait_for(hermes.runs[0].stopped.wait(), 20)


async def test_a_run_that_does_not_stop(start_proxy: StartProxy, hermes: HermesServer) -> None:
    url = await start_proxy(settings(hermes), lambda own: ProxyApp(own, agent_cancel_s=0.2))
    async with Client(url) as client:
        answer = await client.chat(AUTH, messages=says("say hm\nhang"))
        await answer.until(b"hm")
    await settled(hermes.runs[0].stopped.is_set)
    await settled(lambda: not hermes.open_streams)


async def test_the_end_of_the_proxy_stops_runs(
    start_proxy: StartProxy, hermes: HermesServer, runners: list[Any]
) -> None:
    url = await start_proxy(settings(hermes))
    async with Client(url) as client:
        answer = await client.chat(AUTH, messages=says("say hm\nwait"))
        await answer.until(b"hm")
        await serve.stop(runners.pop(), 0)
        await settled(hermes.runs[0].stopped.is_set)


@dialects
async def test_a_server_that_is_killed(
    start_proxy: StartProxy, hermes: HermesServer, dialect: str
) -> None:
    url = await start_proxy(settings(hermes))
    script = "say so\nopen terminal\ndie"
    answer = await say(url, script, headers=(f"X-Lifecycle-Events: {dialect}",))
    assert b"[DONE]" not in answer.body
    assert chunks(answer)[-1]["error"]["code"].startswith("upstream_")
    assert calls(answer) == [("terminal", "running", False), ("terminal", "completed", True)]
    whole = await say(url, script, stream=False)
    assert whole.status == 502


FAULTS: Final = {
    "fail HTTP 500: it exploded": "the agent failed: HTTP 500: it exploded",
    "end": "ended before the run",
    "big 5000000": "more than 4 MiB",
}


@pytest.mark.parametrize("script", FAULTS)
async def test_faults_end_the_stream_as_broken(
    start_proxy: StartProxy, hermes: HermesServer, script: str
) -> None:
    url = await start_proxy(settings(hermes))
    answer = await say(url, f"open terminal\n{script}")
    assert b"[DONE]" not in answer.body
    error = chunks(answer)[-1]["error"]
    assert error["code"] == "upstream_protocol"
    assert FAULTS[script] in error["message"]
    assert calls(answer)[-1] == ("terminal", "completed", True)


async def test_silence_of_the_server(start_proxy: StartProxy, hermes: HermesServer) -> None:
    url = await start_proxy(settings(hermes, stall_timeout_s=0.3))
    answer = await say(url, "open terminal\nhang")
    assert chunks(answer)[-1]["error"]["code"] == "upstream_timeout"
    await settled(hermes.runs[0].stopped.is_set)


NONSENSE: Final = (
    *(r"data: not json\n\n", r"data: []\n\n", r"data: {\"event\": 3}\n\n", r"event: x\n\n"),
    *(r"data: {\"event\": \"tool.started\"}\n\n", r"data: {\"event\": \"tool.completed\"}\n\n"),
    *(r"data: {\"event\": \"tool.completed\", \"tool\": \"never_begun\"}\n\n", r": comment\n\n"),
    *(r"data: {\"event\": \"of.a.later.version\", \"tool\": {}}\n\n", r"\xff\xfe\n\n"),
    *(r"data: {\"event\": \"message.delta\", \"delta\": null}\n\n", r"id\n\n"),
)


async def test_nonsense_is_skipped(start_proxy: StartProxy, hermes: HermesServer) -> None:
    url = await start_proxy(settings(hermes))
    script = "\n".join(f"raw {one}" for one in NONSENSE)
    answer = await say(url, f"{script}\ntool terminal ok ls\nsay Done.")
    assert content(answer) == "Done."
    assert calls(answer) == EXPECTED["ok"]


async def test_a_flood_and_a_slow_client(start_proxy: StartProxy, hermes: HermesServer) -> None:
    url = await start_proxy(settings(hermes))
    async with Client(url) as client:
        answer = await client.chat(AUTH, messages=says("flood 5000\nsay Done."))
        await asyncio.sleep(0.3)
        await answer.read()
    assert content(answer) == "x" * 5_000_000 + "Done."


@pytest.mark.unmeasured
@pytest.mark.parametrize("size", [0, 3 << 20])
@best_of_five
async def test_nothing_holds_the_loop(hermes: HermesServer, size: int) -> None:
    """A long conversation, and forty thousand events at once."""
    own = {key.replace(".", "__"): value for key, value in settings(hermes).items()}
    with watched_proxy(**own) as (url, watch):
        answer = await say(url, "a " * size or "hello", "b", "tiny 40000\nsay Done.")
        assert content(answer) == "x" * 40_000 + "Done."
        assert watch.longest_s < 0.05


@pytest.mark.parametrize(
    ("status", "body"),
    [(429, b'{"error": {"code": "rate_limit_exceeded"}}'), (404, b"{}"), (500, b"")],
)
async def test_a_refusal_is_passed_on(
    start_proxy: StartProxy, hermes: HermesServer, status: int, body: bytes
) -> None:
    url = await start_proxy(settings(hermes))
    hermes.refusal = (status, body)
    answer = await say(url, "say hi")
    assert (answer.status, answer.body) == (status, body)
    wrong = await chat(url, "Authorization: Bearer other", messages=says("say hi"))
    assert wrong.status == 401


@pytest.mark.parametrize("run_id", ["../../etc", "a b", "x" * 200, ".."])
async def test_an_id_that_cannot_be_used(
    start_proxy: StartProxy, hermes: HermesServer, run_id: str
) -> None:
    hermes.run_id = run_id
    url = await start_proxy(settings(hermes))
    answer = await say(url, "say hi")
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_protocol")


async def test_an_answer_to_a_start_that_is_no_json(
    start_proxy: StartProxy, hermes: HermesServer
) -> None:
    url = await start_proxy(settings(hermes))
    hermes.refusal = (202, b"<html>")
    answer = await say(url, "say hi")
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_protocol")


async def test_events_that_are_not_there(start_proxy: StartProxy, hermes: HermesServer) -> None:
    hermes.run_id = "run_other"
    url = await start_proxy(settings(hermes))
    answer = await say(url, "say hi")
    assert "answered with status 404" in chunks(answer)[-1]["error"]["message"]


async def test_a_server_that_is_not_there(start_proxy: StartProxy) -> None:
    url = await start_proxy({"upstream.url": "http://127.0.0.1:9/v1", "upstream.hermes_runs": True})
    answer = await say(url, "say hi")
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_unreachable")


async def test_an_approval_that_cannot_be_told(
    start_proxy: StartProxy, hermes: HermesServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The run is gone by the time of the answer."""
    url = await start_proxy(settings(hermes))
    async with Client(url) as client:
        answer = await client.chat(AUTH, messages=says("ask ls\nsay Done."))
        await answer.until(b"needs your permission")
        hermes.runs[0].open.clear()
        assert await decide(url, token_in(answer), "once") == 200
        await settled(lambda: "came too late" in caplog.text)
    assert hermes.executed == []


def test_a_command_has_no_runs() -> None:
    flags = {"upstream.agent": ["x"], "upstream.hermes_runs": True}
    with pytest.raises(model.ConfigError, match="is for a Hermes API server"):
        model.load(environ={}, flags=flags)


def test_runs_need_one_worker() -> None:
    flags = {"server.workers": 2, "upstream.hermes_runs": True}
    with pytest.raises(model.ConfigError, match=r"upstream\.hermes_runs: .*server\.workers to 1"):
        model.load(environ={}, flags=flags)


async def test_the_server_is_probed(start_proxy: StartProxy, hermes: HermesServer) -> None:
    url = await start_proxy(settings(hermes))
    assert (await ask(url, "GET", "/-/ready")).status == 200
    away = await start_proxy({**settings(hermes), "upstream.url": "http://127.0.0.1:9/v1"})
    assert (await ask(away, "GET", "/-/ready")).status == 503
