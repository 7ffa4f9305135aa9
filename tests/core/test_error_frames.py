"""An error in the form of each API, to the byte. What SDKs make of it: ``tests.exchange``."""

import json

import pytest
from lifecycle_proxy.core.apis import APIS
from lifecycle_proxy.core.events import Envelope

ERROR = {"message": "é", "code": "x"}


def written(api: str, *, is_first: bool = False) -> list[str]:
    envelope = Envelope("resp_1", 7, "m", sequence_number=3)
    frame = APIS[api].error_frame(ERROR, envelope, is_first=is_first)
    return frame.decode().removesuffix("\n\n").split("\n\n")


@pytest.mark.parametrize("is_first", [False, True])
def test_chat_completions_and_messages_get_one_event(*, is_first: bool) -> None:
    error = '"error": {"message": "é", "code": "x"}}'
    assert written("chat", is_first=is_first) == ["data: {" + error]
    typed = 'event: error\ndata: {"type": "error", '
    assert written("messages", is_first=is_first) == [typed + error]


def test_a_response_fails_as_it_had_begun() -> None:
    (failed,) = written("responses")
    name, _, data = failed.partition("\n")
    payload = json.loads(data.removeprefix("data: "))
    assert name == "event: response.failed"
    assert (payload["type"], payload["sequence_number"]) == ("response.failed", 4)
    response = payload["response"]
    assert (response["id"], response["created_at"], response["model"]) == ("resp_1", 7, "m")
    assert (response["status"], response["error"]) == ("failed", ERROR)


def test_a_response_that_never_began_is_created_first() -> None:
    created, failed = (
        json.loads(event.partition("\n")[2].removeprefix("data: "))
        for event in written("responses", is_first=True)
    )
    assert (created["type"], created["sequence_number"]) == ("response.created", 4)
    assert (created["response"]["status"], created["response"]["error"]) == ("in_progress", None)
    assert (failed["type"], failed["sequence_number"]) == ("response.failed", 5)


@pytest.mark.parametrize("api", APIS)
def test_lone_surrogates_can_be_written(api: str) -> None:
    envelope = Envelope("", 0, "")
    frame = APIS[api].error_frame({"message": "\udce9"}, envelope, is_first=False)
    assert frame.decode("utf-8").endswith("}\n\n")
