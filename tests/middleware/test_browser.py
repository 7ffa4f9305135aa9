"""A real browser: what its pages may read of a proxy on this machine, and what they set off."""

import asyncio
import json
from typing import Any

import pytest

from tests.conftest import StartProxy
from tests.fakes import DONE, JSON, Request, Upstream, Wire, delta, text
from tests.inspect.chromium import a_page, needs_chromium

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.unmeasured, needs_chromium]

_PATIENCE_S = 60.0
# Each way of asking, and what the page got of it.
_PAGE = """<!doctype html><meta charset=utf-8><script>
const proxy = %s, body = JSON.stringify({model: "m", messages: [], stream: true});
const json = {"Content-Type": "application/json", "Authorization": "Bearer x"};
const chat = proxy + "/v1/chat/completions";
const ways = {
  stream: async () => {
    const answer = await fetch(chat, {method: "POST", headers: json, body});
    const all = await answer.text();
    return [answer.status, answer.headers.get("X-Stream-Id") !== null, all];
  },
  simple: async () => await (await fetch(chat, {method: "POST", body})).text(),
  blind: async () => (await fetch(chat, {method: "POST", mode: "no-cors", body})).type,
  models: async () => await (await fetch(proxy + "/v1/models")).text(),
  config: async () => await (await fetch(proxy + "/-/config")).text(),
  image: () => new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve("loaded");
    image.onerror = () => reject("no image");
    image.src = proxy + "/v1/image";
  }),
  socket: () => new Promise((resolve, reject) => {
    const socket = new WebSocket(proxy.replace("http", "ws") + "/v1/realtime");
    socket.onopen = () => resolve("open");
    socket.onerror = () => reject("refused");
  }),
};
(async () => {
  const told = {};
  for (const [name, way] of Object.entries(ways)) {
    try { told[name] = await way(); } catch (failure) { told[name] = null; }
  }
  await fetch("/report", {method: "POST", body: JSON.stringify(told)});
})();
</script>"""


class Page:
    """A web site with one page, which asks the proxy in all ways and reports what it got."""

    def __init__(self) -> None:
        self.proxy = ""
        self.site = Upstream()
        self.site.script = self._serve
        self.report: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def _serve(self, request: Request, wire: Wire) -> None:
        if request.target == "/report":
            self.report.set_result(request.json())
        body = (_PAGE % json.dumps(self.proxy)).encode()
        await wire.answer(body, "200 OK", "Content-Type: text/html")

    @property
    def port(self) -> str:
        return self.site.origin.rpartition(":")[2]


async def backend(request: Request, wire: Wire) -> None:
    """An upstream that lets everybody in, as many do."""
    lines = ("Access-Control-Allow-Origin: *", "Access-Control-Allow-Headers: *")
    if request.method == "POST":
        await wire.stream(text("a secret"), delta("stop"), DONE, b"")
    else:
        await wire.answer(b'{"secret": 1}', "200 OK", JSON, *lines)


async def reported(
    start_proxy: StartProxy, host: str, allowed: str | None = "http://*.chat.example"
) -> dict[str, Any]:
    """What a page on a host got of a proxy that allows some origins."""
    page = Page()
    await page.site.start()
    origins = [] if allowed is None else [f"{allowed}:{page.port}"]
    page.proxy = await start_proxy({"server.cors_origins": origins})
    try:
        async with a_page(f"http://{host}:{page.port}"), asyncio.timeout(_PATIENCE_S):
            return await page.report
    finally:
        await page.site.stop()


async def test_a_page_of_an_allowed_origin_reads_a_stream(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = backend
    got = await reported(start_proxy, "my.chat.example")
    status, has_id, body = got["stream"]
    assert (status, has_id, body.encode()) == (200, True, text("a secret") + delta("stop") + DONE)
    assert "a secret" in got["simple"]
    assert "secret" in got["models"]
    assert "server" in got["config"]


async def test_a_page_of_another_origin_reads_nothing_and_sets_nothing_off(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = backend
    got = await reported(start_proxy, "evil.example")
    assert {name: value for name, value in got.items() if value} == {"blind": "opaque"}
    assert upstream.requests == []


async def test_without_settings_a_page_sets_nothing_off_either(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b'{"secret": 1}', "200 OK", JSON)

    upstream.script = script
    got = await reported(start_proxy, "evil.example", None)
    assert {name: value for name, value in got.items() if value} == {"blind": "opaque"}
    # What is left is the upstream's to judge: CORS is its business where no origins are configured.
    assert {request.method for request in upstream.requests} <= {"OPTIONS", "GET"}
    assert {request.target for request in upstream.requests} <= {
        *("/v1/models", "/v1/chat/completions")
    }


async def test_a_name_that_was_bound_to_this_machine_is_refused(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = backend
    port = proxy.rpartition(":")[2]
    for path in ("/v1/models", "/-/config"):
        url = f"http://rebind.evil.example:{port}{path}"
        async with a_page(url) as page:
            shown = await page.run("document.documentElement.outerHTML")
        assert "host_not_allowed" in shown
        assert "secret" not in shown
    assert upstream.requests == []
