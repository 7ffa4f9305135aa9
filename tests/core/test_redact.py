"""Secrets in short texts and in JSON."""

import time
from typing import Any

import pytest
from lifecycle_proxy.core.redact import redact, redact_json


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("curl -H 'Authorization: Bearer sk-abcdefghijkl'", "curl -H 'Authorization: ***'"),
        ("bearer abcdef123", "bearer ***"),
        ("basic dXNlcjpwYXNz", "basic ***"),
        ("use sk-proj-abcdefghijklmnop now", "use *** now"),
        ("sk-abcd", "***"),
        ("ghp_abcdefghijklmnopqrst", "***"),
        ("AKIAIOSFODNN7EXAMPLE", "***"),
        ("AIzaSyA1234567890abcdef", "***"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "***"),
        ("https://user:hunter2@host/x", "https://user:***@host/x"),
        ("redis://:hunter2@host", "redis://:***@host"),
        ("api_key=abc&x=1", "api_key=***&x=1"),
        ('{"token": "a b c"}', '{"token": ***}'),
        ("PASSWORD='a b' ls", "PASSWORD=*** ls"),
        ("mysql --password hunter2 -u x", "mysql --password *** -u x"),
        ("curl --token=abc", "curl --token=***"),
    ],
)
def test_secrets_are_replaced(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    ["ls -la", "monkey = banana", "the bearer of news", "https://host:8080/x", "task-force", "ask"],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_a_token_begins_where_a_word_does() -> None:
    """Else each of a thousand beginnings in one long word is followed to its end."""
    assert redact("x-eyJabcdefgh.abcdefgh") == "x-eyJabcdefgh.abcdefgh"
    assert redact("x eyJabcdefgh.abcdefgh") == "x ***"


@pytest.mark.parametrize(
    ("value", "redacted"),
    [
        ({"api_key": "abc", "q": "a"}, {"api_key": "***", "q": "a"}),
        ({"tokens": 5, "a": [{"password": "x"}]}, {"tokens": 5, "a": [{"password": "***"}]}),
        ({"secret": ["x", 1]}, {"secret": ["***", 1]}),
        ("bearer abcdef123", "bearer ***"),
        ([None, True, 1.5], [None, True, 1.5]),
    ],
)
def test_in_json_a_key_says_that_its_value_is_a_secret(value: Any, redacted: Any) -> None:
    assert redact_json(value) == redacted


@pytest.mark.unmeasured
@pytest.mark.parametrize("run", ["a", "ACGT", "A" * 7 + "/", "a_", "key ", "://", "eyJ", "sk-"])
def test_the_time_for_a_text_grows_as_its_length_does(run: str) -> None:
    """Genes, silence in base64: eight times as much takes eight times as long, not 64 times."""
    seconds = []
    for size in (10_000, 80_000):
        text = (run * size)[:size]
        start = time.thread_time()
        for _ in range(3):
            redact(text)
        seconds.append(time.thread_time() - start)
    assert seconds[1] <= 24 * max(seconds[0], 0.001), seconds
