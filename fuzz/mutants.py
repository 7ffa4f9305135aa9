"""Mutation testing of the core: small changes to its code, each of which a test should notice.

    python fuzz/mutants.py --sample 200 --seed 1

Coverage says that a line was run; a mutant that survives says that nobody looked at what it did.
Everything happens in copies of the tree. A first run measures which test functions run which lines;
then each mutant is given to those functions, to the tests of its own module first, and at the end
to the laws. A survivor is a hole in the tests, or no change of behaviour: read it.
"""

import argparse
import ast
import copy
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from coverage import Coverage, CoverageData

ROOT: Final = Path(__file__).resolve().parent.parent
CORE: Final = Path("proxy/lifecycle_proxy/core")
TESTS: Final = "tests/core"
_LAWS: Final = f"{TESTS}/test_laws.py"
_TIMEOUT_S: Final = 900
_NO_CODE: Final = ("annotation", "returns", "decorator_list", "type_params")
_PAIRS: Final = (
    *((ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn), (ast.And, ast.Or)),
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Add, ast.Sub), (ast.LShift, ast.RShift)),
)
_SWAPPED: Final[dict[type[ast.AST], Any]] = {a: b for p in _PAIRS for a, b in (p, p[::-1])}


class Mutant(NamedTuple):
    """One change: the ``number``-th that there is in a file."""

    path: Path
    number: int
    line: int
    text: str


def replacements(node: ast.AST) -> Iterator[ast.AST]:  # noqa: C901  an arm each
    """What may stand in the place of a node."""
    match node:
        case ast.Compare(left=left, ops=[op], comparators=right) if type(op) in _SWAPPED:
            yield ast.Compare(left, [_SWAPPED[type(op)]()], right)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(_SWAPPED[type(op)](), values)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _SWAPPED:
            yield ast.BinOp(left, _SWAPPED[type(op)](), right)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str() | bytes() as value) if value:
            yield ast.Constant(type(value)())
        case ast.IfExp(body=body, orelse=orelse):
            yield from (body, orelse)
        case ast.If(test=test, body=body, orelse=orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Return(value=ast.expr()):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Assign(targets=[ast.Attribute()]):
            yield ast.Pass()
        case _:
            pass


def changes(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST, Callable[[ast.AST], object]]]:
    """All changes below a node: what stands there, what would, and what puts it there."""
    for name, value in ast.iter_fields(node):
        if name in _NO_CODE:
            continue
        places: list[tuple[Any, Callable[[ast.AST], object]]] = [
            (value, partial(setattr, node, name))
        ]
        if isinstance(value, list):
            places = [(one, partial(value.__setitem__, at)) for at, one in enumerate(value)]
        for child, put in places:
            is_docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if isinstance(child, ast.AST) and not is_docstring:
                yield from ((child, new, put) for new in replacements(child))
                yield from changes(child)


def mutants(path: Path) -> Iterator[Mutant]:
    """All mutants of a file."""
    for number, (old, new, _) in enumerate(changes(ast.parse((ROOT / path).read_text("utf-8")))):
        line = getattr(old, "lineno", 0)
        short = (" ".join(ast.unparse(copy.deepcopy(n)).split())[:70] for n in (old, new))
        yield Mutant(path, number, line, " -> ".join(short))


def mutated(mutant: Mutant, base: Path) -> str:
    """The file's code with the change."""
    tree = ast.parse((base / mutant.path).read_text("utf-8"))
    _, new, put = list(changes(tree))[mutant.number]
    put(new)
    return ast.unparse(ast.fix_missing_locations(tree))


def copied(source: Path, folder: Path) -> Path:
    """A copy of what the tests need."""
    for name in ("proxy", "tests"):
        shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source / "pyproject.toml", folder)
    return folder


def pytest(folder: Path, *arguments: str, before: tuple[str, ...] = ()) -> int:
    """Run tests in a copy; the exit code, or 1 after too long a time."""
    path = f"{folder / 'proxy'}{os.pathsep}{Path(__file__).parent}"
    environ = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *before, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, env=environ, check=False, capture_output=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return 1
    return done.returncode


def measured(folder: Path) -> CoverageData:
    """Which test functions run which lines. What hypothesis does is not measured."""
    settings = folder / "coverage.ini"
    settings.write_text(f"[run]\nsource={folder / CORE}\n")
    coverage = ("-m", "coverage", "run", f"--rcfile={settings}")
    quick = ("-m", "not (hypothesis or unmeasured)", "-p", Path(__file__).stem)
    if pytest(folder, TESTS, *quick, before=coverage):
        sys.exit("the tests fail as they are")
    data = CoverageData(str(folder / ".coverage"))
    data.read()
    return data


def pytest_runtest_setup(item: Any) -> None:
    """The measuring run has this module as a plugin: lines are noted for each test function."""
    current = Coverage.current()
    assert current is not None
    current.switch_context(item.nodeid.partition("[")[0])


def ways(mutant: Mutant, nodes: list[str]) -> Iterator[list[str]]:
    """What is run, in this order, until something fails."""
    own = sorted(node for node in nodes if f"test_{mutant.path.stem}.py" in node)
    yield from filter(None, (own, sorted({*nodes} - {*own, ""}), [_LAWS]))


def survives(mutant: Mutant, data: CoverageData, base: Path, folders: "queue.Queue[Path]") -> bool:
    """Whether no test fails."""
    covered = data.contexts_by_lineno(str(base / mutant.path))
    folder = folders.get()
    try:
        (folder / mutant.path).write_text(mutated(mutant, base))
        given = ways(mutant, covered.get(mutant.line, []))
        return all(pytest(folder, "-x", *nodes) == 0 for nodes in given)
    finally:
        shutil.copy(base / mutant.path, folder / mutant.path)
        folders.put(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sample", type=int, default=200, help="how many mutants; 0 for all")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))  # noqa: S311
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    paths = sorted(path.relative_to(ROOT) for path in (ROOT / CORE).rglob("*.py"))
    every = [mutant for path in paths for mutant in mutants(path)]
    size = min(given.sample or len(every), len(every))
    chosen = random.Random(given.seed).sample(every, size)  # noqa: S311
    print(f"{size} of {len(every)} mutants, --seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(given.jobs) as pool:
        base = copied(ROOT, Path(place) / "base")
        data, alive = measured(base), 0
        folders: queue.Queue[Path] = queue.Queue()
        for number in range(given.jobs):
            folders.put(copied(base, Path(place) / str(number)))
        survived = pool.map(lambda mutant: survives(mutant, data, base, folders), chosen)
        for mutant, is_alive in zip(chosen, survived, strict=True):
            if is_alive:
                alive += 1
                print(f"{mutant.path}:{mutant.line}: {mutant.text}", flush=True)
    print(f"{size - alive} of {size} mutants were noticed, {alive} survived")


if __name__ == "__main__":
    main()
