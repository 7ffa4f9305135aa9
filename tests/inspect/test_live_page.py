"""The live page: what it is sent, who is sent it, and what a real browser makes of it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.inspect import export, view
from lifecycle_proxy.recording import cassette

from tests.conftest import StartProxy
from tests.fakes import DONE, Answer, Client, Request, Upstream, Wire, chat, delta, text, tool_call
from tests.inspect.chromium import BrowserPage, a_page, needs_chromium
from tests.recording.build import agent, write

pytestmark = pytest.mark.usefixtures("quiet")

EVIL = "<img src=x onerror=\"document.title='acted'\"><script>document.title='acted'</script>\u202e"
KEYS = ["key-of-alice-" + "a" * 30, "key-of-bob-" + "b" * 30]
ALICE, BOB = (f"Authorization: Bearer {key}" for key in KEYS)
USER = [{"role": "user", "content": "Will it rain?"}]


def plays(upstream: Upstream, gate: asyncio.Event | None = None) -> None:
    """Tools, one of which fails; the second part waits for the gate."""

    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("Let me look. " * 400), tool_call("call_1", "ls", '{"path": "/"}'))
        await wire.chunk(delta("tool_calls"))
        if gate is not None:
            await gate.wait()
        failed = delta(role="tool", tool_call_id="call_1", content="Error: no", status="error")
        for piece in (failed, text("It will rain. " * 400), delta("stop"), DONE, b""):
            await wire.chunk(piece)

    upstream.script = script


async def get(url: str, path: str, *lines: str) -> Answer:
    async with Client(url) as client:
        await client.send("GET", path, *lines)
        return await (await client.head()).read()


class Feed:
    """What a page follows."""

    def __init__(self, client: Client, answer: Answer) -> None:
        self.client = client
        self.answer = answer
        self.rows: dict[str, Any] = {}
        self._rest = b""

    async def until(self, count: int, **fields: Any) -> list[Any]:
        """Wait until so many rows have these values."""
        async with asyncio.timeout(20):
            while True:
                found = [r for r in self.rows.values() if fields.items() <= r.items()]
                if len(found) >= count:
                    return found
                self._take(await anext(self.answer.pieces))

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            change = json.loads(line)
            self.rows |= {row["i"]: row for row in change.get("rows", ())}
            for gone in change.get("gone", ()):
                del self.rows[gone]


async def follow(client: Client, *lines: str) -> Feed:
    await client.send("GET", "/-/page/changes", *lines)
    answer = await client.head()
    assert answer.status == 200
    return Feed(client, answer)


# --- what is sent ---------------------------------------------------------------------------------


async def test_an_exchange_while_it_goes_on_and_behind_its_end(
    upstream: Upstream, proxy: str
) -> None:
    gate = asyncio.Event()
    plays(upstream, gate)
    async with Client(proxy) as watcher, Client(proxy) as client:
        feed = await follow(watcher)
        answer = await client.chat(model="gpt-x", messages=USER)
        [row] = await feed.until(1, d=None, m="gpt-x", w="Will it rain?")
        while not feed.rows[row["i"]]["k"]:
            await feed.until(1, s=200)
            feed._take(await anext(feed.answer.pieces))
        [tool] = feed.rows[row["i"]]["k"]
        assert (tool[0], tool[3], tool[4]) == ("ls", None, "")
        gate.set()
        await answer.read()
        [row] = await feed.until(1, e="done")
        [[name, _, start, stop, how]] = row["k"]
        assert (name, how, start <= stop <= row["d"]) == ("ls", "failed", True)
        assert 0 < row["f"] <= row["d"]
        whole = json.loads((await get(proxy, f"/-/page/exchanges/{row['i']}")).body)
        assert whole["id"] == row["i"]
        assert whole["line"] == "gpt-x: Will it rain?"
        assert sum(frame[2] for frame in whole["client"]["frames"]) == 2
        assert [(bar["tool"], bar["failed"]) for bar in whole["bars"]] == [("ls", True)]


async def test_it_can_be_saved_as_a_cassette(
    upstream: Upstream, proxy: str, tmp_path: Path
) -> None:
    plays(upstream)
    async with Client(proxy) as watcher:
        feed = await follow(watcher)
        secret = "sk-abcdefghijklmnopqrstuvwxyz0123456789"
        body = (await chat(proxy, f"Authorization: Bearer {secret}", messages=USER)).body
        [row] = await feed.until(1, e="done")
        saved = await get(proxy, f"/-/page/exchanges/{row['i']}.jsonl")
    assert secret.encode() not in saved.body
    (tmp_path / "one.jsonl").write_bytes(saved.body)
    [exchange] = cassette.load(tmp_path / "one.jsonl")
    assert exchange.client.body == body
    assert exchange.client.is_whole


async def test_without_a_page_no_bytes_are_kept(upstream: Upstream, proxy: str) -> None:
    plays(upstream)
    await chat(proxy, messages=USER)
    async with Client(proxy) as watcher:
        feed = await follow(watcher)
        [row] = await feed.until(1, e="done")
        assert row["w"] == ""
        assert (await get(proxy, f"/-/page/exchanges/{row['i']}")).status == 404


async def test_only_the_last_ones_are_kept(upstream: Upstream, start_proxy: StartProxy) -> None:
    plays(upstream)
    url = await start_proxy({"page.keep": 3})
    async with Client(url) as watcher:
        feed = await follow(watcher)
        for number in range(6):
            await chat(url, model=f"m{number}")
            await feed.until(1, m=f"m{number}", e="done")
        async with asyncio.timeout(20):
            while len(feed.rows) > 3:
                feed._take(await anext(feed.answer.pieces))
    assert sorted(row["m"] for row in feed.rows.values()) == ["m3", "m4", "m5"]


# --- who is sent it -------------------------------------------------------------------------------


async def test_each_key_sees_its_own(upstream: Upstream, start_proxy: StartProxy) -> None:
    plays(upstream)
    url = await start_proxy({"server.api_keys": KEYS})
    async with Client(url) as first, Client(url) as second:
        alices, bobs = await follow(first, ALICE), await follow(second, BOB)
        await chat(url, ALICE, model="of-alice")
        await chat(url, BOB, model="of-bob")
        [row] = await alices.until(1, e="done")
        await bobs.until(1, e="done")
        assert [r["m"] for r in alices.rows.values()] == ["of-alice"]
        assert [r["m"] for r in bobs.rows.values()] == ["of-bob"]
        path = f"/-/page/exchanges/{row['i']}"
        for lines, status in (((ALICE,), 200), ((BOB,), 404), ((), 401)):
            assert (await get(url, path, *lines)).status == status
            assert (await get(url, f"{path}.jsonl", *lines)).status == status


async def test_without_a_key_there_is_the_page_and_nothing_on_it(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    url = await start_proxy({"server.api_keys": KEYS})
    for path in ("/-/", *(f"/-/view/{name}" for name in view.FILES)):
        assert (await get(url, path)).status == 200
    assert (await get(url, "/-/page/changes")).status == 401
    assert (await get(url, "/-/view/../page/changes")).status in (401, 404)
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, 200),
        ({"page.enabled": False}, 404),
        ({"server.listen": "0.0.0.0:0"}, 404),
        ({"server.listen": "0.0.0.0:0", "page.enabled": True}, 200),
        ({"server.listen": "0.0.0.0:0", "server.api_keys": KEYS}, 200),
    ],
)
async def test_where_there_is_a_page(
    start_proxy: StartProxy, settings: dict[str, Any], status: int
) -> None:
    url = (await start_proxy(settings)).replace("0.0.0.0", "127.0.0.1")
    assert (await get(url, "/-/")).status == status


async def test_the_policy(proxy: str) -> None:
    answer = await get(proxy, "/-/")
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert b"<style" not in answer.body
    assert answer.body.count(b"<script") == 1
    assert b" style=" not in answer.body


def test_all_of_it_is_small() -> None:
    size = sum(len(view.file(name).encode()) for name in ("index.html", *view.FILES))
    assert size <= 50_000
    script = "".join(view.file(name) for name in view.FILES)
    for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function("):
        assert way not in script


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_it_can_only_be_read(proxy: str, method: str) -> None:
    async with Client(proxy) as client:
        await client.send(method, "/-/page/changes", body=b"")
        assert (await client.head()).status == 405


async def test_a_page_ends_with_the_proxy(
    upstream: Upstream, start_proxy: StartProxy, runners: list[Any]
) -> None:
    from lifecycle_proxy.app import serve

    url = await start_proxy()
    async with Client(url) as watcher:
        feed = await follow(watcher)
        await asyncio.wait_for(serve.stop(runners.pop(), 30), 20)
        assert (await feed.answer.read()).end == "clean"


# --- in a browser ---------------------------------------------------------------------------------


# What makes the page wider than the screen: not what scrolls by itself.
WIDER = """(({scrollWidth, clientWidth}) => scrollWidth <= clientWidth ? [] : [scrollWidth,
  ...[...document.querySelectorAll('main *')].filter(one => one.getBoundingClientRect().right
  > clientWidth && !one.closest('.scroll, .list, .frames-box, stream-lanes'))
  .map(one => one.outerHTML.slice(0, 200))])(document.documentElement)"""


def errors(page: BrowserPage) -> list[str]:
    return [said for said in page.said if "404" not in said and "401" not in said]


@needs_chromium
async def test_the_page(upstream: Upstream, proxy: str, tmp_path: Path) -> None:
    gate = asyncio.Event()
    plays(upstream, gate)
    proxy = proxy.replace("localhost", "127.0.0.1")
    async with a_page(f"{proxy}/-/") as page, Client(proxy) as client:
        await page.until("document.getElementById('summary').textContent.startsWith('0 open')")
        evil = [{"role": "user", "content": EVIL}]
        answer = await client.chat(model=f"m{EVIL}", messages=evil)
        await page.until("document.getElementById('summary').textContent.startsWith('1 open')")
        await page.until("document.querySelector('#rows td:nth-child(8)')?.textContent === 'ls'")
        gate.set()
        await answer.read()
        await page.until("document.querySelector('#rows td:nth-child(6)').textContent === 'done'")
        await page.until("document.getElementById('tools').textContent.startsWith('ls11')")
        # By the keyboard alone.
        await page.run("document.querySelector('#rows tr').focus()")
        await page.key("Enter")
        await page.until("document.querySelectorAll('#frames tr').length > 5")
        assert (await page.run("location.hash")).startswith("#ex_")
        assert await page.run("document.querySelectorAll('#lanes .run.failed').length") == 1
        assert "<img src=x" in await page.run("document.getElementById('asked').textContent")
        lane = await page.run(
            "(() => { const on = document.querySelector('stream-lanes canvas');"
            "const data = on.getContext('2d').getImageData(0, 0, on.width, 26).data;"
            "return new Set([...Array(data.length / 4).keys()].map(i => data[4 * i + 2])).size })()"
        )
        assert lane > 3, "something is drawn"
        for width in (360, 1280):
            for scheme in ("dark", "light"):
                await page.resize(width, 800, scheme=scheme)
                (tmp_path / f"{width}-{scheme}.png").write_bytes(await page.picture())
                wide = await page.run(WIDER)
                assert wide == []
        assert await page.run("document.title") == "lifecycle-proxy"
        assert page.dialogs == 0
        assert errors(page) == []
        others = [u for u in page.requested if not u.startswith((f"{proxy}/-/", "data:", "blob:"))]
        assert others == []


@needs_chromium
async def test_a_hostile_backend_acts_nowhere(
    upstream: Upstream, start_proxy: StartProxy, tmp_path: Path
) -> None:
    """Markup, control characters, bidi and much of it, wherever a text can stand."""
    long = EVIL + "\x07" + "x" * 1_000_000
    call = {"id": EVIL, "type": "function", "function": {"name": EVIL, "arguments": EVIL}}
    native = {"tool": EVIL, "emoji": EVIL, "label": long, "toolCallId": "n", "status": "running"}

    async def script(request: Request, wire: Wire) -> None:
        kind = f"Content-Type: text/event-stream\r\nX-Evil: {EVIL.rstrip(chr(0x202E))}"
        await wire.head("200 OK", kind, "Transfer-Encoding: chunked")
        for piece in (
            text(EVIL),
            delta(reasoning_content=EVIL),
            delta(tool_calls=[{"index": 0, **call}]),
            f"event: hermes.tool.progress\ndata: {json.dumps(native)}\n\n".encode(),
            delta(role="tool", tool_call_id=EVIL, content=EVIL),
            f"event: {EVIL}\ndata: {EVIL}\n\n: {EVIL}\n\n".encode(),
            b'data: {"error": {"message": %b}}\n\n' % json.dumps(EVIL).encode(),
            text(long),
        ):
            await wire.chunk(piece)
        wire.close()  # broken off

    upstream.script = script
    url = (await start_proxy({"lifecycle.label_max": 10_000})).replace("localhost", "127.0.0.1")
    asked = [{"role": "user", "content": long}]
    async with a_page(f"{url}/-/") as page:
        await page.until("document.getElementById('summary').textContent.startsWith('0 open')")
        evil = EVIL.rstrip("\u202e")
        await chat(url, f"X-Evil: {evil}", f"User-Agent: {evil}", model=long, messages=asked)
        await page.until("document.querySelector('#rows tr.bad') !== null")
        await page.run("document.querySelector('#rows tr').click()")
        await page.until("document.querySelectorAll('#frames tr').length > 3")
        for side in ("upstream", "client"):
            await page.run(f"document.querySelector('input[value={side}]').click()")
            for row in range(await page.run("document.querySelectorAll('#frames tr').length")):
                await page.run(f"document.querySelectorAll('#frames tr')[{row}].click()")
        await page.run("for (const one of document.querySelectorAll('details')) one.open = true")
        shown = await page.run("document.body.innerText")
        assert "<img src=x" in shown
        assert "\\u202e" in shown
        assert "\u202e" not in shown
        assert len(shown) < 5_000_000
        assert await page.run("document.querySelectorAll('#live img, #exchange img').length") == 0
        await page.resize(360, 800)
        assert await page.run(WIDER) == []
        saved = await get(
            url, f"/-/page/exchanges/{await page.run('location.hash.slice(1)')}.jsonl"
        )
        (tmp_path / "evil.jsonl").write_bytes(saved.body)
        await page.choose("#file", tmp_path / "evil.jsonl")
        await page.until("document.querySelectorAll('#list tr').length === 1")
        assert await page.run("document.title") == "lifecycle-proxy"
        assert page.dialogs == 0
        assert errors(page) == []


# What is to be seen, frame by frame, until the duration in the list has had four values.
SAMPLES = """(async () => {
  const seen = {animations: 0, until: new Set(), now: new Set(), took: new Set()};
  const lanes = document.querySelector('stream-lanes');
  while (seen.took.size < 4) {
    await new Promise(requestAnimationFrame);
    seen.animations = Math.max(seen.animations, document.getAnimations().length);
    seen.until.add(lanes.until);
    seen.now.add(lanes.now);
    seen.took.add(document.querySelector('#rows td:nth-child(10)').textContent);
  }
  return Object.fromEntries(Object.entries(seen).map(([k, v]) => [k, v.size ? [...v] : v]));
})()"""


@needs_chromium
async def test_nothing_moves_where_motion_is_to_be_reduced(
    upstream: Upstream, proxy: str, tmp_path: Path
) -> None:
    """No animation, no lanes that glide: what is new is drawn in its place, once a second."""
    gate = asyncio.Event()
    plays(upstream, gate)
    proxy = proxy.replace("localhost", "127.0.0.1")
    async with a_page(f"{proxy}/-/") as page, Client(proxy) as client:
        answer = await client.chat(messages=USER)
        await answer.until(b"running")
        await page.until("document.querySelectorAll('#rows tr.running').length === 1")
        moving = await page.run(SAMPLES)
        assert moving["animations"] == 1, "a test of nothing else"
        await page.prefer(reduced_motion="reduce")
        await page.until("document.querySelector('stream-lanes').until % 5000 === 0")
        still = await page.run(SAMPLES)
        assert still["animations"] == 0
        assert [time for time in still["until"] if time % 5000] == []
        assert [time for time in still["now"] if time % 1000] == []
        assert all(took.endswith(".00") for took in still["took"])
        (tmp_path / "still.png").write_bytes(await page.picture())
        await page.run("document.querySelector('#rows tr').click()")
        await page.until("!document.getElementById('exchange').hidden")
        gate.set()
        await answer.read()
        await page.until("document.querySelector('#rows td:nth-child(6)').textContent === 'done'")
        await page.until("document.querySelectorAll('#lanes .run.failed').length === 1")
        assert await page.run("document.getAnimations().length") == 0
        assert errors(page) == []


@needs_chromium
async def test_finished_ones_are_bounded_in_the_browser(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b"{}", "200 OK", "Content-Type: application/json")

    upstream.script = script
    url = (await start_proxy({"server.access_log": False})).replace("localhost", "127.0.0.1")
    async with a_page(f"{url}/-/") as page:
        await page.until("document.getElementById('summary').textContent.startsWith('0 open')")
        async with Client(url) as client:
            for _ in range(1500):
                await client.send("GET", "/v1/models")
                await (await client.head()).read()
        await page.until(
            "document.getElementById('summary').textContent === '0 open, 200 finished'"
        )
        assert await page.run("document.querySelectorAll('#rows tr').length") == 100
        assert await page.run("document.getElementsByTagName('*').length") < 3000
        assert errors(page) == []


@needs_chromium
async def test_a_stream_is_ended_by_the_keyboard_once_that_is_confirmed(
    upstream: Upstream, proxy: str
) -> None:
    gate = asyncio.Event()
    plays(upstream, gate)
    proxy = proxy.replace("localhost", "127.0.0.1")
    async with a_page(f"{proxy}/-/") as page, Client(proxy) as client:
        answer = await client.chat(messages=USER)
        await answer.until(b"running")
        await page.until("document.querySelectorAll('#rows tr').length === 1")
        await page.run("document.querySelector('#rows tr').focus()")
        await page.key("Enter")
        await page.until("!document.getElementById('end').hidden")
        await page.run("document.getElementById('end').focus()")
        await page.key("Enter")
        assert await page.run("document.activeElement.id") == "keep"
        await page.key("Enter")
        assert await page.run("document.getElementById('sure').hidden") is True
        assert await page.run("document.activeElement.id") == "end"
        await page.key("Enter")
        await page.run("document.getElementById('end-now').focus()")
        await page.key("Enter")
        await answer.read()
        assert b'"stopped"' in answer.body
        await page.until(
            "document.querySelector('#rows td:nth-child(6)').textContent === 'stopped'"
        )
        await page.until("document.getElementById('end').hidden")
        assert errors(page) == []


@needs_chromium
async def test_a_recording_is_opened_in_the_page_and_left_again(
    upstream: Upstream, proxy: str, tmp_path: Path
) -> None:
    plays(upstream)
    write(tmp_path / "one.jsonl", agent("aa-1"), agent("bb-2"))
    proxy = proxy.replace("localhost", "127.0.0.1")
    async with a_page(f"{proxy}/-/") as page:
        await page.until("document.getElementById('summary').textContent.startsWith('0 open')")
        await chat(proxy, messages=USER)
        await page.until("document.querySelectorAll('#rows tr').length === 1")
        await page.choose("#file", tmp_path / "one.jsonl")
        await page.until("document.querySelectorAll('#list tr').length === 2")
        await page.until("document.querySelectorAll('#frames tr').length === 70")
        assert await page.run("document.getElementById('live').hidden") is True
        await page.run("document.querySelectorAll('#list tr')[1].click()")
        assert await page.run("location.hash") == "#bb-2"
        await page.run("document.getElementById('back').click()")
        assert await page.run("document.getElementById('live').hidden") is False
        assert await page.run("document.getElementById('exchange').hidden") is True
        (tmp_path / "bad.jsonl").write_text("<script>document.title='acted'</script>")
        await page.choose("#file", tmp_path / "bad.jsonl")
        await page.until("document.getElementById('connection').textContent.includes('cassette')")
        assert await page.run("document.title") == "lifecycle-proxy"
        assert [said for said in errors(page) if "400" not in said] == []


@needs_chromium
async def test_an_address_leads_to_its_exchange_and_the_page_says_that_it_connects(
    upstream: Upstream, proxy: str
) -> None:
    plays(upstream)
    proxy = proxy.replace("localhost", "127.0.0.1")
    async with Client(proxy) as watcher:
        feed = await follow(watcher)
        for number in range(3):
            await chat(proxy, model=f"m{number}", messages=USER)
        rows = await feed.until(3, e="done")
        wanted = next(row["i"] for row in rows if row["m"] == "m1")
        async with a_page(f"{proxy}/-/#{wanted}") as page:
            await page.until("document.querySelectorAll('#frames tr').length > 5")
            assert wanted in await page.run("document.getElementById('facts').textContent")
            await page.run("location.hash = '#ex_nothing'")
            await page.until(
                "document.getElementById('acts-note').textContent.includes('not kept')"
            )
            await page.run("location.hash = '#%E0%A4%A'")  # no address of anything
            states = await page.run(
                "(async () => { const seen = []; const real = fetch; let go;"
                "const held = new Promise(done => { go = done; });"
                "window.fetch = async (...all) => { await held; return real(...all); };"
                "const {showLive} = await import('/-/view/live.js');"
                "const text = () => document.getElementById('connection').textContent;"
                "showLive(); seen.push(text()); seen.push(document.getElementById('none').hidden);"
                "go(); return seen; })()"
            )
            assert states == ["connecting …", True]
            await page.until("document.getElementById('connection').textContent === ''")


@needs_chromium
async def test_filters_by_field_and_rows_that_stay_where_they_are_read(
    upstream: Upstream, proxy: str
) -> None:
    plays(upstream)
    proxy = proxy.replace("localhost", "127.0.0.1")
    shown = "[...document.querySelectorAll('#rows td:nth-child(3)')].map(one => one.textContent)"
    async with a_page(f"{proxy}/-/") as page:
        for number in range(30):
            await chat(proxy, model=f"m{number}", messages=USER)
        await page.until("document.querySelectorAll('#rows tr').length === 30")
        for filter_, found in (
            ("model:m7", ["m7"]),
            ("tool:ls model:m1", [f"m{n}" for n in (*range(19, 9, -1), 1)]),
            ("tool:cat", []),
            ("state:done question:rain m29", ["m29"]),
            ("toString:x", []),
        ):
            await page.run(
                f"document.getElementById('filter').value = {json.dumps(filter_)};"
                "document.getElementById('filter').dispatchEvent(new Event('input'))"
            )
            await page.until(
                f"JSON.stringify({shown}) === '{json.dumps(found)}'.replaceAll(' ', '')"
            )
        await page.run(
            "document.getElementById('filter').value = '';"
            "document.getElementById('filter').dispatchEvent(new Event('input'))"
        )
        await page.until("document.querySelectorAll('#rows tr').length === 30")
        await page.run("document.getElementById('rows').closest('.scroll').scrollTop = 200")
        await chat(proxy, model="new", messages=USER)
        await page.until("document.getElementById('summary').textContent.includes('1 new above')")
        assert (await page.run(shown))[0] == "m29"
        await page.run("document.getElementById('rows').closest('.scroll').scrollTop = 0")
        await page.until(f"{shown}[0] === 'new'")
        # The focus goes along with its exchange.
        await page.run("document.querySelectorAll('#rows tr')[2].focus()")
        before = await page.run("document.activeElement.dataset.i")
        await page.key("Enter")
        await chat(proxy, model="newer", messages=USER)
        await page.until(f"{shown}[0] === 'newer'")
        stops = "[...document.querySelectorAll('#rows [tabindex=\"0\"]')].map(one => one.dataset.i)"
        assert await page.run(stops) == [before], "one stop of Tab"
        assert await page.run("document.activeElement.dataset.i") == before
        assert errors(page) == []


@needs_chromium
async def test_it_asks_for_a_key(upstream: Upstream, start_proxy: StartProxy) -> None:
    plays(upstream)
    url = (await start_proxy({"server.api_keys": KEYS})).replace("localhost", "127.0.0.1")
    async with a_page(f"{url}/-/") as page:
        await page.until("!document.getElementById('key-form').hidden")
        await page.run(
            f"document.getElementById('key').value = '{KEYS[0]}';"
            "document.querySelector('#key-form button').click()"
        )
        await page.until("document.getElementById('summary').textContent.startsWith('0 open')")
        await chat(url, ALICE)
        await chat(url, BOB)
        await page.until("document.getElementById('summary').textContent === '0 open, 1 finished'")
        assert errors(page) == []


@needs_chromium
async def test_a_recording_is_drawn_by_the_same_code(tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl", agent("aa-1"), agent("bb-2"))
    export.export(tmp_path / "one.jsonl", "html", tmp_path / "page.html")
    async with a_page(f"file://{tmp_path}/page.html#bb-2") as page:
        await page.until("document.querySelectorAll('#frames tr').length === 70")
        assert "bb-2" in await page.run("document.getElementById('facts').textContent")
        await page.run("document.querySelector('#list tr').click()")
        assert await page.run("location.hash") == "#aa-1"
        assert await page.run("document.getElementById('live').hidden") is True
        assert page.said == []
        assert len(page.requested) == 1
