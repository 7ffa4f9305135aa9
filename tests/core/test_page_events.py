"""Events for Open WebUI's page: none that the page would act on passes, however it is written."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from lifecycle_proxy.core import page_events
from lifecycle_proxy.core import sse as sse_parser
from lifecycle_proxy.core.apis import APIS
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.dialects import DIALECTS

from tests.choices import Choices, either, made_all, picking
from tests.core import (
    BYTEWISE,
    DONE,
    WHOLE,
    Json,
    assert_paired,
    call,
    calls,
    finish,
    make,
    play,
    sse,
    text,
    told,
)
from tests.curve import assert_linear

OPEN_WEBUI = DIALECTS["openwebui"]
CODE = {"type": "execute", "data": {"code": "alert(1)"}}
STATUS = {"type": "status", "data": {"description": "looking", "done": False}}
segmented = pytest.mark.parametrize(
    "sizes", [WHOLE, BYTEWISE, (7,)], ids=["whole", "bytewise", "by 7"]
)


def page(body: bytes) -> list[object]:
    """The types of the events that Open WebUI 0.12.4 hands to its page.

    ``utils/misc.py`` cuts at LF only; ``utils/middleware.py`` decodes each ``data:`` line alone.
    """
    types: list[object] = []
    for line in body.decode("utf-8", "replace").split("\n"):
        try:
            data = json.loads(line[5:].strip()) if line.startswith("data:") else None
        except (ValueError, RecursionError):
            continue
        if isinstance(data, dict) and isinstance(data.get("event"), dict):
            types.append(data["event"].get("type"))
    return types


def passed(body: bytes, sizes: tuple[int, ...] = WHOLE, **options: Any) -> bytes:
    return play(body, sizes, dialect=OPEN_WEBUI, **options).data


OWN = "https://proxy.example/-/approvals/"


@pytest.mark.parametrize(
    ("event", "is_passed"),
    [
        ({"type": "embeds", "data": {"embeds": [OWN + "0" * 32]}}, True),
        ({"type": "embeds", "data": {"embeds": [OWN + "0" * 32, "https://evil.example/"]}}, False),
        ({"type": "embeds", "data": {"embeds": [OWN + "0" * 32 + "/../x"]}}, False),
        ({"type": "embeds", "data": {"embeds": [OWN.replace(".", "x") + "0" * 32]}}, False),
        ({"type": "embeds", "data": {"embeds": ["<script></script>"]}}, False),
        ({"type": "embeds", "data": {"embeds": [3]}}, False),
        ({"type": "embeds", "data": {"embeds": OWN + "0" * 32}}, False),
        ({"type": "embeds", "data": {"embeds": [OWN + "0" * 32], "more": 1}}, False),
        ({"type": "embeds", "data": [OWN + "0" * 32]}, False),
        ({"type": "embeds", "data": {"embeds": [OWN + "0" * 32]}, "more": 1}, False),
        ({"type": "execute", "data": {"embeds": [OWN + "0" * 32]}}, False),
    ],
)
@pytest.mark.parametrize("setting", ["safe", "none"])
def test_of_pages_only_those_of_the_proxy_itself_may_be_embedded(
    event: dict[str, Any], setting: str, *, is_passed: bool
) -> None:
    own = page_events.maybe_filter(setting, OWN)  # type: ignore[arg-type]
    without = page_events.maybe_filter(setting)  # type: ignore[arg-type]
    assert own is not None
    assert without is not None
    (seen,) = sse_parser.Parser(1 << 20).feed(sse({"choices": [], "event": event}))
    assert own.blocks(seen, Counts()) is not is_passed
    assert without.blocks(seen, Counts())


@segmented
@pytest.mark.parametrize("kind", sorted(page_events.SAFE))
def test_what_draws_passes_unchanged(kind: str, sizes: tuple[int, ...]) -> None:
    body = text("a") + sse({"event": {"type": kind, "data": {}}}) + text("b") + DONE
    played = play(body, sizes, dialect=OPEN_WEBUI)
    assert (played.data, played.counts.page_events) == (body, 0)


# Read in Open WebUI 0.12.4, and what no version has.
ACTING = (
    *("execute", "confirmation", "input", "embeds", "chat:message:embeds", "chat:outlet"),
    *("request:user_input", "request:elicitation", "terminal:display_file", "chat:reload"),
    *("chat:tasks:cancel", "chat:completion", "response:completion", "chat:active", "new", None),
)


@segmented
@pytest.mark.parametrize("kind", [*ACTING, 1, ["status"], {"status": 1}])
@pytest.mark.parametrize("dialect", ["openwebui", "openwebui-status"])
def test_what_acts_is_taken_out_and_counted(
    kind: object, sizes: tuple[int, ...], dialect: str
) -> None:
    body = text("a") + sse({"event": {"type": kind, "data": {"code": "x"}}}) + text("b") + DONE
    played = play(body, sizes, dialect=DIALECTS[dialect])
    assert played.data == text("a") + text("b") + DONE
    assert played.counts.page_events == 1


def test_other_clients_get_every_byte() -> None:
    body = text("a") + sse({"event": CODE}) + DONE
    for name, dialect in DIALECTS.items():
        if not dialect.runs_page_events:
            played = play(body, dialect=dialect)
            assert (played.data, played.counts.page_events) == (body, 0), name


def test_all_lets_everything_pass_and_none_nothing_but_our_own() -> None:
    own = calls(call(0, "a", "f", "{}")) + finish() + DONE
    body = sse({"event": CODE}) + sse({"event": STATUS}) + own
    dialect = DIALECTS["openwebui-status"]
    assert page(play(body, dialect=dialect, page_events="all").data)[:2] == ["execute", "status"]
    none = play(body, dialect=dialect, page_events="none")
    assert none.counts.page_events == 2
    assert page(none.data) == ["status"] * 2  # running and completed
    assert [told(event) for event in none.events] == ["running a f", "completed a f ok"]


@segmented
def test_calls_in_such_a_chunk_are_not_announced(sizes: tuple[int, ...]) -> None:
    head = json.loads(calls(call(0, "a", "f", "{}"))[6:])
    body = sse(head | {"event": CODE}) + text("b") + DONE
    played = play(body, sizes, dialect=OPEN_WEBUI)
    assert (played.data, played.events) == (text("b") + DONE, [])


@pytest.mark.parametrize("name", ["responses", "messages"])
@pytest.mark.parametrize(
    "kind", ["response.output_text.delta", "content_block_delta", "response.in_progress"]
)
def test_in_every_api(name: Any, kind: str) -> None:
    assert name in APIS
    good, bad = sse({"type": kind, "delta": "x"}), sse({"type": kind, "delta": "x", "event": CODE})
    played = play(good + good + bad + good, observer=name, dialect=OPEN_WEBUI)
    assert (played.data, played.counts.page_events) == (good * 3, 1)


HIDDEN = {
    "escaped key": b'data: {"\\u0065v\\u0065n\\u0074":{"type":"execute"}}\n\n',
    "escaped in capitals": b'data: {"eve\\u006E\\u0074":{"type":"execute"}}\n\n',
    "escaped type": b'data: {"event":{"type":"\\u0065xecute"}}\n\n',
    "said twice": b'data: {"event":{"type":"status"},"event":{"type":"execute"}}\n\n',
    "typed twice": b'data: {"event":{"type":"status","type":"execute"}}\n\n',
    "among lines": b'data: {"a":1}\ndata: {"event":{"type":"execute"}}\ndata: x\n\n',
    "named": b'event: error\ndata: {"event":{"type":"execute"}}\n\n',
    "without a space": b'data:{"event":{"type":"execute"}}\n\n',
    "not by the grammar": b'data: {"event":{"type":"execute","n":NaN}}\n\n',
    "behind the end": DONE + b'data: {"event":{"type":"execute"}}\n\n',
    "behind an error": b'data: {"error":"x"}\n\ndata: {"event":{"type":"execute"}}\n\n',
    "white space": b'data: {"choices":[],\r\r"event":{"type":"execute"}}\n\n',
    "white space, a key": b'data: {"event":\r\r{"type":"execute"}}\n\n',
    "by line": b'data: {"a":1}\ndata: {"event":{"type":"execute"}}\ndata: {"a":1}\n',
    "unfinished": b'data: {"event":{"type":"execute"}}',
    "native": b"event: hermes.tool.progress\n"
    b'data: {"tool":"f","toolCallId":"a","status":"running","event":{"type":"execute"}}\n\n',
    "large": b'data: {"a":"' + b"x" * 1500 + b'","event":{"type":"execute"}}\n\n',
    "large, key first": b'data: {"event":{"type":"execute"},"a":"' + b"x" * 1500 + b'"}\n\n',
    "large, white space": b": " + b"x" * 1500 + b'\ndata: {"event":\r\r{"type":"execute"}}\n\n',
    "large, among lines": b": " + b"x" * 1500 + b'\ndata: {"event":{"type":"execute"}}\n\n',
}


@segmented
@pytest.mark.parametrize("how", HIDDEN)
@pytest.mark.parametrize("abort", [None, "upstream_error"])
def test_none_hides(how: str, sizes: tuple[int, ...], abort: str | None) -> None:
    body = text("a") + HIDDEN[how]
    assert abort or page(body)[-1:] == ["execute"]  # it would have come through
    options: Json = {"max_event_bytes": 1024, "abort": abort}
    assert "execute" not in page(passed(body + text("b"), sizes, **options))
    assert "execute" not in page(passed(body, sizes, **options))
    assert "execute" not in page(passed(body, sizes, max_event_bytes=1024, translate=False))


@segmented
def test_behind_a_large_one_the_stream_goes_on(sizes: tuple[int, ...]) -> None:
    body = text("a") + HIDDEN["large"] + text("b") + calls(call(0, "a", "f", "{}")) + finish()
    played = play(body + DONE, sizes, dialect=OPEN_WEBUI, max_event_bytes=1024)
    assert played.told == ["running a f", "completed a f ok"]
    assert played.counts.page_events == 1
    assert text("b") in played.data
    assert b"execute" not in played.data


@segmented
def test_a_large_event_without_the_key_passes(sizes: tuple[int, ...]) -> None:
    body = text("x" * 1500) + text("b") + DONE
    assert passed(body, sizes, max_event_bytes=1024) == body


def test_the_key_in_a_text_is_no_key() -> None:
    body = text('say "event" or "\\u0065vent"') + DONE
    assert passed(body) == body


@pytest.mark.parametrize("value", ["execute", ["execute"], None, 1, True])
def test_an_event_that_is_no_object_never_reaches_the_page(value: object) -> None:
    body = sse({"event": value}) + DONE
    assert passed(body) == body


def test_a_comment_or_a_line_that_cannot_be_judged_is_taken_out() -> None:
    assert passed(b': "event"\n\n' + text() + DONE) == text() + DONE
    assert passed(b'{"event":{"type":"status"}}\n\n' + text() + DONE) == text() + DONE


_pieces = picking(
    *HIDDEN.values(),
    *(sse({"event": STATUS}), sse({"event": CODE}), text("a"), text("b"), finish(), DONE),
    *(calls(call(0, "a", "f")), calls(call(0, None, None, "{}")), b": x\n\n", b"\xef\xbb\xbf"),
    *(b'data: {"choices":[],', b'"event":', b'{"type":"execute"}', b"}", b"\r\r", b"\n\n"),
    *(b"\n", b"\r", b'"\\u0065', b'vent":', b"data: ", b'data: {"a":', b"\r\n\r\n"),
)
_sizes = either(
    picking(WHOLE),
    picking(BYTEWISE),
    lambda choices: tuple(1 + choices.below(60) for _ in range(1 + choices.below(8))),
)
Sizes = tuple[int, ...]


def _body(choices: Choices) -> bytes:
    return b"".join(choices.several(_pieces, 12, 1))


@settings(max_examples=600)
@given(made_all(_sizes, picking(30, 1024, 8 << 20), picking(False, True), _body, size=30))
@example((BYTEWISE, 8 << 20, False, b'data: {"choices":[],\r\r"event":{"type":"execute"}}\n\n'))
def test_whatever_is_sent_and_however_it_is_cut(case: tuple[Sizes, int, bool, bytes]) -> None:
    sizes, limit, is_broken, body = case
    played = play(
        body,
        sizes,
        dialect=OPEN_WEBUI,
        max_event_bytes=limit,
        abort="upstream_error" if is_broken else None,
    )
    assert set(map(str, page(played.data))) <= page_events.SAFE
    assert_paired(played.events)
    assert played.counts.failure is None


@settings(max_examples=300)
@given(made_all(_sizes, _body, size=30))
def test_what_is_taken_out_does_not_depend_on_the_cuts(case: tuple[Sizes, bytes]) -> None:
    sizes, body = case
    # A byte order mark in the middle makes no event of its line. Where lines are events, it is one
    # with those behind it if it comes apart from the one before.
    assume(b"\xef\xbb\xbf" not in body[1:])
    # A bare CR behind an LF is a blank line of this event or of the next, as it is cut.
    assume(not re.search(rb"\n\r(?!\n)", body))
    cut, once = (play(body, each, dialect=OPEN_WEBUI) for each in (sizes, WHOLE))
    assert (cut.counts, cut.told) == (once.counts, once.told)
    assert _untimed(cut.data) == _untimed(once.data)


def _untimed(body: bytes) -> bytes:
    """Without durations. Of lines that are events, the blank line behind may stay alone."""
    return re.sub(rb"[0-9.]+|\s+", b"", body)


def test_a_text_chunk_is_not_decoded_because_of_this() -> None:
    """What is like an earlier chunk leaves as the same object, and nothing looked into it."""
    pipeline = make(OPEN_WEBUI)
    pieces = [text(f'a "{number}"') for number in range(20)]
    skimmed = [pipeline.skim(piece) or pipeline.decode(piece, 0.0) for piece in pieces]
    assert skimmed.count(True) == 19


def _hostile(size: int) -> bytes:
    status = sse({"event": {"type": "status", "data": "x" * size}})
    lines = b"".join(b'data: {"event":%d}\n' % number for number in range(size // 20))
    return status + b"data: " + b'"\\u0065v' * (size // 8) + b"\n\n" + lines + b"\n"


@pytest.mark.unmeasured
def test_the_time_grows_with_the_bytes() -> None:
    assert_linear(_hostile, passed, 50_000)


def test_the_list_is_the_one_of_the_docs() -> None:
    docs = Path(__file__).parents[2].joinpath("docs", "security.md").read_text("utf-8")
    assert not [kind for kind in page_events.SAFE if f"`{kind}`" not in docs]
