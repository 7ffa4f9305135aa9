"""Keys: who is let in, which key the upstream gets, and that none is ever shown."""

import base64
import logging
from urllib.parse import unquote_to_bytes

import pytest
from lifecycle_proxy.app import serve
from lifecycle_proxy.config import model as config

from tests.conftest import StartProxy
from tests.fakes import CHAT, DONE, JSON, Answer, Client, Request, Upstream, Wire, ask, chat, text

pytestmark = pytest.mark.usefixtures("quiet")

KEYS = {"server.api_keys": ["ours-1", "ours-2", "schlüssel"]}
OURS = "Authorization: Bearer ours-1"


async def stream(request: Request, wire: Wire) -> None:
    await wire.stream(text("hi"), DONE, b"")


def assert_refused(answer: Answer) -> None:
    """As OpenAI's SDKs understand it: they raise an AuthenticationError and show the message."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("proxy_error", "invalid_api_key")
    assert error["message"]
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["X-Request-Id"]


# --- who is let in --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "Authorization: Bearer ours-1",
        "Authorization: Bearer ours-2",
        "authorization: bearer   ours-2",
        "Authorization: Bearer schl\xc3\xbcssel",  # UTF-8, on the wire
        "X-Api-Key: ours-1",  # Anthropic's SDKs
        "Api-Key: ours-2",  # Azure's
        "X-Goog-Api-Key: ours-1",
    ],
)
async def test_any_of_the_keys_lets_a_client_in(
    upstream: Upstream, start_proxy: StartProxy, line: str
) -> None:
    upstream.script = stream
    assert (await chat(await start_proxy(KEYS), line)).body == text("hi") + DONE


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Authorization: Bearer wrong",),
        ("Authorization: Bearer ours-",),
        ("Authorization: Bearer ours-11",),
        ("Authorization: Bearer OURS-1",),
        ("Authorization: Bearer",),
        ("Authorization: Bearer ",),
        ("Authorization: ours-1",),
        ("Authorization: Basic ours-1",),
        ("Authorization: Bearer \xff\xfe",),
        ("Authorization: Bearer ours-1, Bearer ours-2",),
        ("X-Api-Key: wrong",),
    ],
)
async def test_without_a_good_key_nothing_is_forwarded(
    upstream: Upstream, start_proxy: StartProxy, lines: tuple[str, ...]
) -> None:
    assert_refused(await chat(await start_proxy(KEYS), *lines))
    assert upstream.wires == []


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/models"),
        ("GET", "/"),
        ("POST", "/v1/files"),
        ("OPTIONS", "/v1/models"),
        ("GET", "/-/as/plain/v1/models"),
        ("POST", f"/-/as/nonsense{CHAT}"),
        ("GET", "/-/metrics"),
        ("GET", "/-/config"),
        ("GET", "/-/nothing"),
        ("GET", "/-/healthy/../config"),
        ("GET", "/-/healthy%2F"),
    ],
)
async def test_every_path_is_guarded(
    upstream: Upstream, start_proxy: StartProxy, method: str, target: str
) -> None:
    body = b"{}" if method == "POST" else None
    assert_refused(await ask(await start_proxy(KEYS), method, target, body=body))
    assert upstream.wires == []


@pytest.mark.parametrize("target", ["/-/healthy", "/-/ready", "/-/ready?verbose"])
async def test_probes_need_no_key(upstream: Upstream, start_proxy: StartProxy, target: str) -> None:
    assert (await ask(await start_proxy(KEYS), "GET", target)).status == 200


async def test_a_preflight_needs_no_key_and_the_request_behind_it_does(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    url = await start_proxy({**KEYS, "server.cors_origins": ["http://page"]})
    lines = ("Origin: http://page", "Access-Control-Request-Method: POST")
    assert (await ask(url, "OPTIONS", CHAT, *lines)).status == 204
    refused = await chat(url, "Origin: http://page")
    assert_refused(refused)
    assert refused.headers["Access-Control-Allow-Origin"] == "http://page"
    assert upstream.wires == []


@pytest.mark.parametrize("target", [CHAT, "/-/config", "/-/metrics", "/-/as/plain/v1/models"])
async def test_a_preflight_needs_a_key_where_no_origins_are_configured(
    upstream: Upstream, start_proxy: StartProxy, target: str
) -> None:
    url = await start_proxy({**KEYS, "upstream.api_key": "theirs-1"})
    asks = ("Origin: https://a.example", "Access-Control-Request-Method: POST")
    assert_refused(await ask(url, "OPTIONS", target, *asks, body=b"hi"))
    assert upstream.wires == []


@pytest.mark.parametrize("path", ["/-/healthy", "/-/ready", "/-/config", "/-/metrics"])
@pytest.mark.parametrize("method", ["OPTIONS", "POST", "PUT", "DELETE", "QUERY"])
async def test_paths_of_ours_are_only_read(
    upstream: Upstream, start_proxy: StartProxy, path: str, method: str
) -> None:
    asks = ("Origin: https://a.example", "Access-Control-Request-Method: GET")
    answer = await ask(await start_proxy(KEYS), method, path, OURS, *asks)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert answer.json()["error"]["code"] == "method_not_allowed"
    assert upstream.wires == []


async def test_paths_of_ours_in_absolute_form(upstream: Upstream, start_proxy: StartProxy) -> None:
    url = await start_proxy(KEYS)
    assert (await ask(url, "GET", f"{url}/-/healthy")).json() == {"status": "ok"}
    assert (await ask(url, "HEAD", f"{url}/-/healthy")).status == 200
    assert_refused(await ask(url, "GET", f"{url}/-/config"))
    assert "server" in (await ask(url, "GET", f"{url}/-/config", OURS)).json()
    assert (await ask(url, "GET", "http://elsewhere/-/healthy")).status == 400
    assert upstream.wires == []


async def test_a_mere_options_is_no_preflight(upstream: Upstream, start_proxy: StartProxy) -> None:
    url = await start_proxy({**KEYS, "server.cors_origins": ["http://page"]})
    assert_refused(await ask(url, "OPTIONS", CHAT, "Origin: http://page"))


async def test_a_client_that_was_refused_may_try_again_on_the_same_connection(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async with Client(await start_proxy(KEYS)) as client:
        await client.send("POST", "/v1/files", body=b"x" * 1000)
        assert_refused(await (await client.head()).read())
        await client.send("POST", "/v1/files", OURS, body=b"y")
        assert (await (await client.head()).read()).status == 200
    assert upstream.request.body == b"y"


# --- which key the upstream gets ------------------------------------------------------------------


@pytest.mark.parametrize("target", [CHAT, "/v1/files", "/-/as/plain/v1/models", "/api/tags"])
async def test_a_key_of_ours_never_goes_upstream(
    upstream: Upstream, start_proxy: StartProxy, target: str
) -> None:
    url = await start_proxy(KEYS)
    await ask(url, "POST", target, JSON, OURS, body=b'{"stream": true}')
    assert "Authorization" not in upstream.request.headers
    assert b"ours-1" not in upstream.request.raw


async def test_of_two_keys_none_goes_upstream(upstream: Upstream, start_proxy: StartProxy) -> None:
    url = await start_proxy(KEYS)
    await ask(url, "GET", "/v1/models", OURS, "authorization: Bearer ours-2")
    await ask(
        url, "GET", "/v1/models", OURS, "Sec-WebSocket-Protocol: openai-insecure-api-key.ours-2"
    )
    for request in upstream.requests:
        assert b"ours" not in request.raw


@pytest.mark.parametrize("sent", [(), ("Authorization: Bearer sk-user",), ("AUTHORIZATION: x",)])
@pytest.mark.parametrize("target", [CHAT, "/v1/files", "/api/tags"])
async def test_the_upstreams_key_replaces_the_clients(
    upstream: Upstream, start_proxy: StartProxy, target: str, sent: tuple[str, ...]
) -> None:
    url = await start_proxy({"upstream.api_key": "theirs-1"})
    await ask(url, "POST", target, JSON, *sent, body=b'{"stream": true}')
    assert upstream.request.headers.getall("Authorization") == ["Bearer theirs-1"]
    assert b"sk-user" not in upstream.request.raw


LONG = "sk-ours-0123456789"
EVERYWHERE = (
    f"Authorization: Bearer {LONG}",
    f"X-Api-Key: {LONG}",
    f"Api-Key: {LONG}",
    f"X-Goog-Api-Key: {LONG}",
    f"X-LiteLLM-Api-Key: Bearer {LONG}",
    f"X-Else: token={LONG}; x=1",
    f"Proxy-Auth: Basic {base64.b64encode(f'me:{LONG}'.encode()).decode()}",
    f"Referer: http://localhost/?key={LONG}&x=1",
    f"X-Quoted: {LONG.replace('-', '%2D')}",
    f"Cookie: a=1; token={LONG}; b=2",
    f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{LONG}",
)


@pytest.mark.parametrize("theirs", ["", "theirs-1"])
@pytest.mark.parametrize("target", [CHAT, "/v1/messages", "/v1/files", "/api/tags"])
async def test_no_key_of_ours_reaches_the_upstream(
    upstream: Upstream, start_proxy: StartProxy, target: str, theirs: str
) -> None:
    url = await start_proxy({"server.api_keys": [LONG, "k"], "upstream.api_key": theirs})
    query = f"?a=%20b&key={LONG}&c&api-key={LONG.replace('-', '%2d')}&d=+{LONG}&e=k&k=e"
    lines = (*EVERYWHERE, "X-Short: k", "X-Word: ok", "User-Agent: k/1")
    answer = await ask(url, "POST", target + query, JSON, *lines, body=b'{"stream": true}')
    sent = upstream.request
    assert answer.status == 200
    assert LONG.encode() not in unquote_to_bytes(sent.raw)
    assert sent.target == f"{target}?a=%20b&c&k=e"
    assert "X-Short" not in sent.headers
    assert sent.headers["Cookie"].replace(" ", "") == "a=1;b=2"
    assert sent.headers["Sec-WebSocket-Protocol"] == "realtime"
    assert (sent.headers["X-Word"], sent.headers["User-Agent"]) == ("ok", "k/1")


@pytest.mark.parametrize("query", ["?key=ours-1", "?key=ours-1&key=ours-2"])
async def test_a_query_of_keys_only_is_left_out(
    upstream: Upstream, start_proxy: StartProxy, query: str
) -> None:
    url = await start_proxy(KEYS)
    await ask(url, "GET", f"/v1/models{query}", OURS)
    await ask(url, "GET", "/v1/models?&x=%41&&", OURS)
    await ask(url, "GET", "/v1/models?", OURS)
    targets = [request.target for request in upstream.requests]
    assert targets[:2] == ["/v1/models", "/v1/models?&x=%41&&"]


async def test_a_key_of_ours_may_come_beside_the_upstreams(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    lines = ("X-Api-Key: ours-1", "Authorization: Bearer sk-user", "X-Goog-Api-Key: g-user")
    await ask(await start_proxy(KEYS), "GET", "/v1/models", *lines)
    sent = upstream.request.headers
    assert (sent["Authorization"], sent["X-Goog-Api-Key"]) == ("Bearer sk-user", "g-user")
    assert "X-Api-Key" not in sent


CREDENTIALS = ("Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key")
BEARER = {"Authorization": "Bearer theirs-1"}
BOTH = {**BEARER, "X-Api-Key": "theirs-1"}


@pytest.mark.parametrize(
    ("target", "header", "lines", "wanted"),
    [
        (CHAT, "", (), BEARER),
        ("/v1/messages", "", (), BOTH),
        ("/messages?beta=true", "", (), BOTH),
        ("/v1/messages/count_tokens", "", (), BOTH),
        ("/v1/models", "", ("anthropic-version: 2023-06-01",), BOTH),
        ("/v1/threads/t_1/messages", "", (), BEARER),
        (CHAT, "Authorization", (), BEARER),
        (CHAT, "api-key", (), {"Api-Key": "theirs-1"}),
        ("/v1/messages", "x-api-key", (), {"X-Api-Key": "theirs-1"}),
        (CHAT, "X-Else", (), {"X-Else": "theirs-1"}),
    ],
)
async def test_the_upstreams_key_goes_where_its_api_expects_it(
    upstream: Upstream,
    start_proxy: StartProxy,
    target: str,
    header: str,
    lines: tuple[str, ...],
    wanted: dict[str, str],
) -> None:
    url = await start_proxy({"upstream.api_key": "theirs-1", "upstream.api_key_header": header})
    own = [f"{name}: sk-user" for name in CREDENTIALS]
    own.append("Sec-WebSocket-Protocol: openai-insecure-api-key.sk-user")
    await ask(url, "POST", target, JSON, *own, *lines, body=b"{}")
    sent = upstream.request
    names = {*CREDENTIALS, "X-Else"}
    assert {name: sent.headers[name] for name in names if name in sent.headers} == wanted
    assert b"sk-user" not in sent.raw


async def test_both_keys_together(upstream: Upstream, start_proxy: StartProxy) -> None:
    url = await start_proxy({**KEYS, "upstream.api_key": "theirs-1"})
    assert (await ask(url, "GET", "/v1/models", OURS)).status == 200
    assert upstream.request.headers.getall("Authorization") == ["Bearer theirs-1"]
    assert_refused(await ask(url, "GET", "/v1/models", "Authorization: Bearer theirs-1"))


async def test_without_keys_of_ours_the_clients_key_is_the_upstreams_business(
    upstream: Upstream, proxy: str
) -> None:
    await ask(proxy, "GET", "/v1/models", "Authorization: Bearer sk-user")
    assert upstream.request.headers.getall("Authorization") == ["Bearer sk-user"]


async def test_keys_may_come_from_the_environment(
    upstream: Upstream, runners: list[serve.Runner]
) -> None:
    flags = {
        "server.listen": "127.0.0.1:0",
        "server.api_keys": ["env:CLIENT_KEY", "ours-2"],
        "upstream.url": upstream.origin,
        "upstream.api_key": "env:UPSTREAM_KEY",
    }
    environ = {"CLIENT_KEY": "ours-env", "UPSTREAM_KEY": "theirs-env"}
    runner, url = await serve.start(config.load(environ=environ, flags=flags))
    runners.append(runner)
    for key, status in (("ours-env", 200), ("ours-2", 200), ("env:CLIENT_KEY", 401)):
        answer = await ask(url, "GET", "/v1/models", f"Authorization: Bearer {key}")
        assert answer.status == status
    assert upstream.requests[0].headers["Authorization"] == "Bearer theirs-env"


@pytest.mark.parametrize("key", ["server.api_keys", "upstream.api_key"])
@pytest.mark.parametrize("environ", [{}, {"SECRET": ""}])
def test_a_variable_that_is_not_set_is_refused_at_start(key: str, environ: dict[str, str]) -> None:
    value = ["env:SECRET"] if key == "server.api_keys" else "env:SECRET"
    with pytest.raises(config.ConfigError, match=f"{key}.*SECRET is not set"):
        config.load(environ=environ, flags={key: value})


def test_an_empty_key_is_refused_at_start() -> None:
    with pytest.raises(config.ConfigError, match=r"server\.api_keys: a key must not be empty"):
        config.load(environ={}, flags={"server.api_keys": ["ours-1", ""]})


# --- nowhere to be seen ---------------------------------------------------------------------------


async def test_no_key_is_ever_shown(
    upstream: Upstream, start_proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = ("sesame-ours", "sesame-theirs", "sesame-guess")
    settings = {"server.api_keys": [secrets[0]], "upstream.api_key": secrets[1]}
    good, bad = (f"Authorization: Bearer {key}" for key in (secrets[0], secrets[2]))
    nonsense = b"GET /v1/x\x01 HTTP/1.1\r\nAuthorization: Bearer sesame-guess\r\n\r\n"
    with caplog.at_level(logging.DEBUG):
        url = await start_proxy(settings)
        answers = [
            await chat(url, good),
            await chat(url, bad),
            await ask(url, "GET", "/-/config", good),
            await ask(url, "GET", "/-/metrics", good),
            await ask(url, "GET", "/-/nothing", good),
            await ask(url, "GET", "/v1/models?key=sesame-guess", good),
            await ask(url, "GET", "/-/as/nonsense/x", good),
        ]
        upstream.refuse()
        for wire in upstream.wires:
            wire.reset()
        answers.append(await chat(url, good))
        assert answers[-1].status == 502
        async with Client(url) as client:
            await client.wire.send(nonsense)
            answers.append(await (await client.head()).read())
    assert "proxy.access" in {record.name for record in caplog.records}
    shown = caplog.text + "".join(
        record.getMessage() + str(vars(record)) for record in caplog.records
    )
    for secret in secrets:
        assert secret not in shown
        assert all(secret.encode() not in answer.raw + answer.body for answer in answers)


async def test_the_settings_are_shown_without_keys(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    settings = {"server.api_keys": ["ours-1", "ours-2"], "upstream.api_key": "theirs-1"}
    shown = (await ask(await start_proxy(settings), "GET", "/-/config", OURS)).json()
    assert shown["server"]["api_keys"] == ["***", "***"]
    assert shown["upstream"]["api_key"] == "***"
    assert shown["upstream"]["url"] == f"{upstream.origin}/v1"


async def test_an_upstream_that_refuses_our_key_is_heard(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b'{"error": "bad key"}', "401 Unauthorized", JSON)

    upstream.script = script
    answer = await chat(await start_proxy({"upstream.api_key": "stale"}))
    assert (answer.status, answer.body) == (401, b'{"error": "bad key"}')
