"""The rows of the live page: what is kept of exchanges, and who is shown them."""

import time
from typing import Any

import orjson
from lifecycle_proxy.core.events import Outcome, ToolCompleted, ToolRunning
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.inspect.live import LiveExchanges
from lifecycle_proxy.recording.live_tapes import LiveTapes
from lifecycle_proxy.recording.redactor import Redaction

LONG = "\ud800<b>" + "x" * 10_000_000


def exchanges(keep: int = 3) -> LiveExchanges:
    return LiveExchanges(keep, LiveTapes(Redaction(), keep))


def an_exchange(name: str, model: str = "m") -> Exchange:
    return Exchange("req", "POST", "/v1/chat/completions", "c", token=name, model=model)


def seen(live: LiveExchanges, owner: str | None = None) -> list[str]:
    line = live.changes(owner, 0, {})[1]
    return [row["i"] for row in orjson.loads(line)["rows"]] if line else []


async def test_each_owner_sees_their_own() -> None:
    live = exchanges()
    for name, owner in (("a", "alice"), ("b", "bob")):
        exchange = an_exchange(name)
        live.follow(exchange, owner)
        live.tapes.tape(f"ex_{name}", 0.0)
    assert (seen(live, "alice"), seen(live, "bob"), seen(live, "eve")) == (["ex_a"], ["ex_b"], [])
    assert seen(live) == ["ex_a", "ex_b"]
    assert await live.whole("bob", "ex_a", "cassette") is None
    assert await live.whole("alice", "ex_a", "cassette")


def test_ten_thousand_are_bounded() -> None:
    live, known = exchanges(keep=5), dict[str, int]()
    for number in range(10_000):
        exchange = an_exchange(str(number))
        live.follow(exchange, "")
        live.on_end(exchange)
    version, line = live.changes(None, 0, known)
    assert [row["i"] for row in orjson.loads(line)["rows"]] == [
        f"ex_{n}" for n in range(9995, 10000)
    ]
    assert len(known) == 5
    assert live.changes(None, version, known) == (version, b"")
    exchange = an_exchange("last")
    live.follow(exchange, "")
    live.on_end(exchange)
    change = orjson.loads(live.changes(None, version, known)[1])
    assert (change["gone"], len(change["rows"]), len(known)) == (["ex_9995"], 1, 5)


def test_long_and_odd_names_are_cut() -> None:
    live = exchanges()
    exchange = an_exchange("a", LONG)
    exchange.client = LONG
    live.follow(exchange, "")
    running = ToolRunning(LONG, 0, LONG, LONG, "*")
    live.on_lifecycle(exchange, (running,) * 500)
    assert len(live.changes(None, 0, {})[1]) < 300_000


def test_the_bars_of_tools() -> None:
    live = exchanges()
    exchange = an_exchange("a")
    exchange.started = time.monotonic() - 10
    live.follow(exchange, "")
    for name in "abc":
        live.on_lifecycle(exchange, (ToolRunning(name, 0, name, name, "*"),))
    ends = (("a", Outcome.OK, None), ("b", Outcome.FAILED, None), ("x", Outcome.OK, "inferred"))
    for name, outcome, reason in ends:
        live.on_lifecycle(exchange, (ToolCompleted(name, 0, name, "", "*", outcome, 3000, reason),))
    [row] = orjson.loads(live.changes(None, 0, {})[1])["rows"]
    bars = {name: (stop is not None, how) for name, _, _, stop, how in row["k"]}
    assert bars == {
        "a": (True, ""),
        "b": (True, "failed"),
        "c": (False, ""),
        "x": (True, "made up"),
    }
    start, stop = next(bar[2:4] for bar in row["k"] if bar[0] == "x")
    assert round(stop - start) == 3000


def test_a_bar_ends_however_many_there_are() -> None:
    live = exchanges()
    exchange = an_exchange("a")
    live.follow(exchange, "")
    names = [str(number) for number in range(300)]
    live.on_lifecycle(exchange, [ToolRunning(name, 0, name, name, "*") for name in names])
    ends = [ToolCompleted(name, 0, name, "", "*", Outcome.OK, 3, None) for name in names]
    live.on_lifecycle(exchange, ends)
    [row] = orjson.loads(live.changes(None, 0, {})[1])["rows"]
    assert len(row["k"]) == 200
    assert all(stop is not None for _, _, _, stop, _ in row["k"])


# --- the marks of a lane --------------------------------------------------------------------------

THINK = b'data: {"choices":[{"delta":{"reasoning_content":"Hm"}}]}\n\n'
TEXT = b'data: {"choices":[{"delta":{"content":"Yes","reasoning_content":""}}]}\n\n'
QUOTED = b'data: {"choices":[{"delta":{"content":"\\"reasoning\\":\\"x\\""}}]}\n\n'


def chunk(exchange: Exchange, data: bytes, at_ms: int) -> None:
    exchange.chunks += 1
    exchange.listeners.on_chunk(exchange, data, data, (), exchange.started + at_ms / 1000)


def marks(live: LiveExchanges, seen: int, known: dict[str, int]) -> tuple[int, list[Any]]:
    version, line = live.changes(None, seen, known)
    [row] = orjson.loads(line)["rows"]
    return version, row["l"]


def test_gaps_reasoning_and_heartbeats_are_marked_while_a_page_is_open() -> None:
    live, known = exchanges(), dict[str, int]()
    early, exchange = an_exchange("early"), an_exchange("a")
    live.follow(early, "")
    live.watch(1)
    live.follow(exchange, "")
    for at, data in ((500, THINK), (600, THINK), (800, QUOTED), (1100, TEXT)):
        chunk(early, data, at)
    row = next(
        r for r in orjson.loads(live.changes(None, 0, {})[1])["rows"] if r["i"] == "ex_early"
    )
    assert row["l"] == [0, [["think", 500, 600], ["gap", 800, 1100]]]
    live.on_end(early)
    version, _ = live.changes(None, 0, known)
    chunk(exchange, THINK, 100)
    version, sent = marks(live, version, known)
    assert sent == [0, [["think", 100, 100]]]
    chunk(exchange, THINK, 200)
    exchange.listeners.on_write(exchange, b": keep-alive\n\n", ((0, 14),))
    exchange.listeners.on_write(exchange, b"data: x\n\n", ((0, 9),))
    version, [start, later] = marks(live, version, known)
    assert (start, later[0]) == (0, ["think", 100, 200])  # the last one has grown
    assert [kind for kind, _, _ in later] == ["think", "beat"]
    chunk(exchange, THINK, 300)
    version, [start, later] = marks(live, version, known)
    assert (start, later[-1]) == (1, ["think", 300, 300])


def test_marks_are_bounded() -> None:
    live = exchanges()
    exchange = an_exchange("a")
    live.watch(1)
    live.follow(exchange, "")
    for at in range(1000):
        chunk(exchange, THINK if at % 2 else TEXT, at * 300)
    assert len(marks(live, 0, {})[1][1]) == 200


def test_without_a_page_nothing_follows_chunks() -> None:
    live = exchanges()
    exchange = an_exchange("a")
    live.follow(exchange, "")
    assert not exchange.listeners.follow_bytes
    live.watch(1)
    assert exchange.listeners.follow_bytes
    live.watch(-1)
    other = an_exchange("b")
    live.follow(other, "")
    assert not other.listeners.follow_bytes


# --- what was asked -------------------------------------------------------------------------------


async def test_what_was_asked_is_shown_once_it_is_known() -> None:
    live, known = exchanges(), dict[str, int]()
    exchange = an_exchange("a")
    live.follow(exchange, "")
    recorder = live.tapes.tape("ex_a", 0.0)
    recorder.on_request(exchange)
    version, _ = live.changes(None, 0, known)
    live.on_end(exchange)
    await live.find_words(None)
    [row] = orjson.loads(live.changes(None, version, known)[1])["rows"]
    assert row["d"] is not None
    assert isinstance(row["w"], str)
