"""Packages of npm for tests: installed once, outside of the checkout, by their exact versions."""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import pytest

_INSTALL_S: Final = 300.0
_UNREACHABLE: Final = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|E40[134]")


def installed(*packages: str) -> Path:
    """The folder whose ``node_modules`` has these packages; the test is skipped if it cannot be.

    Args:
        packages: ``name@version``.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("npm and node are not installed")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lifecycle-proxy"
    folder = cache / "npm" / re.sub(r"[^\w.@-]", "_", "+".join(sorted(packages)))
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        (Path(place) / "package.json").write_text('{"private": true}')
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages]
        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, timeout=_INSTALL_S, check=False
        )
        if done.returncode and _UNREACHABLE.search(done.stdout + done.stderr):
            pytest.skip(f"npm cannot get {' '.join(packages)}")
        assert done.returncode == 0, done.stderr[-2000:]
        with contextlib.suppress(OSError):  # another process was faster
            Path(place).rename(folder)
            Path(place).mkdir()  # for the end of this block
    return folder
