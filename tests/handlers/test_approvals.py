"""Approvals: the page, the frame for Open WebUI, the line of text, yes and no in the chat."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import StartProxy
from tests.fakes import JSON, Answer, Client, ask
from tests.upstream.test_agents import chunks, content, pairs, say, says, settings

pytestmark = pytest.mark.usefixtures("quiet")

FORM: Final = "Content-Type: application/x-www-form-urlencoded"
SCRIPT: Final = "ask c1 bash rm -rf build\nsay Done."


class Run:
    """What the agent has executed."""

    def __init__(self, path: Path) -> None:
        self.path = path / "executed"

    def settings(self, **more: Any) -> dict[str, Any]:
        return settings(env={"EXECUTED": str(self.path)}, **more)

    @property
    def commands(self) -> list[str]:
        return self.path.read_text("utf-8").splitlines() if self.path.exists() else []


@pytest.fixture
def ran(tmp_path: Path) -> Run:
    return Run(tmp_path)


def page_in(answer: Answer) -> str:
    """The path of the approval's page."""
    found = re.findall(rb"/-/approvals/[0-9a-f]{32}", answer.body)
    return str(found[-1], "ascii")


async def decide(url: str, page: str, decision: str, *lines: str) -> Answer:
    return await ask(url, "POST", page, FORM, *lines, body=f"decision={decision}".encode())


@pytest.mark.parametrize(("decision", "failed"), [("once", False), ("deny", True)])
async def test_a_click_decides(
    start_proxy: StartProxy,
    ran: Run,
    caplog: pytest.LogCaptureFixture,
    decision: str,
    *,
    failed: bool,
) -> None:
    caplog.set_level("INFO", "proxy.upstream")
    url = await start_proxy(ran.settings())
    async with Client(url) as client:
        answer = await client.chat(messages=says(SCRIPT))
        await answer.until(b"needs your permission")
        assert ran.commands == []
        page = page_in(answer)
        shown = await ask(url, "GET", page)
        assert shown.status == 200
        assert b"rm -rf build" in shown.body
        assert b"Allow once" in shown.body
        assert b'http-equiv="refresh" content="121"' in shown.body  # approvals.timeout_s, and one
        done = await decide(url, page, decision, "Origin: null", "Sec-Fetch-Site: cross-site")
        assert done.status == 200
        await answer.read()
    assert pairs(answer) == [("c1", "bash", "running", False), ("c1", "bash", "completed", failed)]
    assert ran.commands == ([] if failed else ["rm -rf build"])
    assert answer.body.endswith(b"data: [DONE]\n\n")
    word = "denied" if failed else "allowed"
    assert re.search(
        rf"approval: bash of agent \S+ {word} by credential \w{{12}} at 127", caplog.text
    )


async def test_no_log_has_a_token(
    start_proxy: StartProxy, ran: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    url = await start_proxy(ran.settings())
    async with Client(url) as client:
        answer = await client.chat(messages=says(SCRIPT))
        await answer.until(b"needs your permission")
        page = page_in(answer)
        assert (await ask(url, "GET", page)).status == 200
        assert (await ask(url, "PUT", page)).status == 405
        assert (await decide(url, page, "once")).status == 200
        await answer.read()
    assert "/-/approvals/*** 200" in caplog.text
    assert page.rpartition("/")[2] not in caplog.text


async def test_silence_is_a_no(
    start_proxy: StartProxy, ran: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "proxy.upstream")
    url = await start_proxy({**ran.settings(), "approvals.timeout_s": 0.2})
    answer = await say(url, SCRIPT)
    assert pairs(answer)[-1] == ("c1", "bash", "completed", True)
    assert content(answer).endswith("Denied.\n\nDone.")
    assert ran.commands == []
    assert "denied by nobody within 0.2 s" in caplog.text
    late = await decide(url, page_in(answer), "once")
    assert late.status == 404
    assert ran.commands == []


async def test_a_token_is_valid_once(start_proxy: StartProxy, ran: Run) -> None:
    url = await start_proxy(ran.settings())
    async with Client(url) as client:
        answer = await client.chat(messages=says("ask c1 bash one\nask c2 bash two"))
        await answer.until(b"needs your permission")
        first = page_in(answer)
        assert (await decide(url, first, "once")).status == 200
        await answer.until(b'"c2"')
        await answer.until(b"two`")
        assert (await decide(url, first, "once")).status == 404
        assert (await ask(url, "GET", first)).status == 404
        assert page_in(answer) != first
        assert ran.commands == ["one"]
        assert (await decide(url, page_in(answer), "deny")).status == 200
        await answer.read()
    assert ran.commands == ["one"]


@pytest.mark.parametrize(
    ("method", "lines", "body", "status"),
    [
        ("POST", [FORM], b"decision=always", 400),
        ("POST", [FORM], b"", 400),
        ("POST", [FORM], b"x" * 5000, 400),
        ("POST", [JSON], b'{"decision": 1}', 400),
        ("POST", [JSON], b"{", 400),
        ("POST", [JSON], b'["once"]', 400),
        ("PUT", [FORM], b"decision=once", 405),
        ("DELETE", [], b"", 405),
    ],
)
async def test_what_is_no_decision_decides_nothing(
    start_proxy: StartProxy, ran: Run, method: str, lines: list[str], body: bytes, status: int
) -> None:
    url = await start_proxy(ran.settings())
    async with Client(url) as client:
        answer = await client.chat(messages=says(SCRIPT))
        await answer.until(b"needs your permission")
        page = page_in(answer)
        assert (await ask(url, method, page, *lines, body=body)).status == status
        assert (await ask(url, "GET", page)).status == 200
        assert ran.commands == []


async def test_a_program_decides(start_proxy: StartProxy, ran: Run) -> None:
    url = await start_proxy(ran.settings())
    async with Client(url) as client:
        answer = await client.chat(messages=says(SCRIPT))
        await answer.until(b"approval.request")
        await answer.until(b"needs your permission")
        event = next(one["approval"] for one in chunks(answer) if "approval" in one)
        assert event["tool"] == "bash"
        assert event["label"] == "rm -rf build"
        assert event["options"] == ["once", "deny"]
        body = json.dumps({"decision": "once"}).encode()
        done = await ask(url, "POST", f"/-/approvals/{event['id']}", JSON, body=body)
        assert done.json() == {"decision": "once"}
        again = await ask(url, "POST", f"/-/approvals/{event['id']}", JSON, body=body)
        assert (again.status, again.json()["error"]["code"]) == (404, "not_found")
        await answer.read()
    assert ran.commands == ["rm -rf build"]


async def test_a_reader_beside_the_stream_sees_the_question(
    start_proxy: StartProxy, ran: Run
) -> None:
    url = await start_proxy({**ran.settings(), "approvals.timeout_s": 0.2})
    answer = await say(url, SCRIPT, headers=("X-Event-Stream-Id: chosen-by-the-client-1",))
    events = await ask(url, "GET", "/-/streams/chosen-by-the-client-1/events")
    lines = events.body.decode().split("\n\n")
    (one,) = [line for line in lines if "event: approval.request\n" in line]
    fields = json.loads(one.partition("data: ")[2])
    assert fields["id"] in page_in(answer)
    assert (fields["tool"], fields["label"]) == ("bash", "rm -rf build")


async def test_open_webui_gets_the_page_in_its_message(start_proxy: StartProxy, ran: Run) -> None:
    url = await start_proxy({**ran.settings(), "server.public_url": "https://proxy.example"})
    async with Client(url) as client:
        answer = await client.chat("X-Lifecycle-Events: openwebui", messages=says(SCRIPT))
        await answer.until(b'"embeds"')
        await answer.until(b"\n\n")
        event = next(one["event"] for one in chunks(answer) if "approval" in one)
        page = page_in(answer)
        assert event == {"type": "embeds", "data": {"embeds": [f"https://proxy.example{page}"]}}
        assert (await decide(url, page, "once", "Origin: null")).status == 200
        await answer.read()
    assert content(answer) == "Done."
    assert ran.commands == ["rm -rf build"]


async def test_old_sdks_get_no_named_event(start_proxy: StartProxy, ran: Run) -> None:
    url = await start_proxy({**ran.settings(), "approvals.timeout_s": 0.2})
    answer = await say(url, SCRIPT, headers=("X-Lifecycle-Events: plain",))
    assert b"event:" not in answer.body
    assert any("approval" in one for one in chunks(answer))


async def test_the_page_is_closed_to_others(start_proxy: StartProxy, ran: Run) -> None:
    """No script, nothing of third parties; arguments of a model are text, not HTML."""
    url = await start_proxy({**ran.settings(), "server.api_keys": ["key-of-the-proxy"]})
    key = "Authorization: Bearer key-of-the-proxy"
    async with Client(url) as client:
        bad = "<script>alert(1)</script>"
        answer = await client.chat(key, messages=says(f"ask c1 bash {bad}"))
        await answer.until(b"needs your permission")
        page = await ask(url, "GET", page_in(answer))  # without the key, as a browser does
        assert page.status == 200
        assert b"<script" not in page.body
        assert b"&lt;script&gt;" in page.body
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "form-action 'self'" in policy
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert (await ask(url, "GET", "/-/approvals/" + "0" * 32)).status == 404
        assert (await ask(url, "GET", "/-/approvals/")).status == 404
        assert (await ask(url, "GET", "/-/metrics")).status == 401


@pytest.mark.parametrize(
    ("mode", "step", "executed"),
    [
        ("deny", "ask c1 bash ls", []),
        ("deny", "read c1 cat x", []),
        ("allow-reads", "read c1 cat x", ["x"]),
    ],
)
async def test_permissions_that_need_nobody(
    start_proxy: StartProxy, ran: Run, mode: str, step: str, executed: list[str]
) -> None:
    url = await start_proxy(ran.settings(permissions=mode))
    answer = await say(url, step)
    assert ran.commands == executed
    assert pairs(answer)[-1][3] is not bool(executed)
    assert b"approval" not in answer.body


async def test_allow_reads_asks_for_the_rest(start_proxy: StartProxy, ran: Run) -> None:
    url = await start_proxy({**ran.settings(permissions="allow-reads"), "approvals.timeout_s": 0.2})
    answer = await say(url, SCRIPT)
    assert "needs your permission" in content(answer)
    assert ran.commands == []


# --- yes and no as the next message ---------------------------------------------------------------


@pytest.mark.parametrize(("word", "executed"), [("yes", ["x"]), (" Yes. ", ["x"]), ("no", [])])
@pytest.mark.parametrize("stream", [True, False])
async def test_the_next_message_decides(
    start_proxy: StartProxy, ran: Run, word: str, executed: list[str], *, stream: bool
) -> None:
    url = await start_proxy(ran.settings())
    first = await say(url, "say Hm.\nask c1 bash x\nsay Over.", stream=False)
    said = first.json()["choices"][0]["message"]["content"]
    assert said.startswith("Hm.")
    assert "`x` needs your permission" in said
    assert ran.commands == []
    script = "say Hm.\nask c1 bash x\nsay Over."
    second = await say(url, script, said, word, stream=stream)
    text = content(second) if stream else second.json()["choices"][0]["message"]["content"]
    assert text == ("Allowed.\n\nOver." if executed else "Denied.\n\nOver.")
    assert ran.commands == executed
    third = await say(url, script, said, word, text, "who")
    assert "prompts=2" in content(third)


async def test_two_questions_are_answered_one_by_one(start_proxy: StartProxy, ran: Run) -> None:
    url = await start_proxy(ran.settings())
    history = ["ask c1 bash x\nask c2 bash y\nsay Over."]
    for word in ("", "yes", "no"):
        if word:
            history.append(word)
        answer = await say(url, *history, stream=False)
        history.append(answer.json()["choices"][0]["message"]["content"])
    assert ran.commands == ["x"]
    assert history[-1].endswith("Over.")


async def test_any_other_message_is_a_no(start_proxy: StartProxy, ran: Run) -> None:
    url = await start_proxy(ran.settings())
    first = await say(url, SCRIPT, stream=False)
    said = first.json()["choices"][0]["message"]["content"]
    other = await say(url, SCRIPT, said, "say why?")
    assert "why?" in content(other)
    page = re.findall(r"/-/approvals/[0-9a-f]{32}", said)[0]
    assert (await decide(url, page, "once")).status == 404
    assert ran.commands == []


async def test_yes_of_another_user_decides_nothing(start_proxy: StartProxy, ran: Run) -> None:
    url = await start_proxy({**ran.settings(), "approvals.timeout_s": 5})
    first = await say(url, SCRIPT, stream=False, headers=("Authorization: Bearer one",))
    said = first.json()["choices"][0]["message"]["content"]
    await say(url, "say x", said, "yes", headers=("Authorization: Bearer one",))
    await say(url, "who", said, "yes", headers=("Authorization: Bearer two",))
    assert ran.commands == []


async def test_the_end_of_the_client_withdraws_the_question(
    start_proxy: StartProxy, ran: Run
) -> None:
    url = await start_proxy(ran.settings())
    async with Client(url) as client:
        answer = await client.chat(messages=says(SCRIPT))
        await answer.until(b"needs your permission")
        page = page_in(answer)
    async with asyncio.timeout(20):
        while (await ask(url, "GET", page)).status != 404:  # noqa: ASYNC110  the proxy sees it
            await asyncio.sleep(0.01)
    assert (await decide(url, page, "once")).status == 404
    assert ran.commands == []
