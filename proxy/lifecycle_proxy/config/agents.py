"""Agents as upstreams: which program is run, where, with what, and what it may do."""

import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from lifecycle_proxy.config.plain import quoted
from lifecycle_proxy.core.agents.quirks import KINDS

Found = Iterator[tuple[str, str]]  # keys and texts

_Seconds = Annotated[float, Meta(ge=0)]
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class AgentSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys of an upstream that is an agent."""

    agent: list[str] = []
    agent_name: str = ""
    kind: str = "auto"
    cwd: str = ""
    cwd_roots: list[str] = []
    env: dict[str, str] = {}
    permissions: typing.Literal["ask", "deny", "allow-reads"] = "ask"
    max_sessions: Annotated[int, Meta(ge=1, le=1000)] = 8
    idle_s: _Seconds = 900
    start_timeout_s: _Seconds = 60
    hermes_runs: bool = False

    @property
    def is_agent(self) -> bool:
        """Whether the proxy itself writes its answers."""
        return bool(self.agent) or self.hermes_runs

    @property
    def agent_model(self) -> str:
        """The name of the one model that the agent is."""
        return self.agent_name or (Path(self.agent[0]).name if self.agent else "")


class ApprovalSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[approvals]``: how people allow what agents ask for."""

    timeout_s: Annotated[float, Meta(gt=0, le=86400)] = 120


def problems(own: AgentSettings, table: str, workers: int) -> Found:
    """What makes an agent impossible to run.

    Args:
        own: the upstream's settings.
        table: its name, for the keys.
        workers: ``server.workers``.
    """
    if own.is_agent and workers > 1:
        key = "agent" if own.agent else "hermes_runs"
        text = (
            "an agent's sessions live in one process; set server.workers to 1, or run a second "
            "proxy for the agent and write its url here: docs/agents.md"
        )
        yield f"{table}.{key}", text
    if not own.agent:
        return
    if own.hermes_runs:
        yield f"{table}.hermes_runs", "is for a Hermes API server, by url; this is a command"
    if problem := _no_command(own.agent):
        yield f"{table}.agent", problem
    if own.kind not in ("auto", *KINDS):
        known = ", ".join(("auto", *KINDS))
        yield f"{table}.kind", f"{quoted(own.kind)} is not known; known are {known}"
    for path in filter(None, (own.cwd, *own.cwd_roots)):
        key = "cwd" if path == own.cwd else "cwd_roots"
        if not (Path(path).is_absolute() and Path(path).is_dir()):
            yield f"{table}.{key}", f"{quoted(path)} is not the whole path of a folder"
    for name in own.env:
        if not _VARIABLE.fullmatch(name):
            yield f"{table}.env", f"{quoted(name)} is not the name of an environment variable"


def _no_command(command: list[str]) -> str:
    """Why nothing can be run; "" if something can."""
    if not all(command) or any("\0" in one for one in command):
        return 'is a command and its arguments, such as ["opencode", "acp"]'
    if len(command) == 1 and " " in command[0].strip() and not Path(command[0]).exists():
        return f"no shell splits it; write [{', '.join(map(quoted, command[0].split()))}]"
    return ""


def copied(own: AgentSettings) -> dict[str, typing.Any]:
    """The keys of an agent, for other settings."""
    return {name: getattr(own, name) for name in AgentSettings.__struct_fields__}


Upstream = typing.TypeVar("Upstream", bound=AgentSettings)


def with_secrets(own: Upstream, table: str, secret: Callable[[str, str], str]) -> Upstream:
    """The settings with ``env:NAME`` read.

    Args:
        own: the upstream's settings.
        table: its name, for the keys.
        secret: reads a value for a key.
    """
    env = {name: secret(value, f"{table}.env") for name, value in own.env.items()}
    return replace(own, env=env)
