"""Addresses that the upstream makes of its own name, and what it is told of the client's."""

from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import openai
import pytest
from lifecycle_proxy.app import serve
from lifecycle_proxy.config import model as config

from tests.conftest import StartProxy
from tests.fakes import CHAT, DONE, JSON, Request, Upstream, Wire, ask, delta, text

pytestmark = pytest.mark.usefixtures("quiet")


async def located(
    upstream: Upstream, url: str, address: str, target: str = "/v1/x/", name: str = "Location"
) -> str:
    """The address as the client gets it."""

    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b"", "307 Temporary Redirect", f"{name}: {address}")

    upstream.script = script
    answer = await ask(url, "POST", target, body=b"{}")
    (got,) = answer.headers.getall(name)
    assert isinstance(got, str)
    return got


@pytest.mark.parametrize(
    ("address", "got"),
    [
        ("{upstream}/v1/x?a=%20b#c", "/v1/x?a=%20b#c"),
        ("{upstream}", "/"),
        ("{upstream}?a=1", "/?a=1"),
        ("{UPSTREAM}/api/tags", "/api/tags"),
        ("//{upstream_host}/v1/x", "/v1/x"),
        ("https://{upstream_host}/v1/x", "/v1/x"),
        ("{proxy}/v1/x", "/v1/x"),
        ("/v1/x", "/v1/x"),
        ("x/y?z", "x/y?z"),
        ("?z", "?z"),
        ("https://elsewhere.example/v1/x", "https://elsewhere.example/v1/x"),
        ("http://localhost:1/v1/x", "http://localhost:1/v1/x"),
        ("ftp://{upstream_host}/v1/x", "ftp://{upstream_host}/v1/x"),
        ("http://[", "http://["),
        ("http://a:b:c/", "http://a:b:c/"),
        ("mailto:a@b.example", "mailto:a@b.example"),
    ],
)
@pytest.mark.parametrize("name", ["Location", "Content-Location", "Operation-Location"])
async def test_an_address_of_the_upstream_is_one_of_the_proxy(
    upstream: Upstream, proxy: str, name: str, address: str, got: str
) -> None:
    names = {
        "upstream": upstream.origin,
        "UPSTREAM": upstream.origin.upper().replace("HTTP", "http"),
        "upstream_host": upstream.origin.partition("//")[2],
        "proxy": proxy,
    }
    wanted = got.format(**names)
    assert await located(upstream, proxy, address.format(**names), name=name) == wanted


@pytest.mark.parametrize(
    ("address", "got"),
    [
        ("{upstream}/openai/v2/x", "/v1/x"),
        ("{upstream}/openai/v2", "/v1"),
        ("/openai/v2/x?y", "/v1/x?y"),
        ("{upstream}/openai/v2x", "/openai/v2x"),
        ("{upstream}/else", "/else"),
        ("{proxy}/openai/v2/x", "/v1/x"),
    ],
)
@pytest.mark.parametrize("profile", ["", "/-/as/plain"])
async def test_the_base_of_the_upstream_is_v1_for_clients(
    upstream: Upstream, start_proxy: StartProxy, address: str, got: str, profile: str
) -> None:
    url = await start_proxy({"upstream.url": f"{upstream.origin}/openai/v2"})
    given = address.format(upstream=upstream.origin, proxy=url)
    assert await located(upstream, url, given, f"{profile}/v1/x/") == profile + got


async def test_default_ports_are_alike(start_proxy: StartProxy, upstream: Upstream) -> None:
    url = await start_proxy()
    host = url.partition("//")[2]
    for address in (f"http://{host}/v1/x", f"https://{host}/v1/x"):
        assert urljoin(f"{url}/", await located(upstream, url, address)) == f"{url}/v1/x"


async def test_the_sdk_follows_a_redirect_through_the_proxy(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        if request.target == CHAT:
            await wire.stream(text("hi"), delta("stop"), DONE, b"")
            return
        address = f"http://{request.headers['Host']}{CHAT}"  # as Starlette makes it
        await wire.answer(b"", "307 Temporary Redirect", f"Location: {address}")

    upstream.script = script
    settings = {"server.api_keys": ["ours-1"], "upstream.api_key": "theirs-1"}
    url = await start_proxy(settings)
    asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    async with openai.AsyncOpenAI(base_url=f"{url}/v1/old", api_key="ours-1") as client:
        stream = await client.chat.completions.create(**asked, stream=True)
        assert "".join([one.choices[0].delta.content or "" async for one in stream]) == "hi"
    keys = [request.headers["Authorization"] for request in upstream.requests]
    assert keys == ["Bearer theirs-1"] * 2


# --- X-Forwarded ----------------------------------------------------------------------------------

FORWARDED = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")


async def forwarded(upstream: Upstream, url: str, *lines: str) -> list[list[str]]:
    await ask(url, "POST", CHAT, JSON, *lines, body=b"{}")
    return [upstream.requests[-1].headers.getall(name, []) for name in FORWARDED]


async def test_the_upstream_is_told_of_the_client_if_that_is_wanted(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    url = await start_proxy({"server.forwarded": True})
    host = url.partition("//")[2]
    assert await forwarded(upstream, url) == [["127.0.0.1"], ["http"], [host]]
    before = (
        *("X-Forwarded-For: 10.0.0.1", "X-Forwarded-For: 10.0.0.2"),
        *("X-Forwarded-Proto: https", "X-Forwarded-Host: chat.example"),
    )
    assert await forwarded(upstream, url, *before) == [
        ["10.0.0.1, 10.0.0.2, 127.0.0.1"],
        ["https"],
        ["chat.example"],
    ]


async def test_nothing_is_added_otherwise(upstream: Upstream, proxy: str) -> None:
    assert await forwarded(upstream, proxy) == [[], [], []]
    kept = await forwarded(upstream, proxy, "X-Forwarded-For: 10.0.0.1")
    assert kept == [["10.0.0.1"], [], []]


async def test_a_client_on_a_unix_socket_has_no_address(
    upstream: Upstream, runners: list[serve.Runner], tmp_path: Path
) -> None:
    flags = {
        "server.listen": f"unix:{tmp_path}/s",
        "server.forwarded": True,
        "upstream.url": f"{upstream.origin}/v1",
    }
    runner, url = await serve.start(config.load(environ={}, flags=flags))
    runners.append(runner)
    assert (await forwarded(upstream, url))[:2] == [[], ["http"]]
    kept = await forwarded(upstream, url, "X-Forwarded-For: 10.0.0.1")
    assert kept[0] == ["10.0.0.1"]
