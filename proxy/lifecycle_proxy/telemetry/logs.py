"""Logging: the format of all lines, those of the access log included.

On a terminal lines are text, elsewhere JSON, unless ``server.log_format`` says otherwise. A record
is one line, whatever a client or an upstream put into a value: characters that do not print are
escaped. Only a traceback in text form has several lines; they are indented, so that none looks like
a record of its own.
"""

import json
import logging
import os
import re
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

import orjson
from msgspec import UNSET, Struct, UnsetType
from msgspec.json import Encoder
from msgspec.structs import asdict

from lifecycle_proxy.core.printable import printable, wants_colour
from lifecycle_proxy.exchange.timestamp import iso_utc
from lifecycle_proxy.telemetry.log_handlers import BackgroundLogHandler, LogHandler

Format = Literal["auto", "text", "json"]

_STANDARD: Final = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime"))
_COLOURS: Final = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[1;31m"}
_PLAIN: Final = "\x1b[0m"
_BARE: Final = re.compile(r'[^\s"\\]+')
_INDENT: Final = "\n    "
_DELETE: Final = 0x7F
_JSON: Final = Encoder()


class Access(Struct, kw_only=True):
    """One exchange that has ended. As text, in a compact form; as JSON, in this order.

    Attributes:
        ts, level, logger, message: of the record; empty until it is formatted as JSON.
    """

    ts: str = ""
    level: str = ""
    logger: str = ""
    message: str = ""
    request_id: str
    client: str
    method: str
    path: str
    route: str
    status: int
    ended: str
    error: str
    cause: str
    duration_ms: int
    first_byte_ms: int | None
    sent_bytes: int
    chunks: int
    tools: int
    frames: int
    dialect: str
    model: str
    upstream: str | UnsetType = UNSET

    def __str__(self) -> str:
        named = [one for one in (self.dialect, self.model, self.upstream or "") if one]
        parts = [
            *map(_shown, (self.method, self.path, self.status or "", self.ended)),
            *map(_shown, filter(None, (self.error, self.cause))),
            f"{self.duration_ms} ms",
            "" if self.first_byte_ms is None else f"(first byte {self.first_byte_ms} ms)",
            f"{self.sent_bytes} B",
            _tools(self.tools) if self.tools else "",
            *map(_shown, named),
            *map(_shown, (self.client, self.request_id)),
        ]
        return " ".join(filter(None, parts))


class JsonFormatter(logging.Formatter):
    """A JSON object: ``ts`` (ISO 8601, UTC), ``level``, ``logger``, ``message`` and extras."""

    def __init__(self) -> None:
        super().__init__()
        self._second = (0, "")  # the latest one, as text: a busy log has many lines of one second

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, Access):  # made here, so there is nothing else in the record
            seen = record.msg
            seen.ts, seen.level, seen.logger = self._time(record), record.levelname, record.name
            seen.message = f"{seen.method} {seen.path} {seen.status} {seen.ended}"
            with suppress(UnicodeEncodeError):  # lone surrogates
                if line := _line(_JSON.encode(seen)):
                    return line
            return _dump(
                {name: value for name, value in asdict(seen).items() if value is not UNSET}
            )
        entry: dict[str, object] = {
            "ts": self._time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in _extras(record).items():
            entry.setdefault(key, value)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = record.stack_info
        return _dump(entry)

    def _time(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if self._second[0] != second:
            text = iso_utc(datetime.fromtimestamp(second, UTC))
            self._second = second, text[: -len("000Z")]
        return f"{self._second[1]}{int(record.msecs):03d}Z"


class TextFormatter(logging.Formatter):
    """Local time, level, logger, message, extras as ``key=value``.

    Args:
        coloured: colour the level from WARNING on.
    """

    def __init__(self, *, coloured: bool) -> None:
        super().__init__()
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        level = f"{record.levelname:<7}"
        if self._coloured and record.levelname in _COLOURS:
            level = f"{_COLOURS[record.levelname]}{level}{_PLAIN}"
        message = f"{record.name}: {record.getMessage()}"
        line = f"{clock}.{int(record.msecs):03d} {level} {printable(message)}"
        for key, value in _extras(record).items():
            line += f" {printable(key)}={_shown(value)}"
        if record.exc_info:
            line += _indented(self.formatException(record.exc_info))
        if record.stack_info:
            line += _indented(record.stack_info)
        return line


def configure(
    format: Format,  # noqa: A002 - the name that logging itself has for it
    level: int = logging.INFO,
    stream: TextIO | None = None,
    *,
    background: bool = False,
) -> None:
    """Set up the root logger. May be called again.

    Args:
        format: ``auto`` is text on a terminal and JSON elsewhere.
        level: the least severe level that is written.
        stream: standard error, if not given. The level is coloured on a terminal, unless the
            environment has ``NO_COLOR`` (https://no-color.org).
        background: write from a thread. Only after a fork: the child would not have the thread.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    handler = BackgroundLogHandler(stream) if background else LogHandler(stream)
    if format == "text" or (format == "auto" and terminal):
        handler.setFormatter(TextFormatter(coloured=wants_colour(terminal, os.environ)))
    else:
        handler.setFormatter(JsonFormatter())
    # No format here has these fields, and finding them out is half the cost of a record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    for other in root.handlers[:]:
        if isinstance(other, LogHandler):
            root.removeHandler(other)
            other.close()
    root.addHandler(handler)
    root.setLevel(level)


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _dump(entry: dict[str, object]) -> str:
    try:
        line = orjson.dumps(entry, default=str)
    except TypeError:  # lone surrogates, huge numbers, keys that are not strings
        line = b""
    # JSON may contain control characters, and characters at which str.splitlines splits.
    return _line(line) or json.dumps(entry, default=str, skipkeys=True).replace("\x7f", "\\u007f")


def _line(line: bytes) -> str:
    """JSON as text, if it is that and one line; else ""."""
    if line.isascii() and _DELETE not in line:  # as nearly all
        return line.decode()
    text = line.decode()
    return text if text.isprintable() else ""


def _shown(value: object) -> str:
    """A value on a line with others: in quotes if it could be read as more than one."""
    text = str(value) or "-"
    if text.isprintable() and _BARE.fullmatch(text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(quoted)}"'


def _indented(text: str) -> str:
    return "".join(_INDENT + printable(line) for line in text.split("\n"))


def _tools(number: object) -> str:
    return "1 tool" if number == 1 else f"{number} tools"
