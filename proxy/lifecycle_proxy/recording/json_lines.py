"""Records as JSON lines, with bytes in them."""

import base64
import json
from typing import Any, Protocol

import orjson


class LineFiles(Protocol):
    """Where lines go; see ``Files``. What ``file`` gives is only handed back."""

    def file(self) -> Any:
        """See ``Files``."""

    def write(self, file: Any, data: bytes, owner: object) -> None:
        """See ``Files``."""

    def done(self, file: Any) -> None:
        """See ``Files``."""


def pack(data: bytes) -> str | dict[str, Any]:
    """Bytes as text, if they are UTF-8, else in base64."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def unpack(value: object) -> bytes:
    """The bytes again.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, dict) and isinstance(value.get("base64"), str):
        return base64.b64decode(value["base64"], validate=True)
    raise ValueError("neither text nor base64")


def line(record: dict[str, Any]) -> bytes:
    """One record, with its line end."""
    try:
        return orjson.dumps(record) + b"\n"
    except TypeError:  # lone surrogates, from headers that are no text
        return json.dumps(record).encode() + b"\n"
