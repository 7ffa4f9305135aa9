"""The pytest plugin: a test talks to the proxy, and the proxy to a cassette or to an upstream.

See ``docs/testing.md``. pytest imports this module in every run if the package is installed, so it
imports only pytest and the standard library. The servers are in ``fixtures``, which is imported
when a test uses a fixture.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from lifecycle_proxy.testing.marker import MARK, FixturePlan, TestOutcome, cassette_of, mark_of

if TYPE_CHECKING:
    from lifecycle_proxy.testing import LifecycleProxy, Served

MODES: Final = ("none", "once", "new_episodes", "record")
OPTION: Final = "--lifecycle-record-mode"
_SHORT: Final = "--record-mode"
# The modes of pytest-recording that mean the same; others are ignored.
_OTHERS: Final = {"all": "record", "rewrite": "record", **{mode: mode for mode in MODES}}
_HELP: Final = (
    "lifecycle-proxy: none replays cassettes, without an upstream; once records if there is no "
    "cassette; new_episodes records what the cassette does not contain; record records everything. "
    "Default: none if the environment variable CI is set, else once"
)
_USAGE: Final = (
    "lifecycle_proxy(upstream=None, cassette=None, side='upstream', speed=0, allow_misses=False, "
    "block_network=None, stages=None, **settings): what the fixture lifecycle_proxy records and "
    "plays; settings of the proxy by dotted key, such as **{'lifecycle.span': 'execution'}"
)

_OUTCOME: Final = pytest.StashKey[TestOutcome]()
_MADE: Final = pytest.StashKey[set[Path]]()


# --- hooks ----------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that is always there, and the settings of the ini file."""
    _add(parser, OPTION)
    parser.addini("lifecycle_proxy_record_mode", f"the default of {OPTION}")
    parser.addini(
        "lifecycle_proxy_upstream", "base URL to record from (default: http://127.0.0.1:11434/v1)"
    )
    parser.addini(
        "lifecycle_proxy_cassette_dir", "folder for all cassettes (default: next to the tests)"
    )


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(parser: pytest.Parser) -> Iterator[None]:
    """The short name, unless another plugin or a conftest has taken it by now."""
    yield
    probe = f"{_SHORT}=none"
    try:
        is_free = probe in parser.parse_known_and_unknown_args([probe])[1]
    except (pytest.UsageError, SystemExit):
        is_free = False  # taken, with other values
    if is_free:
        _add(parser, _SHORT)


def _add(parser: pytest.Parser, name: str) -> None:
    group = parser.getgroup("lifecycle-proxy")
    group.addoption(name, choices=MODES, dest="lifecycle_record_mode", default=None, help=_HELP)


def pytest_configure(config: pytest.Config) -> None:
    """The mark, for --markers and --strict-markers."""
    config.addinivalue_line("markers", _USAGE)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test whose requests were not recorded, and show what differs."""
    outcome = item.stash.get(_OUTCOME, None)
    try:
        yield
    except BaseException:
        if outcome is not None:
            outcome.before_report()
            if text := outcome.text():
                item.add_report_section("call", "lifecycle-proxy", text)
        raise
    if outcome is not None:
        outcome.passed = True
        outcome.before_report()
        outcome.fail()


@pytest.fixture
def lifecycle_proxy(request: pytest.FixtureRequest) -> "Iterator[LifecycleProxy]":
    """The proxy on a port of its own, in front of this test's cassette or an upstream."""
    from lifecycle_proxy.testing import fixtures, network_block  # noqa: PLC0415  imports aiohttp

    plan = _plan(request)
    with ExitStack() as stack:
        if plan.is_blocked:
            stack.enter_context(network_block.blocked(f"{MARK}, record mode {plan.mode}"))
        served = fixtures.play(plan) if plan.mode == "none" else fixtures.record(plan)
        yield stack.enter_context(served)
    if plan.mode != "none" and plan.cassette.exists():
        request.config.stash.setdefault(_MADE, set()).add(plan.cassette)
    plan.outcome.fail()  # misses after the code of the test has ended


@pytest.fixture
def replayed(request: pytest.FixtureRequest) -> "Iterator[Callable[..., Served]]":
    """Replays cassettes: ``replayed("chat.jsonl", side="client", speed=0).base_url``."""
    from lifecycle_proxy.testing import fixtures  # noqa: PLC0415  imports aiohttp

    outcome = request.node.stash.setdefault(_OUTCOME, TestOutcome())
    with fixtures.player(request.path.parent, outcome) as play:
        yield play
    outcome.fail()


# --- the plan of a test ---------------------------------------------------------------------------


def _plan(request: pytest.FixtureRequest) -> FixturePlan:
    item, config = request.node, request.config
    mark, mode = mark_of(item), _mode(config)
    cassette = cassette_of(item, mark)
    is_made = cassette in config.stash.get(_MADE, set())
    if mode == "once":
        mode = "none" if cassette.exists() and not is_made else "record"
    upstream = mark.upstream or config.getini("lifecycle_proxy_upstream") or None
    outcome = item.stash.setdefault(_OUTCOME, TestOutcome())
    outcome.advice = f"to record it again: pytest {OPTION}=record {item.nodeid!r}"
    return FixturePlan(mark, mode, cassette, upstream, mode == "new_episodes" or is_made, outcome)


def _mode(config: pytest.Config) -> str:
    others = config.getoption("record_mode", None)  # of pytest-recording, if it is installed
    ci = os.environ.get("CI", "").lower() not in ("", "0", "false", "no")
    mode = (
        config.getoption("lifecycle_record_mode")
        or _OTHERS.get(str(others))
        or config.getini("lifecycle_proxy_record_mode")
        or ("none" if ci else "once")
    )
    if mode not in MODES:
        known = ", ".join(MODES)
        raise pytest.UsageError(f"{MARK}: unknown record mode {mode!r}; known are {known}")
    return str(mode)
