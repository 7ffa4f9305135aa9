"""The live page of several workers: the process with their store hands on what they report.

A worker reports only while a page of another one is open, and gets the reports of the others only
while one of its own is. Nothing is kept here but what waits to be fetched.
"""

import asyncio
from typing import Final

import msgspec

_MAX_WAITING_BYTES: Final = 32 << 20
_ANSWER_S: Final = 10.0


class PageNews(msgspec.Struct, array_like=True):
    """What one worker is to know.

    Attributes:
        is_watched: a page of another worker is open.
        restarts: report all rows anew: somebody has none of them.
        is_reset: what was known of the others is void.
        reports: of others, by their numbers, in order; b"" for one that is gone.
        questions: the number of each, and see ``PageHub.ask``.
    """

    is_watched: bool
    restarts: bool
    is_reset: bool
    reports: list[tuple[int, bytes]]
    questions: list[tuple[int, list[str]]]


class _Member:
    """One worker."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.has_pages = False
        self.restarts = False
        self.is_reset = False
        self.reports: list[tuple[int, bytes]] = []
        self.size = 0
        self.questions: list[tuple[int, list[str]]] = []

    def put(self, number: int, report: bytes) -> bool:
        """Keep a report until it is fetched; whether there is room."""
        self.size += len(report)
        if self.size > _MAX_WAITING_BYTES:
            self.reports, self.size, self.is_reset = [], 0, True
            return False
        self.reports.append((number, report))
        return True


class _Asked:
    """A question that waits for the first worker that knows."""

    def __init__(self, others: set[int]) -> None:
        self.answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._others = others.copy()

    def take(self, number: int, answer: bytes | None) -> None:
        self._others.discard(number)
        if (answer is not None or not self._others) and not self.answer.done():
            self.answer.set_result(answer)


class PageHub:
    """Between all workers. Each is known by an object of its own."""

    def __init__(self) -> None:
        self._members: dict[object, _Member] = {}
        self._asked: dict[int, _Asked] = {}
        self._next = 0

    def sync(self, worker: object, report: bytes, *, has_pages: bool) -> PageNews:
        """Take what one worker reports, and give it what is for it.

        Args:
            worker: which one.
            report: for those that have a page open; b"" for none.
            has_pages: a page of this worker is open.
        """
        own = self._members.get(worker)
        if own is None:
            own = self._members[worker] = _Member(self._number())
        if has_pages and not own.has_pages:
            self._restart(own)
        own.has_pages = has_pages
        others = [one for one in self._members.values() if one is not own]
        if report:
            for other in others:
                if other.has_pages and not other.put(own.number, report):
                    self._restart(other)
        is_watched = any(one.has_pages for one in others)
        news = PageNews(is_watched, own.restarts, own.is_reset, own.reports, own.questions)
        own.restarts = own.is_reset = False
        own.reports, own.size, own.questions = [], 0, []
        return news

    def leave(self, worker: object) -> None:
        """A worker is gone."""
        gone = self._members.pop(worker, None)
        if gone is not None:
            for asked in self._asked.values():
                asked.take(gone.number, None)
            for other in self._members.values():
                if other.has_pages:
                    other.put(gone.number, b"")

    async def ask(self, worker: object, *question: str) -> bytes | None:
        """Ask all other workers; None if none of them has an answer.

        Args:
            worker: who asks.
            question: whose exchanges, which one, and what of it.
        """
        others = {one.number for who, one in self._members.items() if who != worker}
        number = self._number()
        asked = self._asked[number] = _Asked(others)
        for one in self._members.values():
            if one.number in others:
                one.questions.append((number, list(question)))
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await asked.answer if others else None
        except TimeoutError:
            return None
        finally:
            del self._asked[number]

    def answer(self, worker: object, question: int, answer: bytes | None) -> None:
        """A worker answers.

        Args:
            worker: which one.
            question: its number.
            answer: None if it has none.
        """
        own, asked = self._members.get(worker), self._asked.get(question)
        if own is not None and asked is not None:
            asked.take(own.number, answer)

    def _restart(self, reader: _Member) -> None:
        """All others report from the beginning: one of them has no rows."""
        for other in self._members.values():
            if other is not reader:
                other.restarts = True

    def _number(self) -> int:
        self._next += 1
        return self._next
