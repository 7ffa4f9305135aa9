"""HAR 1.2 (http://www.softwareishard.com/blog/har-12-spec/), as browsers and proxies export it.

Bodies stand in it with their content coding undone; text is text, anything else base64. In those
that ``har`` wrote, frames say when they came, and which are the proxy's own; they say how both
sides ended, too.
"""

import math
from collections.abc import Iterator
from typing import Any, Final, get_args
from urllib.parse import urlencode

from lifecycle_proxy.exchange.ends import Ended, SideEnd
from lifecycle_proxy.exchange.model import Headers, SideName
from lifecycle_proxy.inspect.imported import (
    MISBUILT,
    Ending,
    Imported,
    Unreadable,
    moment,
    unbase64,
    utf8,
    why,
    with_host,
)
from lifecycle_proxy.recording.cassette import Json, Piece

_BEFORE_HEAD: Final = ("blocked", "dns", "connect", "send", "wait")  # ssl is a part of connect
_ENDED: Final = get_args(Ended)
_ENDS: Final = get_args(SideEnd)
_SIDES: Final[tuple[SideName, ...]] = ("upstream", "client")


def exchanges(tree: Json) -> Iterator[Imported]:
    """The exchanges of a log, in its order.

    Raises:
        Unreadable: an entry that is not as the specification says.
    """
    for number, entry in enumerate(tree["log"].get("entries") or [], 1):
        try:
            yield _exchange(entry)
        except Unreadable as error:
            raise Unreadable(f"entry {number}: {error}") from None
        except MISBUILT as error:
            raise Unreadable(f"entry {number} is not valid HAR 1.2: {why(error)}") from None


def _exchange(entry: Json) -> Imported:
    request, response = entry["request"], entry["response"]
    url, timings = str(request["url"]), entry.get("timings") or {}
    head_ms = sum(_ms(timings.get(name)) for name in _BEFORE_HEAD)
    body, omitted = _body(response.get("content") or {})
    return Imported(
        method=str(request["method"]),
        url=url,
        request_headers=with_host(_pairs(request), url),
        request_body=_posted(request.get("postData") or {}),
        status=int(response["status"]),
        reason=str(response.get("statusText") or ""),
        headers=tuple((k, v) for k, v in _pairs(response) if not k.startswith(":")),
        body=body,
        pieces=_pieces(entry.get("_frames"), body),
        head_ms=round(head_ms, 3),
        end_ms=round(head_ms + _ms(timings.get("receive")), 3),
        ts=moment(entry.get("startedDateTime")),
        omitted=str(entry.get("_omitted") or omitted),
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


def _posted(post: Json) -> bytes:
    if post.get("text"):
        is_packed = post.get("_encoding", post.get("encoding")) == "base64"
        return unbase64(post["text"]) if is_packed else utf8(post["text"])
    return urlencode([(p["name"], p.get("value", "")) for p in post.get("params") or []]).encode()


def _body(content: Json) -> tuple[bytes, str]:
    """The body, and why there is none."""
    text = content.get("text")
    if text is None:
        return b"", "the HAR does not hold the body" if (content.get("size") or 0) > 0 else ""
    return (unbase64(text) if content.get("encoding") == "base64" else utf8(text)), ""


def _pieces(frames: Any, body: bytes) -> tuple[Piece, ...]:
    """The body as it came, by ``har``'s frames; nothing where those are not of this body.

    Frames that came at once were one read.
    """
    reads: list[tuple[float, int, list[tuple[int, int]]]] = []  # when, where, and what is ours
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
