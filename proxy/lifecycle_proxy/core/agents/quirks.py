"""What each agent does in a way of its own: one row for each, found by running them.

opencode 1.18, codex-acp 2.6, claude-agent-acp 0.101, hermes 0.19, gemini 0.61, each over ACP.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

Fields = Mapping[str, Any]
Path = tuple[str, ...]

_WORD: Final = re.compile(r"[A-Za-z_][\w.-]{0,63}")
# Gemini CLI: ``run_shell_command__call_1``, ``read_file-1764400000000``.
_NAME_IN_ID: Final = re.compile(r"([a-z][a-z_]*?[a-z])(?:__|-)\S+")
_EXIT_CODES: Final[tuple[Path, ...]] = (
    ("rawOutput", "metadata", "exit"),
    ("_meta", "terminal_exit", "exit_code"),
)


@dataclass(frozen=True, slots=True)
class Quirks:
    """A row.

    Attributes:
        name_in: where a tool's name is if there is no ``name``: ``title`` (the first one, if it is
            one word), ``prefix`` (of the title, in front of a colon) or ``id``.
        names: by kind, where an agent leaves out the name.
        pseudo: calls whose id begins so are no tools.
        asks_apart: a permission request whose call's id begins so is for another call: the open one
            with the same command.
    """

    name_in: str = "title"
    names: tuple[tuple[str, str], ...] = ()
    pseudo: str = ""
    asks_apart: str = ""

    def name(self, call_id: str, fields: Fields, first_title: str) -> str:
        """The name of a tool.

        Args:
            call_id: of the call.
            fields: what is known of it.
            first_title: its title when it was first heard of.
        """
        own = at(fields, ("name",)) or at(fields, ("_meta", "claudeCode", "toolName"))
        if isinstance(own, str) and own:
            return own
        kind = fields.get("kind")
        found: str | None = None
        if self.name_in == "prefix":
            found = first_title.partition(":")[0]
        elif self.name_in == "id":
            match = _NAME_IN_ID.fullmatch(call_id)
            found = match[1] if match else None
        elif not self.names:
            found = first_title
        if found and _WORD.fullmatch(found):
            return found
        kind = kind if isinstance(kind, str) and _WORD.fullmatch(kind) else "tool"
        return dict(self.names).get(kind, kind)


_ROWS: Final[Mapping[str, Quirks]] = {
    "opencode": Quirks(),
    "codex": Quirks(
        names=(("execute", "exec_command"), ("edit", "apply_patch"), ("search", "web_search")),
        pseudo="guardian_assessment:",  # its own review of a command
    ),
    "claude": Quirks(),
    "gemini": Quirks(name_in="id"),
    "hermes": Quirks(name_in="prefix", asks_apart="perm-check-"),
}
KINDS: Final = (*_ROWS, "codex-app-server", "claude-stream-json")
_USUAL: Final = Quirks()


def quirks_of(kind: str, agent_name: str = "") -> Quirks:
    """The row of an agent.

    Args:
        kind: of ``KINDS``; anything else means that the agent's own name decides.
        agent_name: as the agent gives it (``agentInfo``).
    """
    if kind not in _ROWS:
        kind = next((one for one in _ROWS if one in agent_name.lower()), "")
    return _ROWS.get(kind, _USUAL)


def has_failed_exit(fields: Fields) -> bool:
    """Whether a tool ended with an exit code that says so: OpenCode calls that completed."""
    for path in _EXIT_CODES:
        holder = at(fields, path[:-1])
        if isinstance(holder, dict) and path[-1] in holder and holder[path[-1]] != 0:
            return True
    return False


def at(fields: Any, path: Path) -> Any:
    """What stands at a path of keys; None if nothing does.

    Args:
        fields: decoded JSON.
        path: keys, from outside to inside.
    """
    for key in path:
        if not isinstance(fields, dict):
            return None
        fields = fields.get(key)
    return fields
