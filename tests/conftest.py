"""Fixtures: a scripted upstream and the proxy in front of it, in this process, on free ports."""

import gc
import importlib
import os
import pkgutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import coverage
import lifecycle_proxy
import pytest
from hypothesis import is_hypothesis_test, settings
from lifecycle_proxy.app import factory, serve
from lifecycle_proxy.config import model as config

from tests.core import BYTEWISE
from tests.fakes import Upstream

# A loaded machine is slow, not wrong.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# `make test` measures what the tests of the core run: measured code takes three times as long.
_MEASURES_ALL = os.environ.get("COVERAGE", "all") == "all"
_CORE = Path(__file__).parent / "core"
_COVERAGE = coverage.Coverage.current()
# Files that take longer than others, with much waiting, the longest first.
_LONGEST = (
    *("test_life.py", "test_replicas.py", "test_demo.py", "test_traces.py", "test_redactor.py"),
    *("test_main.py", "test_sdks.py", "test_examples.py", "test_agents.py", "test_recordings.py"),
    *("test_laws.py", "test_pressure.py", "test_bounds.py", "test_hermes_runs.py"),
    *("test_live_page.py", "test_page_acts.py", "test_plugin.py", "test_shared_page.py"),
)
_MEASURED_CHILDREN = "COVERAGE_PROCESS_CONFIG"  # of coverage, for the processes of a test
_COVERAGE_OF_CHILDREN = os.environ.get(_MEASURED_CHILDREN, "")

StartProxy = Callable[..., Awaitable[str]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Processes that share the tests send each other reports, as UTF-8; logs may hold anything."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode())
        for title, text in report.sections
    ]
    return report


def _measure(is_measured: bool) -> None:
    """Whether what runs from now on counts as covered, and what processes run that start."""
    if _COVERAGE is None or is_measured is (coverage.Coverage.current() is not None):
        return  # a change takes more than a millisecond
    if is_measured:
        os.environ[_MEASURED_CHILDREN] = _COVERAGE_OF_CHILDREN
        _COVERAGE.start()
    else:
        os.environ.pop(_MEASURED_CHILDREN, None)
        _COVERAGE.stop()


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Of this, only the imports of the package are measured: it is quicker, for each process."""
    if _COVERAGE is not None:
        for module in pkgutil.walk_packages(lifecycle_proxy.__path__, "lifecycle_proxy."):
            if module.name != "lifecycle_proxy.__main__":
                importlib.import_module(module.name)
    _measure(False)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where processes share the files, one that begins late and takes long ends alone."""
    order = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_collection_finish() -> None:
    """The garbage collector need not walk thousands of tests: half a second for each collection."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """What hypothesis happens to find does not count as covered.

    Nor does what takes long, and covers nothing that other tests do not: it is quicker unmeasured.
    So is a stream that comes byte by byte, through the same code as one in pieces.
    """
    is_random = is_hypothesis_test(getattr(item, "obj", None))
    is_of_core = item.path.is_relative_to(_CORE)
    is_measured = is_of_core or _MEASURES_ALL
    is_left_out = is_random or _is_bytewise(item) or item.get_closest_marker("unmeasured")
    _measure(is_measured and not is_left_out)


def _is_bytewise(item: pytest.Item) -> bool:
    parameters = getattr(item, "callspec", None)
    return parameters is not None and parameters.params.get("sizes") == BYTEWISE


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """A scripted upstream, listening."""
    fake = Upstream()
    await fake.start()
    yield fake
    await fake.stop()
    for failure in fake.failures:
        raise failure


@pytest.fixture
async def runners() -> AsyncIterator[list[serve.Runner]]:
    """The proxies of this test; whatever is left of them is stopped."""
    started: list[serve.Runner] = []
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_stop, started)
        yield started


async def _stop(runners: list[serve.Runner]) -> None:
    for runner in runners:
        await serve.stop(runner, 0)


@pytest.fixture
async def start_proxy(upstream: Upstream, runners: list[serve.Runner]) -> StartProxy:
    """Starts a proxy: ``await start_proxy({"server.heartbeat_s": 0.1})`` returns its URL."""

    async def start(settings: dict[str, Any] | None = None, create: Any = factory.ProxyApp) -> str:
        flags = {
            "server.listen": "127.0.0.1:0",
            "server.drain_timeout_s": 0.2,
            "upstream.url": f"{upstream.origin}/v1",
            **(settings or {}),
        }
        runner, url = await serve.start(config.load(environ={}, flags=flags), create=create)
        runners.append(runner)
        return url.replace("127.0.0.1", "localhost")  # a cookie jar would ignore an address

    return start


@pytest.fixture
async def proxy(start_proxy: StartProxy) -> str:
    """The URL of a proxy with default settings."""
    return await start_proxy()


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No traceback may be logged while the test runs."""
    yield
    records = caplog.get_records("call")
    assert [record.getMessage() for record in records if record.exc_info] == []


@pytest.fixture
def usual_recursion_limit() -> Iterator[None]:
    """Hypothesis raises it, in whatever process it has run."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(limit)
