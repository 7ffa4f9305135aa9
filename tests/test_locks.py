"""The lock files, what audits them, and the versions in the examples."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import lifecycle_proxy
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).parents[1]
_LOCKS = {path.stem: path.read_text("utf-8") for path in (_ROOT / "locks").glob("*.txt")}
_PIN = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)


def _pins(lock: str) -> dict[str, set[str]]:
    """The versions of each package: more than one where Pythons or systems need it."""
    pins: dict[str, set[str]] = {}
    for name, version in _PIN.findall(_LOCKS[lock]):
        pins.setdefault(name, set()).add(version)
    return pins


def _wanted(lock: str) -> list[str]:
    with (_ROOT / "pyproject.toml").open("rb") as file:
        pyproject = tomllib.load(file)
    run: list[str] = pyproject["project"]["dependencies"]
    dev: list[str] = pyproject["project"]["optional-dependencies"]["dev"]
    build: list[str] = pyproject["build-system"]["requires"]
    return {"run": run, "dev": run + dev, "build": build}[lock]


@pytest.mark.parametrize("lock", ["run", "dev", "build"])
def test_a_lock_has_what_pyproject_asks_for(lock: str) -> None:
    pins = _pins(lock)
    for one in map(Requirement, _wanted(lock)):
        versions = pins.get(canonicalize_name(one.name), set())
        assert versions, f"locks/{lock}.txt lacks {one.name}: run make lock"
        wrong = [version for version in versions if version not in one.specifier]
        assert not wrong, f"locks/{lock}.txt has {one.name} {wrong}, not {one}: run make lock"


@pytest.mark.parametrize("lock", sorted(_LOCKS))
def test_all_that_a_lock_names_has_a_version_and_hashes_and_no_address(lock: str) -> None:
    text = re.sub(r"^\s*#.*\n", "", _LOCKS[lock], flags=re.MULTILINE)
    entries = text.replace("\\\n", " ").splitlines()
    assert len(entries) > 5
    pin = re.compile(r"[\w.-]+==\S+ (; .*?)?(\s+--hash=sha256:[0-9a-f]{64})+")
    assert [entry for entry in entries if not pin.fullmatch(entry)] == []
    assert "://" not in text


def test_what_is_tested_is_what_the_image_has() -> None:
    tested = _pins("dev")
    assert {name: tested.get(name) for name in _pins("run")} == _pins("run")


def test_the_examples_name_versions() -> None:
    for page in ("compose.yaml", "compose-replicas.yaml", "kubernetes.yaml"):
        images = re.findall(r"image: (\S+)", (_ROOT / "examples" / page).read_text("utf-8"))
        assert f"lifecycle-proxy:{lifecycle_proxy.__version__}" in images
        assert [image for image in images if not re.search(r":v?\d+\.\d+\.\d+$", image)] == []


_SAFE = '{"name": "a", "version": "1", "vulns": []}'
_VULNERABLE = '{"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}'
_UNKNOWN = '{"name": "c", "skip_reason": "not found"}'


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([_SAFE], 0, "1 packages audited, 0 known vulnerabilities."),
        ([_SAFE, _VULNERABLE], 1, "b 2: CVE-1, mended in 3"),
        ([_SAFE, _UNKNOWN], 0, "NOT audited: c: not in the database."),
        ([_UNKNOWN, _UNKNOWN], 0, "NOT audited: the database has none of the 2 packages"),
        ("requests.exceptions.ConnectionError: no route", 0, "NOT audited: the database of"),
        ("pip-audit: error: no such file", 1, "no such file"),
    ],
)
def test_an_audit_that_found_nothing_says_whether_it_looked(
    tmp_path: Path, found: list[str] | str, code: int, said: str
) -> None:
    pip_audit = tmp_path / "pip-audit"
    if isinstance(found, str):
        pip_audit.write_text(f"#!/bin/sh\necho '{found}' >&2\nexit 1\n")
    else:
        pip_audit.write_text(f"#!/bin/sh\necho '{{\"dependencies\": [{', '.join(found)}]}}'\n")
    pip_audit.chmod(0o755)
    done = subprocess.run(
        [sys.executable, _ROOT / ".ci" / "audit.py", pip_audit, "lock.txt"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code
    assert said in done.stdout + done.stderr
