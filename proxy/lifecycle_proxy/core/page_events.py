"""Events that a page acts on, sent by the upstream: Open WebUI's ``"event"`` beside the choices.

Open WebUI hands the object ``event`` of any chunk to its page. Some types draw (a status line, a
source), others run code in the page (``execute``), ask its user (``confirmation``, ``input``), put
a document into a frame (``embeds``), or change other messages (``chat:outlet``). So only types that
draw pass, and what is not known does not. docs/security.md has the list with its reasons.

Strategy: a chunk concerns this module only if the key ``"event"`` is in its bytes, in any of the
spellings that JSON has for it. ``ChunkTemplates`` is no way around: between two chunks of one
template only the inside of one string differs.

Rules, as Open WebUI reads (0.12.4): lines end at LF only; each line that begins with ``data:`` is
decoded alone, whatever the event around it. So a line with the key must be such a line and JSON,
else its event is taken out: what cannot be judged is not safe. An event that is too large to be
decoded passes up to the key, and ends there: its JSON is then no JSON.
"""

import re
from typing import Any, Final, Literal

import orjson

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.counts import Counts

PageEvents = Literal["safe", "all", "none"]

# Read in Open WebUI 0.12.4: each draws text, links or pictures in the message that is being
# written, as the text of the answer can, or the title or a note of this chat.
SAFE: Final = frozenset(
    (
        *("status", "message", "replace", "citation", "source", "files", "notification"),
        *("chat:message", "chat:message:delta", "chat:message:files", "chat:message:error"),
        *("chat:message:follow_ups", "chat:title", "chat:tags"),
    )
)
_KEY: Final = re.compile(rb'"(?:e|\\u0065)(?:v|\\u0076)(?:e|\\u0065)(?:n|\\u006[eE])(?:t|\\u0074)"')
_LONGEST_KEY: Final = len(rb'"\u0065\u0076\u0065\u006e\u0074"')
_DATA: Final = b"data:"


class PageEventFilter:
    """Which events of one stream are taken out.

    Attributes:
        is_cutting: inside a large event whose rest is taken out.

    Args:
        allowed: types that pass.
        own_pages: what the URLs of the proxy's own pages begin with, which may be embedded; "" for
            none.
    """

    def __init__(self, allowed: frozenset[str], own_pages: str = "") -> None:
        self.is_cutting = False
        self._allowed = allowed
        self._own_page = re.compile(re.escape(own_pages) + "[0-9a-f]{32}") if own_pages else None
        self._before = b""  # the end of the pieces of a large event that have passed

    def blocks(self, event: sse.Event, counts: Counts) -> bool:
        """Whether an event, or this piece of one, is to be taken out.

        Args:
            event: or a piece of a large one.
            counts: where events are counted that are taken out, or cut.
        """
        if event.parsed:
            self.is_cutting, self._before = False, b""
            is_blocked = has_key(event.raw) and not self._may_pass(event.raw)
            counts.page_events += is_blocked
            return is_blocked
        known = self._before + event.raw
        is_found = not self.is_cutting and has_key(known)
        counts.page_events += is_found
        is_blocked = self.is_cutting or is_found
        self.is_cutting = is_blocked and not event.closed
        self._before = b"" if event.closed else known[-_LONGEST_KEY:]
        return is_blocked

    def blocks_rest(self, rest: bytes) -> bool:
        """Whether what is left of an event that broke off is to be taken out."""
        return self.is_cutting or has_key(self._before + rest)

    def _may_pass(self, raw: bytes) -> bool:
        return all(self._is_safe(line) for line in raw.split(b"\n") if has_key(line))

    def _is_safe(self, line: bytes) -> bool:
        if not line.startswith(_DATA):
            return False
        try:
            chunk = orjson.loads(line[len(_DATA) :].strip())
        except orjson.JSONDecodeError:
            return False
        event = chunk.get("event") if isinstance(chunk, dict) else None
        if not isinstance(event, dict):
            return True  # Open WebUI fails on it, and goes on with the next line
        kind = event.get("type")
        return (isinstance(kind, str) and kind in self._allowed) or self._is_own(event)

    def _is_own(self, event: dict[str, Any]) -> bool:
        """Whether an event embeds the proxy's own page for an approval, and nothing else."""
        page = self._own_page
        if page is None or event.keys() != {"type", "data"} or event["type"] != "embeds":
            return False
        data = event["data"]
        urls = data.get("embeds") if isinstance(data, dict) and len(data) == 1 else None
        urls = urls if isinstance(urls, list) else [None]
        return all(isinstance(url, str) and page.fullmatch(url) for url in urls)


def maybe_filter(page_events: PageEvents, own_pages: str = "") -> PageEventFilter | None:
    """What this setting takes out; None for nothing.

    Args:
        page_events: the setting.
        own_pages: see ``PageEventFilter``.
    """
    if page_events == "all":
        return None
    return PageEventFilter(SAFE if page_events == "safe" else frozenset(), own_pages)


def has_key(raw: bytes) -> bool:
    """Whether the key is in these bytes, in any spelling."""
    may_have_it = b'"event"' in raw or b"\\u00" in raw
    return may_have_it and _KEY.search(raw) is not None
