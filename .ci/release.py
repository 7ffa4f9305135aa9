"""Build what a release consists of, in dist/, and try it as a user would.

    make release

The wheel and the sdist are checked, and the wheel is installed into an environment that knows
nothing of the checkout, with the locked dependencies: the command, the demo and the pytest plugin
have to work there. The SBOM (CycloneDX) has the locked dependencies. Exit code 0: all is well.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
DIST: Final = ROOT / "dist"
_LISTENS: Final = re.compile(r"http://127\.0\.0\.1:\d+")
_LIMIT_S: Final = 1200
_TEST: Final = """
    import json
    import urllib.request

    import pytest
    from lifecycle_proxy.testing import assert_paired


    @pytest.mark.lifecycle_proxy(upstream="{upstream}/v1")
    def test_a_tool(lifecycle_proxy):
        messages = [{{"role": "user", "content": "go"}}]
        body = {{"model": "demo", "stream": True, "messages": messages}}
        asked = urllib.request.Request(
            lifecycle_proxy.base_url + "/chat/completions",
            json.dumps(body).encode(),
            {{"Content-Type": "application/json"}},
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert assert_paired(answer.read())
"""


def version() -> str:
    """The one place where it is written."""
    text = (ROOT / "proxy" / "lifecycle_proxy" / "__init__.py").read_text("utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    assert found is not None
    return found[1]


def main(tools: str) -> None:
    """Do it all.

    Args:
        tools: the folder of the commands that build and check.
    """
    wanted, bin_ = version(), Path(tools).resolve()
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    if f"## [{wanted}]" not in changes:
        raise SystemExit(f"CHANGELOG.md has no section for {wanted}")
    shutil.rmtree(DIST, ignore_errors=True)
    constraints = ("--build-constraints", ROOT / "locks" / "build.txt")
    _run(bin_ / "uv", "build", "--quiet", *constraints, "--out-dir", DIST, ROOT)
    (DIST / ".gitignore").unlink(missing_ok=True)
    (wheel,) = DIST.glob(f"lifecycle_proxy-{wanted}-py3-none-any.whl")
    (sdist,) = DIST.glob(f"lifecycle_proxy-{wanted}.tar.gz")
    _run(bin_ / "twine", "check", "--strict", wheel, sdist)
    _run(bin_ / "check-wheel-contents", wheel)
    _sbom(bin_ / "cyclonedx-py", DIST / f"lifecycle_proxy-{wanted}.cdx.json", wanted)
    with tempfile.TemporaryDirectory() as folder:
        _try(wheel, Path(folder), wanted)
    for path in sorted(DIST.iterdir()):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


def _sbom(tool: Path, to: Path, wanted: str) -> None:
    """The locked dependencies, and their hashes."""
    options = ("--output-reproducible", "--pyproject", ROOT / "pyproject.toml", "-o", to)
    _run(tool, "requirements", *options, ROOT / "locks" / "run.txt")
    found = json.loads(to.read_text("utf-8"))
    found["metadata"]["component"]["version"] = wanted  # dynamic in pyproject.toml
    to.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    print(f"{to.name}: {len(found['components'])} components")


def _try(wheel: Path, folder: Path, wanted: str) -> None:
    """Install it into a fresh environment, and use it there."""
    _run(sys.executable, "-m", "venv", folder / "venv")
    bin_ = folder / "venv" / "bin"
    install = (bin_ / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(*install, "--require-hashes", "-r", ROOT / "locks" / "run.txt")
    _run(*install, "--no-deps", wheel)
    _run(*install, "pytest")
    command = bin_ / "lifecycle-proxy"
    said = _run(command, "--version", cwd=folder)
    if wanted not in said:
        raise SystemExit(f"lifecycle-proxy --version says {said!r}")
    shown = _run(command, "demo", "--once", "--listen", "127.0.0.1:0", cwd=folder)
    if "running" not in shown or "completed" not in shown:
        raise SystemExit(f"the demo shows no pair of events:\n{shown}")
    with _demo(command, folder) as url:
        test = folder / "test_plugin.py"
        test.write_text(textwrap.dedent(_TEST.format(upstream=url)), "utf-8")
        _run(bin_ / "python", "-m", "pytest", "-q", "--lifecycle-record-mode=once", cwd=folder)
    _run(bin_ / "python", "-m", "pytest", "-q", "--lifecycle-record-mode=none", cwd=folder)


@contextmanager
def _demo(command: Path, folder: Path) -> Iterator[str]:
    """The demo, which goes on; its URL."""
    process = subprocess.Popen(  # noqa: S603  what was just installed
        [command, "demo", "--listen", "127.0.0.1:0"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env=_environ(),
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := _LISTENS.search(line):
                yield found[0]
                break
        else:
            raise SystemExit("the demo does not listen")
    finally:
        process.terminate()
        process.wait(_LIMIT_S)


def _environ() -> dict[str, str]:
    """Without what could lead back to the checkout."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "CI")
    own = {name: value for name, value in os.environ.items() if name not in hidden}
    return {name: value for name, value in own.items() if not name.startswith("LIFECYCLE_PROXY_")}


def _run(command: object, *arguments: object, cwd: Path = ROOT) -> str:
    """What a command prints; it ends all if it fails."""
    line = [str(command), *map(str, arguments)]
    print("$", Path(line[0]).name, *line[1:], flush=True)
    done = subprocess.run(  # noqa: S603  our own tools
        line, cwd=cwd, env=_environ(), capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}\n{Path(line[0]).name} failed")
    return done.stdout


if __name__ == "__main__":
    main(sys.argv[1])
