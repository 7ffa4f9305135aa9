"""Which recording answers a request.

Four stages are tried in this order, each more lenient than the one before it:

``exact``
    Method, target and the bytes of the body are those of the recording. GET, HEAD and OPTIONS
    are matched by method and target alone. A body that was too large to be recorded is matched by
    its hash.
``json``
    The same JSON, whatever the order of its keys, without volatile parts (``normalize.VOLATILE``)
    and with the ids of calls renamed in order of appearance; the query in any order. Of a
    multipart body the same parts, whatever the boundary between them.
``conversation``
    The same path, and everything in the request is the same but what came before the user's last
    words, the system prompt, and how tools are described (``normalize.last_turn``).
``order``
    The next recording of the same method and path that has not been given out. Behind other
    stages it is of the same kind of answer, too: nobody gets a stream who did not ask for one.

Credentials in the query are no part of any of them.

Several recordings that fit are given out in the order they were recorded, and each session counts
on its own. After the last one it depends: with ``loop`` the first follows, else the last one is
repeated, by ``order`` only where that is the only stage; ``strict`` does not go by order and
repeats only GET, HEAD and OPTIONS, which change nothing and are polled, so for others that is a
miss.

A recording is found by the client's request and by what was forwarded of it: a replay stands in
for the proxy or for its upstream.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import takewhile
from typing import Any, Final, Literal

from lifecycle_proxy.exchange.routes import maybe_api
from lifecycle_proxy.recording import normalize
from lifecycle_proxy.recording.cassette import RecordedExchange, Request
from lifecycle_proxy.recording.redactor import Redaction
from lifecycle_proxy.replay.near_miss import Miss, miss

Stage = Literal["exact", "json", "conversation", "order"]
# By what is requested: another request does not get the next recording of its path.
BY_QUESTION: Final[tuple[Stage, ...]] = ("exact", "json", "conversation")
STAGES: Final[tuple[Stage, ...]] = (*BY_QUESTION, "order")

_BODILESS: Final = ("GET", "HEAD", "OPTIONS")
_WHOLE: Final = ("exact", "json")  # these look at all of a request
_COMPARED: Final = 100  # recordings that a miss is compared with
_SESSIONS: Final = 10_000


def cleaned_by(redaction: Redaction) -> Callable[[Request], Request]:
    """Makes of a request what a recording with this redaction holds of it."""

    def clean(request: Request) -> Request:
        own = redaction.exchange(request.headers)
        body = None if request.body is None else own.body(request.body)
        return replace(request, target=own.target(request.target), body=body)

    return clean


_CLEAN: Final = cleaned_by(Redaction())


@dataclass(frozen=True, slots=True)
class Rules:
    """How requests are matched.

    Attributes:
        stages: which of ``STAGES``, in which order; ``("order",)`` looks at no body.
        volatile: JSON paths left out of comparisons; ``*`` is any item.
        loop: after the last recording of a request the first follows.
        strict: nothing is given out twice but to GET, HEAD and OPTIONS, and nothing by order,
            unless that is the only stage.
        clean: what is asked as a recording would hold it: with placeholders for secrets. It is
            looked for in both forms.
    """

    stages: tuple[Stage, ...] = STAGES
    volatile: Sequence[str] = normalize.VOLATILE
    loop: bool = False
    strict: bool = False
    clean: Callable[[Request], Request] = _CLEAN

    def __post_init__(self) -> None:
        """Raises ValueError for stages that there are not."""
        known = ", ".join(STAGES)
        given: Any = self.stages
        if not isinstance(given, tuple | list) or not given:
            raise ValueError(f"stages must be a tuple of some of {known}, not {given!r}")
        object.__setattr__(self, "stages", tuple(given))
        for stage in given:
            if stage not in STAGES:
                raise ValueError(f"stages: unknown stage {stage!r} (known are {known})")


@dataclass(frozen=True, slots=True)
class Found:
    """The recording for a request, and the stage that found it."""

    exchange: RecordedExchange
    stage: Stage


class RecordingIndex:
    """Finds recordings.

    Args:
        exchanges: in the order they were recorded.
        rules: how.
        max_sessions: above this many the counters of the session unused for longest are dropped.
    """

    def __init__(
        self,
        exchanges: Iterable[RecordedExchange],
        rules: Rules | None = None,
        *,
        max_sessions: int = _SESSIONS,
    ) -> None:
        self._max_sessions = max_sessions
        self._exchanges = list(exchanges)
        self._rules = rules or Rules()
        stages = self._rules.stages
        if self._rules.strict and stages != ("order",):
            stages = tuple(stage for stage in stages if stage != "order")
        self._index: dict[Stage, dict[Hashable, list[int]]] = {stage: {} for stage in stages}
        self._keys = _KEYS if stages[:1] == ("order",) else {**_KEYS, "order": _last_resort}
        self._sessions: OrderedDict[str, set[int]] = OrderedDict()
        self._giving = threading.Lock()  # held for as long as it takes to choose, no longer
        for number, exchange in enumerate(self._exchanges):
            for request in _views(exchange):
                self._add(number, request)

    def find(self, asked: Request, session: str = "") -> Found | Miss:
        """The recording that answers a request, and count it as given out.

        May be called from any thread. It takes as long as the body is large, and a miss longer.

        Args:
            asked: the request, its body whole.
            session: whose request it is; each has counters of its own.
        """
        last: Found | None = None  # of those that fit best, and have been given out
        clean = cache(partial(self._rules.clean, asked))
        for stage, key in self._found_by(asked, clean):
            candidates = [] if key is None else self._index[stage].get(key, [])
            with self._giving:
                given = self._given(session)
                chosen = self._choose(stage, candidates, given)
                if chosen is not None:
                    given.add(chosen)
                    return Found(self._exchanges[chosen], stage)
            if last is None and candidates and stage != "order":
                last = Found(self._exchanges[candidates[-1]], stage)
        if last is not None and asked.method in _BODILESS:
            return last
        near, is_used_up = self._nearby(asked), last is not None
        return miss(clean(), near, self._rules.volatile, is_used_up=is_used_up)

    def _add(self, number: int, request: Request) -> None:
        form = _RequestKey(request, self._rules.volatile)
        for stage, index in self._index.items():
            found = index.setdefault(self._keys[stage](form), [])
            if not found or found[-1] != number:  # both views of an exchange are mostly the same
                found.append(number)

    def _found_by(
        self, asked: Request, clean: Callable[[], Request]
    ) -> Iterator[tuple[Stage, Hashable]]:
        """The keys of a request, as it is and cleaned, stage by stage.

        Cleaning takes ten times as long as all the rest, and other streams are playing: nothing is
        cleaned before it is needed. Where nothing of a request is a secret, its JSON says as much.
        """
        volatile = self._rules.volatile
        plain = _RequestKey(asked, volatile)
        whole = list(takewhile(_WHOLE.__contains__, self._index))
        for stage in whole:
            yield stage, self._keys[stage](plain)
        cleaned = _RequestKey(clean(), volatile)
        for stage in self._index:
            key = self._keys[stage](plain)
            if stage not in whole:
                yield stage, key
            if (other := self._keys[stage](cleaned)) != key:
                yield stage, other

    def _given(self, session: str) -> set[int]:
        given = self._sessions.setdefault(session, set())
        self._sessions.move_to_end(session)
        if len(self._sessions) > self._max_sessions:
            self._sessions.popitem(last=False)
        return given

    def _choose(self, stage: Stage, candidates: list[int], given: set[int]) -> int | None:
        fresh = next((number for number in candidates if number not in given), None)
        if fresh is not None or not candidates:
            return fresh
        if self._rules.loop:
            given.difference_update(candidates)
            return candidates[0]
        # What only shares a path with the request was never its answer: no reason to repeat it,
        # unless nothing else was wanted.
        is_last_resort = stage == "order" and next(iter(self._index)) != "order"
        return None if self._rules.strict or is_last_resort else candidates[-1]

    def _nearby(self, asked: Request) -> Iterable[tuple[str, Request]]:
        """Recordings of the same path, if there are any, else any."""
        every = [(e.id, request) for e in self._exchanges for request in _views(e)]
        same = [one for one in every if _place(one[1]) == _place(asked)]
        return (same or every)[:_COMPARED]


def _views(exchange: RecordedExchange) -> tuple[Request, ...]:
    """The client's request, and what was forwarded of it."""
    forwarded = exchange.forwarded
    return (exchange.request,) if forwarded is None else (exchange.request, forwarded)


class _RequestKey:
    """A request, and its JSON where that is looked at."""

    def __init__(self, request: Request, volatile: Sequence[str]) -> None:
        self.request = request
        self._volatile = volatile

    @cached_property
    def document(self) -> Any:
        return normalize.normal(self.request, self._volatile)


def _place(request: Request) -> tuple[str, str]:
    return request.method, request.target.partition("?")[0]


def _exact(form: _RequestKey) -> Hashable | None:
    request = form.request
    asked = (*_place(request), normalize.query(request.target))
    if request.method in _BODILESS:
        return asked
    digest = request.sha256  # of a body that was too large to be recorded
    if request.body is not None:
        digest = hashlib.sha256(request.body).hexdigest()
    return (*asked, digest) if digest else None


def _json(form: _RequestKey) -> Hashable | None:
    request = form.request
    asked = (*_place(request), _query(request))
    if request.method in _BODILESS:
        return asked
    body = normalize.packed(form.document)
    parts = normalize.parts(request) if body is None else [body]
    if parts is None:
        return None
    return (*asked, tuple(hashlib.sha256(part).digest() for part in parts))


def _conversation(form: _RequestKey) -> Hashable | None:
    request = form.request
    if maybe_api(request.method, request.target) is None:
        return None
    turn = normalize.packed(normalize.last_turn(form.document))
    if turn is None:
        return None
    return (*_place(request), _query(request), hashlib.sha256(turn).digest())


def _query(request: Request) -> tuple[str, ...]:
    """In any order."""
    return tuple(sorted(normalize.query(request.target)))


def _order(form: _RequestKey) -> Hashable | None:
    return _place(form.request)


def _last_resort(form: _RequestKey) -> Hashable | None:
    return (*_place(form.request), _is_streamed(form))


def _is_streamed(form: _RequestKey) -> bool:
    """Whether a stream is asked for."""
    return isinstance(form.document, dict) and bool(form.document.get("stream"))


_KEYS: Final[dict[Stage, Callable[[_RequestKey], Hashable | None]]] = {
    "exact": _exact,
    "json": _json,
    "conversation": _conversation,
    "order": _order,
}
