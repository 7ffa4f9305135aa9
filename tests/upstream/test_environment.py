"""``upstream.use_proxy_env``: the environment names a proxy, and nothing else is read."""

from pathlib import Path

import pytest
from lifecycle_proxy.upstream.environment import maybe_proxy

from tests.conftest import StartProxy
from tests.fakes import CHAT, JSON, Upstream, ask

pytestmark = pytest.mark.usefixtures("quiet")

VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
ENV = {"upstream.use_proxy_env": True}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy, and a ~/.netrc that knows a password for every host."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    netrc = tmp_path / ".netrc"
    netrc.write_text("default login me password sesame\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))


@pytest.mark.parametrize("has_proxy", [True, False])
@pytest.mark.parametrize("lines", [(), ("Authorization: Bearer sk-user",)])
async def test_netrc_is_never_read(
    upstream: Upstream,
    start_proxy: StartProxy,
    monkeypatch: pytest.MonkeyPatch,
    lines: tuple[str, ...],
    has_proxy: bool,
) -> None:
    if has_proxy:
        monkeypatch.setenv("HTTP_PROXY", upstream.origin)
    answer = await ask(await start_proxy(ENV), "POST", CHAT, JSON, *lines, body=b"{}")
    assert answer.status == 200
    sent = upstream.request
    assert sent.headers.getall("Authorization", []) == [line[15:] for line in lines]
    assert "Proxy-Authorization" not in sent.headers
    assert sent.target == (f"{upstream.origin}{CHAT}" if has_proxy else CHAT)


async def test_the_password_in_the_proxys_url_is_for_the_proxy(
    upstream: Upstream, start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", upstream.origin.replace("//", "//me:secret@"))
    await ask(await start_proxy(ENV), "GET", "/v1/models")
    sent = upstream.request
    assert sent.headers["Proxy-Authorization"] == "Basic bWU6c2VjcmV0"
    assert sent.target == f"{upstream.origin}/v1/models"


@pytest.mark.parametrize(
    ("variables", "origin", "proxy"),
    [
        ({}, "http://a.example", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://a.example", "http://p:1"),
        ({"http_proxy": "http://p:1"}, "https://a.example", None),
        ({"https_proxy": "http://p:1"}, "https://a.example", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "example"}, "http://a.example", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "a.example:81"}, "http://a.example:81", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "b.example"}, "http://a.example", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, "http://a.example", None),
    ],
)
def test_the_environment_names_the_proxy(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], origin: str, proxy: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert maybe_proxy(origin) == proxy
