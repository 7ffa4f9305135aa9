"""Recordings as a server: in the place of an upstream, or of the whole proxy.

A request that no recording answers gets an error that says what differs from the nearest one
(``misses.Miss``), with a status that SDKs do not try again. ``/-/healthy`` answers as the proxy's.
No connection is ever opened to anywhere.
"""

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, get_args

from aiohttp import web

from lifecycle_proxy.config import model as config
from lifecycle_proxy.exchange.client_scope import scope_of
from lifecycle_proxy.exchange.model import SideName
from lifecycle_proxy.exchange.routes import split_absolute
from lifecycle_proxy.faults.plan import FaultPolicy
from lifecycle_proxy.faults.rules import FaultSettings
from lifecycle_proxy.recording.cassette import RecordedExchange, Request, load
from lifecycle_proxy.recording.cassette_file import CassetteError
from lifecycle_proxy.replay import faults as fault_schedule
from lifecycle_proxy.replay import notes
from lifecycle_proxy.replay.matching import Found, RecordingIndex, Rules
from lifecycle_proxy.replay.near_miss import MISS_STATUS, NO_RETRY, Miss
from lifecycle_proxy.replay.player import Player
from lifecycle_proxy.replay.schedule import Schedule, playable, schedule, timed
from lifecycle_proxy.server.listener import bind
from lifecycle_proxy.server.runner import Runner, start_runner
from lifecycle_proxy.server.service import Service

DEFAULT_LISTEN: Final = "127.0.0.1:8788"

_HEALTHY: Final = "/-/healthy"
_END_S: Final = 1.0  # for open streams, when asked to stop


def _by_headers(request: web.Request) -> str:
    return scope_of(request.headers)


@dataclass(frozen=True, slots=True)
class Options:
    """How recordings are played.

    Attributes:
        side: ``upstream``: what it sent, to be played to the proxy; ``client``: what the client
            got, to be played to a UI.
        speed: 1 as it was, 10 is ten times as fast, 0 at once.
        max_gap_ms: no wait is longer than this, in milliseconds as played; None for no limit.
        hold_s: how long a client is left waiting where the recording ran into a timeout, in
            seconds. Then it is reset.
        rules: how requests are matched: ``loop``, ``strict``, ``stages`` and so on.
        session: whose request it is; recordings are given out to each on its own. By default it
            is known by the credential and the headers in which clients name a conversation.
        transform: what is played instead of a schedule: faults. Times are as played.
        on_miss: is called with each miss. By default it is logged.
        on_found: is called with each recording that is played, and the request. By default one
            that was found by its order alone is logged.
        faults: which hit what is played, by the number of the request.
    """

    side: SideName = "upstream"
    speed: float = 1.0
    max_gap_ms: float | None = None
    hold_s: float = 600.0
    rules: Rules = field(default_factory=Rules)
    session: Callable[[web.Request], str] = _by_headers
    transform: Callable[[Schedule], Schedule] | None = None
    on_miss: Callable[[Miss], None] | None = None
    on_found: Callable[[Found, Request], None] | None = None
    faults: FaultSettings | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a side that there is not, and a time or speed below 0, or none."""
        if self.side not in (known := get_args(SideName)):
            raise ValueError(f"side: unknown side {self.side!r} (known are {', '.join(known)})")
        gap = 0 if self.max_gap_ms is None else self.max_gap_ms
        given: dict[str, Any] = {"speed": self.speed, "hold_s": self.hold_s, "max_gap_ms": gap}
        for name, value in given.items():
            if not isinstance(value, int | float) or not value >= 0:
                raise ValueError(f"{name} must be a number that is not negative, not {value!r}")


class ReplayApp(Service):
    """A server that plays recordings. Serve it with ``start_replay``.

    Exchanges that cannot be played are left out; ``playable`` tells why.

    Args:
        exchanges: in the order they were recorded.
        options: how they are played.
    """

    max_body_bytes = 1 << 30

    def __init__(
        self, exchanges: Iterable[RecordedExchange], options: Options | None = None
    ) -> None:
        self._options = options or Options()
        good, _ = playable(exchanges, self._options.side)
        self._library = RecordingIndex(good, self._options.rules)
        own = self._options.faults or FaultSettings()
        self._faults = FaultPolicy(own.rules, own.seed)
        self._numbers = itertools.count(1)
        self._plans = {id(e): self._plan(e) for e in good}  # ids of several files may be equal

    def _plan(self, exchange: RecordedExchange) -> Schedule:
        own = self._options
        return timed(schedule(exchange, own.side), own.speed, own.max_gap_ms)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """See ``Service``."""
        start = time.perf_counter()
        if request.raw_path.partition("?")[0] == _HEALTHY:
            return web.json_response({"status": "ok"})
        body = await request.read()
        _, target = split_absolute(request.raw_path)
        asked = Request(request.method, target, tuple(request.headers.items()), body)
        # Large bodies, and misses, take a while; other streams are playing.
        session = self._options.session(request)
        found = await asyncio.to_thread(self._library.find, asked, session)
        if isinstance(found, Miss):
            return self._missed(found)
        (self._options.on_found or notes.log_found)(found, asked)
        return await self._play(request, found, start)

    async def _play(self, request: web.Request, found: Found, start: float) -> web.StreamResponse:
        own, plan = self._options, self._plans[id(found.exchange)]
        if own.transform is not None:
            plan = own.transform(plan)
        if own.faults is not None:
            plan = fault_schedule.apply(self._faults.sample(next(self._numbers)), plan)
        return await Player(request, plan, start, own.hold_s).run()

    def _missed(self, miss: Miss) -> web.Response:
        if self._options.on_miss is not None:
            self._options.on_miss(miss)
        else:
            notes.log_miss(miss)
        return web.Response(
            status=MISS_STATUS,
            body=miss.body(),
            content_type="application/json",
            charset="utf-8",
            headers=NO_RETRY,
        )


async def start_replay(app: ReplayApp, listen: str, *, end_s: float = _END_S) -> tuple[Runner, str]:
    """Listen and serve; ``await runner.stop()`` ends it.

    Args:
        app: what is served.
        listen: ``HOST:PORT``, port 0 for a free one, or ``unix:PATH``.
        end_s: how long open streams may take when the server is stopped, in seconds.

    Returns:
        The runner, and the URL where it serves.

    Raises:
        ConfigError: ``listen`` is no address.
        OSError: it cannot be bound.
    """
    settings = config.load(environ={}, flags={"server.listen": listen})
    return await start_runner(app, bind(settings), settings, end_s=end_s)


async def serve_replay(
    paths: Sequence[Path], listen: str = DEFAULT_LISTEN, options: Options | None = None
) -> int:
    """The command: play cassettes until SIGTERM or SIGINT; a second one ends at once.

    Args:
        paths: cassettes, or folders of such.

    Returns:
        0 when asked to stop.

    Raises:
        CassetteError: nothing in there can be played.
        ConfigError: ``listen`` is no address.
        OSError: it cannot be bound.
    """
    own = options or Options()
    own = replace(
        own, on_miss=own.on_miss or notes.print_miss, on_found=own.on_found or notes.print_found
    )
    good, refused = playable((e for path in paths for e in load(path)), own.side)
    for exchange_id, reason in refused:
        print(f"lifecycle-proxy: {exchange_id} is left out: {reason}", file=sys.stderr)
    if not good:
        raise CassetteError(f"{', '.join(map(str, paths))}: nothing that can be played")
    asked, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal() -> None:
        if asked.is_set():
            os._exit(0)  # the second signal: nothing may stand in its way
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    runner, where = await start_replay(ReplayApp(good, own), listen)
    noun = "exchange" if len(good) == 1 else "exchanges"
    print(f"replaying {len(good)} {noun} on {where}", flush=True)
    await asked.wait()
    await runner.stop()
    return 0
