"""A scripted agent that speaks ACP: a program of its own that needs the standard library only.

``python acp_agent.py MODE``: how it begins (``ok``, or a fault); with ``replay FILE`` it says what
a real agent said. Each line of a prompt is a step: see ``STEPS``. What a step executes, after it
was allowed to, it writes into the file that the environment's EXECUTED names.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

MODE = sys.argv[1] if len(sys.argv) > 1 else "ok"
EXECUTED = os.environ.get("EXECUTED", "")
SESSION = f"ses-{os.getpid()}"


class CancelledError(Exception):
    """The prompt is to stop."""


class FailedError(Exception):
    """The prompt fails."""


def send(message: dict[str, Any]) -> None:
    line = json.dumps({"jsonrpc": "2.0", **message})
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def receive() -> dict[str, Any]:
    line = sys.stdin.readline()
    if not line:
        raise SystemExit(0)
    message: dict[str, Any] = json.loads(line)
    return message


def update(update_kind: str, **fields: Any) -> None:
    params = {"sessionId": Agent.session, "update": {"sessionUpdate": update_kind, **fields}}
    send({"method": "session/update", "params": params})


def say(text: str) -> None:
    update("agent_message_chunk", content={"type": "text", "text": text})


def think(text: str) -> None:
    update("agent_thought_chunk", content={"type": "text", "text": text})


def tool(rest: str) -> None:
    """ID NAME STATUS [COMMAND]: a whole call."""
    call_id, name, status, *command = rest.split(" ", 3)
    begin(call_id, name, command[0] if command else name)
    update("tool_call_update", toolCallId=call_id, status=status, rawOutput=f"{name} is over")


def begin(call_id: str, name: str, command: str) -> None:
    raw = {"command": command}
    fields = {"toolCallId": call_id, "name": name, "kind": "execute", "title": command}
    update("tool_call", **fields, status="in_progress", rawInput=raw)


def open_(rest: str) -> None:
    """ID NAME: the beginning of a call."""
    call_id, name = rest.split(" ")
    begin(call_id, name, name)


def ask(rest: str) -> None:
    """ID NAME COMMAND: a call that needs a permission."""
    call_id, name, command = rest.split(" ", 2)
    ask_for(call_id, name, command, "execute")


def read(rest: str) -> None:
    """ID NAME COMMAND: a call that reads, and asks all the same."""
    call_id, name, command = rest.split(" ", 2)
    ask_for(call_id, name, command, "read")


def ask_for(call_id: str, name: str, command: str, kind: str) -> None:
    Agent.requests += 1
    own = f"p{Agent.requests}"
    call = {"toolCallId": call_id, "name": name, "kind": kind, "title": command}
    options = [
        {"optionId": "forever", "kind": "allow_always", "name": "Always"},
        {"optionId": "this", "kind": "allow_once", "name": "Once"},
        {"optionId": "not", "kind": "reject_once", "name": "No"},
    ]
    params = {
        "sessionId": Agent.session,
        "toolCall": {**call, "rawInput": {"command": command}},
        "options": options,
    }
    send({"id": own, "method": "session/request_permission", "params": params})
    outcome = wait_for(own)["result"]["outcome"]
    if outcome.get("optionId") == "this":
        if EXECUTED:
            with Path(EXECUTED).open("a", encoding="utf-8") as file:
                file.write(f"{command}\n")
        update("tool_call_update", toolCallId=call_id, status="completed", rawOutput="done")
    elif outcome["outcome"] == "selected":
        assert outcome["optionId"] == "not", outcome
        update("tool_call_update", toolCallId=call_id, status="failed", rawOutput="rejected")


def wait_for(request_id: str) -> dict[str, Any]:
    """The client's answer to a request."""
    while True:
        message = receive()
        if message.get("id") == request_id and "method" not in message:
            if "error" in message:
                say(f"refused {message['error']['code']}")
            return message
        take(message)


def take(message: dict[str, Any]) -> None:
    if message.get("method") == "session/cancel":
        Agent.is_cancelled = True
        raise CancelledError
    assert message.get("method") != "session/prompt", "one prompt at a time"


def wait(rest: str) -> None:
    """Nothing, until the prompt is cancelled. When that was is written down."""
    try:
        while True:
            take(receive())
    except CancelledError:
        if EXECUTED:
            Path(EXECUTED).write_text(str(time.time()), encoding="utf-8")
        raise


def hang(rest: str) -> None:
    """Nothing, whatever comes."""
    while True:
        time.sleep(1000)


def die(rest: str) -> None:
    """CODE: the end of the process."""
    sys.stderr.write("dying, sk-1234567890abcdef1234567890abcdef\n")
    sys.stderr.flush()
    os._exit(int(rest or 3))


def child(rest: str) -> None:
    """A process that leaves the group; its pid is said."""
    import subprocess  # which takes longer than all else: hundreds of agents are started

    own = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    say(f"child={own.pid};")


def flood(rest: str) -> None:
    """N: so many pieces of text of 1000 characters."""
    for _ in range(int(rest)):
        say("x" * 1000)


def line(rest: str) -> None:
    """BYTES: one line of so many."""
    sys.stdout.write('{"method": "' + "x" * int(rest) + '"}\n')
    sys.stdout.flush()


def nonsense(rest: str) -> None:
    """N lines that are no messages."""
    for _ in range(int(rest)):
        print("[[[[ not a message", flush=True)


def who(rest: str) -> None:
    """Which process this is, and how many prompts it has had."""
    say(f"pid={os.getpid()} prompts={Agent.prompts} session={Agent.session} cwd={Path.cwd()};")


def env(rest: str) -> None:
    say(",".join(sorted(os.environ)))


def files(rest: str) -> None:
    """A request for what the client does not offer."""
    params = {"sessionId": Agent.session, "path": "/etc/passwd"}
    send({"id": "f1", "method": "fs/read_text_file", "params": params})
    wait_for("f1")


def fail(rest: str) -> None:
    raise FailedError(rest or "it failed")


STEPS = {
    "say": say,
    "think": think,
    "tool": tool,
    "open": open_,
    "ask": ask,
    "read": read,
    "wait": wait,
    "hang": hang,
    "die": die,
    "child": child,
    "flood": flood,
    "line": line,
    "nonsense": nonsense,
    "who": who,
    "env": env,
    "files": files,
    "fail": fail,
}


class Agent:
    """Its state."""

    session = SESSION
    prompts = 0
    requests = 0
    is_cancelled = False


def prompt(blocks: list[dict[str, Any]]) -> str:
    """Run a prompt; the stop reason."""
    Agent.prompts += 1
    text = "\n".join(block.get("text", f"<{block['type']}>") for block in blocks)
    try:
        for one in text.split("\n"):
            word, _, rest = one.partition(" ")
            step = STEPS.get(word)
            if step is not None:
                step(rest)
            elif one.strip():
                say(f"[{one}]")
    except CancelledError:
        return "cancelled"
    return "end_turn"


def main() -> None:
    if MODE == "exit":
        sys.exit(7)
    while True:
        message = receive()
        method, own, params = message.get("method"), message.get("id"), message.get("params", {})
        if MODE == "mute":
            continue
        if method == "initialize":
            version = 2 if MODE == "newer" else 1
            images = {"image": True}
            capabilities = {"loadSession": MODE != "forgets", "promptCapabilities": images}
            result = {"protocolVersion": version, "agentCapabilities": capabilities}
            send({"id": own, "result": {**result, "agentInfo": {"name": "scripted"}}})
        elif method == "session/new":
            send({"id": own, "result": {"sessionId": Agent.session}})
        elif method == "session/load":
            Agent.session = params["sessionId"]
            say("what was said before")
            send({"id": own, "result": {}})
        elif method == "session/prompt":
            try:
                stop = prompt(params["prompt"])
            except FailedError as failure:
                send({"id": own, "error": {"code": -32603, "message": str(failure)}})
                continue
            usage = {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}
            send({"id": own, "result": {"stopReason": stop, "usage": usage}})


def replay(path: str, until: int | None) -> None:
    """Say what a log holds, up to an entry; wait where the client has to speak."""
    ids: dict[int, Any] = {}
    entries = [json.loads(one) for one in Path(path).read_text(encoding="utf-8").splitlines()]
    for number, entry in enumerate(entries):
        if until is not None and number >= until:
            os._exit(9)
        message = entry["msg"]
        if entry["dir"] == "out":
            got = receive()
            while message.get("method") != got.get("method"):
                got = receive()
            if "method" in message and "id" in message:
                ids[message["id"]] = got["id"]
        elif entry["dir"] == "in":
            if "method" not in message and "id" in message:
                message = {**message, "id": ids[message["id"]]}
            send(message)
    while True:
        receive()


def codex(path: str, until: int | None) -> None:
    """Say what a capture of Codex' app-server holds (there "in" is the agent's input)."""
    ids: dict[int, Any] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines()):
        if number == until:
            os._exit(9)
        entry = json.loads(line)
        message = entry["msg"]
        if entry["dir"] == "in":
            got = receive()
            while message.get("method") != got.get("method"):
                got = receive()
            if "method" in message and "id" in message:
                ids[message["id"]] = got["id"]
        else:
            if "method" not in message and "id" in message:
                message = {**message, "id": ids[message["id"]]}
            print(json.dumps(message), flush=True)
    while True:
        receive()


def claude(path: str, until: int | None) -> None:
    """Say what a capture of Claude Code's stream-json holds, for each prompt again."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    while True:
        while receive().get("type") != "user":
            pass
        for number, line in enumerate(lines):
            if number == until:
                os._exit(9)
            entry = json.loads(line)
            if entry.get("dir") == "in":
                if entry["msg"]["type"] != "user":
                    receive()
            else:
                print(json.dumps(entry.get("msg", entry)), flush=True)


PLAYERS = {"replay": replay, "codex": codex, "claude": claude}


if __name__ == "__main__":
    if MODE in PLAYERS:
        until = sys.argv[3] if len(sys.argv) > 3 else ""  # or a flag of Claude Code's
        PLAYERS[MODE](sys.argv[2], int(until) if until.isdigit() else None)
    else:
        main()
