"""The sessions of an agent: which one a request finds, without any process."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.upstream.agents.places import PlaceKey, Places
from lifecycle_proxy.upstream.agents.session import Stop, TurnSink


class Session:
    """A session that does nothing."""

    takes_images = False
    pid = 0

    def __init__(self, on_end: Callable[[ProxyError], None], *, resumes: bool) -> None:
        self.on_end = on_end
        self.session_id = "s" if resumes else ""
        self.resumed = ""
        self.has_ended = False
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def open(self, cwd: str, resume: str) -> bool:
        self.resumed = resume
        return bool(resume)

    async def prompt(self, text: str, images: Sequence[tuple[str, str]], turn: TurnSink) -> Stop:
        raise NotImplementedError

    def cancel(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...

    async def end(self) -> None:
        await self.may_end.wait()
        self.has_ended = True


class Bench:
    def __init__(self, *, resumes: bool = False, max_sessions: int = 2) -> None:
        self.made: list[Session] = []
        self.resumes = resumes
        self.places = Places(self._make, max_sessions=max_sessions, idle_s=0)

    def _make(self, on_end: Callable[[ProxyError], None]) -> Session:
        self.made.append(Session(on_end, resumes=self.resumes))
        return self.made[-1]


def key(fingerprint: str) -> PlaceKey:
    return PlaceKey("owner", "/", fingerprint)


@pytest.mark.parametrize("resumes", [True, False])
async def test_a_history_that_was_there_twice_is_nobodys(*, resumes: bool) -> None:
    """Also where one of the two was ended meanwhile: whose it is now cannot be known."""
    bench = Bench(resumes=resumes, max_sessions=2)
    for _ in range(2):
        place, _ = await bench.places.take(key("empty"))
        bench.places.keep(place, key("hello"))
    other, _ = await bench.places.take(key("other"))  # in the place of the first
    assert bench.made[0].session_id == ("s" if resumes else "")
    place, is_known = await bench.places.take(key("hello"))
    assert not is_known
    assert place.session is bench.made[-1]
    assert bench.made[-1].resumed == ""
    assert other.session is not place.session


@pytest.mark.parametrize("resumes", [True, False])
async def test_a_process_that_died_is_gone_on_with_or_begun_anew(*, resumes: bool) -> None:
    bench = Bench(resumes=resumes)
    place, _ = await bench.places.take(key("empty"))
    bench.places.keep(place, key("hello"))
    bench.made[0].on_end(ProxyError("upstream_unreachable", "it ended"))
    again, is_known = await bench.places.take(key("hello"))
    assert is_known is resumes
    assert again.session is bench.made[1]
    assert bench.made[1].resumed == ("s" if resumes else "")


async def test_one_that_dies_with_the_end_of_its_prompt() -> None:
    bench = Bench()
    place, _ = await bench.places.take(key("empty"))
    bench.made[0].on_end(ProxyError("upstream_unreachable", "it ended"))
    bench.places.keep(place, key("hello"))
    again, is_known = await bench.places.take(key("hello"))
    assert not is_known
    assert again.session is bench.made[1]


async def test_processes_that_are_being_ended_count() -> None:
    bench = Bench(max_sessions=1)
    for one in "ac":
        place, _ = await bench.places.take(key(one))
        bench.made[-1].may_end.clear()
        bench.places.drop(place)
        await asyncio.sleep(0)
    with pytest.raises(ProxyError) as caught:
        await bench.places.take(key("b"))
    assert caught.value.code == "too_many_sessions"
    bench.made[0].may_end.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.made[0].has_ended
    _, is_known = await bench.places.take(key("b"))
    assert not is_known
    bench.made[1].may_end.set()
    await bench.places.close()


async def test_only_so_many_histories_are_known() -> None:
    bench = Bench(max_sessions=2)
    for number in range(1001):
        place, _ = await bench.places.take(key(f"new {number}"))
        bench.places.keep(place, key(f"known {number}"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert len(bench.places._known) == 1000
    assert key("known 0") not in bench.places._known
