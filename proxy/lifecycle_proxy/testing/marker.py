"""What the mark ``lifecycle_proxy`` says, and where the cassette of a test is."""

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
    """What the marks of a test say, those of its class and module included.

    Attributes:
        upstream: what is recorded, as an OpenAI SDK would be given it.
        cassette: its name, beside the other cassettes of the module.
        side: what is played: ``upstream`` through the proxy, or what the ``client`` got.
        speed: 1 as it was, 10 is ten times as fast, 0 at once.
        allow_misses: a request without a recording gets its 404, but does not fail the test.
        block_network: whether the test may leave this machine; None: while nothing is recorded.
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
    """What becomes of a test.

    Attributes:
        passed: whether its own code ended well.
        unreported: misses that fail it, as text.
        advice: what to do about them.
        before_report: is called when its own code has ended, and may add to ``unreported``.
    """

    passed: bool = False
    unreported: list[str] = field(default_factory=list)
    advice: str = ""
    before_report: Callable[[], None] = lambda: None

    def text(self) -> str:
        """What was missed since this was last asked; "" for nothing."""
        told = [*self.unreported, self.advice] if self.unreported else []
        self.unreported.clear()
        return "\n".join(part for part in told if part)

    def fail(self) -> None:
        """Fail the test for what was missed."""
        if text := self.text():
            self.passed = False
            pytest.fail(text, pytrace=False)


@dataclass(frozen=True, slots=True)
class FixturePlan:
    """What the fixture is to do.

    Attributes:
        mode: ``none``, ``new_episodes`` or ``record``.
        adds: what is recorded goes behind what the cassette holds.
    """

    mark: MarkerOptions
    mode: str
    cassette: Path
    upstream: str | None
    adds: bool
    outcome: TestOutcome

    @property
    def is_blocked(self) -> bool:
        """Whether the test must not leave this machine."""
        asked = self.mark.block_network
        return self.mode == "none" if asked is None else asked


def mark_of(item: pytest.Item) -> MarkerOptions:
    """All marks of a test as one.

    Raises:
        pytest.UsageError: they say what no mark can.
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
    """``cassettes/<module>/<test>.jsonl`` beside the test file, unless something else is set.

    Raises:
        pytest.UsageError: the mark names a file that is no cassette.
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
    """A name that any file system takes; where it had to be changed, told apart by a hash."""
    clean = _UNSAFE.sub("-", name)[:_LONGEST].strip("-.")
    if clean == name:
        return name
    return f"{clean}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
