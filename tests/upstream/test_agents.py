"""An agent behind chat completions: streams, completions, sessions, cancelling, faults."""

import asyncio
import gzip
import json
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest
from lifecycle_proxy.app.factory import ProxyApp
from lifecycle_proxy.config import model
from lifecycle_proxy.config.model import ConfigError, Settings
from lifecycle_proxy.upstream.agents.process import AgentProcess

from tests.commands import serving
from tests.conftest import StartProxy
from tests.fakes import CHAT, JSON, Answer, Client, Request, Upstream, Wire, ask, chat
from tests.loop_watch import best_of_five, watched_proxy

pytestmark = pytest.mark.usefixtures("quiet")

AGENT: Final = str(Path(__file__).parent.parent / "acp_agent.py")


def command(*arguments: str) -> list[str]:
    # Without site-packages: hundreds of them are started, and each imports less.
    return [sys.executable, "-IS", AGENT, *(arguments or ("ok",))]


def settings(*arguments: str, **more: Any) -> dict[str, Any]:
    own = {f"upstream.{key}": value for key, value in more.items()}
    return {"upstream.agent": command(*arguments), "upstream.start_timeout_s": 20, **own}


def says(*texts: str) -> list[dict[str, str]]:
    """Messages: the user's and the assistant's in turn."""
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]


def chunks(answer: Answer) -> list[dict[str, Any]]:
    lines = answer.body.decode().split("\n")
    data = [line[6:] for line in lines if line.startswith("data: ")]
    return [json.loads(one) for one in data if one != "[DONE]"]


def content(answer: Answer) -> str:
    found = (
        choice["delta"].get("content") or ""
        for c in chunks(answer)
        for choice in c.get("choices", [])
    )
    return "".join(found)


def pairs(answer: Answer) -> list[tuple[str, str, str, bool]]:
    """Id, tool, status and failure of the lifecycle frames."""
    return [
        (one["toolCallId"], one["tool"], one["status"], one.get("isError", False))
        for one in chunks(answer)
        if "toolCallId" in one
    ]


async def say(url: str, *texts: str, headers: tuple[str, ...] = (), **more: Any) -> Answer:
    return await chat(url, *headers, messages=says(*texts), **more)


async def gone(pid: int) -> None:
    """Wait until a process has ended."""
    async with asyncio.timeout(20):
        while _lives(pid):  # noqa: ASYNC110  a process of others
            await asyncio.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def pid_in(answer: Answer) -> int:
    return int(re.findall(r"pid=(\d+)", content(answer))[-1])  # the history may be shown before


# --- streams and completions ---------------------------------------------------------------------


async def test_a_stream_has_text_reasoning_and_a_pair_for_each_call(
    start_proxy: StartProxy,
) -> None:
    url = await start_proxy(settings())
    script = (
        "think hm\nsay Let me look. \ntool c1 bash completed ls -la\ntool c2 read failed\nsay Done."
    )
    answer = await say(url, script, stream_options={"include_usage": True})
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert content(answer) == "Let me look. Done."
    assert pairs(answer) == [
        ("c1", "bash", "running", False),
        ("c1", "bash", "completed", False),
        ("c2", "read", "running", False),
        ("c2", "read", "completed", True),
    ]
    frames = [one for one in chunks(answer) if one.get("toolCallId") == "c1"]
    assert frames[0]["label"] == "ls -la"
    assert "result" not in frames[1]  # lifecycle.result_preview is 0
    assert b"is over" not in answer.body
    thoughts = [c["choices"][0]["delta"].get("reasoning_content") for c in chunks(answer)[:3]]
    assert "hm" in thoughts
    *_, finish, usage = chunks(answer)
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert answer.end == "clean"


async def test_without_stream_the_whole_completion(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings())
    answer = await say(url, "think hm\nsay Hello\ntool c1 bash completed\nsay  you", stream=False)
    assert answer.status == 200
    message = answer.json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "Hello you", "reasoning_content": "hm"}
    assert answer.json()["object"] == "chat.completion"
    assert answer.json()["usage"]["total_tokens"] == 7


async def test_results_are_shown_as_far_as_the_preview_goes(start_proxy: StartProxy) -> None:
    url = await start_proxy({**settings(), "lifecycle.result_preview": 7})
    answer = await say(url, "tool c1 bash completed")
    assert [one["result"] for one in chunks(answer) if "result" in one] == ["bash is"]


async def test_the_models_are_the_agent(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings())
    answer = await ask(url, "GET", "/v1/models")
    assert [one["id"] for one in answer.json()["data"]] == [Path(sys.executable).name]
    one = await ask(url, "GET", f"/v1/models/{Path(sys.executable).name}")
    assert one.json()["object"] == "model"
    assert (await ask(url, "GET", "/v1/models/other")).status == 404
    assert (await ask(url, "POST", "/v1/embeddings", JSON, body=b"{}")).status == 404


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"messages": []}', b'{"messages": 3}'])
async def test_what_is_no_question_is_refused(start_proxy: StartProxy, body: bytes) -> None:
    url = await start_proxy(settings())
    answer = await ask(url, "POST", CHAT, JSON, body=body)
    assert (answer.status, answer.json()["error"]["code"]) == (400, "bad_request")


async def test_a_compressed_question(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings())
    body = gzip.compress(json.dumps({"messages": says("say hello"), "stream": True}).encode())
    answer = await ask(url, "POST", CHAT, JSON, "Content-Encoding: gzip", body=body)
    assert content(answer) == "hello"
    bad = await ask(url, "POST", CHAT, JSON, "Content-Encoding: gzip", body=b"not gzip")
    assert (bad.status, bad.json()["error"]["code"]) == (400, "bad_request")


async def test_cards_for_open_webui(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings())
    answer = await say(url, "tool c1 bash completed ls", headers=("X-Lifecycle-Events: openwebui",))
    items = [one["item"] for one in chunks(answer) if "item" in one]
    assert [one["type"] for one in items] == ["function_call", "function_call_output"]
    assert items[0]["arguments"] == '{"command":"ls"}'
    assert pairs(answer) == [("c1", "bash", "running", False), ("c1", "bash", "completed", False)]


async def test_what_an_agent_leaves_open_is_completed(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings())
    answer = await say(url, "open c1 bash\nsay so")
    assert pairs(answer) == [("c1", "bash", "running", False), ("c1", "bash", "completed", False)]


async def test_an_agent_is_not_given_the_clients_files(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings())
    assert content(await say(url, "files")) == "refused -32601"


async def test_the_environment_is_a_list(
    start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET_OF_OURS", "1")
    url = await start_proxy(settings(env={"MINE": "yes"}))
    names = set(content(await say(url, "env")).split(","))
    assert "MINE" in names
    assert names <= {"MINE", "PATH", "HOME", "LANG", "LC_CTYPE"}


# --- sessions -------------------------------------------------------------------------------------


async def test_no_secret_of_the_command_is_shown(start_proxy: StartProxy) -> None:
    words = ["agent", "--api-key", "hunter2", "--token=sk-1234567890abcdef1234", "acp"]
    url = await start_proxy({"upstream.agent": words})
    shown = (await ask(url, "GET", "/-/config")).json()["upstream"]["agent"]
    assert shown == ["agent", "--api-key", "***", "--token=***", "acp"]


async def test_a_conversation_goes_on_in_its_session(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings())
    first = await say(url, "who")
    second = await say(url, "who", content(first), "who")
    assert pid_in(first) == pid_in(second)
    assert "prompts=2" in content(second)
    third = await say(url, "who", content(first), "who", content(second), "who")
    assert "prompts=3" in content(third)


async def test_an_edited_history_is_a_new_session_with_all_of_it(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings())
    first = await say(url, "who")
    for history in (("what", content(first)), ("who", "something else")):
        other = await say(url, *history, "who")
        assert pid_in(other) != pid_in(first)
        assert f"[User: {history[0]}]" in content(other)
        assert "prompts=1" in content(other)


async def test_the_same_beginning_in_two_chats_is_never_one_session(
    start_proxy: StartProxy,
) -> None:
    """Both have the same history: whose turn it is now, nobody can know."""
    url = await start_proxy(settings())
    assert content(await say(url, "say hello")) == content(await say(url, "say hello")) == "hello"
    pids = {pid_in(await say(url, "say hello", "hello", "who")) for _ in range(2)}
    assert len(pids) == 2
    for pid in pids:
        assert _lives(pid)


async def test_users_never_meet(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings())
    one = await say(url, "who", headers=("Authorization: Bearer one",))
    two = await say(url, "who", content(one), "who", headers=("Authorization: Bearer two",))
    nobody = await say(url, "who", content(one), "who")
    again = await say(url, "who", content(one), "who", headers=("Authorization: Bearer one",))
    assert len({pid_in(one), pid_in(two), pid_in(nobody)}) == 3
    assert pid_in(again) == pid_in(one)


async def test_users_never_meet_where_the_proxy_has_the_keys(start_proxy: StartProxy) -> None:
    """The keys are taken out of the headers for the upstream; the sessions know them still."""
    url = await start_proxy({**settings(), "server.api_keys": ["key-of-one", "key-of-two"]})
    one = await say(url, "who", headers=("Authorization: Bearer key-of-one",))
    two = await say(url, "who", content(one), "who", headers=("Authorization: Bearer key-of-two",))
    assert pid_in(one) != pid_in(two)


@pytest.mark.parametrize("header", ["X-OpenWebUI-Chat-Id", "X-Session-Id"])
async def test_two_chats_with_names_never_meet(start_proxy: StartProxy, header: str) -> None:
    url = await start_proxy(settings())
    answers = [await say(url, "say hello", headers=(f"{header}: {n}",)) for n in "ab"]
    assert [content(one) for one in answers] == ["hello", "hello"]
    named = [
        pid_in(await say(url, "say hello", "hello", "who", headers=(f"{header}: {n}",)))
        for n in ("a", "b", "c")
    ]
    assert len(set(named)) == 3


async def test_a_session_takes_one_prompt_at_a_time(start_proxy: StartProxy) -> None:
    """The second request of the same session meanwhile is given one of its own."""
    url = await start_proxy(settings())
    async with Client(url) as client:
        first = await client.chat("X-Session-Id: s", messages=says("who\nwait"))
        await first.until(b"prompts=1")
        second = await say(url, "who", headers=("X-Session-Id: s",))
        assert pid_in(second) != pid_in(first)


async def test_an_idle_session_is_ended_and_gone_on_with(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings(idle_s=0.05))
    first = await say(url, "who")
    await gone(pid_in(first))
    second = await say(url, "who", content(first), "who")
    assert pid_in(second) != pid_in(first)
    session = re.search(r"session=(\S+) ", content(first))
    assert session is not None
    assert session[0] in content(second)  # the agent's own, loaded
    assert "User:" not in content(second)


async def test_a_session_that_the_agent_cannot_load_is_begun_anew(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings("forgets", idle_s=0.05))
    first = await say(url, "who")
    await gone(pid_in(first))
    second = await say(url, "who", content(first), "who")
    assert "[User: who]" in content(second)


async def test_there_are_only_so_many_sessions(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings(max_sessions=1))
    first = await say(url, "who")
    async with Client(url) as client:
        busy = await client.chat(messages=says("who\nwait"))  # in the place of the unused one
        await busy.until(b"prompts=1")
        await gone(pid_in(first))
        refused = await say(url, "who")
        assert refused.status == 429
        assert refused.json()["error"]["code"] == "too_many_sessions"
        assert "max_sessions" in refused.json()["error"]["message"]


async def test_the_working_directory_lies_below_a_root(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    inside = tmp_path / "root" / "inside"
    inside.mkdir(parents=True)
    (tmp_path / "root" / "out").symlink_to(tmp_path)
    url = await start_proxy(settings(cwd=str(tmp_path), cwd_roots=[str(tmp_path / "root")]))
    assert f"cwd={tmp_path};" in content(await say(url, "who"))
    good = await say(url, "who", headers=(f"X-Lifecycle-Cwd: {inside}",))
    assert f"cwd={inside};" in content(good)
    (inside / "circle").symlink_to(inside / "circle")
    for bad in (
        *(tmp_path, tmp_path / "root/../..", tmp_path / "root/out", inside / "no", "inside"),
        *(inside / "circle", inside / ("x" * 5000), f"{inside}/\xff"),
    ):
        answer = await say(url, "who", headers=(f"X-Lifecycle-Cwd: {bad}",))
        assert (answer.status, answer.json()["error"]["code"]) == (400, "bad_request")
        assert answer.json()["error"]["param"] == "X-Lifecycle-Cwd"


@pytest.mark.unmeasured
@pytest.mark.parametrize("role", ["user", "system"])
@best_of_five
async def test_a_long_conversation_does_not_hold_the_loop(role: str) -> None:
    long = {"role": role, "content": "x\nenv " + "a " * (7 << 20)}
    own = {key.replace(".", "__"): value for key, value in settings().items()}
    with watched_proxy(**own) as (url, watch):
        answer = await chat(url, messages=[long, *says("and", "then", "who")[1:]])
        assert "prompts=1" in content(answer)
        assert watch.longest_s < 0.05


async def test_a_conversation_that_is_too_long(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings())
    answer = await say(url, "a" * (16 << 20))
    assert (answer.status, answer.json()["error"]["code"]) == (413, "request_too_large")


# --- the end --------------------------------------------------------------------------------------


async def test_a_client_that_leaves_stops_the_prompt_and_keeps_the_session(
    start_proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "proxy.access")
    url = await start_proxy(settings())
    async with Client(url) as client:
        first = await client.chat(messages=says("who\nwait"))
        await first.until(b";")
    async with asyncio.timeout(20):
        while "client_gone" not in caplog.text:  # noqa: ASYNC110  what the proxy logs
            await asyncio.sleep(0.01)
    second = await say(url, "who\nwait", content(first), "who")
    assert pid_in(second) == pid_in(first)
    assert "prompts=2" in content(second)


async def test_a_client_without_a_stream_that_leaves_stops_the_prompt(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    url = await start_proxy(settings(env={"EXECUTED": str(ran)}, max_sessions=1))
    async with Client(url) as client:
        await client.ask_chat(messages=says("wait"), stream=False)
        while (await say(url, "who")).status != 429:
            pass
    async with asyncio.timeout(20):
        while (await say(url, "who")).status != 200:
            pass


async def test_an_agent_that_does_not_stop_is_ended(start_proxy: StartProxy) -> None:
    def create(own: Settings) -> ProxyApp:
        return ProxyApp(own, agent_cancel_s=0.1)

    url = await start_proxy(settings(), create)
    async with Client(url) as client:
        first = await client.chat(messages=says("who\nchild\nhang"))
        await first.until(b"child=")
        await first.until(b';"}')
    await gone(pid_in(first))
    async with asyncio.timeout(20):  # or the client's next requests would all wait for it
        while any("AgentRequest._run" in repr(one) for one in asyncio.all_tasks()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_the_end_of_the_agent_breaks_the_stream(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings())
    answer = await say(url, "who\nopen c1 bash\ndie 3")
    assert answer.end == "cut"
    assert b"[DONE]" not in answer.body
    assert pairs(answer) == [("c1", "bash", "running", False), ("c1", "bash", "completed", True)]
    assert chunks(answer)[-1]["error"]["code"] == "upstream_unreachable"
    again = await say(url, "who", content(answer), "who")
    assert pid_in(again) != pid_in(answer)


async def test_an_error_of_the_agent_breaks_the_stream(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings())
    answer = await say(url, "open c1 bash\nfail no more credit")
    assert answer.end == "cut"
    assert pairs(answer)[-1] == ("c1", "bash", "completed", True)
    assert "no more credit" in chunks(answer)[-1]["error"]["message"]
    whole = await say(url, "fail no more credit", stream=False)
    assert whole.status == 502
    assert "no more credit" in whole.json()["error"]["message"]


@pytest.mark.skipif(sys.platform != "linux", reason="what leaves the group survives elsewhere")
async def test_nothing_that_an_agent_started_survives(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings())
    answer = await say(url, "who\nchild\ndie")
    found = re.search(r"child=(\d+)", content(answer))
    assert found is not None
    await gone(pid_in(answer))
    await gone(int(found[1]))


async def test_an_agent_that_is_killed_breaks_the_stream_and_leaves_nothing(
    start_proxy: StartProxy,
) -> None:
    url = await start_proxy(settings())
    async with Client(url) as client:
        answer = await client.chat(messages=says("who\nchild\nopen c1 bash\nwait"))
        await answer.until(b'"status":"running"')
        os.kill(pid_in(answer), signal.SIGKILL)
        await answer.read()
    assert answer.end == "cut"
    assert pairs(answer) == [("c1", "bash", "running", False), ("c1", "bash", "completed", True)]
    assert chunks(answer)[-1]["error"]["code"] == "upstream_unreachable"
    if sys.platform == "linux":  # what leaves the group survives elsewhere
        await gone(int(re.findall(r"child=(\d+)", content(answer))[0]))


async def test_the_agent_is_asked_to_stop_at_once(start_proxy: StartProxy, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    url = await start_proxy(settings(env={"EXECUTED": str(stopped)}))
    async with Client(url) as client:
        answer = await client.chat(messages=says("who\nwait"))
        await answer.until(b";")
        left = time.time()
    async with asyncio.timeout(20):
        while not (stopped.exists() and stopped.read_text("utf-8")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert float(stopped.read_text("utf-8")) - left < 5  # measured: 3 ms


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["exit"], "upstream_unreachable", "ended"),
        (["newer"], "upstream_protocol", "version 2"),
        (["mute"], "upstream_timeout", "did not answer"),
    ],
)
async def test_an_agent_that_does_not_begin(
    start_proxy: StartProxy, arguments: list[str], code: str, words: str
) -> None:
    url = await start_proxy({**settings(*arguments), "upstream.start_timeout_s": 2})
    answer = await say(url, "who")
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["type"]) == (
        504 if code == "upstream_timeout" else 502,
        code,
        "proxy_error",
    )
    assert words in error["message"]


async def test_a_command_that_is_not_there(
    start_proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    url = await start_proxy({"upstream.agent": ["/nonexistent/agent"]})
    answer = await say(url, "who")
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_unreachable")
    assert "command is not there" in answer.json()["error"]["message"]
    assert "No such file" in caplog.text


@pytest.mark.parametrize(
    ("step", "words"), [("line 5000000", "a line of more than"), ("nonsense 200", "does not speak")]
)
async def test_an_agent_that_goes_mad_is_ended(
    start_proxy: StartProxy, step: str, words: str
) -> None:
    url = await start_proxy(settings())
    answer = await say(url, f"who\n{step}\nwait")
    assert answer.end == "cut"
    assert words in chunks(answer)[-1]["error"]["message"]
    await gone(pid_in(answer))


async def test_a_flood_waits_for_its_reader(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings())
    async with Client(url) as client:
        answer = await client.chat(messages=says("who\nflood 20000\nsay end"))
        await answer.until(b"prompts=1")
        other = await say(url, "say there")  # nobody else waits meanwhile
        assert content(other) == "there"
        await answer.read()
    assert content(answer).endswith("end")
    assert len(content(answer)) > 20_000_000


async def test_what_an_agent_prints_as_an_error_is_in_the_log(
    start_proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "proxy.upstream")
    url = await start_proxy(settings())
    await say(url, "die")
    assert "dying" in caplog.text
    assert "sk-12345678" not in caplog.text


async def test_pictures_are_passed_on(start_proxy: StartProxy) -> None:
    url = await start_proxy(settings())
    parts = [
        {"type": "text", "text": "say see"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]
    answer = await chat(url, messages=[{"role": "user", "content": parts}])
    assert content(answer) == "see[(1 pictures are not shown to you.)][<image>]"


# --- the guard ------------------------------------------------------------------------------------

PROXY: Final = """
import asyncio, sys
from lifecycle_proxy.upstream.agents.process import AgentProcess

async def main():
    process = AgentProcess("a", lambda line: print(line.decode(), flush=True), lambda failure: None)
    await process.start([sys.executable, "-c", sys.argv[1]], ".", {})
    await asyncio.sleep(1000)

asyncio.run(main())
"""
AGENT_WITH_CHILD: Final = """
import os, subprocess, time
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
inner = subprocess.Popen(["sleep", "1000"])
print(os.getpid(), inner.pid, child.pid, flush=True)
time.sleep(1000)
"""


async def test_nothing_survives_the_proxy(tmp_path: Path) -> None:
    """Also where it is killed, and can do nothing any more."""
    proxy = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROXY, AGENT_WITH_CHILD, stdout=asyncio.subprocess.PIPE
    )
    assert proxy.stdout is not None
    pids = [int(one) for one in (await proxy.stdout.readline()).split()]
    assert all(map(_lives, pids))
    proxy.kill()
    await proxy.wait()
    left = pids if sys.platform == "linux" else pids[:2]
    for pid in left:
        await gone(pid)


async def test_nothing_survives_a_proxy_that_is_killed_in_an_answer() -> None:
    script = "who\nchild\nopen c1 bash\nwait"
    arguments = ("--agent", shlex.join(command()), "--listen", "127.0.0.1:0")
    with serving(*arguments) as (process, url, _):
        async with Client(url) as client:
            answer = await client.chat(messages=says(script))
            await answer.until(b'"status":"running"')
            process.kill()
            await answer.read()
    assert answer.end in ("cut", "reset")
    await gone(pid_in(answer))
    if sys.platform == "linux":
        await gone(int(re.findall(r"child=(\d+)", content(answer))[0]))


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"upstream.agent": ["opencode acp"]}, "upstream.agent", 'write ["opencode", "acp"]'),
        ({"upstream.agent": [""]}, "upstream.agent", "is a command and its arguments"),
        ({"upstream.agent": ["a"], "upstream.kind": "aider"}, "upstream.kind", "known are auto"),
        ({"upstream.agent": ["a"], "server.workers": 2}, "upstream.agent", "server.workers to 1"),
        ({"upstream.agent": ["a"], "upstream.cwd": "x"}, "upstream.cwd", "whole path of a folder"),
        ({"upstream.agent": ["a"], "upstream.env": {"A-B": "x"}}, "upstream.env", "not the name"),
        ({"server.public_url": "proxy.example"}, "server.public_url", "https://proxy.example"),
    ],
)
def test_mistakes_in_settings(changes: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model.load(environ={}, flags=changes)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert words in problem.text


def test_values_of_the_environment_are_read() -> None:
    flags = {"upstream.agent": ["a"], "upstream.env": {"KEY": "env:REAL"}}
    assert model.load(environ={"REAL": "v"}, flags=flags).upstream.env == {"KEY": "v"}
    with pytest.raises(ConfigError, match="REAL is not set"):
        model.load(environ={}, flags=flags)


# --- beside other upstreams -----------------------------------------------------------------------


async def test_an_agent_is_one_of_several_upstreams(
    start_proxy: StartProxy, upstream: Upstream
) -> None:
    async def other(request: Request, wire: Wire) -> None:
        await wire.answer(b'{"other": true}', "200 OK", JSON)

    upstream.script = other
    url = await start_proxy(
        {
            "upstreams": [
                {"name": "coder", "agent": command(), "models": ["coder"], "permissions": "deny"},
                {"name": "rest", "url": f"{upstream.origin}/v1", "models": ["*"]},
            ]
        }
    )
    answer = await say(url, "who", model="coder")
    assert "prompts=1" in content(answer)
    assert chunks(answer)[0]["model"] == "coder"
    again = await say(url, "who", content(answer), "who", model="coder")
    assert pid_in(again) == pid_in(answer)
    other_answer = await say(url, "who", model="x", stream=False)
    assert other_answer.json() == {"other": True}
    listed = (await ask(url, "GET", "/v1/models")).json()["data"]
    assert "coder" in [one["id"] for one in listed]


async def test_users_never_meet_behind_a_pool(start_proxy: StartProxy) -> None:
    """Nor is a session's owner what the pool makes of the headers."""
    own = {"name": "coder", "agent": command(), "models": ["coder"]}
    url = await start_proxy({"upstreams": [own]})
    one = await say(url, "who", headers=("Authorization: Bearer one",), model="coder")
    for header in ("Authorization: Bearer two", "X-Api-Key: two"):
        other = await say(url, "who", content(one), "who", headers=(header,), model="coder")
        assert pid_in(other) != pid_in(one)
    again = await say(
        url, "who", content(one), "who", headers=("Authorization: Bearer one",), model="coder"
    )
    assert pid_in(again) == pid_in(one)
    states = (await ask(url, "GET", "/-/upstreams")).json()
    assert "agent coder" in json.dumps(states)


async def test_a_prompt_that_failed_is_not_given_to_another_upstream(
    start_proxy: StartProxy, upstream: Upstream
) -> None:
    """Its tools have run, perhaps. What never began may go elsewhere."""
    coder = {"name": "coder", "agent": command(), "models": ["coder"]}
    absent = {"name": "absent", "agent": ["/nonexistent/agent"], "models": ["absent"]}
    rest = {"name": "rest", "url": f"{upstream.origin}/v1", "models": ["rest"]}
    models = {"a": ["coder/coder", "rest/rest"], "b": ["absent/absent", "rest/rest"]}
    url = await start_proxy({"upstreams": [coder, absent, rest], "models": models})
    failed = await say(url, "fail no credit", model="a", stream=False)
    assert (failed.status, failed.headers["X-Should-Retry"]) == (502, "false")
    for _ in range(5):  # a mistake of the client's is none of the agent's
        wrong = await say(url, "who", headers=("X-Lifecycle-Cwd: /etc",), model="a")
        assert wrong.status == 400
    assert upstream.requests == []
    assert "prompts=" in content(await say(url, "who", model="a"))
    assert (await say(url, "who", model="b", stream=False)).json() == {"ok": True}


async def test_a_start_that_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    """The client has left before the process was there."""
    started = tmp_path / "pid"
    script = f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(99)"
    for _ in range(3):
        process = AgentProcess("a", lambda line: None, lambda failure: None)
        starting = asyncio.create_task(process.start([sys.executable, "-c", script], ".", {}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await process.end()
        assert process.pid
        await gone(process.pid)
        if started.exists() and (text := started.read_text("utf-8")):
            await gone(int(text))


async def test_an_agent_behind_a_proxy_of_its_own(start_proxy: StartProxy, tmp_path: Path) -> None:
    """As docs/agents.md says for several workers: the other one shows and asks the same."""
    ran = tmp_path / "ran"
    inner = await start_proxy(
        {
            **settings(env={"EXECUTED": str(ran)}),
            "server.public_url": "http://agents.example",
        }
    )
    outer = await start_proxy({"upstream.url": f"{inner}/v1"})
    async with Client(outer) as client:
        answer = await client.chat(messages=says("who\nask c1 bash ls\nsay Done."))
        await answer.until(b"needs your permission")
        assert b"http://agents.example/-/approvals/" in answer.body
        token = str(re.findall(rb"/-/approvals/([0-9a-f]{32})", answer.body)[0], "ascii")
        body = b'{"decision": "once"}'
        done = await ask(inner, "POST", f"/-/approvals/{token}", JSON, body=body)
        assert done.status == 200
        await answer.read()
    assert pairs(answer) == [("c1", "bash", "running", False), ("c1", "bash", "completed", False)]
    assert ran.read_text("utf-8") == "ls\n"
    again = await say(outer, "who\nask c1 bash ls\nsay Done.", content(answer), "who")
    assert "prompts=2" in content(again)
