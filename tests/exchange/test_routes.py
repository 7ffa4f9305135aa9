"""What a request asks for, by its method and path."""

import pytest
from lifecycle_proxy.core.apis import ApiName
from lifecycle_proxy.exchange.routes import maybe_api

from tests.conftest import StartProxy
from tests.fakes import JSON, Request, Upstream, Wire, ask, event, lifecycle, without_frames

pytestmark = pytest.mark.usefixtures("quiet")

ITEM = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "terminal"}
RESPONSE = (
    event({"type": "response.created", "response": {"id": "resp_1"}, "sequence_number": 0}),
    event({"type": "response.output_item.added", "output_index": 0, "item": ITEM}),
    event({"type": "response.output_item.done", "output_index": 0, "item": ITEM}),
    event({"type": "response.completed", "response": {"id": "resp_1"}}),
)
MESSAGE = (
    event({"type": "message_start", "message": {"id": "msg_1"}}),
    event(
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "tool_use", "id": "call_1", "name": "terminal", "input": {}},
        }
    ),
    event({"type": "content_block_stop", "index": 0}),
    event({"type": "message_stop"}),
)
PAIR = [("call_1", "running", None), ("call_1", "completed", None)]


@pytest.mark.parametrize(
    ("method", "target", "api"),
    [
        ("POST", "/v1/chat/completions", "chat"),
        ("POST", "/chat/completions", "chat"),
        ("POST", "/openai/v1/chat/completions", "chat"),
        ("POST", "/openai/deployments/m/chat/completions?api-version=1", "chat"),
        ("POST", "/v1/responses", "responses"),
        ("POST", "/responses", "responses"),
        ("POST", "/openai/responses?api-version=1", "responses"),
        ("POST", "/backend-api/codex/responses", "responses"),
        ("POST", "/-/as/plain/responses", "responses"),
        ("POST", "/v1/messages?beta=true", "messages"),
        ("POST", "/messages", "messages"),
        ("POST", "/anthropic/v1/messages", "messages"),
        ("GET", "/v1/responses/resp_1?stream=true", "responses"),
        ("GET", "/responses/resp_1?starting_after=3&stream=True", "responses"),
        ("GET", "/v1/responses/resp_1?stream=false", None),
        ("GET", "/v1/responses/resp_1", None),
        ("GET", "/v1/responses/resp_1/input_items?stream=true", None),
        ("GET", "/v1/responses?stream=true", None),
        ("DELETE", "/v1/responses/resp_1?stream=true", None),
        ("GET", "/v1/chat/completions", None),
        ("POST", "/v1/responses/resp_1/cancel", None),
        ("POST", "/v1/messages/count_tokens", None),
        ("POST", "/v1/threads/t_1/messages", None),
        ("POST", "/v1/embeddings", None),
    ],
)
def test_the_end_of_the_path_says_what_is_asked_for(
    method: str, target: str, api: ApiName | None
) -> None:
    found = maybe_api(method, target)
    assert (None if found is None else found.name) == api


@pytest.mark.parametrize(
    ("method", "target", "events"),
    [
        ("POST", "/responses", RESPONSE),
        ("POST", "/openai/v1/responses", RESPONSE),
        ("POST", "/messages", MESSAGE),
        ("GET", "/v1/responses/resp_1?stream=true", RESPONSE),
        ("GET", "/responses/resp_1?stream=true&starting_after=0", RESPONSE[1:]),
    ],
)
async def test_a_stream_has_frames_with_and_without_v1(
    upstream: Upstream, proxy: str, method: str, target: str, events: tuple[bytes, ...]
) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.stream(*events, b"")

    upstream.script = script
    body = b'{"stream": true}' if method == "POST" else None
    answer = await ask(proxy, method, target, JSON, "Accept-Encoding: br", body=body)
    assert lifecycle(answer.body) == PAIR
    assert without_frames(answer.body) == b"".join(events)
    assert upstream.request.target == target
    assert upstream.request.headers.getall("Accept-Encoding") == ["identity"]


async def test_a_stored_response_that_is_no_stream_is_untouched(
    upstream: Upstream, start_proxy: StartProxy
) -> None:
    answer = await ask(await start_proxy(), "GET", "/v1/responses/resp_1", "Accept-Encoding: br")
    assert answer.json() == {"ok": True}
    assert answer.headers["Content-Length"] == "12"
    assert upstream.request.headers["Accept-Encoding"] == "br"
