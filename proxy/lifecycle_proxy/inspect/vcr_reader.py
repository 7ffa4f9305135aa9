"""vcrpy's cassettes (https://vcrpy.readthedocs.io), from either of its serializers, and their like.

Bodies are text, or bytes in base64 where they are no UTF-8; compressed ones are kept compressed,
unless the recorder had the setting to decompress them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.inspect.imported import (
    MISBUILT,
    Imported,
    Unreadable,
    in_clear,
    moment,
    unbase64,
    utf8,
    why,
    with_host,
)
from lifecycle_proxy.recording.cassette import Json


def interactions(tree: Json) -> list[Any] | None:
    """What stands in the place where such a file has its exchanges; None where it is another."""
    found = tree.get("interactions", tree.get("http_interactions"))
    return found if isinstance(found, list) else None


def exchanges(tree: Json, _folder: Path) -> Iterator[Imported]:
    """The exchanges of a file, in its order.

    Args:
        tree: the document.
        _folder: not needed; see ``har_reader``.

    Raises:
        Unreadable: one of them is not as vcrpy writes them.
    """
    for number, one in enumerate(interactions(tree) or [], 1):
        try:
            yield _exchange(one)
        except Unreadable as error:
            raise Unreadable(f"interaction {number}: {error}") from None
        except MISBUILT as error:
            problem = f"interaction {number} is not valid: {why(error)}"
            raise Unreadable(problem) from None


def _exchange(one: Json) -> Imported:
    request, response = one["request"], one["response"]
    url, headers = _word(request["uri"]), _pairs(response)
    code, reason = _status(response)
    coding = ", ".join(v for k, v in headers if k.lower() == "content-encoding")
    body = response.get("body", response.get("content"))
    return Imported(
        method=_word(request["method"]).upper(),
        url=url,
        request_headers=with_host(_pairs(request), url),
        request_body=_bytes(request.get("body")),
        status=code,
        reason=reason,
        headers=headers,
        body=in_clear(_bytes(body), coding),
        ts=moment(one.get("recorded_at")),
    )


def _status(response: Json) -> tuple[int, str]:
    """``{code, message}``, or as a number, as it was for httpx once."""
    status = response.get("status", response.get("status_code"))
    if isinstance(status, dict):
        return int(status["code"]), _word(status.get("message") or "")
    if status is None:
        raise Unreadable("its answer has no status")
    return int(status), ""


def _pairs(part: Json) -> Headers:
    """Values are lists, or single."""
    return tuple(
        (_word(name), _word(value))
        for name, values in (part.get("headers") or {}).items()
        for value in (values if isinstance(values, list) else [values])
    )


def _word(value: Any) -> str:
    """A scalar. Aliases can make a short YAML document endless, once it is written out."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str | int | float):
        raise Unreadable(f"a {type(value).__name__} where a word should stand")
    return str(value)


def _bytes(body: Any) -> bytes:
    match body:
        case None:
            return b""
        case bytes():
            return body
        case str():
            return utf8(body)
        case {"base64_string": str(text)}:
            return unbase64(text)
        case {"string": inner}:
            return _bytes(inner)
        case _:
            raise Unreadable(
                f"a body of a form that vcrpy does not write: {type(body).__name__}; "
                "it is text, bytes or {string: ...}"
            )
