"""Cassettes for tests, written line by line as ``docs/cassettes.md`` has them."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
FIRST: Json = {
    "kind": "cassette",
    "version": 1,
    "ts": "2026-11-21T06:00:00.000Z",
    "by": "lifecycle-proxy 0.1.0",
}
LABELS = {"web_search": "Oslo weather", "terminal": "df -h"}
ARGUMENTS = {
    "web_search": ('{"query": ', '"Oslo ', 'weather"', "}"),
    "terminal": ('{"command": ', '"df', ' -h"', "}"),
}
THOUGHT = "Let me think: the forecast and the disk are two questions."
STREAM = [["Content-Type", "text/event-stream"]]


def packed(data: bytes) -> str | Json:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


@dataclass
class Tape:
    """One exchange. The reads and writes of both sides as they are added."""

    id: str = "exchange-1"
    lines: list[Json] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=lambda: {"upstream": b"", "client": b""})
    ms: float = 0.0

    def request(self, body: bytes | None = b'{"stream":true}', **fields: Any) -> "Tape":
        told = {
            "ts": "2026-11-21T06:00:01.250Z",
            "route": "chat",
            "method": "POST",
            "target": "/v1/chat/completions",
            "headers": [["Host", "127.0.0.1:8787"], ["Content-Type", "application/json"]],
            "body": None if body is None else packed(body),
            **fields,
        }
        return self.line("request", **told)

    def forwarded(self, **fields: Any) -> "Tape":
        headers = [["Host", "backend:11434"]]
        told = {"ms": 1.0, "target": "/v1/chat/completions", "headers": headers, **fields}
        return self.line("forwarded", **told)

    def head(self, ms: float = 80.0, headers: Any = None, status: int = 200) -> "Tape":
        for side in ("upstream", "client"):
            self.line(
                "head",
                side=side,
                ms=ms,
                status=status,
                reason="OK" if status == 200 else "",
                headers=STREAM if headers is None else headers,
            )
        return self

    def read(self, ms: float, data: bytes, *, sent: bool = True) -> "Tape":
        self.bodies["upstream"] += data
        self.bodies["client"] += data if sent else b""
        self.ms = ms
        return self.line("read", ms=ms, data=packed(data), **({"sent": True} if sent else {}))

    def sent(self, ms: float, data: bytes, *added: tuple[int, int]) -> "Tape":
        self.bodies["client"] += data
        self.ms = ms
        return self.line("sent", ms=ms, data=packed(data), added=[list(pair) for pair in added])

    def end(self, ended: str = "done", **fields: Any) -> "Tape":
        sides = {
            side: {
                "end": "eof",
                "ms": self.ms,
                "size": len(body),
                "sha256": hashlib.sha256(body).hexdigest(),
            }
            for side, body in self.bodies.items()
        }
        return self.line("end", **{"ended": ended, "error": "", "tools": [], **sides, **fields})

    def line(self, kind: str, **fields: Any) -> "Tape":
        self.lines.append({"kind": kind, "id": self.id, **fields})
        return self


def chunk(delta: Json, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    fields = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m"}
    return b"data: " + json.dumps({**fields, "choices": [choice], **more}).encode() + b"\n\n"


def frame(call: str, status: str, tool: str = "terminal", **more: Any) -> bytes:
    emoji = "🔍" if tool == "web_search" else "💻"
    fields = {"tool": tool, "emoji": emoji, "label": "df -h", "toolCallId": call, "status": status}
    payload = json.dumps({"choices": [], **fields, **more}, ensure_ascii=False)
    return f"event: hermes.tool.progress\ndata: {payload}\n\n".encode()


def call(index: int, arguments: str = "", **head: Any) -> Json:
    function = {"name": head.pop("name"), "arguments": ""} if head else {"arguments": arguments}
    return {"tool_calls": [{"index": index, **head, "function": function}]}


def write(path: Path, *tapes: Tape) -> Path:
    records = [FIRST, *(line for tape in tapes for line in tape.lines)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def agent(exchange_id: str = "agent-0001") -> Tape:
    """An agent that runs two tools behind the upstream, over three seconds, in sixty frames."""
    tape = Tape(exchange_id).request(b'{"model": "m", "stream": true}').forwarded().head(82.5)
    ms = 84.0
    tape.read(ms, chunk({"role": "assistant", "content": ""}))
    for word in THOUGHT.split():
        ms += 14
        tape.read(ms, chunk({"reasoning_content": f"{word} "}))
    for word in ("Let ", "me ", "check ", "both. "):
        ms += 31
        tape.read(ms, chunk({"content": word}))
    tools = {"call_a": "web_search", "call_b": "terminal"}
    for index, (one, tool) in enumerate(tools.items()):
        ms += 60
        data = chunk(call(index, id=one, type="function", name=tool))
        told = frame(one, "running", tool, label=LABELS[tool])
        tape.read(ms, data, sent=False).sent(ms, data + told, (len(data), len(data) + len(told)))
        for piece in ARGUMENTS[tool]:
            ms += 22
            tape.read(ms, chunk(call(index, piece)))
    tape.sent(ms + 400, b": keep-alive\n\n", (0, 14))
    for one, tool, after, took in (
        ("call_b", "terminal", 830, 918),
        ("call_a", "web_search", 640, 1706),
    ):
        ms += after
        told = frame(one, "completed", tool, label=LABELS[tool], durationMs=took)
        data = chunk({"role": "tool", "tool_call_id": one, "tool_result": "61 %"})
        tape.read(ms, data, sent=False).sent(ms, told + data, (0, len(told)))
    ms += 90
    tape.read(ms, chunk({}, "tool_calls"))
    answer = "It will rain in Oslo tomorrow, at 12 °C, with wind from the west and a dry evening. "
    for word in (
        answer + "The disk is 61 % full, so there is no hurry to buy another one."
    ).split():
        ms += 19
        tape.read(ms, chunk({"content": f"{word} "}))
    tape.read(ms + 9, chunk({}, "stop"))
    tape.read(ms + 11, chunk({}, usage={"prompt_tokens": 312, "completion_tokens": 88}))
    tape.read(ms + 12, b"data: [DONE]\n\n")
    return tape.end(tools=[{"tool": "terminal", "toolCallId": "call_b", "status": "running"}])
