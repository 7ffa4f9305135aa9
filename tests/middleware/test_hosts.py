"""Names under which the proxy is asked for: a web page's own name must not lead to it."""

from pathlib import Path

import pytest
from lifecycle_proxy.app import serve
from lifecycle_proxy.config import model as config

from tests.conftest import StartProxy
from tests.fakes import CHAT, JSON, Answer, Client, Upstream, ask

pytestmark = pytest.mark.usefixtures("quiet")

SERVED = (
    "127.0.0.1",
    "127.0.0.1:8787",
    "[::1]:8787",
    "192.168.0.7",
    "localhost",
    "LOCALHOST:1",
    "localhost.",
    "app.localhost:8787",
    "host.docker.internal:8787",
    "proxy",
    "proxy:8787",
    "proxy.test",
)
REFUSED = (
    "rebind.evil.example",
    "rebind.evil.example:8787",
    "Evil.Example.",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "notlocalhost.example",
    "evil.example:127.0.0.1",
    "test.example",
)


async def asked(url: str, host: str, method: str = "GET", target: str = "/v1/models") -> Answer:
    """One request under a name."""
    async with Client(url) as client:
        client.host = host
        await client.send(method, target, JSON)
        return await (await client.head()).read()


def assert_refused(answer: Answer) -> None:
    error = answer.json()["error"]
    assert (answer.status, error["type"], error["code"]) == (403, "proxy_error", "host_not_allowed")
    assert (error["param"], "server.hosts" in error["message"]) == ("Host", True)


@pytest.mark.parametrize("host", SERVED)
async def test_a_loopback_listener_serves_this_machines_names(
    upstream: Upstream, proxy: str, host: str
) -> None:
    assert (await asked(proxy, host)).status == 200
    assert upstream.request.headers.getall("Host") == [upstream.origin.partition("//")[2]]


@pytest.mark.parametrize("host", REFUSED)
async def test_a_loopback_listener_serves_no_other_names(
    upstream: Upstream, proxy: str, host: str
) -> None:
    for method, target in (
        *(("GET", "/v1/models"), ("POST", CHAT), ("OPTIONS", "/"), ("GET", "/-/as/off/x")),
        *(("GET", "/-/healthy"), ("GET", "/-/ready"), ("GET", "/-/config"), ("GET", "/-/metrics")),
    ):
        assert_refused(await asked(proxy, host, method, target))
    assert upstream.wires == []


async def test_the_absolute_form_is_no_way_around(upstream: Upstream, proxy: str) -> None:
    assert_refused(await asked(proxy, "a.example", target="http://a.example/v1/models"))
    assert (await asked(proxy, "localhost", target="http://a.example/v1/models")).status == 400
    assert upstream.wires == []


async def test_configured_names_are_served_too(upstream: Upstream, start_proxy: StartProxy) -> None:
    url = await start_proxy({"server.hosts": ["Chat.Example", "*.inner.example"]})
    for host in ("chat.example", "CHAT.example:80", "a.inner.example", "127.0.0.1", "localhost"):
        assert (await asked(url, host)).status == 200
    for host in ("a.chat.example", "inner.example", "evil.example"):
        assert_refused(await asked(url, host))


@pytest.mark.parametrize(
    "settings",
    [
        {"server.hosts": ["*"]},
        {"server.api_keys": ["ours-1"]},
        {"server.listen": "0.0.0.0:0"},
    ],
)
async def test_elsewhere_all_names_are_served(
    upstream: Upstream, start_proxy: StartProxy, settings: dict[str, object]
) -> None:
    url = (await start_proxy(settings)).replace("0.0.0.0", "127.0.0.1")
    async with Client(url) as client:
        client.host = "any.example"
        await client.send("GET", "/v1/models", "Authorization: Bearer ours-1")
        assert (await client.head()).status == 200


async def test_configured_names_are_the_only_ones_elsewhere(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    settings = {"server.hosts": ["chat.example"], "server.api_keys": ["ours-1"]}
    url = await start_proxy(settings)
    assert_refused(await asked(url, "any.example"))
    assert (await asked(url, "chat.example")).status == 401


async def test_a_unix_socket_has_no_name(
    upstream: Upstream, runners: list[serve.Runner], tmp_path: Path
) -> None:
    flags = {
        "server.listen": f"unix:{tmp_path}/s",
        "server.hosts": ["chat.example"],
        "upstream.url": f"{upstream.origin}/v1",
    }
    runner, url = await serve.start(config.load(environ={}, flags=flags))
    runners.append(runner)
    assert (await asked(url, "any.example")).status == 200
    assert (await ask(url, "GET", "/-/healthy")).status == 200
