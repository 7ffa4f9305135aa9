"""Labels and emojis, by Hermes Agent's own table."""

import json

import pytest
from lifecycle_proxy.core.labels import Labels, preview


@pytest.mark.parametrize(
    ("tool", "arguments", "label"),
    [
        ("terminal", {"command": "cd X && sleep 2 && echo a && echo b"}, "sleep 2 + 2 commands"),
        ("terminal", {"command": "cd /tmp; make  -j4 2>&1 | tail -5"}, "make -j4"),
        ("terminal", {"command": "make > out.txt < in.txt || echo no"}, "make + 1 command"),
        ("terminal", {"command": "false; exit 3"}, "exit 3"),
        ("terminal", {"command": 'echo "---"\nls'}, "ls"),
        ("terminal", {"command": "cd /tmp"}, "cd /tmp"),
        (
            "terminal",
            {"command": "python3 - <<'PY'\nprint(1)\nPY"},
            "python3 - <<'PY' print(1) PY",
        ),
        ("execute_code", {"code": "print(1)"}, "print(1)"),
        ("read_file", {"path": "/a/b.txt", "offset": 1, "limit": 5}, "b.txt L1-5"),
        ("read_file", {"path": "/a/b.txt", "offset": 3}, "b.txt L3"),
        ("read_file", {"path": "/a/b/", "limit": 3}, "b"),
        ("read_file", {"offset": 3}, "read_file"),
        ("write_file", {"path": "/a/b.txt", "content": "x"}, "/a/b.txt"),
        ("patch", {"path": "/a/b.txt"}, "/a/b.txt"),
        ("search_files", {"pattern": "*.py"}, "*.py"),
        ("web_search", {"query": "oslo\n weather"}, "oslo weather"),
        ("web_extract", {"urls": ["https://a", "https://b"]}, "https://a"),
        ("web_extract", {"urls": []}, "web_extract"),
        ("browser_navigate", {"url": "https://a"}, "https://a"),
        ("browser_click", {"ref": "@e5"}, "@e5"),
        ("browser_type", {"text": "hello"}, "hello"),
        ("image_generate", {"prompt": "a cat"}, "a cat"),
        ("text_to_speech", {"text": "hello"}, "hello"),
        ("vision_analyze", {"question": "what?"}, "what?"),
        ("skills_list", {"category": "dev"}, "dev"),
        ("skills_list", {}, "skills_list"),
        ("skill_manage", {"name": "x"}, "x"),
        ("skill_view", {"name": "x", "file_path": "y"}, "x → y"),
        ("skill_view", {"name": "x"}, "x"),
        ("cronjob", {"action": "list"}, "list"),
        ("clarify", {"question": "which?"}, "which?"),
        ("todo", {}, "reading task list"),
        ("todo", {"todos": [1, 2]}, "planning 2 task(s)"),
        ("todo", {"todos": [1], "merge": True}, "updating 1 task(s)"),
        ("memory", {"action": "add", "target": "user", "content": "a"}, '+user: "a"'),
        (
            "memory",
            {"action": "add", "target": "user", "content": "a" * 30},
            f'+user: "{"a" * 25}..."',
        ),
        (
            "memory",
            {"action": "replace", "target": "user", "old_text": "b" * 30},
            f'~user: "{"b" * 20}"',
        ),
        ("memory", {"action": "remove", "target": "m", "old_text": "b"}, '-m: "b"'),
        ("memory", {"action": "read"}, "read"),
        ("memory", {}, "memory"),
        ("session_search", {"query": "q" * 30}, f'recall: "{"q" * 25}..."'),
        ("send_message", {"target": "bob", "message": "m" * 30}, f'to bob: "{"m" * 20}"'),
        ("delegate_task", {"goal": "do it"}, "do it"),
        (
            "delegate_task",
            {"tasks": [{"goal": "g" * 50}, {"goal": "h"}, 1]},
            f"3 tasks: {'g' * 40} | h",
        ),
        (
            "process",
            {"action": "write", "session_id": "s" * 20, "data": "d" * 30, "timeout": 5},
            f'write {"s" * 16} "{"d" * 20}" 5s',
        ),
        ("process", {"action": "list"}, "list"),
        ("mcp_x", {"other": 1, "goal": "g", "query": "q"}, "q"),
        ("mcp_x", {"path": ["p1", "p2"]}, "p1"),
        ("mcp_x", {"name": 7}, "7"),
        ("mcp_x", {"text": "", "code": "c"}, "c"),
        ("mcp_x", {"other": 1}, "mcp_x"),
        ("mcp_x", [1], "mcp_x"),
        ("mcp_x", "", "mcp_x"),
        ("mcp_x", '{"query": "unfini', "mcp_x"),
        ("mcp\nx", {}, "mcp x"),
    ],
)
def test_a_label_is_the_most_telling_argument(tool: str, arguments: object, label: str) -> None:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    assert Labels().label(tool, text) == label


@pytest.mark.parametrize("junk", [None, [], {}, [[]], [{}], 0, 1.5, True, "", "x", {"goal": {}}])
def test_no_argument_is_too_odd_for_a_label(junk: object) -> None:
    keys = (
        *("command", "code", "path", "offset", "limit", "todos", "merge", "target", "action"),
        *("content", "old_text", "query", "goal", "tasks", "session_id", "data", "timeout"),
        *("name", "file_path", "message", "urls", "text"),
    )
    arguments = json.dumps(dict.fromkeys(keys, junk))
    tools = (
        *("terminal", "read_file", "todo", "memory", "session_search", "send_message"),
        *("delegate_task", "process", "skill_view", "web_extract", "write_file", "other"),
    )
    for tool in tools:
        assert Labels().label(tool, arguments)


def test_a_label_is_cut_at_its_limit() -> None:
    arguments = json.dumps({"query": "x" * 500})
    assert Labels().label("f", arguments) == "x" * 119 + "…"
    assert Labels(max_length=5).label("f", arguments) == "xxxx…"
    assert Labels(max_length=0).label("f", arguments) == "x" * 500
    assert Labels(max_length=5).label("f", '{"query":"12345"}') == "12345"


def test_redaction_can_be_switched_off() -> None:
    arguments = '{"query":"token=abc"}'
    assert Labels().label("f", arguments) == "token=***"
    assert Labels(redacted=False).label("f", arguments) == "token=abc"


def test_a_secret_is_blotted_out_before_the_label_is_cut() -> None:
    arguments = json.dumps({"query": "x" * 110 + " token=" + "a" * 50})
    assert "a" not in Labels().label("f", arguments)


@pytest.mark.parametrize(
    ("tool", "emoji"),
    [
        ("terminal", "💻"),
        ("web_search", "🔍"),
        ("session_search", "🔍"),
        ("browser_press", "⌨️"),
        ("ha_turn_on", "🏠"),
        ("kanban_list", "📋"),
        ("kanban_complete", "✔"),
        ("mcp_x", "⚡"),
    ],
)
def test_emojis_are_those_of_hermes(tool: str, emoji: str) -> None:
    assert Labels().emoji(tool) == emoji


def test_emojis_can_be_chosen() -> None:
    labels = Labels(emoji={"terminal": "T", "ha_x": "H"})
    assert [labels.emoji(tool) for tool in ("terminal", "ha_x", "ha_y")] == ["T", "H", "🏠"]


def test_a_preview_of_nothing_is_empty() -> None:
    assert preview("f", "") == ""


# --- arguments, as cards show them ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"command": "ls", "n": 1}', '{"command":"ls","n":1}'),
        ('{"q": "token=abc"}', '{"q":"token=***"}'),
        ('{"q": ["bearer abcdef123", {"x": "sk-abcd"}]}', '{"q":["bearer ***",{"x":"***"}]}'),
        ('{"api_key": "abc", "q": "x"}', '{"api_key":"***","q":"x"}'),
        ('{"PASSWORD": "a b"}', '{"PASSWORD":"***"}'),
        ('{"tokens": ["a"], "token": ["a", "b"]}', '{"tokens":["a"],"token":["***","***"]}'),
        ('{"secret": {"value": "a"}}', '{"secret":{"value":"a"}}'),
        ('{"token": 7, "key": null, "secret": true}', '{"token":7,"key":null,"secret":true}'),
        ('{"monkey": "abc"}', '{"monkey":"abc"}'),
        ('{"a": "Häuser\\n"}', '{"a":"Häuser\\n"}'),
        ("{}", "{}"),
        ("", ""),
        ('{"a', ""),
        ("[1]", ""),
        ('"token=abc"', ""),
        ("null", ""),
        ('{"a":' * 300 + "1" + "}" * 300, ""),
        ("[" * 990 + "]" * 990, ""),
    ],
)
def test_arguments_are_shown_as_json_without_secrets(arguments: str, shown: str) -> None:
    assert Labels().arguments(arguments) == shown


def test_arguments_are_shown_whole_where_redaction_is_switched_off() -> None:
    given = '{"api_key":"abc","q":"token=abc"}'
    assert Labels(redacted=False).arguments(given) == given
    assert Labels(redacted=False).arguments("[1]") == ""


def test_a_line_that_was_made_elsewhere() -> None:
    """Hermes' runs tell this line only, and no arguments."""
    labels = Labels()
    assert labels.label("todo", '{"preview": "planning 2 task(s)"}') == "planning 2 task(s)"
    assert labels.label("terminal", '{"preview": "exit 3"}') == "exit 3"
    assert labels.label("terminal", '{"preview": "x", "command": "ls"}') == "ls"
