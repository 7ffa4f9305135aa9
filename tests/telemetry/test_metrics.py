"""Metrics: what one exchange adds to the numbers, and that labels stay bounded."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy import __version__
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.events import Outcome, ToolCompleted
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.telemetry.metrics import Metrics, forget_worker
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

# The Accept header of Prometheus 3.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,*/*;q=0.1"
)
OWN = "lifecycle_proxy_"
SPAN = "gen_ai_execute_tool_duration_seconds"
REQUEST = "gen_ai_server_request_duration_seconds"


def a_call(tool: str, outcome: Outcome = Outcome.OK, duration_ms: int = 100) -> ToolCompleted:
    return ToolCompleted("call_1", 0, tool, "", "", outcome, duration_ms)


def an_exchange(age_s: float = 2.0, **changes: Any) -> Exchange:
    started = time.monotonic() - age_s
    known: dict[str, Any] = {
        "route": "chat",
        "started": started,
        "stream": True,
        "status": 200,
        "ended": "done",
        "first_byte": started + 0.08,
        "last_byte": started + 1.08,
        "chunks": 11,
        "sent_bytes": 1000,
        "longest_gap_s": 0.4,
    }
    return Exchange("req_1", "POST", "/v1/chat/completions", "127.0.0.1", **known | changes)


def told(*exchanges: Exchange) -> Metrics:
    metrics = Metrics()
    for exchange in exchanges:
        metrics.on_request(exchange)
        metrics.on_end(exchange)
    return metrics


def sample(metrics: Metrics | str, name: str, **labels: str) -> float | None:
    """The value of the one sample with this name and exactly these labels."""
    text = metrics if isinstance(metrics, str) else metrics.render("")[0].decode()
    found = [
        one.value
        for family in parse_text(text)
        for one in family.samples
        if one.name == name and one.labels == labels
    ]
    assert len(found) <= 1
    return found[0] if found else None


def bucket(metrics: Metrics, name: str, value: float, **labels: str) -> None:
    """The value went into the one bucket that holds it."""
    families = parse_text(metrics.render("")[0].decode())
    counts = {
        float(one.labels["le"]): one.value
        for family in families
        for one in family.samples
        if one.name == f"{name}_bucket" and labels.items() <= one.labels.items()
    }
    assert counts
    assert all((count == 1) is (value <= bound) for bound, count in counts.items()), counts


class TestTraffic:
    def test_requests(self) -> None:
        metrics = told(an_exchange(), an_exchange(), an_exchange(status=404, ended="eof"))
        name = f"{OWN}requests_total"
        assert sample(metrics, name, route="chat", method="POST", status="200") == 2
        assert sample(metrics, name, route="chat", method="POST", status="404") == 1

    def test_unknown_methods_are_one(self) -> None:
        exchange, other = an_exchange(), an_exchange()
        exchange.method, other.method = "BREW", "WHEN"
        metrics = told(exchange, other)
        name = f"{OWN}requests_total"
        assert sample(metrics, name, route="chat", method="OTHER", status="200") == 2

    def test_a_client_that_left_before_the_head(self) -> None:
        metrics = told(an_exchange(status=0, ended="client_gone", first_byte=None))
        name = f"{OWN}requests_total"
        assert sample(metrics, name, route="chat", method="POST", status="none") == 1
        assert sample(metrics, f"{OWN}first_byte_seconds_count", route="chat") is None

    def test_open_exchanges(self) -> None:
        metrics, exchange = Metrics(), an_exchange()
        metrics.on_request(exchange)
        metrics.on_request(exchange)
        assert sample(metrics, f"{OWN}exchanges_open", route="chat") == 2
        metrics.on_end(exchange)
        assert sample(metrics, f"{OWN}exchanges_open", route="chat") == 1

    @pytest.mark.parametrize(
        "ended",
        [
            "done",
            "eof",
            "upstream_error",
            "client_gone",
            "timeout",
            "drained",
            "stopped",
            "refused",
            "",
        ],
    )
    def test_ends(self, ended: str) -> None:
        metrics, label = told(an_exchange(ended=ended)), ended or "unknown"
        assert sample(metrics, f"{OWN}exchanges_ended_total", route="chat", ended=label) == 1
        assert sample(metrics, f"{OWN}stream_duration_seconds_count", ended=label) == 1

    def test_errors_bytes_and_retries(self) -> None:
        metrics = told(an_exchange(error="upstream_timeout", retries=2), an_exchange(sent_bytes=0))
        assert sample(metrics, f"{OWN}errors_total", code="upstream_timeout") == 1
        assert sample(metrics, f"{OWN}sent_bytes_total", route="chat") == 1000
        assert sample(metrics, f"{OWN}retries_total") == 2

    @pytest.mark.parametrize(
        ("changes", "error_type"),
        [
            ({}, ""),
            ({"ended": "eof", "status": 429}, "429"),
            ({"ended": "client_gone"}, "client_gone"),
            ({"ended": "timeout", "error": "upstream_timeout"}, "upstream_timeout"),
        ],
    )
    def test_the_duration_of_a_chat(self, changes: dict[str, Any], error_type: str) -> None:
        metrics = told(an_exchange(**changes))
        labels = {"gen_ai_operation_name": "chat", "error_type": error_type}
        assert sample(metrics, f"{REQUEST}_sum", **labels) == pytest.approx(2, abs=0.5)
        assert sample(metrics, f"{REQUEST}_count", **labels) == 1

    def test_other_routes_are_no_chat(self) -> None:
        metrics = told(an_exchange(route="other"))
        assert f"{REQUEST}_count" not in metrics.render("")[0].decode()


class TestStreams:
    def test_times(self) -> None:
        metrics = told(an_exchange())
        bucket(metrics, f"{OWN}first_byte_seconds", 0.08, route="chat")
        bucket(metrics, f"{OWN}stream_duration_seconds", 2.1, ended="done")
        bucket(metrics, f"{OWN}stream_chunk_gap_mean_seconds", 0.0999)
        bucket(metrics, f"{OWN}stream_chunk_gap_longest_seconds", 0.4)

    def test_half_an_hour_has_a_bucket(self) -> None:
        metrics = told(an_exchange(1700, tools=[a_call("build", duration_ms=1_700_000)]))
        bucket(metrics, f"{OWN}stream_duration_seconds", 1700, ended="done")
        bucket(metrics, SPAN, 1700, gen_ai_tool_name="build")

    def test_one_chunk_has_no_gap(self) -> None:
        metrics = told(an_exchange(chunks=1), an_exchange(chunks=0, first_byte=None))
        assert sample(metrics, f"{OWN}stream_chunk_gap_mean_seconds_count") == 0
        assert sample(metrics, f"{OWN}stream_chunk_gap_longest_seconds_count") == 0

    def test_a_plain_answer_is_no_stream(self) -> None:
        metrics = told(an_exchange(stream=False))
        assert sample(metrics, f"{OWN}stream_duration_seconds_count", ended="done") is None
        assert sample(metrics, f"{OWN}stream_chunk_gap_mean_seconds_count") == 0

    def test_counts(self) -> None:
        counts = Counts(undecodable=1, dropped=2, observer_failures=3, not_followed=6)
        counts.page_events = 7
        metrics = told(an_exchange(counts=counts, frames=4, oversized=5))
        metrics.listener_failed("Tape")
        assert sample(metrics, f"{OWN}listener_failures_total", listener="Tape") == 1
        assert sample(metrics, f"{OWN}events_undecodable_total") == 1
        assert sample(metrics, f"{OWN}results_dropped_total") == 2
        assert sample(metrics, f"{OWN}observer_failures_total") == 3
        assert sample(metrics, f"{OWN}frames_total") == 4
        assert sample(metrics, f"{OWN}events_oversized_total") == 5
        assert sample(metrics, f"{OWN}calls_not_followed_total") == 6
        assert sample(metrics, f"{OWN}page_events_blocked_total") == 7

    def test_what_is_not_labelled_is_there_from_the_start(self) -> None:
        assert sample(Metrics(), f"{OWN}observer_failures_total") == 0


class TestTools:
    def test_calls_and_spans(self) -> None:
        calls = [a_call("web"), a_call("web", Outcome.CUT, 700_000), a_call("terminal")]
        metrics = told(an_exchange(tools=calls))
        labels = {"gen_ai_tool_name": "web", "outcome": "cut"}
        assert sample(metrics, f"{OWN}tool_calls_total", **labels) == 1
        assert sample(metrics, f"{SPAN}_sum", **labels) == 700
        bucket(metrics, SPAN, 0.1, gen_ai_tool_name="web", outcome="ok")

    def test_names_are_bounded_in_number(self) -> None:
        calls = [a_call(f"tool_{n}") for n in range(150)]
        metrics = told(an_exchange(tools=calls), an_exchange(tools=calls))
        name = f"{OWN}tool_calls_total"
        assert sample(metrics, name, gen_ai_tool_name="tool_99", outcome="ok") == 2
        assert sample(metrics, name, gen_ai_tool_name="tool_100", outcome="ok") is None
        assert sample(metrics, name, gen_ai_tool_name="_other", outcome="ok") == 100

    def test_names_are_bounded_in_length(self) -> None:
        metrics = told(an_exchange(tools=[a_call("x" * 65), a_call("x" * 66)]))
        labels = {"gen_ai_tool_name": "x" * 64, "outcome": "ok"}
        assert sample(metrics, f"{OWN}tool_calls_total", **labels) == 2

    @pytest.mark.parametrize("accept", ["", PROMETHEUS])
    def test_no_name_breaks_the_rest(self, accept: str) -> None:
        nasty = 'a"b\\c\nd\ud800e'
        metrics = told(an_exchange(tools=[a_call(nasty)]))
        assert metrics.render(accept)[0]
        labels = {"gen_ai_tool_name": 'a"b\\c\nd?e', "outcome": "ok"}
        assert sample(metrics, f"{OWN}tool_calls_total", **labels) == 1


class TestRender:
    def test_text(self) -> None:
        body, content_type = Metrics().render("*/*")
        assert content_type.startswith("text/plain; version=0.0.4")
        assert list(parse_text(body.decode()))

    @pytest.mark.parametrize("accept", [PROMETHEUS, "application/openmetrics-text; version=junk"])
    def test_openmetrics(self, accept: str) -> None:
        metrics = told(an_exchange(tools=[a_call("web")]))
        body, content_type = metrics.render(accept)
        assert content_type.startswith("application/openmetrics-text; version=1.0.0")
        assert body.endswith(b"# EOF\n")
        assert list(parse_openmetrics(body.decode()))  # type: ignore[no-untyped-call]

    def test_pool_and_build(self) -> None:
        metrics = Metrics()
        metrics.set_connections(3)
        metrics.set_connections(2)
        assert sample(metrics, f"{OWN}upstream_connections") == 2
        assert f'version="{__version__}"' in metrics.render("")[0].decode()

    @pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
    def test_the_process(self) -> None:
        metrics = Metrics()
        assert (sample(metrics, "process_resident_memory_bytes") or 0) > 1 << 20
        assert (sample(metrics, "process_open_fds") or 0) > 2
        assert sample(metrics, "process_cpu_seconds_total")

    def test_each_has_a_registry_of_its_own(self) -> None:
        told(an_exchange())
        assert sample(Metrics(), f"{OWN}sent_bytes_total", route="chat") is None

    def test_every_metric_is_documented(self) -> None:
        page = Path(__file__).parents[2].joinpath("docs", "metrics.md").read_text("utf-8")
        for line in Metrics().render("")[0].decode().splitlines():
            if line.startswith("# TYPE ") and "_created " not in line:
                assert f"| `{line.split()[2]}` | {line.split()[3]} |" in page


WORKER = """
import os, sys
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.telemetry.metrics import Metrics
metrics = Metrics()
exchange = Exchange("req", "POST", "/", "::1", route="chat", status=200, first_byte=None)
metrics.on_request(exchange)
metrics.on_request(exchange)
metrics.on_end(exchange)
metrics.set_connections(2)
metrics.flush()
print(os.getpid(), flush=True)
sys.stdin.read()
"""
READER = """
import sys
from lifecycle_proxy.telemetry.metrics import Metrics, forget_worker
metrics = Metrics()
print(metrics.render("")[0].decode())
print("----")
for pid in sys.argv[1:]:
    forget_worker(int(pid))
print(metrics.render("")[0].decode())
"""


class TestProcesses:
    @staticmethod
    def start(directory: Path, code: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)},
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def test_two_workers_are_one_sum(self, tmp_path: Path) -> None:
        workers = [self.start(tmp_path, WORKER) for _ in range(2)]
        pids = []
        for worker in workers:
            assert worker.stdout is not None
            pids.append(worker.stdout.readline().strip())
        reader = self.start(tmp_path, READER, pids[0])
        both, one = reader.communicate(timeout=30)[0].split("----")
        for worker in workers:
            worker.communicate(timeout=30)
        assert [process.returncode for process in (reader, *workers)] == [0, 0, 0]
        labels = {"route": "chat", "method": "POST", "status": "200"}
        for text, alive in ((both, 2), (one, 1)):
            assert sample(text, f"{OWN}requests_total", **labels) == 2
            assert sample(text, f"{OWN}exchanges_open", route="chat") == alive
            assert sample(text, f"{OWN}upstream_connections") == 2 * alive
            operation = {"gen_ai_operation_name": "chat", "error_type": ""}
            assert sample(text, f"{REQUEST}_count", **operation) == 2

    @pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
    def test_every_worker_that_lives_has_process_metrics_of_its_own(self, tmp_path: Path) -> None:
        workers = [self.start(tmp_path, WORKER) for _ in range(2)]
        pids = [worker.stdout.readline().strip() for worker in workers if worker.stdout]
        reader = self.start(tmp_path, READER, pids[0])
        both, one = reader.communicate(timeout=30)[0].split("----")
        for worker in workers:
            worker.communicate(timeout=30)
        for name in ("process_resident_memory_bytes", "process_cpu_seconds_total"):
            assert all(sample(both, name, pid=pid) for pid in pids)
            assert sample(one, name, pid=pids[0]) is None
            assert sample(one, name, pid=pids[1])
            assert sample(both, name, pid=str(reader.pid))
        assert both.count("# TYPE process_open_fds gauge") == 1

    def test_without_a_shared_directory_there_is_nothing_to_forget(self) -> None:
        metrics = told(an_exchange())
        forget_worker(os.getpid())
        labels = {"route": "chat", "method": "POST", "status": "200"}
        assert sample(metrics, f"{OWN}requests_total", **labels) == 1
