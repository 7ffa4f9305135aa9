"""Which client gets which dialect: first match wins."""

import pytest
from lifecycle_proxy.config.model import ClientRule
from lifecycle_proxy.core.apis import CHAT, RESPONSES, Api
from lifecycle_proxy.core.context import Span
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.routes import split_prefixes
from lifecycle_proxy.handlers.dialect_selection import SPAN_HEADER, DialectSelector, span
from multidict import CIMultiDict

RULES = [
    ClientRule(header="user-agent", match="Python/3.* aiohttp/3.*", dialect="comment"),
    ClientRule(header="X-OpenWebUI-User-Id", dialect="bare"),
    ClientRule(header="User-Agent", match="python*", dialect="off"),
]


def head(given: dict[str, str]) -> CIMultiDict[str]:
    return CIMultiDict({name.replace("_", "-"): value for name, value in given.items()})


def choose(profile: str | None = None, default: str = "chunk", **given: str) -> str:
    return DialectSelector(RULES, default).choose(head(given), profile)


def test_nobody_in_particular_gets_the_default() -> None:
    assert choose() == "chunk"
    assert choose(default="off") == "off"
    assert choose(user_agent="curl/8") == "chunk"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_header_beats_everything(dialect: str) -> None:
    given = {"user_agent": "Python/3.12 aiohttp/3.14", "x_lifecycle_events": f" {dialect.upper()} "}
    assert choose("plain", **given) == dialect


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_path_beats_the_rules(dialect: str) -> None:
    assert choose(dialect, user_agent="Python/3.12 aiohttp/3.14") == dialect


@pytest.mark.parametrize(
    ("given", "dialect"),
    [
        ({"user_agent": "Python/3.12 aiohttp/3.14.5"}, "comment"),
        ({"USER_AGENT": "python/3.12 AIOHTTP/3.9"}, "comment"),
        ({"user_agent": "Python/3.12 aiohttp/4.0"}, "off"),
        ({"user_agent": "Python/2.7 aiohttp/3.0", "x_openwebui_user_id": "7"}, "bare"),
        ({"x_openwebui_user_id": ""}, "bare"),
        ({"user_agent": "xPython/3.12 aiohttp/3.14.5"}, "chunk"),
    ],
)
def test_rules_are_tried_in_order(given: dict[str, str], dialect: str) -> None:
    assert choose(**given) == dialect


@pytest.mark.parametrize(
    ("lang", "version", "dialect"),
    [
        ("python", "1.50.0", "plain"),
        ("python", "1.97.9", "plain"),
        ("python", "1.98.0", "chunk"),
        ("python", "1.100.0", "chunk"),
        ("python", "2.0.0", "chunk"),
        ("python", "0.28.1", "plain"),
        ("Python", "1.97.2-beta", "plain"),
        ("js", "4.104.0", "plain"),
        ("js", "5.10.9", "plain"),
        ("js", "5.11.0", "chunk"),
        ("js", "6.0.0", "chunk"),
        ("python", "", "plain"),
        ("python", "unknown", "plain"),
        ("python", "9" * 5000 + ".1", "plain"),
        ("go", "0.1.0", "chunk"),
        ("", "1.0.0", "chunk"),
    ],
)
def test_sdks_that_wrap_named_events_get_plain(lang: str, version: str, dialect: str) -> None:
    given = {"x_stainless_lang": lang, "x_stainless_package_version": version}
    assert choose(**given) == dialect


def test_a_rule_beats_the_version_of_the_sdk() -> None:
    given = {"x_stainless_lang": "python", "x_stainless_package_version": "1.0.0"}
    assert choose(user_agent="python-x", **given) == "off"


AIOHTTP = {"user_agent": "Python/3.11 aiohttp/3.14.5"}
WEBUI = {"x_openwebui_user_id": "7"}


@pytest.mark.parametrize(
    ("given", "dialect"),
    [
        (AIOHTTP, "openwebui"),
        ({"user_agent": "Python/3.13 aiohttp/3.9.0rc0"}, "openwebui"),
        (WEBUI, "openwebui"),
        ({"X_OpenWebUI_Chat_Id": ""}, "openwebui"),
        ({"user_agent": "curl/8", "x_openwebui_user_email": "a@b"}, "openwebui"),
        ({"user_agent": "Python/3.11 aiohttp/4.0.0"}, "off"),
        ({"user_agent": "app Python/3.11 aiohttp/3.14.5"}, "off"),
        ({"user_agent": "python-httpx/0.28"}, "off"),
        ({"x_openwebui": "7"}, "off"),
        # the SDK says what it is
        ({**AIOHTTP, "x_stainless_lang": "python", "x_stainless_package_version": "2.0"}, "off"),
        ({**AIOHTTP, "x_stainless_lang": "python", "x_stainless_package_version": "1.0"}, "plain"),
        ({**WEBUI, "x_stainless_lang": "js", "x_stainless_package_version": "4.0"}, "plain"),
        ({**WEBUI, "x_stainless_lang": ""}, "off"),
        # whoever says what he wants gets it
        ({**WEBUI, "x_lifecycle_events": "chunk"}, "chunk"),
    ],
)
def test_open_webui_gets_its_cards(given: dict[str, str], dialect: str) -> None:
    headers = head(given)
    assert DialectSelector([], "off").choose(headers, None) == dialect
    if "x_lifecycle_events" not in given:
        assert DialectSelector([], "off", builtin=False).choose(headers, None) == "off"
        assert DialectSelector([], "off").choose(headers, "bare") == "bare"


LOBE_USER = "DEFAULT_LOBE_CHAT_USER"
NODE_4 = {"x_stainless_lang": "js", "x_stainless_package_version": "4.104.0"}
NODE_6 = {"x_stainless_lang": "js", "x_stainless_package_version": "6.1.0"}


@pytest.mark.parametrize("sdk", [{}, NODE_4, NODE_6])
@pytest.mark.parametrize(
    ("given", "user", "dialect"),
    [
        ({"x_client": "LobeHub"}, "", "quote"),
        ({"x_title": "LobeHub"}, "", "quote"),
        ({"X_Title": " lobehub "}, "", "quote"),
        ({"http_referer": "https://lobehub.com"}, "", "quote"),
        ({"http_referer": "https://lobehub.com/"}, "", "quote"),
        ({"x_novita_source": "lobechat"}, "", "quote"),
        ({}, LOBE_USER, "quote"),
        ({"x_client": "LobeHub 2"}, "", None),
        ({"http_referer": "https://lobehub.com.example"}, "", None),
        ({"referer": "https://lobehub.com"}, "", None),
        ({}, LOBE_USER.lower(), None),
        ({"x_client": "LobeHub", "x_lifecycle_events": "off"}, LOBE_USER, "off"),
    ],
)
def test_lobe_chat_gets_lines(
    given: dict[str, str], user: str, dialect: str | None, sdk: dict[str, str]
) -> None:
    headers, chooser = head({**given, **sdk}), DialectSelector([], "chunk")
    assert chooser.choose(headers, None, CHAT, user) == (
        dialect or ("plain" if sdk == NODE_4 else "chunk")
    )
    if "x_lifecycle_events" not in given:
        assert chooser.choose(headers, "bare", CHAT, user) == "bare"
        blind = DialectSelector([], "chunk", builtin=False)
        assert blind.choose(headers, None, CHAT, user) == "chunk"
        rule = DialectSelector([ClientRule(header="x-client", dialect="comment")], "chunk")
        assert (rule.choose(headers, None, CHAT, user) == "comment") is ("x_client" in given)


@pytest.mark.parametrize("builtin", [True, False])
def test_a_rule_beats_what_is_built_in(builtin: bool) -> None:
    chooser = DialectSelector(RULES, "chunk", builtin=builtin)
    assert chooser.choose(head(AIOHTTP), None) == "comment"
    assert chooser.choose(head(WEBUI), None) == "bare"


def test_without_built_in_rules_no_sdk_is_too_old() -> None:
    given = {"x_stainless_lang": "python", "x_stainless_package_version": "1.0.0"}
    assert DialectSelector([], "chunk", builtin=False).choose(head(given), None) == "chunk"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    for profile, given in ((None, {"x_lifecycle_events": "klingon" * 99}), ("klingon", {})):
        with pytest.raises(ProxyError, match="klingon") as caught:
            choose(profile, **given)
        assert caught.value.code == "bad_request"
        assert all(name in caught.value.message for name in DIALECTS)
        assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("/-/as/bare/v1/chat?x", ("bare", "/v1/chat?x")),
        ("/-/as/bare//x%2F", ("bare", "//x%2F")),
        ("/-/as/bare", ("bare", "/")),
        ("/-/as/bare/", ("bare", "/")),
        ("/-/as/", ("", "/")),
        ("/v1/-/as/bare/x", (None, "/v1/-/as/bare/x")),
    ],
)
def test_a_profile_is_split_from_the_path(path: str, split: tuple[str | None, str]) -> None:
    found = split_prefixes(path)
    assert (found.profile, found.path) == split


@pytest.mark.parametrize(
    ("lang", "version", "api", "dialect"),
    [
        ("js", "6.45.0", RESPONSES, "comment"),
        ("JS", "6.45.9", RESPONSES, "comment"),
        ("js", "6.46.0", RESPONSES, "chunk"),
        ("js", "6.45.0", CHAT, "chunk"),
        ("js", "4.104.0", RESPONSES, "plain"),
        ("python", "6.45.0", RESPONSES, "chunk"),
        ("js", "", RESPONSES, "plain"),
    ],
)
def test_an_sdk_that_raises_on_keepalives_gets_comments(
    lang: str, version: str, api: Api, dialect: str
) -> None:
    given = {"x-stainless-lang": lang, "x-stainless-package-version": version}
    assert DialectSelector([], "chunk").choose(CIMultiDict(given), None, api) == dialect


@pytest.mark.parametrize("profile", [None, *DIALECTS])
@pytest.mark.parametrize(("version", "instead"), [("4.104.0", "plain"), ("6.45.0", "comment")])
def test_no_profile_breaks_an_old_sdk_in_a_responses_stream(
    profile: str | None, version: str, instead: str
) -> None:
    headers = head({"x_stainless_lang": "js", "x_stainless_package_version": version})
    name = profile or "chunk"
    typed = DIALECTS[name].names_typed
    assert {name for name, dialect in DIALECTS.items() if not dialect.names_typed} == {
        *("plain", "bare", "comment", "strip", "off"),
    }
    chosen = DialectSelector([], "chunk").choose(headers, profile, RESPONSES)
    assert chosen == (instead if typed else name)
    assert DialectSelector([], "chunk", builtin=False).choose(headers, profile, RESPONSES) == name
    newer = head({"x_stainless_lang": "js", "x_stainless_package_version": "7.0.0"})
    assert DialectSelector([], "chunk").choose(newer, profile, RESPONSES) == name


# --- the span ---------------------------------------------------------------------------------


@pytest.mark.parametrize("default", ["call", "execution"])
def test_without_a_word_the_span_is_the_configured_one(default: Span) -> None:
    assert span(CIMultiDict(), default) == default


@pytest.mark.parametrize("asked", ["call", " Call ", "execution", "EXECUTION"])
@pytest.mark.parametrize("default", ["call", "execution"])
def test_the_header_chooses_the_span(default: Span, asked: str) -> None:
    headers = CIMultiDict({SPAN_HEADER.lower(): asked})
    assert span(headers, default) == asked.strip().lower()


@pytest.mark.parametrize("asked", ["", "both", "call,execution", "klingon" * 99])
def test_an_unknown_span_is_refused_with_the_known_ones(asked: str) -> None:
    with pytest.raises(ProxyError, match="call, execution") as caught:
        span(CIMultiDict({SPAN_HEADER: asked}), "call")
    assert (caught.value.code, caught.value.status) == ("bad_request", 400)
    assert len(caught.value.message) < 200
