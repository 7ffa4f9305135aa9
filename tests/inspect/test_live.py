"""The rows of the live page: what is kept of exchanges, and who is shown them."""

import time

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
    line = live.changes(owner, 0, set())[1]
    return [row["i"] for row in orjson.loads(line)["rows"]] if line else []


def test_each_owner_sees_their_own() -> None:
    live = exchanges()
    for name, owner in (("a", "alice"), ("b", "bob")):
        exchange = an_exchange(name)
        live.follow(exchange, owner)
        live.tapes.tape(f"ex_{name}", 0.0)
    assert (seen(live, "alice"), seen(live, "bob"), seen(live, "eve")) == (["ex_a"], ["ex_b"], [])
    assert seen(live) == ["ex_a", "ex_b"]
    assert live.find("bob", "ex_a") is None
    assert live.find("alice", "ex_a") is not None
    assert [one for one, _ in live.without_words("bob", 9)] == ["ex_b"]


def test_ten_thousand_are_bounded() -> None:
    live, known = exchanges(keep=5), set[str]()
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
    assert len(live.changes(None, 0, set())[1]) < 300_000


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
    [row] = orjson.loads(live.changes(None, 0, set())[1])["rows"]
    bars = {name: (stop is not None, how) for name, _, _, stop, how in row["k"]}
    assert bars == {
        "a": (True, ""),
        "b": (True, "failed"),
        "c": (False, ""),
        "x": (True, "made up"),
    }
    start, stop = next(bar[2:4] for bar in row["k"] if bar[0] == "x")
    assert round(stop - start) == 3000


def test_what_was_asked_is_shown_once_it_is_known() -> None:
    live, known = exchanges(), set[str]()
    exchange = an_exchange("a")
    live.follow(exchange, "")
    version, _ = live.changes(None, 0, known)
    live.on_end(exchange)
    live.note_words("ex_a", "why?")
    live.note_words("ex_a", "other")
    live.note_words("ex_gone", "x")
    [row] = orjson.loads(live.changes(None, version, known)[1])["rows"]
    assert (row["w"], row["d"] is None) == ("why?", False)
