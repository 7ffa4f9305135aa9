"""The upstream of the demo: a scripted agent server, which runs its tools itself.

It sends the same response to every question: two tools at the same time, of which one fails, then a
third. The calls and their results are in ``delta.executed_tools``, like those of Groq's built-in
tools. Clients ignore that key; a call in ``delta.tool_calls`` they would have to run.

Chat pages also ask for titles, tags and the like. Such requests get a short text without tools.
"""

import asyncio
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

_Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """A call of the script.

    Attributes:
        run_s: how long it pretends to run, in seconds.
    """

    name: str
    arguments: Mapping[str, str]
    run_s: float
    result: str
    failed: bool = False


QUESTION: Final = "Can we have the party in the garden on Saturday?"
ANSWER: Final = "Yes. It will be dry and 21 °C, and 14 guests are coming."
_SAME: Final = "\n\n(This backend is a script: it gives this answer to every question.)"
# Texts, and groups of tools that run at the same time.
SCRIPT: Final[tuple[str | tuple[Tool, ...], ...]] = (
    "Let me look at the weather and at the guest list. ",
    (
        Tool("web_search", {"query": "weather in Oslo on Saturday"}, 3.2, "dry, 21 °C"),
        Tool("read_file", {"path": "party/guests.txt"}, 2.0, "no such file", failed=True),
    ),
    "The guest list has another name, so I will search for it. ",
    (Tool("search_files", {"pattern": "guests"}, 1.5, "party/guests-2026.csv: 14 yes, 3 no"),),
    ANSWER,
)

_MAX_BODY: Final = 1 << 26  # requests contain pictures
_END_S: Final = 1.0
_WORD_S: Final = 0.06
_TITLE: Final = "Garden party on Saturday"
# Requests that chat pages make on their own, by words of their prompts. The first match counts.
# Open WebUI also begins with "### Task:" if a user asks about a file.
_OPEN_WEBUI: Final = ("### Task:", "JSON")
_TASKS: Final[tuple[tuple[tuple[str, ...], str | _Json], ...]] = (
    ((*_OPEN_WEBUI, '"title"'), {"title": _TITLE}),
    ((*_OPEN_WEBUI, '"tags"'), {"tags": ["Party", "Weather"]}),
    ((*_OPEN_WEBUI, '"follow_ups"'), {"follow_ups": ["Who is coming?", "What if it rains?"]}),
    ((*_OPEN_WEBUI, '"queries"'), {"queries": []}),
    ((*_OPEN_WEBUI, '"prompt"'), {"prompt": "A garden party on a dry summer day"}),
    ((*_OPEN_WEBUI, '"text"'), {"text": ""}),
    (("Available Tools:", '"tool_calls"'), {"tool_calls": []}),
    (("expression through a fitting emoji",), "🎉"),
    (("You are an emoji expert",), "🎉"),  # LobeChat, as the next three
    (("professional conversation summarizer", '"title"'), {"title": _TITLE}),
    (("professional conversation summarizer",), _TITLE),
    (("extracting key takeaways from conversations",), ANSWER),
    (("title for the conversation",), _TITLE),  # LibreChat
)


@asynccontextmanager
async def upstream(pace: float = 1.0) -> AsyncIterator[str]:
    """Serve on a free port of this machine; yields the base URL.

    Args:
        pace: all pauses of the script are multiplied by this.
    """
    app = web.Application(client_max_size=_MAX_BODY)
    app[_PACE] = pace
    app.router.add_get("/v1/models", _models)
    app.router.add_get("/v1/models/demo", _model)
    app.router.add_post("/v1/chat/completions", _chat)
    app.router.add_route("*", "/{rest:.*}", _not_found)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_END_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


_PACE: Final = web.AppKey("pace", float)
_numbers: Final = itertools.count(1)


_MODEL: Final = {"id": "demo", "object": "model", "created": 1_700_000_000, "owned_by": "demo"}


async def _models(request: web.Request) -> web.StreamResponse:
    return web.json_response({"object": "list", "data": [_MODEL]})


async def _model(request: web.Request) -> web.StreamResponse:
    return web.json_response(_MODEL)


async def _not_found(request: web.Request) -> web.StreamResponse:
    message = "the demo's backend has POST /v1/chat/completions and GET /v1/models only"
    return _error(404, message)


def _error(status: int, message: str) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return web.json_response({"error": error}, status=status)


async def _chat(request: web.Request) -> web.StreamResponse:
    try:
        asked = await request.json()
        messages = [(str(m["role"]), _text(m.get("content"))) for m in asked["messages"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return _error(400, "this is not a chat completions request")
    head = {"id": f"chatcmpl-demo-{next(_numbers)}", "created": int(time.time()), "model": "demo"}
    task = maybe_task(messages)
    if asked.get("stream"):
        with_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        deltas = _story(messages, request.app[_PACE]) if task is None else _words(task, 0)
        return await _streamed(request, head, deltas, with_usage=with_usage)
    message = {"role": "assistant", "content": _whole(messages) if task is None else task}
    head["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return web.json_response({**head, "object": "chat.completion", "usage": _USAGE})


_USAGE: Final = {"prompt_tokens": 12, "completion_tokens": 48, "total_tokens": 60}


async def _streamed(
    request: web.Request, head: _Json, deltas: AsyncIterator[_Json], *, with_usage: bool
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)

    async def write(choices: list[_Json], **more: object) -> None:
        chunk = {**head, "object": "chat.completion.chunk", "choices": choices, **more}
        await response.write(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode())

    await write([_choice({"role": "assistant", "content": ""})])
    async for delta in deltas:
        await write([_choice(delta)])
    await write([_choice({}, "stop")])
    if with_usage:
        await write([], usage=_USAGE)
    await response.write(b"data: [DONE]\n\n")
    return response


def _choice(delta: _Json, finish: str | None = None) -> _Json:
    return {"index": 0, "delta": delta, "finish_reason": finish}


async def _story(messages: list[tuple[str, str]], pace: float) -> AsyncIterator[_Json]:
    """The deltas of the script."""
    first = 0
    for step in SCRIPT:
        if isinstance(step, str):
            async for delta in _words(step, pace):
                yield delta
            continue
        tools = list(enumerate(step, first))
        first += len(tools)
        for index, tool in tools:
            yield {"executed_tools": [_executed(index, tool)]}
        passed = 0.0
        for index, tool in sorted(tools, key=lambda one: one[1].run_s):
            await asyncio.sleep((tool.run_s - passed) * pace)
            passed = tool.run_s
            result = {"output": tool.result, **({"is_error": True} if tool.failed else {})}
            yield {"executed_tools": [_executed(index, tool) | result]}
    async for delta in _words(_hint(messages), pace):
        yield delta


async def _words(text: str, pace: float) -> AsyncIterator[_Json]:
    for word in re.findall(r"\s*\S+\s*", text):
        await asyncio.sleep(_WORD_S * pace)
        yield {"content": word}


def _executed(index: int, tool: Tool) -> _Json:
    arguments = json.dumps(tool.arguments, ensure_ascii=False)
    return {"index": index, "type": tool.name, "arguments": arguments}


def _whole(messages: list[tuple[str, str]]) -> str:
    """All texts of the script."""
    return "".join(step for step in SCRIPT if isinstance(step, str)) + _hint(messages)


def _hint(messages: list[tuple[str, str]]) -> str:
    """A note for every question other than the scripted one."""
    asked = [text for role, text in messages if role == "user"]
    return "" if asked == [QUESTION] else _SAME


def maybe_task(messages: list[tuple[str, str]]) -> str | None:
    """The response to a request that a page makes on its own; None for a user's question."""
    prompt = "\n".join(text for role, text in messages if role in ("system", "developer"))
    if messages and messages[-1][0] == "user":
        prompt += "\n" + messages[-1][1]
    for words, answer in _TASKS:
        if all(word in prompt for word in words):
            return answer if isinstance(answer, str) else json.dumps(answer)
    return None


def _text(content: object) -> str:
    """The text of a message, which may come in parts."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
