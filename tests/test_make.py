"""The Makefile where it cannot install: one plain sentence with the cure."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_OF_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
_TOOLS = ("sh", "awk", "sed", "grep", "tail", "test", "touch", "mkdir")

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or not (_ROOT / "Makefile").exists(), reason="needs make"
)


def _make(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    make = shutil.which("make")
    assert make is not None
    # Tests that run below make are no part of it: it would count levels and hand its flags on.
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_MAKE}
    return subprocess.run(
        [make, "-C", str(_ROOT), "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**inherited, **environ},
    )


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    """The sentence; behind it make has a line of its own."""
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    lines = [line for line in lines if "directory" not in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("version", ["3.10.13", ""])
def test_no_python_that_is_new_enough(tmp_path: Path, version: str) -> None:
    for tool in _TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    if version:
        old = tmp_path / "python3"
        old.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo Python {version}\nexit 1\n')
        old.chmod(0o755)
    said = _said(_make(f"VENV={tmp_path}/venv", PATH=str(tmp_path)))
    assert "Python 3.11 or later is needed" in said
    assert ("python3 here is Python 3.10.13" if version else "there is no python3") in said
    assert "make PYTHON=/path/to/python3" in said


def test_a_named_python_that_is_not_one() -> None:
    said = _said(_make("VENV=/nonexistent/venv", "PYTHON=/nonexistent/python3"))
    assert said.startswith("make: /nonexistent/python3 is not Python 3.11 or later.")


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = _said(_make(f"VENV={tmp_path}/file/venv", f"PYTHON={sys.executable}"))
    assert f"{tmp_path}/file/venv cannot be written to. Choose another folder: make VENV=" in said


def test_no_network(tmp_path: Path) -> None:
    pytest.importorskip("pip")
    venv = tmp_path / "venv"
    python = venv / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')  # quicker than a new one
    python.chmod(0o755)
    environ = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull}
    environ |= {"PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "", "PIP_RETRIES": "1"}
    done = _make(f"VENV={venv}", **environ, PIP_NO_CACHE_DIR="1", NO_PROXY="127.0.0.1")
    assert "Installing into" in done.stdout
    said = _said(done)
    assert "no package index can be reached" in said
    assert "set HTTPS_PROXY or PIP_INDEX_URL" in said
    assert (venv / "install.log").exists()
    assert not (venv / ".installed").exists()
