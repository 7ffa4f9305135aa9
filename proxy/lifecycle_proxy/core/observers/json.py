"""Reading JSON as upstreams really send it."""

import json
from typing import Any, Final

import orjson

_MAX_LENIENT: Final = 1 << 20  # bytes; the forgiving decoder is the slower one


def loads(data: bytes) -> Any:
    """Decode, forgiving what Python servers get wrong: NaN, lone surrogates, invalid UTF-8.

    Raises:
        ValueError: it is not JSON at all, or nested beyond reason, or large and not strict JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        if len(data) > _MAX_LENIENT:
            raise
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def dumps(value: object) -> str:
    """Encode what ``loads`` gave; "" where it is nested beyond reason."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return ""


def is_error(payload: dict[str, Any]) -> bool:
    """Whether a decoded event is an error: in a field, or as the object itself (Mistral, vLLM)."""
    return bool(payload.get("error")) or payload.get("object") == "error"
