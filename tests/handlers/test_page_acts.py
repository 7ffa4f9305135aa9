"""What the live page may do: end a stream, draw a recording, and say how upstreams are."""

import asyncio
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.inspect import opened

from tests.conftest import StartProxy
from tests.fakes import (
    Answer,
    Client,
    Request,
    Upstream,
    Wire,
    delta,
    lifecycle,
    payloads,
    text,
    tool_call,
)
from tests.recording.build import Tape, agent, chunk, frame, packed, write

OWN = "X-Lifecycle-Page: 1"
KEYS = ["key-of-alice-" + "a" * 30, "key-of-bob-" + "b" * 30]
ALICE, BOB = (f"Authorization: Bearer {key}" for key in KEYS)


async def ask(url: str, method: str, path: str, *lines: str, body: bytes | None = None) -> Answer:
    async with Client(url) as client:
        await client.send(method, path, *lines, body=body)
        return await (await client.head()).read()


async def rows(url: str, *lines: str) -> list[dict[str, Any]]:
    async with Client(url) as client:
        await client.send("GET", "/-/page/changes", *lines)
        change = json.loads(await anext((await client.head()).pieces))
        return list(change.get("rows", ()))


def silent_in_a_tool(upstream: Upstream) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(text("Let me look. "), tool_call("call_1", "ls"), delta("tool_calls"))
        await wire.left(60)

    upstream.script = script


# --- ending ---------------------------------------------------------------------------------------


async def test_a_stream_is_ended_as_broken_and_so_is_the_upstream_s(
    upstream: Upstream, proxy: str, caplog: pytest.LogCaptureFixture
) -> None:
    silent_in_a_tool(upstream)
    async with Client(proxy) as client:
        answer = await client.chat()
        await answer.until(b"running")
        [row] = await rows(proxy)
        done = await ask(proxy, "POST", f"/-/page/exchanges/{row['i']}/end", OWN, body=b"")
        assert done.status == 200
        await answer.read()
        assert [one[1:] for one in lifecycle(answer.body)][-1] == ("completed", "stopped")
        assert payloads(answer.body)[-1]["error"]["code"] == "stopped"
        assert (answer.end, b"[DONE]" in answer.body) == ("cut", False)
    await upstream.wires[-1].left()
    [row] = await rows(proxy)
    assert (row["e"], row["x"]) == ("stopped", "stopped")
    assert f"{row['i']} was ended from the live page by credential" in caplog.text
    again = await ask(proxy, "POST", f"/-/page/exchanges/{row['i']}/end", OWN, body=b"")
    assert again.status == 404


@pytest.mark.parametrize("settings", [{}, {"server.heartbeat_before_first_byte": True}])
async def test_what_waits_for_the_upstream_is_ended_too(
    upstream: Upstream, start_proxy: StartProxy, settings: dict[str, Any]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.left(60)

    upstream.script = script
    proxy = await start_proxy({"server.heartbeat_s": 0.05, **settings})
    async with Client(proxy) as client:
        await client.send("POST", "/v1/chat/completions", body=b'{"stream": true, "model": "m"}')
        while not upstream.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        [row] = await rows(proxy)
        done = await ask(proxy, "POST", f"/-/page/exchanges/{row['i']}/end", OWN, body=b"")
        assert done.status == 200
        answer = await (await client.head()).read()
        assert answer.status == (200 if settings else 403)
        assert b'"stopped"' in answer.body
    await upstream.wires[-1].left()
    [row] = await rows(proxy)
    assert (row["e"], row["x"]) == ("stopped", "stopped")


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("X-Lifecycle-Page: 0",),
        (OWN, "Origin: http://evil.example"),
        (OWN, "Origin: null"),
        (OWN, "Sec-Fetch-Site: cross-site"),
        (OWN, "Sec-Fetch-Site: same-site"),
    ],
)
async def test_no_other_site_ends_anything(
    upstream: Upstream, start_proxy: StartProxy, lines: tuple[str, ...]
) -> None:
    silent_in_a_tool(upstream)
    proxy = await start_proxy({"server.cors_origins": ["*"]})
    async with Client(proxy) as client:
        answer = await client.chat()
        await answer.until(b"running")
        [row] = await rows(proxy)
        path = f"/-/page/exchanges/{row['i']}/end"
        assert (await ask(proxy, "POST", path, *lines, body=b"")).status == 403
        assert (await ask(proxy, "GET", path, OWN)).status == 405
        assert (await ask(proxy, "POST", "/-/page/recordings", *lines, body=b"{}")).status == 403
        [row] = await rows(proxy)
        assert row["d"] is None


async def test_the_page_s_own_origin_may(upstream: Upstream, proxy: str) -> None:
    silent_in_a_tool(upstream)
    async with Client(proxy) as client:
        answer = await client.chat()
        await answer.until(b"running")
        [row] = await rows(proxy)
        own = (OWN, f"Origin: {proxy}", "Sec-Fetch-Site: same-origin")
        path = f"/-/page/exchanges/{row['i']}/end"
        assert (await ask(proxy, "POST", path, *own, body=b"")).status == 200


async def test_each_key_ends_its_own_only(upstream: Upstream, start_proxy: StartProxy) -> None:
    silent_in_a_tool(upstream)
    url = await start_proxy({"server.api_keys": KEYS})
    async with Client(url) as client:
        answer = await client.chat(ALICE)
        await answer.until(b"running")
        [row] = await rows(url, ALICE)
        path = f"/-/page/exchanges/{row['i']}/end"
        assert (await ask(url, "POST", path, OWN, body=b"")).status == 401
        assert (await ask(url, "POST", path, OWN, BOB, body=b"")).status == 404
        assert (await ask(url, "POST", path, OWN, ALICE, body=b"")).status == 200


async def test_without_keys_nobody_ends_a_stream_from_another_machine(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    silent_in_a_tool(upstream)
    url = await start_proxy({"server.listen": "0.0.0.0:0", "page.enabled": True})
    url = url.replace("0.0.0.0", "127.0.0.1")
    async with Client(url) as client:
        await (await client.chat()).until(b"running")
        [row] = await rows(url)
        path = f"/-/page/exchanges/{row['i']}/end"
        assert (await ask(url, "POST", path, OWN, body=b"")).status == 403
        [row] = await rows(url)
        assert row["d"] is None


# --- recordings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_packed", [False, True])
async def test_a_recording_is_drawn_as_its_page_draws_it(
    proxy: str, tmp_path: Path, is_packed: bool
) -> None:
    write(tmp_path / "one.jsonl", agent("aa-1"), agent("bb-2"))
    data = (tmp_path / "one.jsonl").read_bytes()
    sent = gzip.compress(data) if is_packed else data
    answer = await ask(proxy, "POST", "/-/page/recordings", OWN, body=sent)
    assert answer.status == 200
    drawn = answer.json()
    assert [one["id"] for one in drawn["exchanges"]] == ["aa-1", "bb-2"]
    assert len(drawn["exchanges"][0]["client"]["frames"]) == 70


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: b"", "not a cassette"),
        (lambda: b"<script>", "not a cassette"),
        (lambda: b'{"kind": "cassette", "version": 99}\n', "version 99"),
        (lambda: gzip.compress(b"\0" * 100_000_000, 1), "unpacks to more than 64 MiB"),
    ],
    ids=["empty", "markup", "later", "bomb"],
)
async def test_what_is_no_recording_is_refused_with_the_reason(
    proxy: str, make: Callable[[], bytes], words: str
) -> None:
    data = make()
    answer = await ask(proxy, "POST", "/-/page/recordings", OWN, body=data)
    if not data:
        assert answer.json()["exchanges"] == []
        return
    assert answer.status == 400
    message = answer.json()["error"]["message"]
    assert words in message
    assert "/tmp" not in message


async def test_a_recording_that_is_too_large_is_not_read(proxy: str) -> None:
    async with Client(proxy) as client:
        await client.send("POST", "/-/page/recordings", OWN, body=b" " * (33 << 20))
        answer = await client.head()
        assert answer.status == 413
        message = (await answer.read()).json()["error"]["message"]
        assert "at most 32 MiB; in a terminal, `lifecycle-proxy export FILE --html" in message


async def test_the_proxy_goes_on_while_one_is_drawn(proxy: str, tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl", *(agent(f"a-{number}") for number in range(60)))
    data = (tmp_path / "one.jsonl").read_bytes()
    asking = asyncio.create_task(ask(proxy, "POST", "/-/page/recordings", OWN, body=data))
    slowest = 0.0
    loop = asyncio.get_running_loop()
    while not asking.done():
        before = loop.time()
        await asyncio.sleep(0.01)
        slowest = max(slowest, loop.time() - before)
    assert (await asking).status == 200
    assert slowest < 5


def of_reads(data: bytes, size: int = 65_536) -> Tape:
    """An answer that came in such reads."""
    tape = Tape().request().head()
    for start in range(0, len(data), size):
        tape.line("read", ms=100, data=packed(data[start : start + size]), sent=True)
    tape.bodies = {"upstream": data, "client": data}
    return tape.end()


def many_spans(count: int) -> Tape:
    data = b":\n" * count
    tape = Tape().request().head()
    return tape.sent(100, data, *((at, at + 2) for at in range(0, len(data), 2))).end()


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "make",
    [
        lambda: [of_reads(b": a comment of a line\n\n" * 50_000)],
        lambda: [of_reads(b"\n" * 2_500_000)],
        lambda: [of_reads(b"data:           {}\n\n" * 60_000)],
        lambda: [of_reads(chunk({"content": "y" * 2_500_000}))],
        lambda: [of_reads(b"".join(frame(f"c{n}", "running") for n in range(12_500)))],
        lambda: [of_reads(frame("c", "running", "x" * 2_500_000))],
        lambda: [of_reads(b"data: " + b"[" * 2_500_000)],
        lambda: [many_spans(90_000)],
        lambda: [Tape(str(number)).request(None) for number in range(6_000)],
    ],
    ids=["comments", "lines", "empty", "long", "tools", "name", "nested", "spans", "requests"],
)
async def test_mebibytes_of_anything_are_drawn(
    tmp_path: Path, make: Callable[[], list[Tape]]
) -> None:
    """Of four times as much some took minutes and gigabytes, or made a page that none can draw."""
    data = write(tmp_path / "one.jsonl", *make()).read_bytes()
    drawn = await opened.drawn(data, patience_s=60)
    assert len(drawn) < 8 << 20
    first = json.loads(drawn)["exchanges"][0]
    assert len(first["client"]["frames"]) <= 5000
    assert len(first["bars"]) <= 500


async def test_one_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(ProxyError, match=r"could not be read in 0.01 s; in a terminal, `lifecycle"):
        await opened.drawn(b"{}", patience_s=0.01)


# --- upstreams ------------------------------------------------------------------------------------


async def test_the_one_upstream(upstream: Upstream, proxy: str) -> None:
    answer = await ask(proxy, "GET", "/-/page/upstreams")
    assert answer.json() == {"upstreams": [{"name": "", "url": f"{upstream.origin}/v1"}]}


async def test_several_upstreams(upstream: Upstream, start_proxy: StartProxy) -> None:
    own = [{"name": "a", "url": f"{upstream.origin}/v1"}, {"name": "b", "url": upstream.origin}]
    url = await start_proxy({"upstreams": own, "server.api_keys": KEYS})
    assert (await ask(url, "GET", "/-/page/upstreams")).status == 401
    found = (await ask(url, "GET", "/-/page/upstreams", ALICE)).json()["upstreams"]
    assert [(one["name"], one["state"], one["open"]) for one in found] == [
        ("a", "ok", 0),
        ("b", "ok", 0),
    ]
