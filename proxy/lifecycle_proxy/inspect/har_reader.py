"""HAR 1.2 (http://www.softwareishard.com/blog/har-12-spec/), as browsers and proxies export it.

Bodies stand in it with their content coding undone; text is text, anything else base64. In those
that ``har_writer`` wrote, frames say when they came, and which are the proxy's own; they say how
both sides ended, too. Where others go their own ways:

- Polly.JS writes what is no text as a JSON array of chunks, in hexadecimal or base64, still
  compressed, and marks it with ``_isBinary``.
- Playwright can put bodies into files beside the HAR, whose names are in ``_file``.
- Browsers leave out the body of an event stream. Chrome has its events in ``_eventSourceMessages``;
  they are written as a stream again, which is not the same to the byte.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import urlencode

from lifecycle_proxy.exchange.ends import Ended, SideEnd
from lifecycle_proxy.exchange.model import Headers, SideName
from lifecycle_proxy.inspect.imported import (
    MISBUILT,
    Ending,
    Imported,
    Unreadable,
    in_clear,
    moment,
    unbase64,
    unhex,
    utf8,
    why,
    with_host,
)
from lifecycle_proxy.recording.cassette import Json, Piece

_BEFORE_HEAD: Final = ("blocked", "dns", "connect", "send", "wait")  # ssl is a part of connect
_ENDED: Final = get_args(Ended)
_ENDS: Final = get_args(SideEnd)
_NO_BODY: Final = "the HAR does not hold the body"
_DECODE: Final[dict[str, Callable[[str], bytes]]] = {
    "": utf8,
    **dict.fromkeys(("utf-8", "utf8", "text", "plain"), utf8),
    "base64": unbase64,
    "hex": unhex,
}
_SIDES: Final[tuple[SideName, ...]] = ("upstream", "client")


def exchanges(tree: Json, folder: Path) -> Iterator[Imported]:
    """The exchanges of a log, in its order.

    Args:
        tree: the document.
        folder: where it lies; bodies may be in files beside it.

    Raises:
        Unreadable: an entry that is not as the specification says.
    """
    for number, entry in enumerate(tree["log"].get("entries") or [], 1):
        try:
            yield _exchange(entry, folder)
        except Unreadable as error:
            raise Unreadable(f"entry {number}: {error}") from None
        except MISBUILT as error:
            raise Unreadable(f"entry {number} is not valid HAR 1.2: {why(error)}") from None


def _exchange(entry: Json, folder: Path) -> Imported:
    request, response = entry["request"], entry["response"]
    url, timings = str(request["url"]), entry.get("timings") or {}
    head_ms = sum(_ms(timings.get(name)) for name in _BEFORE_HEAD)
    body, omitted = _body(entry, folder)
    asked, unknown = _posted(request, folder)
    return Imported(
        method=str(request["method"]),
        url=url,
        request_headers=with_host(_pairs(request), url),
        request_body=asked,
        status=int(response["status"]),
        reason=str(response.get("statusText") or ""),
        headers=tuple((k, v) for k, v in _pairs(response) if not k.startswith(":")),
        body=body,
        pieces=_pieces(entry.get("_frames"), body),
        head_ms=round(head_ms, 3),
        end_ms=round(head_ms + _ms(timings.get("receive")), 3),
        ts=moment(entry.get("startedDateTime")),
        omitted=str(entry.get("_omitted") or omitted),
        request_omitted=unknown,
        ending=_ending(entry, int(response["status"])),
    )


def _ending(entry: Json, status: int) -> Ending:
    """How it ended, as ``har`` wrote it. What is no value of a cassette's is not known."""
    ended, error, tools = (entry.get(name) for name in ("_ended", "_error", "_tools"))
    sides: dict[SideName, tuple[int, SideEnd] | None] = {}
    told = entry.get("_sides")
    for side in _SIDES:
        one = told.get(side) if isinstance(told, dict) else None
        if isinstance(told, dict) and side in told and one is None:
            sides[side] = None
        elif isinstance(one, dict) and isinstance(one.get("status"), int):
            if one.get("end") in _ENDS:
                sides[side] = (one["status"], one["end"])
        elif entry.get("_end") in _ENDS:
            sides[side] = (status, entry["_end"])
    return Ending(
        ended=ended if ended in _ENDED else None,
        error=error if isinstance(error, str) else "",
        sides=sides,
        tools=[tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else [],
    )


def _ms(value: Any) -> float:
    """-1 says that it does not apply."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return 0.0
    return max(0.0, float(value))


def _pairs(part: Json) -> Headers:
    return tuple((str(h["name"]), str(h["value"])) for h in part.get("headers") or [])


def _posted(request: Json, folder: Path) -> tuple[bytes, str]:
    """The request's body, and why there is none."""
    post = request.get("postData") or {}
    if post.get("_file") is not None:
        return _beside(folder, post["_file"])
    if post.get("text"):
        return _decoded(post["text"], str(post.get("_encoding", post.get("encoding")) or ""))
    if post.get("params"):
        if str(post.get("mimeType")).lower().startswith("multipart/"):
            return b"", _NO_BODY
        return urlencode([(p["name"], p.get("value", "")) for p in post["params"]]).encode(), ""
    is_missing = not post and _length(request) > 0
    return b"", _NO_BODY if is_missing else ""


def _body(entry: Json, folder: Path) -> tuple[bytes, str]:
    """The response's body, and why there is none."""
    response = entry["response"]
    content, text = response.get("content") or {}, (response.get("content") or {}).get("text")
    if content.get("_file") is not None:
        return _beside(folder, content["_file"])
    headers = {name.lower(): value for name, value in _pairs(response)}
    kind = headers.get("content-type") or str(content.get("mimeType"))
    is_stream = kind.lower().startswith("text/event-stream") and response["status"] == 200
    is_ours = "_ended" in entry or "_sides" in entry  # and so the text is the body, if it is empty
    if not text and is_stream and not (is_ours and text is not None):
        told = entry.get("_eventSourceMessages")
        body = _stream(told) if isinstance(told, list) else b""
        return body, "" if body else "the HAR does not hold the body of the event stream"
    if text is None:
        is_missing = (content.get("size") or 0) != 0 or _length(response) > 0
        has_body = entry["request"]["method"] != "HEAD" and response["status"] not in (204, 304)
        return b"", _NO_BODY if is_missing and has_body else ""
    encoding = str(content.get("encoding") or "")
    body, omitted = _decoded(text, encoding, is_binary=bool(content.get("_isBinary")))
    is_polly = bool(content.get("_isBinary")) or encoding == "hex"
    return (in_clear(body, headers.get("content-encoding", "")) if is_polly else body), omitted


def _decoded(text: str, encoding: str, *, is_binary: bool = False) -> tuple[bytes, str]:
    """The bytes of a text in an encoding, and why they are not known."""
    decode = _DECODE.get(encoding.lower())
    if decode is None:
        return b"", f"its body has the encoding {encoding[:40]!r}, which is not known here"
    if (is_binary or decode is unhex) and text.startswith("["):
        chunks = json.loads(text)
        return b"".join((unhex if not encoding else decode)(str(chunk)) for chunk in chunks), ""
    return decode(text), ""


def _beside(folder: Path, name: Any) -> tuple[bytes, str]:
    """A body in a file beside the HAR: in the same folder, so that none is read from elsewhere."""
    if not isinstance(name, str) or Path(name).name != name:
        return b"", f"its body is in a file that is not beside the HAR: {str(name)[:80]!r}"
    try:
        return (folder / name).read_bytes(), ""
    except OSError as error:
        return b"", f"its body is in the file {name[:80]!r}, which cannot be read: {error.strerror}"


def _stream(messages: list[Any]) -> bytes:
    """The events that Chrome saw, as a stream."""
    lines: list[str] = []
    for message in messages:
        if name := message.get("eventName"):
            lines += [f"event: {name}"] if name != "message" else []
        if event_id := message.get("eventId"):
            lines.append(f"id: {event_id}")
        lines += [f"data: {line}" for line in str(message.get("data", "")).split("\n")] + [""]
    return utf8("\n".join([*lines, ""])) if lines else b""


def _length(part: Json) -> int:
    """The length that a message's headers, or the HAR itself, gives its body."""
    told = next((v for k, v in _pairs(part) if k.lower() == "content-length"), "")
    size = part.get("bodySize")
    return int(told) if told.isdigit() else size if isinstance(size, int) else 0


def _pieces(frames: Any, body: bytes) -> tuple[Piece, ...]:
    """The body as it came, by ``har``'s frames; nothing where those are not of this body.

    Frames that came at once were one read.
    """
    reads: list[tuple[float, int, list[tuple[int, int]]]] = []  # when, where, frames
    at, now = 0, 0.0
    for frame in frames if isinstance(frames, list) else ():
        ms, stop = frame.get("ms"), frame.get("stop")
        if not (_is_time(ms) and ms >= now and isinstance(stop, int)):
            return ()
        if frame.get("start") != at or stop <= at:
            return ()
        if not reads or ms > now:
            reads.append((ms, at, []))
        _, first, ours = reads[-1]
        if frame.get("_ours"):
            ours.append((at - first, stop - first))
        at, now = stop, ms
    stops = [*(first for _, first, _ in reads[1:]), at]
    whole = zip(reads, stops, strict=False) if at == len(body) else ()
    return tuple(Piece(ms, body[first:stop], tuple(ours)) for (ms, first, ours), stop in whole)


def _is_time(ms: Any) -> bool:
    return isinstance(ms, int | float) and math.isfinite(ms) and ms >= 0
