"""A model by script, for real agents to talk to. What it says depends on what the user said last.

python -m tests.recording.model PORT
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from itertools import count
from typing import Any, Final

from aiohttp import web

Json = dict[str, Any]
_PAUSE_S: Final = 0.02  # between two chunks
_USAGE: Final = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}

# A text, and the tools that are called with it.
Round = tuple[str, list[tuple[str, Json]]]

# By what the user says.
SCRIPTS: Final[dict[str, tuple[Round, ...]]] = {
    "How many files are here?": (
        ("Let me look. ", [("terminal", {"command": "sleep 1 && ls | wc -l"})]),
        ("There are two files.", []),
    ),
    "Read both and look for the needle.": (
        (
            "All at once. ",
            [
                ("read_file", {"path": "./a.txt"}),
                ("read_file", {"path": "./b.txt", "limit": 5}),
                ("search_files", {"pattern": "needle", "path": "."}),
            ],
        ),
        ("It is in b.txt.", []),
    ),
    "Run the tests and read the report.": (
        ("", [("terminal", {"command": "echo 1 failed; exit 3"})]),
        ("", [("read_file", {"path": "./report.txt"})]),
        ("They failed, and there is no report.", []),
    ),
    "How is the weather in Oslo?": (
        ("Let me ask. ", [("get_weather", {"city": "Oslo"})]),
        ("It is sunny in Oslo.", []),
    ),
    "And in Paris and in Lima?": (
        ("", [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Lima"})]),
        ("It is sunny in both.", []),
    ),
}
_ELSE: Final[tuple[Round, ...]] = (("You are welcome.", []),)
_numbers = count(1)


async def chat(request: web.Request) -> web.StreamResponse:
    """A chat completion, streamed or not."""
    asked = await request.json()
    text, calls = _round(asked)
    finish = "tool_calls" if calls else "stop"
    about = {"id": f"chatcmpl-{next(_numbers)}", "created": 1_700_000_000, "model": asked["model"]}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": text, "tool_calls": calls or None}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        told = {**about, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
        return web.json_response(told)
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    about["object"] = "chat.completion.chunk"
    deltas = [*_deltas(text, calls), {}]
    for delta in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": None if delta else finish}
        await answer.write(b"data: %b\n\n" % json.dumps({**about, "choices": [choice]}).encode())
        await asyncio.sleep(_PAUSE_S)
    usage = {**about, "choices": [], "usage": _USAGE}
    await answer.write(b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(usage).encode())
    return answer


async def models(request: web.Request) -> web.Response:
    """One model, whose context is large enough for any agent."""
    model = {"id": "scripted", "object": "model", "context_length": 200_000}
    return web.json_response({"object": "list", "data": [model]})


def _round(asked: Json) -> tuple[str, list[Json]]:
    """The round that comes next. Tools have the names in which they are offered."""
    messages = asked["messages"]
    spoken = max(n for n, message in enumerate(messages) if message["role"] == "user")
    said = messages[spoken]["content"]
    words = said if isinstance(said, str) else " ".join(part.get("text", "") for part in said)
    rounds = SCRIPTS.get(words.strip(), _ELSE)
    number = sum(message["role"] == "assistant" for message in messages[spoken:])
    names = [tool["function"]["name"] for tool in asked.get("tools") or ()]
    text, wanted = rounds[min(number, len(rounds) - 1)] if names else rounds[-1]
    calls = []
    for name, arguments in wanted:
        offered = next((given for given in names if given.endswith(name)), name)
        function = {"name": offered, "arguments": json.dumps(arguments)}
        calls.append({"id": f"call_{next(_numbers)}", "type": "function", "function": function})
    return text, calls


def _deltas(text: str, calls: list[Json]) -> Iterator[Json]:
    yield {"role": "assistant", "content": ""}
    for word in text.split():
        yield {"content": f"{word} "}
    for index, call in enumerate(calls):
        function = call["function"]
        yield {"tool_calls": [{**call, "index": index, "function": {**function, "arguments": ""}}]}
        yield {"tool_calls": [{"index": index, "function": {"arguments": function["arguments"]}}]}


def main(port: int) -> None:
    """Serve until it is stopped."""
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", models)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
