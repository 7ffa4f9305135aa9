"""Browsers: what a page of a configured origin may do and read, and that others may not."""

import pytest

from tests.conftest import StartProxy
from tests.fakes import (
    CHAT,
    DONE,
    JSON,
    Answer,
    Client,
    Request,
    Upstream,
    Wire,
    ask,
    chat,
    text,
    tool_call,
)

pytestmark = pytest.mark.usefixtures("quiet")

PAGE = "https://page.example"
CORS = {"server.cors_origins": [PAGE, "http://localhost:3000/"]}
ANY = {"server.cors_origins": ["*"]}
FROM_PAGE = f"Origin: {PAGE}"
FROM_ELSEWHERE = "Origin: https://elsewhere.example"
WANTS_POST = "Access-Control-Request-Method: POST"


def cors(answer: Answer) -> dict[str, str]:
    """The CORS headers of an answer, each of them once."""
    names = [name.lower() for name in answer.headers if name.lower().startswith("access-control-")]
    assert len(names) == len(set(names))
    return {name: answer.headers[name] for name in names}


def varies(answer: Answer) -> set[str]:
    values = ",".join(answer.headers.getall("Vary", []))
    return {value.strip().lower() for value in values.split(",")}


def assert_refused(answer: Answer) -> None:
    assert (answer.status, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "server.cors_origins" in answer.json()["error"]["message"]
    assert cors(answer) == {}


def assert_readable(answer: Answer, origin: str = PAGE) -> None:
    assert answer.headers.getall("Access-Control-Allow-Origin") == [origin]
    exposed = {one.strip() for one in answer.headers["Access-Control-Expose-Headers"].split(",")}
    assert {"X-Request-Id", "X-Stream-Id", "Retry-After"} <= exposed


async def stream(request: Request, wire: Wire) -> None:
    await wire.stream(text("hi"), DONE, b"")


async def own_cors(request: Request, wire: Wire) -> None:
    """An upstream that lets everybody in, as many do."""
    await wire.answer(
        b"{}",
        "200 OK",
        JSON,
        "Access-Control-Allow-Origin: *",
        "access-control-allow-credentials: true",
        "Access-Control-Expose-Headers: X-Theirs",
        "Vary: Accept",
    )


# --- preflights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000"])
@pytest.mark.parametrize("target", [CHAT, "/v1/models", "/-/metrics", "/-/as/plain/v1/models"])
async def test_a_preflight_is_answered_by_the_proxy(
    upstream: Upstream, start_proxy: StartProxy, origin: str, target: str
) -> None:
    headers = "authorization,content-type,x-stainless-lang"
    lines = (f"Origin: {origin}", WANTS_POST, f"Access-Control-Request-Headers: {headers}")
    answer = await ask(await start_proxy(CORS), "OPTIONS", target, *lines)
    told = cors(answer)
    assert (answer.status, answer.body) == (204, b"")
    assert told["access-control-allow-origin"] == origin
    assert told["access-control-allow-headers"] == headers
    assert {"GET", "POST", "DELETE"} <= set(told["access-control-allow-methods"].split(", "))
    assert int(told["access-control-max-age"]) > 0
    assert varies(answer) >= {"origin", "access-control-request-headers"}
    assert upstream.wires == []


async def test_a_preflight_may_ask_for_no_headers(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    answer = await ask(await start_proxy(CORS), "OPTIONS", CHAT, FROM_PAGE, WANTS_POST)
    assert (answer.status, cors(answer)["access-control-allow-origin"]) == (204, PAGE)


async def test_a_preflight_leaves_the_connection_in_order(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = stream
    async with Client(await start_proxy(CORS)) as client:
        await client.send("OPTIONS", CHAT, FROM_PAGE, WANTS_POST)
        await (await client.head()).read()
        answer = await (await client.chat(FROM_PAGE)).read()
    assert answer.body == text("hi") + DONE


async def test_a_preflight_of_another_origin_is_refused_here(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    for settings in (CORS, {**CORS, "server.api_keys": ["ours-1"]}):
        url = await start_proxy(settings)
        assert_refused(await ask(url, "OPTIONS", CHAT, FROM_ELSEWHERE, WANTS_POST))
    assert upstream.wires == []


@pytest.mark.parametrize("asks", [True, False])
async def test_a_page_of_the_internet_may_ask_for_the_private_network(
    upstream: Upstream, start_proxy: StartProxy, asks: bool
) -> None:
    lines = ["Access-Control-Request-Private-Network: true"] * asks
    answer = await ask(await start_proxy(CORS), "OPTIONS", CHAT, FROM_PAGE, WANTS_POST, *lines)
    told = cors(answer).get("access-control-allow-private-network")
    assert told == ("true" if asks else None)


async def test_an_options_that_is_no_preflight_is_the_upstreams(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    url = await start_proxy(CORS)
    await ask(url, "OPTIONS", CHAT, FROM_PAGE)
    await ask(url, "OPTIONS", CHAT)
    assert [request.method for request in upstream.requests] == ["OPTIONS", "OPTIONS"]


# --- answers --------------------------------------------------------------------------------------


async def test_a_stream_can_be_read(upstream: Upstream, start_proxy: StartProxy) -> None:
    upstream.script = stream
    answer = await chat(await start_proxy(CORS), FROM_PAGE)
    assert_readable(answer)
    assert varies(answer) == {"origin"}
    assert answer.headers["X-Stream-Id"]
    assert answer.body == text("hi") + DONE


@pytest.mark.parametrize("target", ["/v1/models", "/-/healthy", "/-/metrics"])
async def test_a_plain_answer_can_be_read(
    upstream: Upstream, start_proxy: StartProxy, target: str
) -> None:
    assert_readable(await ask(await start_proxy(CORS), "GET", target, FROM_PAGE))


async def test_errors_of_the_upstream_can_be_read(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b'{"error": "slow"}', "429 Too Many Requests", JSON, "Retry-After: 9")

    upstream.script = script
    answer = await chat(await start_proxy(CORS), FROM_PAGE)
    assert_readable(answer)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "9")


@pytest.mark.parametrize(
    ("target", "status"), [("/-/nothing", 404), ("/-/as/none/v1/x", 400), ("/v1/models", 502)]
)
async def test_errors_of_ours_can_be_read(
    upstream: Upstream, start_proxy: StartProxy, target: str, status: int
) -> None:
    upstream.refuse()
    answer = await ask(await start_proxy(CORS), "GET", target, FROM_PAGE)
    assert answer.status == status
    assert_readable(answer)


async def test_an_early_head_can_be_read(upstream: Upstream, start_proxy: StartProxy) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.gone.wait()

    upstream.script = script
    early = {"server.heartbeat_s": 0.05, "server.heartbeat_before_first_byte": True}
    async with Client(await start_proxy({**CORS, **early})) as client:
        assert_readable(await client.chat(FROM_PAGE))


async def test_a_broken_stream_could_be_read(upstream: Upstream, start_proxy: StartProxy) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(tool_call())
        wire.close()

    upstream.script = script
    answer = await chat(await start_proxy(CORS), FROM_PAGE)
    assert_readable(answer)
    assert answer.end == "cut"


async def test_the_upstreams_own_word_is_replaced(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = own_cors
    answer = await ask(await start_proxy(CORS), "GET", "/v1/models", FROM_PAGE)
    assert_readable(answer)
    assert set(cors(answer)) == {"access-control-allow-origin", "access-control-expose-headers"}
    assert varies(answer) == {"accept", "origin"}


@pytest.mark.parametrize("theirs", ["X-Theirs, x-request-id", "*", ""])
async def test_what_the_upstream_exposes_stays_exposed(
    upstream: Upstream, start_proxy: StartProxy, theirs: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(b"{}", "200 OK", JSON, f"Access-Control-Expose-Headers: {theirs}")

    upstream.script = script
    answer = await ask(await start_proxy(CORS), "GET", "/v1/models", FROM_PAGE)
    assert_readable(answer)
    exposed = answer.headers["Access-Control-Expose-Headers"].lower().split(", ")
    assert set(exposed) >= {one.strip().lower() for one in theirs.split(",") if one}
    assert len(exposed) == len(set(exposed))


async def test_a_star_lets_every_origin_in(upstream: Upstream, start_proxy: StartProxy) -> None:
    url = await start_proxy(ANY)
    for line in (FROM_PAGE, FROM_ELSEWHERE, "Origin: null"):
        assert_readable(await ask(url, "GET", "/v1/models", line), "*")
        preflight = await ask(url, "OPTIONS", CHAT, line, WANTS_POST)
        assert cors(preflight)["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in cors(preflight)


# --- everybody else -------------------------------------------------------------------------------

OTHERS = (
    FROM_ELSEWHERE,
    "Origin: null",
    "Origin: https://page.example.evil",
    "Origin: https://page.example:8443",
    "Origin: http://page.example",
    "Origin: https://sub.page.example",
)


@pytest.mark.parametrize("line", OTHERS)
async def test_other_origins_get_nothing(
    upstream: Upstream, start_proxy: StartProxy, line: str
) -> None:
    url = await start_proxy(CORS)
    for target in ("/v1/models", "/-/config"):
        assert_refused(await ask(url, "GET", target, line))
    assert_refused(await ask(url, "OPTIONS", CHAT, line, WANTS_POST))
    assert_refused(await ask(url, "POST", CHAT, line, "Content-Type: text/plain", body=b"{}"))
    assert upstream.wires == []


async def test_with_a_key_another_origin_may_ask_and_not_read(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    url = await start_proxy({**CORS, "server.api_keys": ["ours-1"]})
    lines = (FROM_ELSEWHERE, "Authorization: Bearer ours-1")
    answer = await ask(url, "GET", "/v1/models", *lines)
    assert (answer.status, cors(answer)) == (200, {})


async def test_a_page_that_came_through_the_proxy_may_use_it(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    url = await start_proxy(CORS)
    for origin in (url, url.replace("http:", "https:")):  # TLS may end in front of the proxy
        answer = await ask(url, "POST", CHAT, f"Origin: {origin}", body=b"{}")
        assert (answer.status, cors(answer)) == (200, {})


FOREIGN = "Sec-Fetch-Site: cross-site"


@pytest.mark.parametrize(
    ("method", "lines", "is_refused"),
    [
        ("POST", (FOREIGN, "Sec-Fetch-Mode: cors", "Content-Type: text/plain"), True),
        ("POST", (FOREIGN, "Sec-Fetch-Mode: navigate", "Content-Type: text/plain;x=1"), True),
        ("POST", (FOREIGN, "Sec-Fetch-Mode: no-cors"), True),
        ("GET", (FOREIGN, "Sec-Fetch-Mode: no-cors"), True),
        ("GET", (FOREIGN, "Sec-Fetch-Mode: navigate"), False),
        ("GET", (FOREIGN, "Sec-Fetch-Mode: cors"), False),
        ("POST", (FOREIGN, "Sec-Fetch-Mode: cors", JSON), False),
        ("POST", (FOREIGN, "Sec-Fetch-Mode: cors", "Authorization: Bearer x"), False),
        ("OPTIONS", (FOREIGN, "Sec-Fetch-Mode: cors", WANTS_POST), False),
        ("POST", ("Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: cors"), False),
        ("POST", ("Sec-Fetch-Site: same-site", "Content-Type: text/plain"), False),
        ("POST", ("Content-Type: text/plain",), False),
    ],
)
async def test_what_another_site_asks_blindly_is_refused_where_no_key_is_needed(
    upstream: Upstream,
    start_proxy: StartProxy,
    method: str,
    lines: tuple[str, ...],
    is_refused: bool,
) -> None:
    keys = {"server.api_keys": ["ours-1"]}
    answer = await ask(await start_proxy(), method, "/v1/x", FROM_ELSEWHERE, *lines)
    assert answer.status == (403 if is_refused else 200)
    assert len(upstream.requests) == (not is_refused)
    given = [line for line in lines if "Authorization" not in line]
    key = "Authorization: Bearer ours-1"
    assert (await ask(await start_proxy(keys), method, "/v1/x", key, *given)).status == 200
    if is_refused:
        assert (await ask(await start_proxy(ANY), method, "/v1/x", FROM_PAGE, *lines)).status == 200


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((f"Referer: {PAGE}/",), 200),
        ((f"Referer: {PAGE}",), 200),
        (("Referer: https://elsewhere.example/",), 403),
        ((f"Referer: {PAGE}.evil/",), 403),
        (("Referer: about:client",), 403),
        ((), 403),
        ((FROM_ELSEWHERE, f"Referer: {PAGE}/"), 403),
    ],
)
async def test_an_image_on_a_page_of_an_allowed_origin(
    upstream: Upstream, start_proxy: StartProxy, lines: tuple[str, ...], status: int
) -> None:
    """Browsers send no Origin for it, but where the page is."""
    url = await start_proxy(CORS)
    answer = await ask(url, "GET", "/v1/x", FOREIGN, "Sec-Fetch-Mode: no-cors", *lines)
    assert answer.status == status
    assert len(upstream.requests) == (status == 200)


SOCKET = ("Connection: Upgrade", "Upgrade: websocket")


@pytest.mark.parametrize(
    ("lines", "is_refused"),
    [
        ((FROM_ELSEWHERE,), True),
        (("Origin: null",), True),
        (("Origin: http://localhost.evil.example",), True),
        (("Origin: http://localhost:3000",), False),
        (("Origin: https://LOCALHOST",), False),
        (("Origin: http://[::1]:3000",), False),
        ((), False),
    ],
)
async def test_a_web_socket_of_another_site_is_refused_where_no_key_is_needed(
    upstream: Upstream, start_proxy: StartProxy, lines: tuple[str, ...], is_refused: bool
) -> None:
    """Browsers ask before no WebSocket, and let the page read all of it."""
    keys = {"server.api_keys": ["ours-1"]}
    key = "Sec-WebSocket-Protocol: openai-insecure-api-key.ours-1"
    answer = await ask(await start_proxy(), "GET", "/v1/realtime", *SOCKET, *lines)
    assert answer.status == (403 if is_refused else 200)
    assert len(upstream.requests) == (not is_refused)
    url = await start_proxy(keys)
    assert (await ask(url, "GET", "/v1/realtime", key, *SOCKET, *lines)).status == 200


PATTERNS = [
    ("https://*.example", "https://a.example", True),
    ("https://*.example", "https://a.b.example", True),
    ("https://*.example", "https://example", False),
    ("https://*.example", "https://a.example.evil", False),
    ("https://*.example", "http://a.example", False),
    ("https://*.example", "https://a.example:8443", False),
    ("chrome-extension://*", "chrome-extension://gfnkjppnnkcicmmnfpmhmcjplpfdecfn", True),
    ("http://localhost:*", "http://localhost:3000", True),
    ("http://localhost:*", "http://localhost.evil:3000", False),
    ("https://Chat.Example", "https://chat.example", True),
    ("https://chat.example:443", "https://chat.example", True),
    ("HTTP://chat.example:80/", "http://chat.example", True),
    ("https://m\u00fcnchen.example", "https://xn--mnchen-3ya.example", True),
    ("https://a.example", "https://aXexample", False),
    ("app://obsidian.md", "app://obsidian.md", True),
    ("null", "null", True),
]


@pytest.mark.parametrize(("pattern", "origin", "is_allowed"), PATTERNS)
async def test_origins_may_be_patterns(
    upstream: Upstream, start_proxy: StartProxy, pattern: str, origin: str, is_allowed: bool
) -> None:
    url = await start_proxy({"server.cors_origins": ["https://other.example", pattern]})
    answer = await ask(url, "GET", "/v1/models", f"Origin: {origin}")
    if is_allowed:
        assert_readable(answer, origin)
    else:
        assert_refused(answer)


async def test_where_origins_are_configured_the_upstream_lets_in_no_others(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    upstream.script = own_cors
    url = await start_proxy(CORS)
    assert cors(await ask(url, "GET", "/v1/models", FROM_ELSEWHERE)) == {}
    assert cors(await ask(url, "OPTIONS", CHAT, FROM_ELSEWHERE, WANTS_POST)) == {}


@pytest.mark.parametrize("lines", [(FROM_ELSEWHERE,), ()])
async def test_a_cache_learns_that_the_answer_depends_on_the_origin(
    upstream: Upstream, start_proxy: StartProxy, lines: tuple[str, ...]
) -> None:
    answer = await ask(await start_proxy(CORS), "GET", "/v1/models", *lines)
    assert "origin" in varies(answer)


async def test_without_origins_cors_is_the_upstreams_business(
    upstream: Upstream, proxy: str
) -> None:
    upstream.script = own_cors
    answer = await ask(proxy, "GET", "/v1/models", FROM_PAGE)
    assert cors(answer) == {
        "access-control-allow-origin": "*",
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "X-Theirs",
    }
    assert varies(answer) == {"accept"}
    await ask(proxy, "OPTIONS", CHAT, FROM_PAGE, WANTS_POST)
    sent = upstream.requests[1]
    assert (sent.method, sent.headers["Origin"]) == ("OPTIONS", PAGE)


async def test_without_origins_nothing_of_ours_is_marked(upstream: Upstream, proxy: str) -> None:
    upstream.script = stream
    for answer in (
        await chat(proxy, FROM_PAGE),
        await ask(proxy, "GET", "/-/healthy", FROM_PAGE),
        await ask(proxy, "GET", "/-/nothing", FROM_PAGE),
    ):
        assert cors(answer) == {}
        assert "Vary" not in answer.headers


async def test_a_path_that_only_decodes_to_one_of_the_proxys_own_is_the_upstreams(
    upstream: Upstream, proxy: str
) -> None:
    async def give(request: Request, wire: Wire) -> None:
        await wire.answer(b"{}", "200 OK", JSON)

    upstream.script = give
    answer = await ask(proxy, "GET", "/%2D/embed/x")
    assert answer.status == 200
    assert cors(answer) == {}
