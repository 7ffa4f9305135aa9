"""``rerun``: recorded upstreams through this version of the proxy, lifecycle events compared.

A regression test over all traffic that was ever recorded. The proxy stands between the recorded
clients and a replay of the recorded upstream; it records, and the lifecycle events of both
recordings are compared. Durations are not: the replay does not wait.
"""

import asyncio
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
from multidict import CIMultiDict

from lifecycle_proxy.app import serve
from lifecycle_proxy.config.model import Settings, UpstreamSettings
from lifecycle_proxy.core.printable import printable
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.headers import HOP_BY_HOP
from lifecycle_proxy.exchange.ports import UpstreamRequest
from lifecycle_proxy.exchange.routes import split_prefixes
from lifecycle_proxy.recording.cassette import Json, RecordedExchange, Request, load
from lifecycle_proxy.recording.cassette_file import CassetteError, files
from lifecycle_proxy.replay import server as replay
from lifecycle_proxy.replay.matching import Rules
from lifecycle_proxy.replay.schedule import playable
from lifecycle_proxy.upstream.client import HttpUpstream
from lifecycle_proxy.upstream.collect import collect

_API_ROUTES: Final = ("chat", "responses", "messages")
_LOCAL: Final = "127.0.0.1:0"
_DROPPED: Final = {*HOP_BY_HOP, "host", "content-length", "x-lifecycle-record"}
_ENDS: Final = ("eof", "cut", "reset")  # others are not the upstream's own
_PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class RerunDifference:
    """An exchange that has other lifecycle events in this version.

    Attributes:
        id: the exchange's.
        asked: method and path.
        what: the first event that differs.
    """

    id: str
    asked: str
    what: str

    def __str__(self) -> str:
        return printable(f"differs  {self.id}  {self.asked}: {self.what}")


@dataclass(frozen=True, slots=True)
class RerunReport:
    """What came of it.

    Attributes:
        same: how many exchanges are as they were.
        different: the others.
        skipped: ids of those that could not be tried, and why.
    """

    same: int
    different: tuple[RerunDifference, ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def exit_code(self) -> int:
        """0: the same; 1: something differs."""
        return int(bool(self.different))

    def lines(self) -> Iterator[str]:
        """For a terminal, without line ends."""
        yield from map(str, self.different)
        yield from (printable(f"not run  {one}  {why}") for one, why in self.skipped)
        counts = [f"{self.same} the same", f"{len(self.different)} different"]
        yield ", ".join([*counts, *([f"{len(self.skipped)} not run"] if self.skipped else [])])


async def rerun(paths: Sequence[Path], settings: Settings) -> RerunReport:
    """Run recordings through the proxy again.

    Args:
        paths: cassettes, or folders of such.
        settings: of the proxy; where it listens, its upstream and its keys do not count.

    Raises:
        CassetteError: no cassette, or nothing in it that can be tried.
    """
    count, different, skipped = 0, list[RerunDifference](), list[tuple[str, str]]()
    # A proxy for each file: events may depend on the requests before.
    for file in [file for path in paths for file in files(path)]:
        good, left_out = _chosen(load(file))
        skipped += left_out
        if good:
            count += len(good)
            different += _differences(good, await _recorded_again(good, settings))
    if not count:
        raise CassetteError(f"{', '.join(map(str, paths))}: nothing that can be run again")
    return RerunReport(count - len(different), tuple(different), tuple(skipped))


def _differences(
    before: list[RecordedExchange], again: list[RecordedExchange]
) -> Iterator[RerunDifference]:
    for one, other in itertools.zip_longest(before, again):
        events = [] if other is None else other.tools
        if what := _first_difference(_plain(one, one.tools), _plain(one, events)):
            asked = f"{one.request.method} {one.request.target.partition('?')[0]}"
            yield RerunDifference(one.id, asked, what)


def _chosen(
    exchanges: list[RecordedExchange],
) -> tuple[list[RecordedExchange], list[tuple[str, str]]]:
    """What can be tried, and of the rest the ids and why not."""
    talks = [one for one in exchanges if one.route in _API_ROUTES]
    good, skipped = playable(talks, "upstream")
    chosen = []
    for one in good:
        if one.request.body is None:
            skipped.append((one.id, f"its request was not recorded: {one.request.omitted}"))
        elif one.upstream.end not in _ENDS:
            skipped.append((one.id, f"it did not end by its upstream ({one.upstream.end})"))
        else:
            chosen.append(one)
    return chosen, skipped


async def _recorded_again(
    exchanges: list[RecordedExchange], settings: Settings
) -> list[RecordedExchange]:
    """The same requests through a proxy of today's, before a replay of what its upstream sent."""
    options = replay.Options(
        speed=0, rules=Rules(stages=("order",), strict=True), session=lambda request: ""
    )
    app = replay.ReplayApp([_seen_by_upstream(one) for one in exchanges], options)
    with tempfile.TemporaryDirectory(prefix="lifecycle-proxy-") as folder:
        target = Path(folder) / "again.jsonl"
        async with AsyncExitStack() as undo:
            upstream, where = await replay.start_replay(app, _LOCAL)
            undo.push_async_callback(upstream.stop)
            runner, url = await serve.start(_settings(settings, f"{where}/v1", target))
            undo.push_async_callback(serve.stop, runner, 1.0)
            client = HttpUpstream(Settings(upstream=UpstreamSettings(url=f"{url}/v1")))
            await client.start()
            undo.push_async_callback(client.close)
            for one in exchanges:
                await _send(client, one.request)
        return load(target)


def _seen_by_upstream(exchange: RecordedExchange) -> RecordedExchange:
    """With the path that a proxy sends to an upstream at ``/v1``, whatever it was then."""
    request = exchange.request
    target = split_prefixes(request.target).path
    return replace(exchange, request=replace(request, target=target), forwarded=None)


def _settings(settings: Settings, upstream: str, target: Path) -> Settings:
    new = msgspec.structs.replace
    return new(
        settings,
        server=new(settings.server, listen=_LOCAL, workers=1, api_keys=[], access_log=False),
        upstream=new(settings.upstream, url=upstream, api_key=""),
        upstreams=[],
        models={},
        recording=new(settings.recording, mode="record", path=str(target)),
    )


async def _send(client: HttpUpstream, request: Request) -> None:
    """Ask, and read the response to its end, whatever that is."""
    headers = CIMultiDict((k, v) for k, v in request.headers if k.lower() not in _DROPPED)
    asked = UpstreamRequest(request.method, request.target, headers, request.body)
    with suppress(ProxyError, TimeoutError):  # broken, as it was recorded
        async with asyncio.timeout(_PATIENCE_S):
            response = await client.open(asked, lambda: None)
            try:
                await collect(response, lambda data: False)
            finally:
                response.close()


def _plain(exchange: RecordedExchange, events: list[Json]) -> list[Json]:
    """Events without what is another each time: durations, and ids that the proxy made."""
    names: dict[str, str] = {}
    body = exchange.upstream.body.decode("utf-8", "replace")

    def named(call_id: Any) -> Any:
        if not isinstance(call_id, str) or call_id in body:
            return call_id
        return names.setdefault(call_id, f"generated id {len(names) + 1}")

    kept = ({k: v for k, v in one.items() if k != "durationMs"} for one in events)
    return [{**one, "toolCallId": named(one.get("toolCallId"))} for one in kept]


def _first_difference(before: list[Json], now: list[Json]) -> str:
    """In words; "" where there is none."""
    for number, (one, other) in enumerate(itertools.zip_longest(before, now), 1):
        if one == other:
            continue
        if one is None or other is None:
            what, event = ("is new", other) if one is None else ("is missing", one)
            return f"event {number} {what}: {_shown(event or {})}"
        keys = [key for key in one | other if one.get(key) != other.get(key)]
        changes = (f"{key} {one.get(key)!r} is now {other.get(key)!r}" for key in keys)
        return f"event {number} ({_shown(one)}): {', '.join(changes)}"
    return ""


def _shown(event: Json) -> str:
    return " ".join(str(event.get(key, "")) for key in ("tool", "status", "toolCallId"))
