"""Who gets which dialect. First match wins:

1. the header ``X-Lifecycle-Events: NAME``;
2. the path profile ``/-/as/NAME/v1/...``, for clients where only the base URL can be set;
3. the configured ``[[lifecycle.clients]]`` rules;
4. the built-in rules: LobeChat gets ``quote``; OpenAI SDKs too old for named events, by their
   ``x-stainless`` headers, get ``plain``; Open WebUI gets ``openwebui``;
5. the configured default.

In Responses streams nearly all dialects write the same. There the SDK's version decides between
them, whatever was asked for: an old one breaks on a named event.
"""

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from lifecycle_proxy.config.model import ClientRule
from lifecycle_proxy.core.apis import CHAT, Api
from lifecycle_proxy.core.context import Span
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.exchange.errors import ProxyError

HEADER: Final = "X-Lifecycle-Events"
SPAN_HEADER: Final = "X-Lifecycle-Span"
# The first versions that leave a named event alone (read in the packages; the ones before wrap it).
_FIRST_WITH_NAMES: Final = {"python": (1, 98), "js": (5, 11)}

# With ENABLE_FORWARD_USER_INFO_HEADERS Open WebUI names its users to the backend. Without, it looks
# like any program that is written with aiohttp; for those its dialect is safe, too.
_OPEN_WEBUI_PREFIX: Final = "x-openwebui-"
_AIOHTTP: Final = re.compile(r"Python/3\.\d+ aiohttp/3\.")

# LobeChat names itself in requests of some of its providers (New API, OpenRouter, Higress, Vercel
# AI Gateway, Novita), and its user in those editions of it that have no accounts.
_LOBE_CHAT_HEADERS: Final = {
    "x-client": "lobehub",
    "x-title": "lobehub",
    "http-referer": "https://lobehub.com",
    "x-novita-source": "lobechat",
}
_LOBE_CHAT_USER: Final = "DEFAULT_LOBE_CHAT_USER"

_Match = Callable[[str], object]


class DialectSelector:
    """Picks the dialect of a request.

    Args:
        rules: the configured rules, in order.
        default: the dialect for everybody else.
        builtin: whether clients are recognised without a rule.
    """

    def __init__(self, rules: Sequence[ClientRule], default: str, *, builtin: bool = True) -> None:
        self._default = default
        self._builtin = builtin
        self._rules: list[tuple[str, _Match, str]] = [
            (
                rule.header,
                re.compile(fnmatch.translate(rule.match), re.IGNORECASE).match,
                rule.dialect,
            )
            for rule in rules
        ]

    def choose(
        self, headers: Mapping[str, str], profile: str | None, api: Api = CHAT, user: str = ""
    ) -> str:
        """The name of the dialect.

        Args:
            headers: the request's, case-insensitive.
            profile: the NAME in ``/-/as/NAME/``.
            api: that is asked for.
            user: as the request's body names it.

        Raises:
            ProxyError: ``bad_request`` for a name that is not known.
        """
        name = self._choose(headers, profile, user)
        is_sdk = self._builtin and "x-stainless-lang" in headers
        if api.sdk_version_decides and is_sdk and DIALECTS[name].names_typed:
            if _raises_on_keepalives(headers):
                return "comment"
            if _wraps_named_events(headers):
                return "plain"
        return name

    def _choose(self, headers: Mapping[str, str], profile: str | None, user: str) -> str:
        asked = headers.get(HEADER)
        if asked is not None:
            return _known(asked.strip().lower(), HEADER)
        if profile is not None:
            return _known(profile, "path")
        for header, match, dialect in self._rules:
            value = headers.get(header)
            if value is not None and match(value):
                return dialect
        if self._builtin:
            if user == _LOBE_CHAT_USER or _is_lobe_chat(headers):
                return "quote"
            if "x-stainless-lang" in headers:
                return "plain" if _wraps_named_events(headers) else self._default
            if _is_open_webui(headers):
                return "openwebui"
        return self._default


def span(headers: Mapping[str, str], default: Span) -> Span:
    """The span that a request asks for.

    Args:
        headers: the request's, case-insensitive.
        default: the configured one.

    Raises:
        ProxyError: ``bad_request`` for a name that is not known.
    """
    asked = headers.get(SPAN_HEADER)
    match default if asked is None else asked.strip().lower():
        case ("call" | "execution") as known:
            return known
        case name:
            message = f"unknown span {name[:40]!r}; known are call, execution"
            raise ProxyError("bad_request", message, SPAN_HEADER)


def _known(name: str, place: str) -> str:
    if name not in DIALECTS:
        message = f"unknown dialect {name[:40]!r} in the {place}; known are {', '.join(DIALECTS)}"
        raise ProxyError("bad_request", message, place)
    return name


def _is_lobe_chat(headers: Mapping[str, str]) -> bool:
    for name, value in _LOBE_CHAT_HEADERS.items():
        given = headers.get(name)
        if given is not None and given.strip().rstrip("/").lower() == value:
            return True
    return False


def _is_open_webui(headers: Mapping[str, str]) -> bool:
    if _AIOHTTP.match(headers.get("User-Agent", "")):
        return True
    for name in headers:
        if name[:2] in ("X-", "x-") and name.lower().startswith(_OPEN_WEBUI_PREFIX):
            return True
    return False


def _raises_on_keepalives(headers: Mapping[str, str]) -> bool:
    """openai-node 6.45 raises on what its Responses helper does not know; 6.46 knows keepalives."""
    version = headers.get("x-stainless-package-version", "")
    return headers["x-stainless-lang"].lower() == "js" and version.startswith("6.45.")


def _wraps_named_events(headers: Mapping[str, str]) -> bool:
    first = _FIRST_WITH_NAMES.get(headers.get("x-stainless-lang", "").lower())
    if first is None:
        return False
    version = re.match(r"(\d{1,9})\.(\d{1,9})", headers.get("x-stainless-package-version", ""))
    return version is None or (int(version[1]), int(version[2])) < first
