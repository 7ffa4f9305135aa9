"""Recorded and constructed streams of real backends, against what must be told of them.

The files in ``tests/corpus`` are always played; where the shared corpus lies beside the repository,
all of it is, and judged by its own checker.
"""

import importlib.util
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.events import LifecycleEvent, ToolRunning
from lifecycle_proxy.core.sse import Parser

from tests.core import BYTEWISE, WHOLE, Json, places, play

_HERE = Path(__file__).parents[1] / "corpus"
_SHARED = Path(__file__).parents[3] / "shared"
_SIZES = [WHOLE, (7,), BYTEWISE]


def _expected(folder: Path) -> dict[str, Json]:
    """What is expected of each event stream of a folder."""
    path = folder / "expected.json"
    files: dict[str, Json] = json.loads(path.read_text("utf-8"))["files"] if path.exists() else {}
    types = {name: e.get("http", {}).get("content_type", "") for name, e in files.items()}
    return {name: e for name, e in files.items() if types[name] in {"", "text/event-stream"}}


# --- with our own judge --------------------------------------------------------------------------


@pytest.mark.unmeasured
@pytest.mark.parametrize("sizes", _SIZES)
@pytest.mark.parametrize(("name", "entry"), _expected(_HERE).items(), ids=_expected(_HERE))
def test_what_is_told_of_a_stream_and_where(name: str, entry: Json, sizes: tuple[int, ...]) -> None:
    body = (_HERE / f"{name}.sse").read_bytes()
    played = play(body, sizes)
    bound: dict[str, str] = {}
    assert [_seen(event, bound) for event in played.events] == [
        (e["status"], e["toolCallId"], e["tool"], e["choice"]) for e in entry["events"]
    ]
    parser = Parser(1 << 20)
    closed = [e.raw for e in parser.feed(body) + parser.eof() if e.raw.strip()]
    ends = [sum(map(len, closed[: n + 1])) for n in range(len(closed))]
    for at, event in zip(places(played, body), entry["events"], strict=True):
        low, high = event["at"]
        assert low <= sum(end <= at for end in ends) <= high


def _seen(event: LifecycleEvent, bound: dict[str, str]) -> tuple[str, str, str, int]:
    """An event as the corpus writes it: ids that were made are $1, $2, ..."""
    call_id = event.id
    if call_id.startswith("made_"):
        call_id = bound.setdefault(call_id, f"${len(bound) + 1}")
    status = "running" if isinstance(event, ToolRunning) else "completed"
    return status, call_id, event.tool, event.choice


# --- with the checker of the shared corpus --------------------------------------------------------


def _checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", _SHARED / "corpus" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _shared_cases() -> list[Any]:
    folders = ("corpus", "recorded-streams")
    cases = [(f, name) for f in folders for name in _expected(_SHARED / f)]
    absent = pytest.mark.skip(reason="the shared corpus is not beside this repository")
    return [*cases] or [pytest.param("", "", marks=absent)]


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    return _checker()


@pytest.fixture(scope="module")
def loaded(checker: ModuleType) -> dict[str, dict[str, Json]]:
    return {f: checker.load(str(_SHARED / f)) for f in ("corpus", "recorded-streams")}


@pytest.mark.unmeasured
@pytest.mark.parametrize("size", ["whole", 7, 1])
@pytest.mark.parametrize(("folder", "name"), _shared_cases())
def test_the_shared_corpus(
    folder: str,
    name: str,
    size: str | int,
    checker: ModuleType,
    loaded: dict[str, dict[str, Json]],
) -> None:
    entry = loaded[folder][name]
    body, status = entry["body"], entry.get("http", {}).get("status", 200)
    pieces = [body[start:end] for start, end in checker.pieces(len(body), size)]
    played = play(pieces, dialect=DIALECTS["chunk"])
    assert played.counts.failure is None
    headers = {"content-type": "text/event-stream"}
    options = SimpleNamespace(no_position=False)
    assert checker.judge(entry, body, status, headers, played.data, options) is None
