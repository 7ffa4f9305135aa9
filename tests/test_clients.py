"""Which client gets which dialect: first match wins."""

import pytest
from multidict import CIMultiDict

from proxy.clients import Chooser, split_profile
from proxy.config import ClientRule
from proxy.core.dialects import DIALECTS
from proxy.errors import ProxyError

RULES = [
    ClientRule(header="user-agent", match="Python/3.* aiohttp/3.*", dialect="comment"),
    ClientRule(header="X-OpenWebUI-User-Id", dialect="bare"),
    ClientRule(header="User-Agent", match="python*", dialect="off"),
]


def choose(profile: str | None = None, default: str = "chunk", **given: str) -> str:
    headers = CIMultiDict({name.replace("_", "-"): value for name, value in given.items()})
    return Chooser(RULES, default).choose(headers, profile)


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
    assert split_profile(path) == split
