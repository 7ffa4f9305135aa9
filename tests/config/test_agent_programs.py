"""The program of an agent is looked for at the start, not at the first chat."""

from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.config import machine
from lifecycle_proxy.config import model as config
from lifecycle_proxy.config.plain import quoted


def found(**own: Any) -> list[tuple[str, str]]:
    flags = {f"upstream.{key}": value for key, value in own.items()} | {"upstream.url": None}
    return list(machine.agents(config.load(environ={}, flags=flags)))


def test_what_is_in_path_or_has_a_whole_path_is_found(tmp_path: Path) -> None:
    program = tmp_path / "agent"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert found(agent=["sh", "-c", "true"]) == []
    assert found(agent=[str(program)]) == []
    assert found(agent=["agent"], env={"PATH": str(tmp_path)}) == []
    assert found(agent=["./agent"], cwd=str(tmp_path)) == []
    assert found(agent=["./agent"]) == []  # below a folder that the client names


def test_what_is_not_there_is_said_with_its_cure(tmp_path: Path) -> None:
    cure = "install it, or write its whole path"
    text = f'"nosuchprog" is not a program in PATH; {cure}'
    assert found(agent=["nosuchprog", "acp"]) == [("upstream.agent", text)]
    file = tmp_path / "not-executable"
    file.write_text("x")
    for path in (str(file), str(tmp_path / "nothing"), str(tmp_path)):
        text = f"{quoted(path)} cannot be run; {cure}"
        assert found(agent=[path]) == [("upstream.agent", text)]
    text = f'"./nothing" cannot be run; {cure}'
    assert found(agent=["./nothing"], cwd=str(tmp_path)) == [("upstream.agent", text)]


@pytest.mark.parametrize(("mode", "count"), [("off", 1), ("replay", 0)])
def test_a_replay_starts_no_agent(tmp_path: Path, mode: str, count: int) -> None:
    flags = {
        "upstreams": [{"name": "a", "agent": ["nosuchprog"]}],
        "upstream.url": None,
        "recording.mode": mode,
        "recording.path": str(tmp_path),
    }
    keys = [key for key, _ in machine.agents(config.load(environ={}, flags=flags))]
    assert keys == ["upstreams[0].agent"] * count
