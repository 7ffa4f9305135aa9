"""The version, and what is in the wheel. ``make release`` checks the rest, with a network."""

import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import lifecycle_proxy
import pytest

_ROOT = Path(__file__).parents[1]
_PACKAGE = Path(lifecycle_proxy.__file__).parent
_VERSION = lifecycle_proxy.__version__


def test_the_version_is_in_one_place() -> None:
    with (_ROOT / "pyproject.toml").open("rb") as file:
        pyproject = tomllib.load(file)
    assert "version" in pyproject["project"]["dynamic"]
    assert pyproject["tool"]["hatch"]["version"]["path"] == "proxy/lifecycle_proxy/__init__.py"
    others = [
        path.relative_to(_ROOT)
        for path in (*_PACKAGE.rglob("*.py"), _ROOT / "Makefile", _ROOT / "Dockerfile")
        if f'"{_VERSION}"' in path.read_text("utf-8") and path != _PACKAGE / "__init__.py"
    ]
    assert others == []


def test_the_changelog_begins_with_it() -> None:
    text = (_ROOT / "CHANGELOG.md").read_text("utf-8")
    first = re.search(r"^## \[([^\]]+)\](.*)$", text, re.MULTILINE)
    assert first is not None
    assert first[1] == _VERSION
    assert re.fullmatch(r" - \d{4}-\d\d-\d\d", first[2])


def _tracked(folder: str) -> set[str]:
    listed = subprocess.run(
        ["git", "-C", str(_ROOT), "ls-files", "-co", "--exclude-standard", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("no git, or no checkout")
    return {name for name in listed.stdout.splitlines() if (_ROOT / name).exists()}


def test_the_wheel_has_the_package_and_nothing_else(tmp_path: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    (built,) = wheel.WheelBuilder(str(_ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        names = set(archive.namelist())
        info = f"lifecycle_proxy-{_VERSION}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        entries = archive.read(f"{info}/entry_points.txt").decode()
    tracked = {name.removeprefix("proxy/") for name in _tracked("proxy/lifecycle_proxy")}
    assert {name for name in names if not name.startswith(info)} == tracked
    assert "lifecycle_proxy/py.typed" in names
    assert any(name.startswith("lifecycle_proxy/inspect/view/") for name in names)
    assert f"{info}/licenses/LICENSE" in names
    assert f"\nVersion: {_VERSION}\n" in metadata
    assert "lifecycle-proxy = lifecycle_proxy.cli.main:main" in entries
    assert "lifecycle_proxy = lifecycle_proxy.testing.plugin" in entries


def test_the_sdist_has_sources_tests_and_pages(tmp_path: Path) -> None:
    sdist = pytest.importorskip("hatchling.builders.sdist", reason="hatchling is not installed")
    (built,) = sdist.SdistBuilder(str(_ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert _tracked("proxy") | _tracked("tests") | _tracked("docs") <= names
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "PKG-INFO"} <= names
    assert not any(name.startswith((".git/", ".venv", "dist")) for name in names)


def test_what_is_built_is_not_committed() -> None:
    assert "dist/" in (_ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert _tracked("dist") == set()
