"""The messages of a request, for an agent with a memory: what was said before, what is asked."""

from typing import Any

import pytest
from lifecycle_proxy.core.agents.conversation import (
    Asked,
    fingerprint,
    maybe_answer,
    maybe_asked,
    text_of,
)


def message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def asked(*messages: dict[str, Any]) -> Asked:
    found = maybe_asked(messages)
    assert found is not None
    return found


USER = message("user", "hi")
ANSWER = message("assistant", "Hello")
NEXT = message("user", "and now?")


def test_the_next_request_has_the_fingerprint_that_was_expected() -> None:
    first = asked(USER)
    assert asked(USER, ANSWER, NEXT).fingerprint() == first.after("Hello")
    assert first.fingerprint() == fingerprint(())


@pytest.mark.parametrize(
    "messages",
    [
        (message("system", "Be kind."), USER, ANSWER, NEXT),
        (USER, message("assistant", " Hel\nlo "), NEXT),
        (USER, message("assistant", "\u2028\tHel\x0b\x85l\u3000\xa0o\r"), NEXT),
        (USER, message("assistant", "Hel"), message("assistant", "lo"), NEXT),
        (USER, message("assistant", "Hel"), message("tool", "x"), message("assistant", "lo"), NEXT),
        (USER, message("assistant", None), ANSWER, NEXT),
        (message("user", [{"type": "text", "text": "hi"}]), ANSWER, NEXT),
    ],
)
def test_what_pages_do_to_a_history_changes_nothing(messages: tuple[dict[str, Any], ...]) -> None:
    assert asked(*messages).fingerprint() == asked(USER).after("Hello")


@pytest.mark.parametrize(
    "messages",
    [
        (USER, NEXT),
        (message("user", "ho"), ANSWER, NEXT),
        (USER, message("assistant", "Hellooo"), NEXT),
        (USER, message("assistant", "Hell"), message("user", "o"), NEXT),
        (USER, ANSWER, USER, ANSWER, NEXT),
    ],
)
def test_another_history_has_another_fingerprint(messages: tuple[dict[str, Any], ...]) -> None:
    assert asked(*messages).fingerprint() != asked(USER).after("Hello")


def test_an_agent_that_knows_nothing_is_told_everything() -> None:
    system = (message("system", "Be kind."), message("developer", "Be brief."))
    whole = asked(*system, USER, ANSWER, NEXT).whole()
    assert whole == (
        "Be kind.\n\nBe brief.\n\nThe conversation so far:\n\nUser: hi\n\nAssistant: Hello\n\n"
        "The user goes on:\n\nand now?"
    )
    assert asked(USER).whole() == "hi"


@pytest.mark.parametrize("messages", [(), (ANSWER,), (3,), ({"role": 1},), (message("tool", "x"),)])
def test_no_question(messages: tuple[Any, ...]) -> None:
    assert maybe_asked(messages) is None


def test_pictures() -> None:
    def picture(url: object) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": url}}

    data = "data:image/png;base64,AAAA"
    found = asked(message("user", [{"type": "text", "text": "see"}, picture(data)]))
    assert (found.text, found.images, found.skipped_images) == ("see", (("image/png", "AAAA"),), 0)
    urls = [picture("https://x/y.png"), picture("data:text/plain;base64,AA"), picture(3)]
    assert asked(message("user", urls)).skipped_images == 2
    many = asked(message("user", [picture(data)] * 20))
    assert (len(many.images), many.skipped_images) == (16, 4)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("yes", True),
        (" Yes! ", True),
        ("no.", False),
        ("DENY", False),
        ("yes but", None),
        ("", None),
    ],
)
def test_answers(text: str, *, answer: bool | None) -> None:
    assert maybe_answer(text) is answer


def test_texts() -> None:
    assert text_of(message("user", [{"text": "a"}, {"text": 3}, "b", {"text": "c"}])) == "a\nc"
    assert text_of(None) == ""
