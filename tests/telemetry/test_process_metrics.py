"""``process_*`` of a proxy of several workers, as a scraper gets them."""

import os
import signal
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from tests.commands import serving, workers

DEAD = "http://127.0.0.1:1/v1"
NAMES = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process_* exist on Linux only")


def scraped(url: str) -> dict[str, dict[str, float]]:
    """Each ``process_*`` metric, by the process id of the worker."""
    with urllib.request.urlopen(f"{url}/-/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found: dict[str, dict[str, float]] = {}
    for family in parsed(text):
        for one in family.samples:
            if one.name.startswith("process_"):
                assert one.labels.keys() == {"pid"}
                found.setdefault(one.name, {})[one.labels["pid"]] = one.value
    return found


def memory(pid: str) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


@pytest.mark.unmeasured
def test_each_worker_has_its_own_and_one_that_ended_has_none(tmp_path: Path) -> None:
    options = ("--upstream", DEAD, "--listen", "127.0.0.1:0", "--workers", "2")
    with serving(*options, TMPDIR=str(tmp_path)) as (process, url, _):
        before = await_workers(url, 2)
        assert before.keys() == NAMES
        pids = {str(pid) for pid in workers(process)}
        assert all(values.keys() == pids for values in before.values())
        for pid in pids:
            assert before["process_resident_memory_bytes"][pid] == pytest.approx(memory(pid), 0.3)
            assert 0 < before["process_cpu_seconds_total"][pid] < 120
            assert abs(before["process_start_time_seconds"][pid] - time.time()) < 120
        gone = max(pids)
        os.kill(int(gone), signal.SIGKILL)
        after = await_workers(url, 2, without=gone)
        assert all(values.keys() & pids == pids - {gone} for values in after.values())
        process.terminate()
        assert process.wait(30) == 0


def await_workers(url: str, count: int, without: str = "") -> dict[str, dict[str, float]]:
    """Scrape until so many workers are there, and one is not.

    One that was just forked has not used a tick of the processor, which is all that is counted.
    """
    until = time.monotonic() + 30
    while True:
        found: dict[str, dict[str, float]] = {}
        with suppress(OSError):  # the one that was killed had this connection
            found = scraped(url)
        pids = found.get("process_cpu_seconds_total", {})
        if len(pids) == count and without not in pids and all(pids.values()):
            return found
        assert time.monotonic() < until, found
        time.sleep(0.1)
