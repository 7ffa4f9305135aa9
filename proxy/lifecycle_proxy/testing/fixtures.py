"""The fixtures of the pytest plugin. Imported when a test uses one of them."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from lifecycle_proxy.config import model as config
from lifecycle_proxy.config.model import ConfigError, Settings
from lifecycle_proxy.exchange.model import SideName
from lifecycle_proxy.recording.cassette import RecordedExchange, load
from lifecycle_proxy.recording.cassette_file import CassetteError
from lifecycle_proxy.replay import server as replay
from lifecycle_proxy.replay.matching import BY_QUESTION, Rules
from lifecycle_proxy.replay.near_miss import Miss
from lifecycle_proxy.replay.schedule import playable
from lifecycle_proxy.testing import LifecycleProxy, Served, in_process
from lifecycle_proxy.testing.marker import FixturePlan, MarkerOptions, TestOutcome

_RESERVED: Final = ("upstream.url", "server.listen", "server.workers", "recording.mode")
# A replay needs none of these, and a machine that only replays may not have them.
_LIVE: Final = ("api_key", "ca_file", "server_name", "verify_tls", "use_proxy_env")
_LAST_BYTES_S: Final = 1.0  # for the end of a response that the test stopped reading
_UNREACHABLE: Final = (
    "nothing was recorded: the upstream {url} could not be reached\n"
    "this run records, so it asks the upstream: start it, or name another "
    'by @pytest.mark.lifecycle_proxy(upstream="http://...")\n'
    "or by lifecycle_proxy_upstream = http://... in the ini file"
)
_RULES: Final = ("stages", "volatile", "loop", "strict", "clean")


class Play(Protocol):
    """The type of the fixture ``replayed``."""

    def __call__(
        self,
        path: str | os.PathLike[str],
        side: SideName = "client",
        speed: float = 0,
        *,
        allow_misses: bool = False,
        **options: Any,
    ) -> Served:
        """Serve a cassette, or all of a folder, on a port of its own until the test ends.

        Args:
            path: relative to the folder of the test file.
            side: what the ``client`` got, or what the ``upstream`` sent.
            speed: 1 is as recorded, 10 is ten times as fast, 0 is without delays.
            allow_misses: a request without a recording does not fail the test.
            options: of ``replay.Options`` and of ``matching.Rules``.
        """
        ...


@contextmanager
def play(plan: FixturePlan) -> Iterator[LifecycleProxy]:
    """Replay the cassette behind the proxy, or in the place of the proxy. No upstream is asked."""
    mark, outcome = plan.mark, plan.outcome
    _check(mark)
    settings = _settings(mark, {k: v for k, v in mark.settings.items() if not _is_live(k)}, plan)
    exchanges = _loaded(plan.cassette) if plan.cassette.exists() else []
    _explain(plan, exchanges)
    misses: list[Miss] = []
    options = replay.Options(
        side=mark.side,
        speed=mark.speed,
        rules=in_process.rules(settings, **_stages(mark)),
        on_miss=_noting(misses, None if mark.allow_misses else outcome),
    )
    with (
        in_process.background_loop() as loop,
        in_process.played(loop, settings, exchanges, options) as url,
    ):
        yield LifecycleProxy(url, misses, plan.cassette, plan.mode, lambda: list(exchanges))


@contextmanager
def record(plan: FixturePlan) -> Iterator[LifecycleProxy]:
    """Run the proxy in front of an upstream, and record the cassette."""
    _check(plan.mark)
    settings = _settings(plan.mark, plan.mark.settings, plan)
    session = in_process.RecordingSession(plan.cassette, adds=plan.adds)
    settings = session.recording(settings, plan.mode)
    plan.outcome.before_report = lambda: _look(plan, session, settings)
    try:
        with (
            in_process.background_loop() as loop,
            in_process.proxying(loop, settings, _LAST_BYTES_S) as url,
        ):
            yield LifecycleProxy(url, [], plan.cassette, plan.mode, session.exchanges)
    finally:
        session.close(plan.mark.side, passed=plan.outcome.passed)


def _look(plan: FixturePlan, session: in_process.RecordingSession, settings: Settings) -> None:
    """Report an unreachable upstream: a test that expects no response would pass, once."""
    if session.is_unreachable(plan.mark.side):
        plan.outcome.unreported.append(_UNREACHABLE.format(url=settings.upstream.url))


@contextmanager
def player(folder: Path, outcome: TestOutcome) -> Iterator[Play]:
    """The function that serves cassettes.

    Args:
        folder: paths are relative to it.
        outcome: gets the misses.
    """
    with ExitStack() as stack:
        loop = stack.enter_context(in_process.background_loop())

        def play(
            path: str | os.PathLike[str],
            side: SideName = "client",
            speed: float = 0,
            *,
            allow_misses: bool = False,
            **options: Any,
        ) -> Served:
            misses: list[Miss] = []
            given = {name: options.pop(name) for name in _RULES if name in options}
            rules = Rules(**{"stages": BY_QUESTION, **given})
            own = replay.Options(
                side=side,
                speed=speed,
                rules=rules,
                on_miss=_noting(misses, None if allow_misses else outcome),
                **options,
            )
            exchanges = _loaded(folder / path)
            url = stack.enter_context(in_process.replaying(loop, exchanges, own))
            return Served(url, misses)

        yield play


def _check(mark: MarkerOptions) -> None:
    """Check what a replay will need before recording, not in the next run."""
    try:
        replay.Options(side=mark.side, speed=mark.speed, rules=Rules(**_stages(mark)))
        return
    except ValueError as error:
        problem = f"lifecycle_proxy: {error}"
    pytest.fail(problem, pytrace=False)


def _stages(mark: MarkerOptions) -> dict[str, Any]:
    return {} if mark.stages is None else {"stages": mark.stages}


def _settings(mark: MarkerOptions, given: dict[str, Any], plan: FixturePlan) -> Settings:
    """The settings of the mark. Those of the environment are not for tests."""
    if taken := [key for key in (*_RESERVED, "recording.path") if key in mark.settings]:
        pytest.fail(f"lifecycle_proxy: {taken[0]} is the fixture's to set", pytrace=False)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(config.ENV_PREFIX)}
    own = {"server.access_log": False, "upstream.url": plan.upstream, "recording.speed": mark.speed}
    try:
        return config.load(environ=environ, flags=own | given)
    except ConfigError as error:
        problems = error.problems
    wrote = "upstream" if mark.upstream else "lifecycle_proxy_upstream"
    told = [
        f"lifecycle_proxy: {wrote if one.key == 'upstream.url' else one.key}: {one.text}"
        for one in problems
    ]
    pytest.fail("\n".join(told), pytrace=False)


def _is_live(key: str) -> bool:
    return key.startswith("upstream.") and key.removeprefix("upstream.") in _LIVE


def _loaded(path: Path) -> list[RecordedExchange]:
    try:
        return load(path)
    except CassetteError as error:
        problem = str(error)
    pytest.fail(problem, pytrace=False)


def _explain(plan: FixturePlan, exchanges: list[RecordedExchange]) -> None:
    """Prepare the advice for a miss: why there may be nothing to replay."""
    if not plan.cassette.exists():
        plan.outcome.advice = f"there is no {plan.cassette}\n{plan.outcome.advice}"
    for exchange_id, reason in playable(exchanges, plan.mark.side)[1]:
        plan.outcome.advice = f"{exchange_id} cannot be played: {reason}\n{plan.outcome.advice}"


def _noting(misses: list[Miss], outcome: TestOutcome | None) -> Callable[[Miss], None]:
    def note(miss: Miss) -> None:
        misses.append(miss)
        if outcome is not None:
            outcome.unreported.append(miss.text())

    return note
