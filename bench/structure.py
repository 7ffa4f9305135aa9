"""The packages of the product, who imports whom, and how large they are.

    python bench/structure.py           # a table for docs/architecture.md
    python bench/structure.py --dot     # the graph, for Graphviz: ... | dot -Tsvg >graph.svg

Reads the sources and imports none of them. Imports inside of functions and for types count too.
Lengths of functions are those of their bodies without docstrings, as in tests/test_layout.py, which
says what is allowed.
"""

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

NAME: Final = "lifecycle_proxy"
ROOT: Final = Path(__file__).resolve().parent.parent / "proxy" / NAME
LONG_LINES: Final = 40


@dataclass(slots=True)
class Package:
    """What is known of one package.

    Attributes:
        modules: lines of each module, by its path inside the package.
        long_functions: how many functions have more than LONG_LINES lines.
        imports: for each package that it imports, from how many of its modules.
    """

    modules: dict[str, int] = field(default_factory=dict)
    long_functions: int = 0
    imports: dict[str, int] = field(default_factory=dict)

    @property
    def lines(self) -> int:
        return sum(self.modules.values())

    @property
    def longest(self) -> str:
        return max(self.modules, key=lambda name: self.modules[name])


def read(root: Path = ROOT) -> dict[str, Package]:
    """All packages directly below a folder, by name.

    Raises:
        SyntaxError: a module cannot be parsed.
    """
    names = {path.parent.name for path in root.glob("*/__init__.py")}
    packages = {name: Package() for name in sorted(names)}
    for name, package in packages.items():
        for path in sorted((root / name).rglob("*.py")):
            text = path.read_text("utf-8")
            tree = ast.parse(text, str(path))
            package.modules[str(path.relative_to(root / name))] = text.count("\n")
            package.long_functions += sum(length > LONG_LINES for length in _lengths(tree))
            for other in sorted((set(_imported(tree)) & names) - {name}):
                package.imports[other] = package.imports.get(other, 0) + 1
    return packages


def ranks(packages: dict[str, Package]) -> dict[str, int]:
    """The layer of each package: 0 imports none, others are one above the highest they import.

    Packages that import each other, and those above them, have none and are left out.
    """
    found: dict[str, int] = {}
    while ready := [
        name
        for name, package in packages.items()
        if name not in found and all(other in found for other in package.imports)
    ]:
        layer = {
            name: max((found[o] + 1 for o in packages[name].imports), default=0) for name in ready
        }
        found |= layer
    return found


def table(packages: dict[str, Package]) -> Iterator[str]:
    """A table in Markdown, lowest layer first."""
    layers = ranks(packages)
    above = len(packages)
    columns = (
        "package",
        "modules",
        "lines",
        "longest module",
        f"functions > {LONG_LINES}",
        "imports",
    )
    yield f"| layer | {' | '.join(columns)} |"
    yield "| ---: | --- | ---: | ---: | --- | ---: | --- |"
    for name in sorted(packages, key=lambda one: (layers.get(one, above), one)):
        package = packages[name]
        cells = (
            layers.get(name, "circle"),
            f"`{name}/`",
            len(package.modules),
            package.lines,
            f"`{package.longest}` {package.modules[package.longest]}",
            package.long_functions,
        )
        imports = ", ".join(sorted(package.imports, key=lambda one: (layers.get(one, above), one)))
        yield f"| {' | '.join(map(str, cells))} | {imports or '-'} |"
    every = packages.values()
    yield (
        f"| | all | {sum(len(one.modules) for one in every)} | {sum(one.lines for one in every)} "
        f"| | {sum(one.long_functions for one in every)} | |"
    )


def dot(packages: dict[str, Package]) -> Iterator[str]:
    """The graph for Graphviz; an arrow has the number of the modules that import."""
    yield f"digraph {NAME} {{"
    yield "  node [shape=box]"
    for name, package in packages.items():
        yield f'  {name} [label="{name}\\n{len(package.modules)} modules, {package.lines} lines"]'
        for other, modules in package.imports.items():
            yield f'  {name} -> {other} [label="{modules}"]'
    yield "}"


def _imported(tree: ast.AST) -> Iterator[str]:
    """The own packages that a module imports, once for each import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == NAME:
            modules = [f"{NAME}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            top, _, inside = module.partition(".")
            if top == NAME and inside:
                yield inside.partition(".")[0]


def _lengths(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            start = body[0].lineno if body else node.lineno
            yield (node.end_lineno or start) - start + 1


def main() -> None:
    parser = argparse.ArgumentParser(description="The packages, their imports and their sizes.")
    parser.add_argument("--dot", action="store_true", help="the graph, for Graphviz")
    draw = dot if parser.parse_args().dot else table
    sys.stdout.write("".join(f"{line}\n" for line in draw(read())))


if __name__ == "__main__":
    main()
