"""The tools of an answer within the message of a chat: who gets the page, and what it may read."""

import asyncio
import re
from typing import Any

import pytest
from aiohttp import web
from lifecycle_proxy.config import model as config

from tests.conftest import StartProxy
from tests.fakes import (
    DONE,
    Answer,
    Client,
    Request,
    Upstream,
    Wire,
    chat,
    delta,
    payloads,
    text,
)
from tests.inspect.chromium import a_page, needs_chromium

pytestmark = pytest.mark.usefixtures("quiet")

WEBUI = "User-Agent: Python/3.11 aiohttp/3.14"
PUBLIC = "https://proxy.example"
ON = {"page.embed": True, "server.public_url": PUBLIC}
EVIL = "<img src=x onerror=\"parent.document.title='acted'\">\u202e"


def plays(upstream: Upstream, gate: asyncio.Event | None = None, label: str = "/") -> None:
    async def script(request: Request, wire: Wire) -> None:
        calls = (
            {"index": n, "id": f"call_{n}", "function": {"name": name, "arguments": "{}"}}
            for n, name in enumerate(("ls", f"cat{label}"))
        )
        await wire.stream(text("Let me look. "), *(delta(tool_calls=[call]) for call in calls))
        await wire.chunk(delta("tool_calls"))
        if gate is not None:
            await gate.wait()
        failed = delta(role="tool", tool_call_id="call_0", content="Error: no", status="error")
        good = delta(role="tool", tool_call_id="call_1", content="yes")
        for piece in (failed, good, text("It will rain. "), delta("stop"), DONE, b""):
            await wire.chunk(piece)

    upstream.script = script


async def get(url: str, path: str, *lines: str) -> Answer:
    async with Client(url) as client:
        await client.send("GET", path, *lines)
        return await (await client.head()).read()


def embeds(body: bytes) -> list[str]:
    """The paths of the pages that a stream puts into the message."""
    events = [one["event"] for one in payloads(body) if "event" in one]
    assert all(one.keys() == {"type", "data"} and one["type"] == "embeds" for one in events)
    urls = [url for one in events for url in one["data"]["embeds"]]
    assert all(url.startswith(f"{PUBLIC}/-/embed/st_") for url in urls)
    return [url.removeprefix(PUBLIC) for url in urls]


async def test_open_webui_gets_one_in_front_of_its_first_tool(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    plays(upstream)
    url = await start_proxy(ON)
    body = (await chat(url, WEBUI)).body
    [path] = embeds(body)
    assert re.fullmatch(r"/-/embed/st_[0-9a-f]{24}/[\w-]{118}", path)
    assert body.index(b"embeds") < body.index(b'"ls"')
    page = await get(url, path)
    assert page.status == 200
    policy = page.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors" not in policy
    events = await get(url, f"{path}/events", "Origin: null")
    assert events.headers["Access-Control-Allow-Origin"] == "*"
    assert events.body.count(b"event: tool.completed") == 2


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({}, (WEBUI,)),
        ({"server.public_url": PUBLIC}, (WEBUI,)),
        (ON, ()),
        (ON, (WEBUI, "X-Lifecycle-Events: openwebui-status")),
        (ON, (WEBUI, "X-Lifecycle-Events: off")),
    ],
)
async def test_nobody_else_does(
    upstream: Upstream, start_proxy: StartProxy, settings: dict[str, Any], lines: tuple[str, ...]
) -> None:
    plays(upstream)
    url = await start_proxy(settings)
    assert b"embeds" not in (await chat(url, *lines)).body


async def test_an_answer_without_tools_has_none(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("Yes."), delta("stop"), DONE, b"")

    upstream.script = script
    url = await start_proxy(ON)
    assert b"embeds" not in (await chat(url, WEBUI)).body


async def test_a_token_opens_its_stream_only_and_needs_no_key(
    upstream: Upstream, start_proxy: StartProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    plays(upstream)
    keys = ["key-of-alice-" + "a" * 30]
    url = await start_proxy({**ON, "server.api_keys": keys, "server.cors_origins": ["http://a"]})
    alice = f"Authorization: Bearer {keys[0]}"
    one, two = [embeds((await chat(url, WEBUI, alice)).body)[0] for _ in range(2)]
    assert (await get(url, f"{one}/events", "Origin: null")).status == 200
    assert (await get(url, f"{one}/other")).status == 404
    token, stream = one.rpartition("/")[2], two.split("/")[3]
    assert (await get(url, f"/-/embed/{stream}/{token}")).status == 401
    assert (await get(url, f"/-/embed/{stream}/{token}/events")).status == 401
    assert (await get(url, f"/-/embed/{stream}")).status == 401
    async with Client(url) as client:
        await client.send("POST", one, body=b"")
        assert (await client.head()).status == 405
    said = capsys.readouterr()
    assert token not in said.out + said.err


async def test_what_is_not_kept_any_more(upstream: Upstream, start_proxy: StartProxy) -> None:
    plays(upstream)
    url = await start_proxy({**ON, "streams.keep_s": 0})
    [path] = embeds((await chat(url, WEBUI)).body)
    async with asyncio.timeout(30):
        while (await get(url, f"{path}/events")).status == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    assert (await get(url, path)).status == 200


def test_it_needs_an_address_and_streams() -> None:
    for flags, words in (
        ({"page.embed": True}, "page.embed: needs server.public_url"),
        ({**ON, "streams.max_streams": 0}, "page.embed: needs streams that are kept"),
    ):
        with pytest.raises(config.ConfigError) as refused:
            config.load(environ={}, flags={"upstream.url": "http://127.0.0.1:1/v1", **flags})
        assert words in str(refused.value)


@needs_chromium
async def test_in_a_sandboxed_frame_of_another_site(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    gate = asyncio.Event()
    plays(upstream, gate, EVIL)
    url = (await start_proxy(ON)).replace("localhost", "127.0.0.1")

    async def framing(request: web.Request) -> web.Response:
        script = "window.heights = []; onmessage = event => heights.push(event.data);"
        frame = f'<iframe sandbox="allow-scripts" src="{url}{request.query["path"]}"></iframe>'
        body = f"<!doctype html><title>chat</title><script>{script}</script>{frame}"
        return web.Response(text=body, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", framing)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with Client(url) as client:
            answer = await client.chat(WEBUI)
            await answer.until(b"embeds")
            [path] = embeds(answer.body[: answer.body.rindex(b"\n\n") + 2])
            async with a_page(f"http://127.0.0.1:{port}/?path={path}") as page:
                shown = await page.frame_text("2 running")
                assert "not completed" not in shown
                assert "ls" in shown
                gate.set()
                await answer.read()
                shown = await page.frame_text("1 failed")
                assert "2 tools" in shown
                assert "<img src=x" in shown
                assert "running" not in shown
                heights = await page.run("heights")
                assert heights[-1]["type"] == "iframe:height"
                assert 40 < heights[-1]["height"] < 400
                assert await page.run("document.title") == "chat"
                assert [said for said in page.said if "404" not in said] == []  # no icon
    finally:
        await runner.cleanup()


@needs_chromium
async def test_its_scale_stands_still_where_motion_is_to_be_reduced(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    gate = asyncio.Event()
    plays(upstream, gate)
    url = (await start_proxy(ON)).replace("localhost", "127.0.0.1")
    async with Client(url) as client:
        answer = await client.chat(WEBUI)
        await answer.until(b"embeds")
        [path] = embeds(answer.body[: answer.body.rindex(b"\n\n") + 2])
        async with a_page(f"{url}{path}") as page:
            await page.prefer(reduced_motion="reduce")
            await page.until("document.getElementById('note').textContent.includes('2 running')")
            axes, widths = await page.run(
                "(async () => { const axes = new Set(), widths = new Set();"
                "while (widths.size < 3) { await new Promise(requestAnimationFrame);"
                "axes.add(document.querySelector('.axis').textContent);"
                "widths.add(document.querySelector('.run').style.width);"
                "if (document.getAnimations().length) throw Error('it moves'); }"
                "return [[...axes], [...widths]]; })()"
            )
            assert len(axes) <= 2, "5 s, maybe 10 s on a slow machine"
            assert len(widths) == 3, "the bars grow"
            gate.set()
            await answer.read()
            await page.until("document.getElementById('note').textContent.includes('1 failed')")
