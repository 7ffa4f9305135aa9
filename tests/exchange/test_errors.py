"""Errors of ours, in the shape that SDKs show."""

import json

import pytest
from lifecycle_proxy.exchange.errors import STATUS, ProxyError


@pytest.mark.parametrize(("code", "status"), STATUS.items())
def test_every_code_has_its_status(code: str, status: int) -> None:
    assert ProxyError(code, "why").status == status
    assert 400 <= status < 600


def test_the_body_is_what_openai_sends() -> None:
    error = json.loads(ProxyError("bad_request", "why", "X-Header").body())["error"]
    assert error == {
        "message": "why",
        "type": "proxy_error",
        "param": "X-Header",
        "code": "bad_request",
    }


def test_the_frame_is_one_event_with_the_same_object() -> None:
    failure = ProxyError("upstream_timeout", "two\nlines")
    frame = failure.frame()
    assert frame.startswith(b"data: {")
    assert frame.endswith(b"}\n\n")
    assert frame.count(b"\n") == 2
    told = json.loads(frame.removeprefix(b"data: "))["error"]
    assert told == json.loads(failure.body())["error"]


def test_text_of_any_kind_can_be_told() -> None:
    for body in (
        ProxyError("internal", "é \udce9").body(),
        ProxyError("internal", "\udce9").frame(),
    ):
        assert body.decode("utf-8")
