"""A hostile backend and Open WebUI: what its page would act on does not get there."""

import gzip

import pytest

from tests.conftest import StartProxy
from tests.fakes import (
    DONE,
    Client,
    Request,
    Upstream,
    Wire,
    chat,
    event,
    text,
)
from tests.handlers.test_open_webui import streams

pytestmark = pytest.mark.usefixtures("quiet")

NAMED = "X-OpenWebUI-User-Id: 1"
CODE = event({"event": {"type": "execute", "data": {"code": "alert(1)"}}})
STATUS = event({"event": {"type": "status", "data": {"description": "looking"}}})
WANTED = text("a") + text("b") + DONE


@pytest.mark.parametrize("line", [NAMED, "X-Lifecycle-Events: openwebui-status"])
async def test_code_for_the_page_is_taken_out(upstream: Upstream, proxy: str, line: str) -> None:
    upstream.script = streams(text("a"), CODE, text("b"), DONE)
    answer = await chat(proxy, line)
    assert (answer.body, answer.end) == (WANTED, "clean")
    assert "lifecycle_proxy_page_events_blocked_total 1.0" in await metrics(proxy)


async def test_other_clients_get_it(upstream: Upstream, proxy: str) -> None:
    upstream.script = streams(text("a"), CODE, DONE)
    assert (await chat(proxy)).body == text("a") + CODE + DONE


@pytest.mark.parametrize(("value", "left"), [("all", CODE + STATUS), ("none", b"")])
async def test_the_setting(
    upstream: Upstream, start_proxy: StartProxy, value: str, left: bytes
) -> None:
    url = await start_proxy({"lifecycle.page_events": value})
    upstream.script = streams(CODE, STATUS, text("a"), DONE)
    assert (await chat(url, NAMED)).body == left + text("a") + DONE


LABEL = "Content-Type: text/event-stream"
AS_OPEN_WEBUI_READS_IT = {
    "another status": ("201 Created", [LABEL]),
    "a coding that we do not know": ("200 OK", [LABEL, "Content-Encoding: br"]),
    "two codings": ("200 OK", [LABEL, "Content-Encoding: gzip, br"]),
    "named elsewhere": ("200 OK", ["Content-Type: application/json; text/event-stream"]),
}


@pytest.mark.parametrize("how", AS_OPEN_WEBUI_READS_IT)
async def test_what_the_page_would_read_as_a_stream_is_looked_into_or_refused(
    upstream: Upstream, proxy: str, how: str
) -> None:
    status, lines = AS_OPEN_WEBUI_READS_IT[how]
    start = b"\n" if how == "named elsewhere" else b""  # JSON may begin so, an event stream not

    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(start + CODE, status, *lines)

    upstream.script = script
    answer = await chat(proxy, NAMED)
    assert answer.status == 502
    assert answer.json()["error"]["code"] == "upstream_protocol"
    assert (await chat(proxy)).body == start + CODE  # other clients


async def test_a_compressed_stream_is_looked_into(upstream: Upstream, proxy: str) -> None:
    async def script(request: Request, wire: Wire) -> None:
        body = gzip.compress(text("a") + CODE + DONE)
        await wire.answer(body, "200 OK", LABEL, "Content-Encoding: gzip")

    upstream.script = script
    assert (await chat(proxy, NAMED)).body == text("a") + DONE


async def test_a_line_of_a_broken_stream_is_not_handed_on(upstream: Upstream, proxy: str) -> None:
    upstream.script = streams(text("a"), CODE.removesuffix(b"\n"), end=lambda wire: wire.reset())
    answer = await chat(proxy, NAMED)
    assert answer.body.startswith(text("a"))
    assert b"execute" not in answer.body


async def metrics(url: str) -> str:
    async with Client(url) as client:
        await client.send("GET", "/-/metrics")
        return (await (await client.head()).read()).body.decode()
