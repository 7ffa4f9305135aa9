"""What the documentation names exists, and it reads as it should."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.exchange.errors import STATUS

TESTS = Path(__file__).parent
ROOT = TESTS.parent
DOCS = ROOT / "docs"
SOURCE = ROOT / "proxy" / "lifecycle_proxy"
MODULES = sorted(SOURCE.rglob("*.py"))
PROSE = sorted(
    [
        *ROOT.glob("*.md"),
        *DOCS.glob("*.md"),
        *(ROOT / "examples").iterdir(),
        ROOT / "config.example.toml",
    ]
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
_CODE = re.compile(r"```\w+\n(.*?)```", re.DOTALL)
_TABLES = ("server", "upstream", "lifecycle", "recording", "streams", "page", "traces", "approvals")
# Metaphors, and words that have a plain one: see CONTRIBUTING.md.
_UNPLAIN = (
    r"blot(s|ted)? out|in clear|whoever|\btold\b|\btells? of\b|\bours\b|\bof ours\b|\bsuffers?\b"
    r"|\bis no (HTTP|JSON|UTF-8)\b|\bembraces\b|\bunasked\b|passe[sd]? over\b"
)

pytestmark = pytest.mark.unmeasured


def _read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "least"), [("reliability.md", 100), ("security.md", 20)])
def test_every_test_that_a_page_names_is_there(page: str, least: int) -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", _read(DOCS / page))
    missing = [
        f"{file}::{name}" for file, name in named if f"def {name}(" not in _read(TESTS / file)
    ]
    assert len(named) > least
    assert missing == []


@pytest.mark.parametrize("page", [page for page in PROSE if page.suffix == ".md"], ids=str)
def test_every_link_leads_to_a_file(page: Path) -> None:
    text = _read(page)
    links = re.findall(r"\]\(([^)#]+)|<img src=\"([^\"]+)", text)
    paths = [one or other for one, other in links if "://" not in one]
    assert [path for path in paths if not (page.parent / path).exists()] == []


def test_every_path_of_the_map_exists() -> None:
    text = _read(DOCS / "architecture.md")
    named = re.findall(r"`((?:proxy|tests|fuzz|bench)/[\w./]*)`", text)
    assert [path for path in named if not (ROOT / path).exists()] == []
    rows = re.findall(r"^\| `(\w+)/` \| (.*?) \|", text, re.MULTILINE)
    assert {name for name, _ in rows} == {init.parent.name for init in SOURCE.glob("*/__init__.py")}
    inside = [
        SOURCE / name / one for name, row in rows for one in re.findall(r"`(\w+(?:\.py|/))`", row)
    ]
    packages = "|".join(name for name, _ in rows)
    inside += [SOURCE / one for one in re.findall(rf"`((?:{packages})/[a-z_/]+\.py)`", text)]
    assert len(inside) > 40
    assert [path for path in inside if not path.exists()] == []


def test_the_table_of_sizes_has_the_imports_of_today() -> None:
    """The sizes themselves change with every commit, and may be a little old."""
    command = [sys.executable, str(ROOT / "bench" / "structure.py")]
    today = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    row = re.compile(r"^\| (\d+|circle) \| (`\w+/`) \|.*\| ([^|]+) \|$", re.MULTILINE)
    rows = row.findall(today)
    assert len(rows) == len({path.parent for path in SOURCE.glob("*/__init__.py")})
    assert row.findall(_read(DOCS / "architecture.md")) == rows


@pytest.mark.parametrize("page", PROSE, ids=str)
def test_every_setting_exists(page: Path) -> None:
    known = msgspec.to_builtins(Settings())
    named = re.findall(rf"`({'|'.join(_TABLES)})\.(?!py`|html\b)(\w+)", _read(page))
    assert [f"{table}.{key}" for table, key in named if key not in known[table]] == []


def test_every_dialect_is_described() -> None:
    text = _read(DOCS / "dialects.md")
    assert [name for name in DIALECTS if f"| `{name}` |" not in text] == []
    assert [name for name in DIALECTS if f"### `{name}`" not in text] == []


def test_every_error_is_described() -> None:
    text = _read(DOCS / "operating.md")
    rows = (f"| `{code}` | {status} |" for code, status in STATUS.items())
    assert [row for row in rows if row not in text] == []


def test_every_page_is_in_the_readme() -> None:
    assert [page.name for page in DOCS.glob("*.md") if f"(docs/{page.name})" not in README] == []


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250


def test_code_of_the_readme_fits_the_page() -> None:
    """80 columns on the first screen; GitHub shows about 100 without a scroll bar."""
    first, _, rest = README.partition("## Install")
    for text, columns in ((first, 80), (rest, 100)):
        lines = "".join(_CODE.findall(text)).splitlines()
        assert lines
        assert [line for line in lines if len(line) > columns] == []


def test_no_advice_needs_a_package_index() -> None:
    """The package is on none."""
    advice = re.compile(r"(?:install|add|run|uvx)(?: -\S+)* ['\"]?lifecycle[-_]proxy\b")
    code = [*(ROOT / "proxy").rglob("*.py"), ROOT / "Makefile", ROOT / "Dockerfile"]
    for page in (*PROSE, *code):
        found = [one for one in advice.findall(_read(page)) if not one.startswith("run ")]
        assert found == [], page
        assert "lifecycle-proxy[" not in _read(page), page


def test_docker_opens_ports_of_this_machine_only() -> None:
    for page in (*PROSE, ROOT / "Dockerfile"):
        assert not re.search(r"-p \d+:\d+|^ +- \"?\d+:\d+", _read(page), re.MULTILINE), page


@pytest.mark.parametrize("page", PROSE, ids=str)
def test_the_prose_is_plain(page: Path) -> None:
    assert [found[0] for found in re.finditer(_UNPLAIN, _read(page), re.IGNORECASE)] == []


def _unplain(module: Path) -> Iterator[str]:
    """The words of the docstrings and comments of a module that have a plain one."""
    text = _read(module)
    if not re.search(_UNPLAIN, text, re.IGNORECASE):
        return  # quicker than to parse it
    prose = [
        ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    prose += (token.string for token in tokens if token.type == tokenize.COMMENT)
    for part in prose:
        yield from (found[0] for found in re.finditer(_UNPLAIN, part, re.IGNORECASE))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_docstrings_and_comments_are_plain(module: Path) -> None:
    assert list(_unplain(module)) == []


def test_each_line_of_the_dockerfile_is_an_instruction() -> None:
    """No engine reads it here."""
    lines = [line for line in _read(ROOT / "Dockerfile").splitlines() if line[:1] not in ("#", "")]
    begun = [line for line, before in zip(lines, ["", *lines], strict=False) if before[-1:] != "\\"]
    known = "ARG FROM WORKDIR ENV COPY RUN USER EXPOSE HEALTHCHECK ENTRYPOINT CMD LABEL STOPSIGNAL"
    for line in begun:
        word, _, rest = line.partition(" ")
        assert word in known.split(), line
        assert word != "ARG" or re.fullmatch(r"[A-Z]+=[\w.:@-]+", rest), line
    assert begun[0].startswith("ARG BASE=")
