"""The matrix of agents, from what the real ones said: ``tests/agents/recorded``, and Hermes' runs.

``tests/agents/run.py --record`` writes that down; it has the same judge.
"""

import json
from pathlib import Path
from typing import Final

import pytest

from tests.agents.matrix import Case, Tool, converse
from tests.agents.setups import AGENTS
from tests.conftest import StartProxy
from tests.upstream.test_agents import settings

pytestmark = pytest.mark.usefixtures("quiet")

RECORDED: Final = Path(__file__).parents[1] / "agents" / "recorded"
PLAYERS: Final = {"codex-app-server": "codex", "claude-stream-json": "claude"}
ASKING: Final = ("session/request_permission", "/requestApproval", "can_use_tool")


def _running(path: Path) -> int:
    """The entry of the stop; natives' have the agent's input as ``in``."""
    entries = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    to_agent = "in" if "native" in path.name else "out"
    own = [n for n, one in enumerate(entries) if one["dir"] == to_agent]
    return next(
        n
        for n in own
        if (message := entries[n]["msg"]).get("method") in ("session/cancel", "turn/interrupt")
        or message.get("type") == "control_request"
    )


@pytest.mark.parametrize("dialect", ["chunk", "openwebui"])
@pytest.mark.parametrize("mode", ["allow", "deny", "leave", "kill"])
@pytest.mark.parametrize("agent", [one for one in AGENTS if one != "hermes-runs"])
async def test_the_matrix(start_proxy: StartProxy, agent: str, mode: str, dialect: str) -> None:
    path = RECORDED / f"{agent}-{'leave' if mode == 'kill' else mode}.jsonl"
    kind = AGENTS[agent].kind
    until = (str(_running(path)),) if mode == "kill" else ()
    url = await start_proxy(settings(PLAYERS.get(kind, "replay"), str(path), *until, kind=kind))
    case = Case(agent, mode, dialect)
    asks = any(word in path.read_text("utf-8") for word in ASKING)
    # The tool runs once it is allowed to. The recording ends by itself.
    tool = Tool(lambda: bool(case.asked) or not asks, lambda: None)
    await converse(case, url, [{"role": "user", "content": "go"}], tool)
    case.judge()
    assert case.problems == []
    assert case.columns
    assert "FAILED" not in case.columns.values()
