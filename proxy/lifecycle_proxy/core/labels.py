"""How a call is shown to people: one line that says what it does, and an emoji.

The rules are Hermes Agent's own (``agent/display.py``, ``build_tool_preview`` and
``get_tool_emoji`` of hermes-agent 0.19), so that a card looks the same whether Hermes or this
proxy announced it. Two things differ: secrets are redacted, and the line has a limit.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import orjson

from lifecycle_proxy.core.complexity import is_too_complex
from lifecycle_proxy.core.redact import redact, redact_json

_TOOLS_KEPT: Final = 512
# So many characters behind the cut are searched for the rest of a secret that begins before it.
_LOOK_AHEAD: Final = 512
_MAX_SHOWN: Final = 1 << 16  # characters of arguments that a card shows
DEFAULT_EMOJI: Final = "⚡"
EMOJI: Final[dict[str, str]] = {
    name: emoji
    for emoji, names in {
        "💻": "terminal",
        "📖": "read_file",
        "✍️": "write_file",
        "🔧": "patch",
        "🔎": "search_files",
        "🐍": "execute_code",
        "📋": "todo",
        "🧠": "memory",
        "🔀": "delegate_task",
        "⏰": "cronjob",
        "⚙️": "process",
        "❓": "clarify",
        "🔍": "web_search session_search",
        "📄": "web_extract",
        "🐦": "x_search",
        "👁️": "vision_analyze browser_vision",
        "🎬": "video_analyze video_generate",
        "🎨": "image_generate",
        "🔊": "text_to_speech",
        "📚": "skills_list skill_view",
        "📝": "skill_manage",
        "✔": "kanban_complete",
        "⏸": "kanban_block",
        "💓": "kanban_heartbeat",
        "💬": "kanban_comment",
        "📎": "kanban_attach",
        "➕": "kanban_create",
        "▶": "kanban_unblock",
        "🔗": "kanban_link",
        "🌐": "browser_navigate",
        "📸": "browser_snapshot",
        "👆": "browser_click",
        "⌨️": "browser_type browser_press",
        "📜": "browser_scroll",
        "◀️": "browser_back",
        "🖼️": "browser_get_images",
        "🖥️": "browser_console",
    }.items()
    for name in names.split()
}
_EMOJI_BY_PREFIX: Final = {"ha_": "🏠", "kanban_": "📋"}


class Labels:
    """The presenter of the lifecycle.

    Args:
        max_length: labels are cut to this many characters, the last an ellipsis; 0 for no limit.
        redacted: whether secrets are replaced.
        emoji: emojis by tool name, before the built-in ones.
    """

    def __init__(
        self,
        *,
        max_length: int = 120,
        redacted: bool = True,
        emoji: Mapping[str, str] | None = None,
    ) -> None:
        self._max_length = max_length
        self._redacted = redacted
        self._emoji = {**EMOJI, **(emoji or {})}
        # A stream announces the same few tools again and again, mostly before their arguments come.
        self.emoji = lru_cache(_TOOLS_KEPT)(self._find_emoji)
        self._name = lru_cache(_TOOLS_KEPT)(self.shown)

    def label(self, tool: str, arguments: str) -> str:
        """One line: the most informative argument, else the name of the tool.

        Args:
            tool: its name.
            arguments: JSON, as far as it has come.
        """
        return (arguments and self.shown(preview(tool, arguments))) or self._name(tool)

    def shown(self, text: str) -> str:
        """Any text as a label may show it: one line, no secrets, not too long."""
        text = _one_line(text)
        if self._max_length:
            text = text[: self._max_length + _LOOK_AHEAD]  # bounds the work on huge arguments
        if self._redacted and not text.isidentifier():
            text = redact(text)
        if self._max_length and len(text) > self._max_length:
            text = text[: self._max_length - 1] + "…"
        return text

    def arguments(self, text: str) -> str:
        """A call's arguments as people may see them: the values redacted; "" if no JSON object."""
        if len(text) > _MAX_SHOWN:
            return ""  # each text in it is searched for secrets
        try:
            args = orjson.loads(text)
            shown = redact_json(args) if self._redacted else args
            return orjson.dumps(shown).decode() if isinstance(args, dict) else ""
        except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):
            return ""  # the encoder does not go as deep as the decoder

    def _find_emoji(self, tool: str) -> str:
        if tool in self._emoji:
            return self._emoji[tool]
        for prefix, emoji in _EMOJI_BY_PREFIX.items():
            if tool.startswith(prefix):
                return emoji
        return DEFAULT_EMOJI


def preview(tool: str, arguments: str) -> str:
    """The most informative argument of a call; "" where they are not known, or say nothing.

    Args:
        tool: its name.
        arguments: JSON, as far as it has come.
    """
    if is_too_complex(arguments):
        return ""
    try:
        args = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return ""
    if not isinstance(args, dict):
        return ""
    if args.keys() == _MADE:
        return _text(args["preview"])
    rule = _RULES.get(tool)
    if rule is None:
        return next((t for key in _TELLING if key in args and (t := _text(args[key]))), "")
    return rule(args) if callable(rule) else _text(args.get(rule))


_MADE: Final = {"preview"}  # Hermes' runs tell no arguments, but this line: ``core.agents.hermes``
_TELLING: Final = (
    *("query", "text", "command", "path", "name", "prompt", "code", "goal"),
    *("file_path", "filePath", "pattern", "url"),  # Claude Code, OpenCode
)
_Args = dict[str, Any]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _text(value: object) -> str:
    """A plain value, or the first of a list of such; other structures say nothing in one line."""
    if isinstance(value, list):
        value = value[0] if value else None
    return str(value) if isinstance(value, str | int | float) else ""


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "..."


_QUIET: Final = frozenset(
    ("cd", "pushd", "popd", "export", "set", "unset", "source", ".", "true", "false", ":")
)
_PLUMBING: Final = re.compile(
    r"\d?>>?&?\s*\S+|<\s*(?!<)\S+|\|\s*(?:head|tail|wc|sort|uniq)\b[^|;&]*"
)
_SEPARATOR: Final = re.compile(r"&&|\|\||;|\n")
_RULER: Final = re.compile(r"echo\s+[\"']?[-=_*#\s]*[\"']?$")


def _command(args: _Args) -> str:
    """The first command of a shell line that does something, and how many such follow."""
    command = _text(args.get("command") or args.get("code"))
    if "<<" in command:
        return command
    parts = [_one_line(_PLUMBING.sub(" ", part)) for part in _SEPARATOR.split(command)]
    telling = [p for p in parts if p and p.split()[0] not in _QUIET and not _RULER.match(p)]
    if not telling:
        return command
    more = len(telling) - 1
    return telling[0] + (f" + {more} command{'s' if more > 1 else ''}" if more else "")


def _read_file(args: _Args) -> str:
    name = _text(args.get("path")).rstrip("/").rpartition("/")[2]
    offset, limit = args.get("offset"), args.get("limit")
    if name and isinstance(offset, int):
        name += f" L{offset}"
        if isinstance(limit, int):
            name += f"-{offset + limit - 1}"
    return name


def _todo(args: _Args) -> str:
    todos = args.get("todos")
    if not isinstance(todos, list):
        return "reading task list"
    return f"{'updating' if args.get('merge') else 'planning'} {len(todos)} task(s)"


def _memory(args: _Args) -> str:
    target = _text(args.get("target"))
    match args.get("action"):
        case "add":
            return f'+{target}: "{_clip(_text(args.get("content")), 25)}"'
        case "replace":
            return f'~{target}: "{_text(args.get("old_text"))[:20]}"'
        case "remove":
            return f'-{target}: "{_text(args.get("old_text"))[:20]}"'
        case action:
            return _text(action)


def _delegate(args: _Args) -> str:
    tasks = args.get("tasks")
    if not isinstance(tasks, list):
        return _text(args.get("goal"))
    goals = [_text(t.get("goal"))[:40] for t in tasks if isinstance(t, dict)]
    return f"{len(tasks)} tasks: {' | '.join(goals)}"


def _process(args: _Args) -> str:
    parts = [_text(args.get("action")), _text(args.get("session_id"))[:16]]
    if data := _text(args.get("data")):
        parts.append(f'"{data[:20]}"')
    if timeout := _text(args.get("timeout")):
        parts.append(f"{timeout}s")
    return " ".join(p for p in parts if p)


def _skill_view(args: _Args) -> str:
    return " → ".join(t for key in ("name", "file_path") if (t := _text(args.get(key))))


_RULES: Final[dict[str, str | Callable[[_Args], str]]] = {
    "terminal": _command,
    "execute_code": _command,
    "read_file": _read_file,
    "write_file": "path",
    "patch": "path",
    "search_files": "pattern",
    "web_search": "query",
    "web_extract": "urls",
    "browser_navigate": "url",
    "browser_click": "ref",
    "browser_type": "text",
    "image_generate": "prompt",
    "text_to_speech": "text",
    "vision_analyze": "question",
    "skills_list": "category",
    "skill_manage": "name",
    "skill_view": _skill_view,
    "cronjob": "action",
    "clarify": "question",
    "todo": _todo,
    "memory": _memory,
    "session_search": lambda args: f'recall: "{_clip(_text(args.get("query")), 25)}"',
    "send_message": lambda args: (
        f'to {_text(args.get("target"))}: "{_text(args.get("message"))[:20]}"'
    ),
    "delegate_task": _delegate,
    "process": _process,
}
