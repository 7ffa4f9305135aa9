"""What workers that share a live page are given: each other's reports and questions, bounded."""

import asyncio

import pytest
from lifecycle_proxy.state import page_hub
from lifecycle_proxy.state.page_hub import PageHub


def test_nobody_reports_until_somebody_looks() -> None:
    hub = PageHub()
    assert not hub.sync("a", b"", has_pages=False).is_watched
    assert not hub.sync("b", b"", has_pages=True).is_watched
    news = hub.sync("a", b"", has_pages=False)
    assert (news.is_watched, news.restarts) == (True, True)
    hub.sync("a", b"one", has_pages=False)
    hub.sync("a", b"two", has_pages=False)
    [(number, one), (same, two)] = hub.sync("b", b"", has_pages=True).reports
    assert (one, two, number == same) == (b"one", b"two", True)
    assert hub.sync("b", b"", has_pages=True).reports == []
    hub.sync("b", b"", has_pages=False)
    assert not hub.sync("a", b"three", has_pages=False).is_watched
    assert hub.sync("b", b"", has_pages=False).reports == []


def test_one_that_looks_later_gets_all_rows_from_all() -> None:
    hub = PageHub()
    for who in "abc":
        hub.sync(who, b"", has_pages=False)
    hub.sync("a", b"", has_pages=True)
    assert hub.sync("b", b"", has_pages=False).restarts
    assert not hub.sync("b", b"", has_pages=False).restarts
    hub.sync("c", b"", has_pages=True)
    assert hub.sync("b", b"", has_pages=False).restarts
    assert hub.sync("a", b"", has_pages=True).restarts
    assert hub.sync("new", b"", has_pages=False).is_watched


def test_a_worker_that_is_gone_is_said_to_be() -> None:
    hub = PageHub()
    hub.sync("a", b"", has_pages=True)
    hub.sync("b", b"row", has_pages=False)
    hub.leave("b")
    hub.leave("never")
    [(number, _), (gone, nothing)] = hub.sync("a", b"", has_pages=True).reports
    assert (number == gone, nothing) == (True, b"")


def test_one_that_does_not_fetch_costs_little_and_begins_anew() -> None:
    hub = PageHub()
    hub.sync("slow", b"", has_pages=True)
    hub.sync("b", b"", has_pages=False)
    news = [hub.sync("b", b"x" * (1 << 20), has_pages=False) for _ in range(40)]
    assert [one.restarts for one in news].count(True) >= 1
    late = hub.sync("slow", b"", has_pages=True)
    assert late.is_reset
    assert sum(len(report) for _, report in late.reports) <= 32 << 20


async def test_a_question_finds_the_worker_that_knows() -> None:
    hub = PageHub()
    for who in "abc":
        hub.sync(who, b"", has_pages=False)
    asking = asyncio.create_task(hub.ask("a", "*", "ex_1", "drawn"))
    await asyncio.sleep(0)
    assert hub.sync("a", b"", has_pages=False).questions == []
    [(question, what)] = hub.sync("b", b"", has_pages=False).questions
    assert what == ["*", "ex_1", "drawn"]
    hub.answer("b", question, None)
    await asyncio.sleep(0)
    assert not asking.done()
    hub.answer("c", question, b"it")
    hub.answer("c", question, b"again")
    hub.answer("c", 999, b"to nothing")
    assert await asking == b"it"


async def test_a_question_that_nobody_can_answer() -> None:
    hub = PageHub()
    hub.sync("a", b"", has_pages=False)
    assert await hub.ask("a", "*", "ex_1", "drawn") is None
    for who in "bc":
        hub.sync(who, b"", has_pages=False)
    asking = asyncio.create_task(hub.ask("a", "*", "ex_1", "drawn"))
    await asyncio.sleep(0)
    [(question, _)] = hub.sync("b", b"", has_pages=False).questions
    hub.answer("b", question, None)
    hub.leave("c")
    assert await asking is None


async def test_a_worker_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_hub, "_ANSWER_S", 0.01)
    hub = PageHub()
    for who in "ab":
        hub.sync(who, b"", has_pages=False)
    assert await hub.ask("a", "*", "ex_1", "drawn") is None
