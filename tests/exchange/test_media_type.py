import pytest
from lifecycle_proxy.exchange.media_type import is_event_stream, media_type


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream; charset=utf-8", True),
        (" text/event-stream ;", True),
        ("text/event-streams", False),
        ("application/json; text/event-stream", False),
        ("", False),
    ],
)
def test_an_event_stream_is_known_by_its_media_type(content_type: str, expected: bool) -> None:
    assert is_event_stream(content_type) is expected


def test_a_media_type_has_no_parameters() -> None:
    assert media_type("Text/HTML; charset=utf-8") == "text/html"
