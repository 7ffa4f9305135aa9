"""The mark ``lifecycle_proxy``: its options, and where the cassette of a test is."""

import difflib
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

import pytest

MARK: Final = "lifecycle_proxy"
_SUFFIXES: Final = (".jsonl", ".jsonl.gz")
_UNSAFE: Final = re.compile(r"[^\w.\-\[\]]+", re.ASCII)
_LONGEST: Final = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkerOptions:
    """The options of a test: all its marks as one, those of its class and module included.

    Attributes:
        upstream: the base URL to record from, as for an OpenAI SDK.
        cassette: its file name, in the folder of the module's cassettes.
        side: what is replayed: ``upstream`` through the proxy, or what the ``client`` got.
        speed: 1 is as recorded, 10 is ten times as fast, 0 is without delays.
        allow_misses: a request without a recording gets a 404, but does not fail the test.
        block_network: connections to other machines fail; None: only if nothing is recorded.
        stages: how requests are matched; None for all stages but the last (``matching``).
        settings: of the proxy, by dotted key.
    """

    upstream: str | None = None
    cassette: str | None = None
    side: Literal["upstream", "client"] = "upstream"
    speed: float = 0
    allow_misses: bool = False
    block_network: bool | None = None
    stages: tuple[str, ...] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class TestOutcome:
    """The outcome of one test.

    Attributes:
        passed: its own code did not raise.
        unreported: misses that fail the test and have not been reported yet, as text.
        advice: what to do about them.
        before_report: is called when the code of the test has ended; may add to ``unreported``.
    """

    passed: bool = False
    unreported: list[str] = field(default_factory=list)
    advice: str = ""
    before_report: Callable[[], None] = lambda: None

    def text(self) -> str:
        """The misses since the last call, with the advice; "" for none."""
        lines = [*self.unreported, self.advice] if self.unreported else []
        self.unreported.clear()
        return "\n".join(part for part in lines if part)

    def fail(self) -> None:
        """Fail the test if there are misses that were not reported."""
        if text := self.text():
            self.passed = False
            pytest.fail(text, pytrace=False)


@dataclass(frozen=True, slots=True)
class FixturePlan:
    """What the fixture does for one test.

    Attributes:
        mark: the options of the test.
        mode: ``none``, ``new_episodes`` or ``record``.
        cassette: the file; it may not exist.
        upstream: the base URL to record from; None for the default.
        adds: new exchanges are added to those of the cassette.
        outcome: of the test.
    """

    mark: MarkerOptions
    mode: str
    cassette: Path
    upstream: str | None
    adds: bool
    outcome: TestOutcome

    @property
    def is_blocked(self) -> bool:
        """Whether connections to other machines fail."""
        asked = self.mark.block_network
        return self.mode == "none" if asked is None else asked


def mark_of(item: pytest.Item) -> MarkerOptions:
    """All marks of a test as one.

    Raises:
        pytest.UsageError: an argument that the mark does not have.
    """
    given: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers(MARK))):
        if mark.args:
            raise pytest.UsageError(f"{MARK}: the mark takes names only, as in cassette='x.jsonl'")
        given |= mark.kwargs
    known = {one.name for one in fields(MarkerOptions)} - {"settings"}
    for name in given:
        if name not in known and "." not in name:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
            raise pytest.UsageError(f"{MARK}: the mark has no {name!r} ({advice})")
    settings = {name: given.pop(name) for name in list(given) if "." in name}
    return MarkerOptions(**given, settings=settings)


def cassette_of(item: pytest.Item, mark: MarkerOptions) -> Path:
    """``cassettes/<module>/<test>.jsonl`` in the folder of the test file, unless configured.

    Args:
        item: the test.
        mark: its options.

    Raises:
        pytest.UsageError: the name in the mark is not that of a cassette.
    """
    folder, root = item.path.parent, item.config.rootpath
    base = folder / "cassettes"
    if own := item.config.getini("lifecycle_proxy_cassette_dir"):
        inside = folder.relative_to(root) if folder.is_relative_to(root) else Path()
        base = root / own / inside
    test, bracket, case = (item.nodeid.partition("::")[2] or item.name).partition("[")
    name = mark.cassette or f"{safe(test.replace('::', '.') + bracket + case)}.jsonl"
    if not str(name).endswith(_SUFFIXES):
        raise pytest.UsageError(f"{MARK}: cassette {name!r} must be NAME.jsonl or NAME.jsonl.gz")
    return Path(base / item.path.stem / name)


def safe(name: str) -> str:
    """A name that all file systems allow. If it had to be changed, a hash keeps it unique."""
    clean = _UNSAFE.sub("-", name)[:_LONGEST].strip("-.")
    if clean == name:
        return name
    return f"{clean}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
