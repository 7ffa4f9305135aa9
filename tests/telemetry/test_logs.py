"""Logs: what a line holds, what it never holds, and that it stays one line."""

import io
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from lifecycle_proxy.core.events import Outcome, ToolCompleted
from lifecycle_proxy.exchange.model import Exchange
from lifecycle_proxy.telemetry import logs
from lifecycle_proxy.telemetry.access_log import access

log = logging.getLogger("proxy.test")

# Line ends of every kind, a terminal's escape sequences, text that runs backwards, half a letter.
NASTY = "a\nb\r\nc\x0bd\x1b[31me\x9b2Jf\x85g\u2028h\u202ei\x00j\x7fk\ud800l"


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


def a_tool(name: str = "terminal") -> ToolCompleted:
    return ToolCompleted("call_1", 0, name, "ls", "", Outcome.OK, 10)


def an_exchange(**changes: Any) -> Exchange:
    started = time.monotonic() - 1.234
    known: dict[str, Any] = {
        "route": "chat",
        "started": started,
        "model": "qwen3:8b",
        "dialect": "chunk",
        "stream": True,
        "status": 200,
        "ended": "done",
        "first_byte": started + 0.08,
        "last_byte": started + 1.2,
        "chunks": 17,
        "sent_bytes": 12345,
        "frames": 4,
        "tools": [a_tool(), a_tool()],
    }
    return Exchange("req_1", "POST", "/v1/chat/completions", "127.0.0.1", **known | changes)


def fail() -> None:
    try:
        int(NASTY)
    except ValueError as error:
        error.args = (NASTY,)
        log.exception("failed", stack_info=True)


def written(
    exchange: Exchange, form: Literal["text", "json"], stream: io.StringIO | None = None
) -> str:
    stream = stream or io.StringIO()
    logs.configure(form, stream=stream)
    access(exchange)
    return stream.getvalue()


def entry(exchange: Exchange) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(written(exchange, "json"))
    return parsed


class TestConfigure:
    def test_text_on_a_terminal_and_json_elsewhere(self) -> None:
        for stream, is_json in ((Terminal(), False), (io.StringIO(), True)):
            logs.configure("auto", stream=stream)
            log.info("hello")
            assert stream.getvalue().startswith("{") is is_json

    def test_the_choice_beats_the_terminal(self) -> None:
        stream = Terminal()
        logs.configure("json", stream=stream)
        log.info("hello")
        assert json.loads(stream.getvalue())["message"] == "hello"

    def test_standard_error_is_the_default(self, capsys: pytest.CaptureFixture[str]) -> None:
        logs.configure("auto")
        log.info("hello")
        seen = capsys.readouterr()
        assert json.loads(seen.err)["message"] == "hello"
        assert not seen.out

    def test_a_second_call_replaces_the_first_and_leaves_other_handlers(self) -> None:
        other = logging.NullHandler()
        logging.getLogger().addHandler(other)
        first, second = io.StringIO(), io.StringIO()
        logs.configure("json", stream=first)
        logs.configure("json", stream=second)
        log.info("hello")
        assert not first.getvalue()
        assert second.getvalue().count("\n") == 1
        assert other in logging.getLogger().handlers

    def test_level(self) -> None:
        stream = io.StringIO()
        logs.configure("json", level=logging.WARNING, stream=stream)
        log.info("hello")
        assert not stream.getvalue()


class TestColour:
    @pytest.fixture(autouse=True)
    def _no_color(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NO_COLOR", raising=False)

    @staticmethod
    def warned(stream: io.StringIO) -> str:
        logs.configure("text", stream=stream)
        log.warning("hello")
        return stream.getvalue()

    def test_the_level_and_nothing_else_on_a_terminal(self) -> None:
        line = self.warned(Terminal())
        assert "\x1b[33mWARNING\x1b[0m proxy.test: hello\n" in line
        assert line.count("\x1b") == 2

    def test_not_elsewhere(self) -> None:
        assert "\x1b" not in self.warned(io.StringIO())

    def test_not_with_no_color(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        assert "\x1b" not in self.warned(Terminal())


class TestJson:
    @pytest.fixture
    def stream(self) -> io.StringIO:
        stream = io.StringIO()
        logs.configure("json", stream=stream)
        return stream

    def test_keys(self, stream: io.StringIO) -> None:
        log.info("%s and %d", "one", 2, extra={"port": 8787})
        seen = json.loads(stream.getvalue())
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", seen.pop("ts"))
        expected = {"level": "INFO", "logger": "proxy.test", "message": "one and 2", "port": 8787}
        assert seen == expected

    def test_an_exception_is_one_field(self, stream: io.StringIO) -> None:
        fail()
        assert stream.getvalue().count("\n") == 1
        seen = json.loads(stream.getvalue())
        assert seen["exception"].startswith("Traceback")
        assert "ValueError: a\nb" in seen["exception"]
        assert seen["stack"].startswith("Stack")

    def test_extras_replace_nothing_and_may_be_anything(self, stream: io.StringIO) -> None:
        log.info("hello", extra={"level": "fake", "what": object, "big": 1 << 80, "m": {1: 2}})
        seen = json.loads(stream.getvalue())
        assert seen["level"] == "INFO"
        assert seen["what"] == "<class 'object'>"
        assert seen["big"] == 1 << 80

    def test_what_does_not_print_is_escaped_and_comes_back(self, stream: io.StringIO) -> None:
        log.info("%s", NASTY)
        line = stream.getvalue()
        assert line[:-1].isprintable()
        assert json.loads(line)["message"] == NASTY


class TestText:
    def test_a_record(self) -> None:
        stream = io.StringIO()
        logs.configure("text", stream=stream)
        log.info("hello %s", "you", extra={"port": 8787, "name_": "a b", "none": ""})
        stamp, rest = stream.getvalue()[:23], stream.getvalue()[23:]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", stamp)
        assert rest == ' INFO    proxy.test: hello you port=8787 name_="a b" none=-\n'

    def test_nothing_that_is_logged_makes_a_line_of_its_own(self) -> None:
        stream = io.StringIO()
        logs.configure("text", stream=stream)
        log.info("%s", NASTY, extra={"value": NASTY})
        assert stream.getvalue().endswith("\n")
        assert stream.getvalue()[:-1].isprintable()
        assert r"a\nb\r\nc\x0bd\x1b[31me\x9b2Jf\x85g\u2028h\u202ei\x00j\x7fk\ud800l" in (
            stream.getvalue()
        )

    def test_the_lines_of_an_exception_are_indented(self) -> None:
        stream = io.StringIO()
        logs.configure("text", stream=stream)
        fail()
        first, *others = stream.getvalue()[:-1].split("\n")
        assert first.endswith("failed")
        assert all(line.startswith("    ") and line.isprintable() for line in others)


class TestAccess:
    def test_json(self) -> None:
        seen = entry(an_exchange())
        assert 1234 <= seen.pop("duration_ms") < 2234
        seen.pop("ts")
        assert seen == {
            "level": "INFO",
            "logger": "proxy.access",
            "message": "POST /v1/chat/completions 200 done",
            "request_id": "req_1",
            "client": "127.0.0.1",
            "method": "POST",
            "path": "/v1/chat/completions",
            "route": "chat",
            "status": 200,
            "ended": "done",
            "error": "",
            "cause": "",
            "first_byte_ms": 80,
            "sent_bytes": 12345,
            "chunks": 17,
            "tools": 2,
            "frames": 4,
            "dialect": "chunk",
            "model": "qwen3:8b",
        }

    def test_text(self) -> None:
        line = re.sub(r"\b1[2-9]\d\d ms", "1234 ms", written(an_exchange(), "text"))
        assert line.partition(": ")[2] == (
            "POST /v1/chat/completions 200 done 1234 ms (first byte 80 ms) 12345 B 2 tools "
            "chunk qwen3:8b 127.0.0.1 req_1\n"
        )

    def test_text_of_an_exchange_that_never_began(self) -> None:
        exchange = Exchange("req_1", "GET", "/v1/models", "::1", status=502, ended="refused")
        exchange.error = "upstream_unreachable"
        expected = r"GET /v1/models 502 refused upstream_unreachable \d ms 0 B ::1 req_1\n"
        assert re.fullmatch(expected, written(exchange, "text").partition(": ")[2])
        assert entry(exchange)["first_byte_ms"] is None

    @pytest.mark.parametrize("form", ["text", "json"])
    def test_a_failure_of_the_upstream_is_a_warning(self, form: Literal["text", "json"]) -> None:
        failed = an_exchange(error="upstream_protocol", cause="it broke off after 7 bytes")
        line = written(failed, form)
        assert "WARNING" in line
        assert "it broke off after 7 bytes" in line
        assert "INFO" in written(an_exchange(error="draining"), form)

    def test_text_of_one_tool_and_no_status(self) -> None:
        line = written(an_exchange(tools=[a_tool()], status=0, ended="client_gone"), "text")
        assert "/v1/chat/completions - client_gone " in line
        assert " 1 tool " in line

    @pytest.mark.parametrize("form", ["text", "json"])
    def test_never_the_query(self, form: Literal["text", "json"]) -> None:
        exchange = an_exchange()
        exchange.path += "?key=sk-secret"
        assert "sk-secret" not in written(exchange, form)

    @pytest.mark.parametrize("field", ["request_id", "method", "path", "client", "model"])
    def test_nothing_that_a_client_sends_makes_a_line_or_a_word(self, field: str) -> None:
        exchange = an_exchange()
        setattr(exchange, field, f'{NASTY} 200 "done\\')
        line = written(exchange, "text")
        assert line[:-1].isprintable()
        assert r'\ud800l 200 \"done\\"' in line
        assert entry(exchange)[field] == f'{NASTY} 200 "done\\'

    def test_long_values_are_cut(self) -> None:
        exchange = an_exchange(model="m" * 100_000)
        exchange.path = "/" + "p" * 100_000
        assert len(written(exchange, "json")) < 2000
        assert len(written(exchange, "text")) < 2000

    def test_nothing_where_nobody_listens(self) -> None:
        stream = io.StringIO()
        logs.configure("json", level=logging.WARNING, stream=stream)
        access(an_exchange())
        assert not stream.getvalue()


class Stuck(io.StringIO):
    """A stream that nobody reads until it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.written_to = threading.Event()
        self.read_by_somebody = threading.Event()

    def write(self, text: str) -> int:
        self.written_to.set()
        self.read_by_somebody.wait(5)
        return super().write(text)


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    stream = Stuck()
    logs.configure("text", stream=stream, background=True)
    yield stream
    stream.read_by_somebody.set()
    logs.configure("text")


def test_a_log_that_nobody_reads_stops_nothing(stuck: Stuck) -> None:
    logging.getLogger("x").warning("the first")
    assert stuck.written_to.wait(5)
    for number in range(12_000):
        logging.getLogger("x").warning("line %d", number)
    stuck.read_by_somebody.set()
    logs.configure("text")  # closes the other
    text = stuck.getvalue()
    assert "line 11999\n" in text
    assert "log lines lost" in text
    assert text.count("\n") == 1 + 10_000 + 1


def test_what_waits_is_written_at_the_end(stuck: Stuck) -> None:
    stuck.read_by_somebody.set()
    logging.getLogger("x").info("the last word")
    logs.configure("text")
    assert "the last word" in stuck.getvalue()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells how often a thread ran")
def test_while_there_is_nothing_to_write_nothing_runs(stuck: Stuck) -> None:
    stuck.read_by_somebody.set()
    logging.getLogger("x").warning("a line")
    assert stuck.written_to.wait(5)
    (thread,) = (one for one in threading.enumerate() if one.name == "log")
    status = Path(f"/proc/self/task/{thread.native_id}/status")

    def turns() -> str:
        return status.read_text().partition("voluntary_ctxt_switches:")[2]

    time.sleep(0.3)  # it has written, and waits
    before = turns()
    time.sleep(0.7)
    assert turns() == before


class Shapeless:
    """Cannot be shown."""

    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("broken", [("%s", Shapeless()), (Shapeless(),)])
def test_a_record_that_cannot_be_shown_does_not_end_the_log(
    stuck: Stuck, broken: tuple[Any, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    stuck.read_by_somebody.set()
    handlers = logging.getLogger().handlers  # pytest's own would raise
    handler = next(one for one in handlers if getattr(one, "stream", None) is stuck)
    for msg, *args in (broken, ("the next",)):
        fields = {"name": "x", "levelno": logging.INFO, "msg": msg, "args": tuple(args)}
        handler.handle(logging.makeLogRecord(fields))
    logs.configure("text")
    assert "the next" in stuck.getvalue()
    assert "ZeroDivisionError" in capsys.readouterr().err
