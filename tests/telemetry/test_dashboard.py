"""Each panel of the dashboard and each alert, asked of a real Prometheus that scrapes the proxy."""

import asyncio
import json
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import pytest
import yaml

from tests.conftest import StartProxy
from tests.fakes import (
    DONE,
    Client,
    Request,
    Upstream,
    Wire,
    chat,
    delta,
    text,
    tool_call,
)

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
DASHBOARD: Final = json.loads((EXAMPLES / "grafana-dashboard.json").read_text("utf-8"))
RULES: Final = EXAMPLES / "prometheus-rules.yaml"
PROMETHEUS: Final = shutil.which("prometheus")
_PATIENCE_S: Final = 60
_TRIES: Final = 200

pytestmark = [
    pytest.mark.skipif(
        PROMETHEUS is None, reason="prometheus is not installed: apt-get install prometheus"
    ),
    pytest.mark.unmeasured,
]


def queries() -> list[tuple[str, str]]:
    """Title and expression of each query, as Grafana sends them."""
    found = []
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            asked = target["expr"].replace("$__rate_interval", "1m")
            found.append((panel["title"], asked.replace("$job", ".*").replace("$instance", ".*")))
    return found


async def get(url: str, path: str, **query: str) -> Any:
    async with Client(url) as client:
        target = f"{path}?{urlencode(query)}" if query else path
        await client.send("GET", target, "Connection: close")
        answer = await (await client.head()).read()
    return answer.json() if answer.status == 200 else {"status": answer.status}


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[str]:
    """Scrapes the target every second. Yields its URL."""
    assert PROMETHEUS is not None
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "chats",
                "metrics_path": "/-/metrics",
                "static_configs": [{"targets": [urlsplit(target).netloc]}],
            }
        ],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    listen = f"127.0.0.1:{_free_port()}"
    command = [
        PROMETHEUS,
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={listen}",
    ]
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        yield f"http://{listen}"
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def traffic(url: str) -> None:
    """Chats of all kinds: each metric that a panel shows has to change between two scrapes."""
    await chat(url, model="m")
    await chat(url, model="m")
    await chat(url, model="gone")


async def play(request: Request, wire: Wire) -> None:
    if b'"gone"' in request.body:
        wire.reset()
        return
    failed = delta(role="tool", tool_call_id="call_1", content="Error: no", status="error")
    await wire.stream(text("a"), tool_call("call_1", "ls", "{}"), delta("tool_calls"))
    await asyncio.sleep(0.01)
    for piece in (failed, text("b"), delta("stop"), DONE, b""):
        await wire.chunk(piece)


async def test_each_query_is_answered(
    upstream: Upstream, start_proxy: StartProxy, tmp_path: Path
) -> None:
    upstream.script = play
    url = await start_proxy(
        {
            "upstreams": [
                {"name": "dead", "url": "http://127.0.0.1:9/v1", "models": ["m"]},
                {"name": "live", "url": f"{upstream.origin}/v1", "models": ["m", "gone"]},
            ],
            "models": {"m": ["dead/m", "live/m"], "gone": ["live/gone"]},
        }
    )
    async with prometheus(tmp_path, url) as at:
        async with asyncio.timeout(_PATIENCE_S):
            while not (await _tried(at)).get("data", {}).get("result"):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        unanswered = queries()
        for _ in range(_TRIES):
            await traffic(url)
            unanswered = [one for one in unanswered if not await _answered(at, *one)]
            if not unanswered:
                break
        assert unanswered == []
        rules = (await get(at, "/api/v1/rules"))["data"]["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} == {"ok"}
        assert "LifecycleProxyToolFails" in {rule["name"] for rule in rules}
        failing = await get(at, "/api/v1/query", query=_expression("LifecycleProxyToolFails"))
        assert failing["data"]["result"][0]["metric"] == {"gen_ai_tool_name": "ls"}


async def _answered(at: str, title: str, asked: str) -> bool:
    answer = await get(at, "/api/v1/query", query=asked)
    assert answer["status"] == "success", (title, asked, answer)
    return bool(answer["data"]["result"])


async def _tried(at: str) -> Any:
    try:
        return await get(at, "/api/v1/query", query="lifecycle_proxy_build_info")
    except OSError:  # it does not listen yet
        return {}


def _expression(name: str) -> str:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    (found,) = [rule["expr"] for rule in groups[0]["rules"] if rule["alert"] == name]
    return str(found)


def test_the_rules_are_rules() -> None:
    promtool = shutil.which("promtool")
    assert promtool is not None
    done = subprocess.run(
        [promtool, "check", "rules", str(RULES)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
