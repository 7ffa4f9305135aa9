"""The walls of the house: which package may import which, and how long things may grow.

The map with the duties of the packages is the docstring of ``lifecycle_proxy``.
"""

import ast
import functools
import importlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import lifecycle_proxy
import pytest

ROOT: Final = Path(lifecycle_proxy.__file__).parent
_ALL: Final = frozenset(path.name for path in ROOT.iterdir() if (path / "__init__.py").exists())
# What a package may import besides itself. Everything else is forbidden.
MAY_IMPORT: Final[dict[str, frozenset[str]]] = {
    "core": frozenset(),
    "exchange": frozenset({"core"}),
    "config": frozenset({"core", "faults"}),
    "telemetry": frozenset({"core", "exchange"}),
    "state": frozenset({"core", "exchange"}),
    "recording": frozenset({"core", "exchange"}),
    "faults": frozenset({"core", "exchange"}),
    "upstream": frozenset({"core", "exchange", "config", "recording"}),
    "relay": frozenset({"core", "exchange", "upstream"}),
    "middleware": frozenset({"exchange", "config"}),
    "server": frozenset({"config", "exchange"}),
    "handlers": _ALL - {"server", "replay", "inspect", "app", "testing", "cli"},
    "replay": frozenset(
        {"core", "config", "exchange", "faults", "recording", "server", "upstream"}
    ),
    "inspect": frozenset({"core", "config", "exchange", "recording", "relay", "upstream"}),
    "testing": frozenset({"app", "config", "exchange", "recording", "replay"}),
    "app": _ALL,
    "cli": _ALL,
}
# The core computes: it waits for nothing, and time, ids and bytes are passed in.
_PURE: Final = frozenset(
    (
        *("abc", "bisect", "collections", "dataclasses", "enum", "functools", "hashlib", "heapq"),
        *(
            "itertools",
            "json",
            "math",
            "operator",
            "re",
            "typing",
            "contextlib",
            "orjson",
            "msgspec",
        ),
        "datetime",  # writes times that are passed in
    )
)
_LONGEST_FUNCTION: Final = 45
_LONGEST_MODULE: Final = 300

pytestmark = pytest.mark.unmeasured


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def package_of(path: Path) -> str:
    inside = path.relative_to(ROOT).parts
    return inside[0] if len(inside) > 1 else ""


@dataclass
class Facts:
    """What the tests ask of a module: it is parsed once, and its tree is large.

    Attributes:
        text: all of it.
        imported: every module that it imports, wherever in it, for types too.
        classes: the names of all of them.
        lengths: of its functions, without their docstrings.
        undescribed: its public functions that lack a part of their docstring.
    """

    text: str
    imported: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    lengths: list[tuple[str, int]] = field(default_factory=list)
    undescribed: list[str] = field(default_factory=list)


@functools.cache
def facts(path: Path) -> Facts:
    found = Facts(path.read_text("utf-8"))
    tree = ast.parse(found.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.imported += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module == "lifecycle_proxy":
                found.imported += (f"lifecycle_proxy.{alias.name}" for alias in node.names)
            else:
                found.imported.append(node.module or "")
        elif isinstance(node, ast.ClassDef):
            found.classes.append(node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.lengths.append((node.name, length_of(node)))
    found.undescribed += undescribed(path, tree)
    return found


def length_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, without its docstring."""
    first = node.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = (node.body[1] if has_docstring and len(node.body) > 1 else first).lineno
    return (node.end_lineno or start) - start + 1


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_package_may(path: Path) -> None:
    package = package_of(path)
    allowed = MAY_IMPORT.get(package, _ALL) | {package}
    for name in facts(path).imported:
        top, *inside = name.split(".")
        if top == "lifecycle_proxy":
            wanted = inside[0] if inside else ""
            assert wanted in allowed or wanted not in _ALL, f"{package} may not import {name}"
        elif package == "core":
            assert top in _PURE, f"the core may not import {name}"


def test_every_package_has_its_row() -> None:
    assert set(MAY_IMPORT) == _ALL
    assert lifecycle_proxy.__doc__ is not None
    for name in _ALL:
        assert f"{name}/" in lifecycle_proxy.__doc__


def test_no_two_packages_import_each_other() -> None:
    graph: dict[str, set[str]] = {name: set() for name in _ALL}
    for path in modules():
        own = (name for name in facts(path).imported if name.startswith("lifecycle_p"))
        inner = (name.split(".")[1:2] for name in own)
        graph.setdefault(package_of(path), set()).update(*inner)
    edges = {(a, b) for a, seen in graph.items() for b in seen & _ALL if a != b}
    reach = set(edges)
    for _ in graph:
        reach |= {(a, d) for (a, b), (c, d) in itertools.product(reach, edges) if b == c}
    assert {a for a, b in reach if a == b} == set()


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_things_stay_short(path: Path) -> None:
    lines = facts(path).text.count("\n")
    assert lines <= _LONGEST_MODULE, f"{path}: more than {_LONGEST_MODULE} lines"
    for name, length in facts(path).lengths:
        assert length <= _LONGEST_FUNCTION, f"{path}: {name} has {length} lines"


def test_each_package_has_its_logger() -> None:
    """So that a level can be set for each; the access log and bad requests cross packages."""
    for path in modules():
        for name in re.findall(r"getLogger\(([^)]+)\)", facts(path).text):
            assert name in (f'"proxy.{package_of(path)}"', '"proxy.access"', '"proxy.http"'), path


def test_classes_have_names_of_their_own() -> None:
    """A name that means two things has to be looked up each time."""
    found: dict[str, set[str]] = {}
    for path in modules():
        for name in facts(path).classes:
            if not name.startswith("_"):
                found.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    assert {name: where for name, where in found.items() if len(where) > 1} == {}


def undescribed(path: Path, tree: ast.Module) -> Iterator[str]:
    """The public functions of a module without ``Args:`` or ``Raises:`` where there must be one.

    A method that overrides another one is described there; one that implements a protocol says so
    ("See ``BodySink``").
    """
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = importlib.import_module(".".join(("lifecycle_proxy", *parts)))
    holders: list[ast.Module | ast.ClassDef] = [tree]
    holders += (node for node in tree.body if isinstance(node, ast.ClassDef))
    for holder in holders:
        bases: tuple[type, ...] = ()
        if isinstance(holder, ast.ClassDef):
            if holder.name.startswith("_"):
                continue
            bases = getattr(module, holder.name).__mro__[1:]
        for node in holder.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_") or any(node.name in vars(base) for base in bases):
                continue
            docstring = ast.get_docstring(node) or ""
            if docstring.startswith("See ``"):
                continue
            if _parameters(node) - (holder is not tree) > 1 and "Args:" not in docstring:
                yield f"{node.name}: no Args:"
            if any(_raised(node)) and "Raises:" not in docstring:
                yield f"{node.name}: no Raises:"


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many there are, ``self`` included."""
    of, starred = node.args, (node.args.vararg, node.args.kwarg)
    return len([*of.posonlyargs, *of.args, *of.kwonlyargs, *filter(None, starred)])


def _raised(node: ast.AST) -> Iterator[ast.expr]:
    """What a function raises itself, not by a function inside of it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Raise) and child.exc is not None:
            yield child.exc
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _raised(child)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_are_described(path: Path) -> None:
    assert facts(path).undescribed == []


def test_the_tests_lie_as_the_packages_do() -> None:
    """A folder of tests a package, and a few for what is no package: see CONTRIBUTING.md."""
    folders = {path.parent.name for path in Path(__file__).parent.glob("*/test_*.py")}
    assert folders - _ALL == {"sdks"}
    assert _ALL - folders == set()
