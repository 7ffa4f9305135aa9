"""Versions of the real openai package, each in a process of its own.

Those that are not the one of this environment are installed into pytest's cache, once.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import StartProxy
from tests.fakes import DONE, Request, Upstream, Wire, delta, text, tool_call

VERSIONS: Final = ("1.109.1", "2.16.0", "installed")
_INSTALL_S: Final = 180
_SCRIPT: Final = Path(__file__).with_name("old_sdk.py")

pytestmark = pytest.mark.unmeasured


@pytest.fixture(scope="module", params=VERSIONS)
def sdk(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a python that imports one version of openai."""
    version: str = request.param
    if version == "installed":
        return dict(os.environ)
    folder = request.config.cache.mkdir("openai")
    oldest, place = folder / VERSIONS[0], folder / version
    if not oldest.exists():
        _install(oldest)
    if not place.exists():
        _install(place, "--no-deps")  # those of the oldest serve
    return {**os.environ, "PYTHONPATH": f"{place}{os.pathsep}{oldest}"}


def _install(place: Path, *options: str) -> None:
    package = f"openai=={place.name}"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    with tempfile.TemporaryDirectory(dir=place.parent) as half:
        try:
            subprocess.run(
                [*pip, *options, "--no-compile", "--upgrade", "--target", half, package],
                check=True,
                capture_output=True,
                timeout=_INSTALL_S,
            )
        except (subprocess.SubprocessError, OSError) as failure:
            pytest.skip(f"{package} cannot be installed here: {failure}")
        with contextlib.suppress(OSError):  # another process was faster
            Path(half).rename(place)
            Path(half).mkdir()  # for the end of this block


async def read(environment: dict[str, str], base_url: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(_SCRIPT),
        base_url,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


@pytest.mark.parametrize("dialect", ["chunk", "comment"])
async def test_heartbeats_and_comments_between_events_with_ids_are_nothing(
    upstream: Upstream, start_proxy: StartProxy, sdk: dict[str, str], dialect: str
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(b"id: 1\n" + text("Let me "))
        await asyncio.sleep(0.2)
        events = (text("look."), tool_call(), delta("tool_calls"), DONE)
        for number, one in enumerate(events, 2):
            await wire.chunk(b"id: %d\n%b" % (number, one))
            await asyncio.sleep(0.1)
        await wire.chunk()

    upstream.script = script
    url = await start_proxy({"server.heartbeat_s": 0.05})
    given = await read(sdk, f"{url}/-/as/{dialect}/v1")
    assert given["text"] == "Let me look."
    pair = [["call_1", "running"], ["call_1", "completed"]]
    assert given["told"] == (pair if dialect == "chunk" else [])
