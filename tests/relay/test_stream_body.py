"""The body of an event stream by itself: what of it passes as it came, and what does not."""

import zlib

import pytest
from lifecycle_proxy.core.apis import CHAT
from lifecycle_proxy.core.context import PipelineOptions
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.labels import Labels
from lifecycle_proxy.core.pipeline import Pipeline
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.relay.sse import StreamBody

from tests.fakes import text, tool_call


@pytest.mark.parametrize("is_compressed", [False, True])
def test_calls_end_in_front_of_the_first_text_of_another_upstream(*, is_compressed: bool) -> None:
    exchange = Exchange("req_1", "POST", "/v1/chat/completions", "127.0.0.1", dialect="chunk")
    options = PipelineOptions(presenter=Labels(), make_id=lambda: "call_x")
    pipeline = Pipeline(CHAT, DIALECTS["chunk"], exchange.envelope(), options)
    body = StreamBody(exchange, pipeline, CHAT, is_compressed=is_compressed)
    packing = zlib.compressobj(wbits=31)

    def came(data: bytes) -> bytes:
        if is_compressed:
            data = packing.compress(data) + packing.flush(zlib.Z_SYNC_FLUSH)
        return data if body.skim(data) else body.feed(data, 0.0)

    assert [came(text(word)) for word in ("a", "b", "c")] == [
        text(word) for word in ("a", "b", "c")
    ]
    assert b"running" in came(tool_call(name="ls", arguments="{}"))
    body.continues()
    out = came(text("d"))
    assert out.endswith(text("d"))
    assert b"completed" in out.removesuffix(text("d"))
    assert came(text("e")) == text("e")
