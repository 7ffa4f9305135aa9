"""Recordings as HAR 1.2 (http://www.softwareishard.com/blog/har-12-spec/), for other tools.

A HAR has one side of the proxy, and whole bodies. Frames with their times, tools and how the
exchange ended are in fields that begin with an underscore, as the specification requires.
"""

import base64
import json
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from lifecycle_proxy import __version__
from lifecycle_proxy.exchange.model import Headers, SideName
from lifecycle_proxy.inspect import timeline
from lifecycle_proxy.recording.cassette import Json, Piece, RecordedExchange, Request, Side

_UNKNOWN: Final = -1
# Required by the specification, but not recorded.
_HTTP_VERSION: Final = "HTTP/1.1"
_NO_HOST: Final = "localhost"


def har(exchanges: Iterable[RecordedExchange], *, side: SideName = "client") -> Json:
    """The log of one side.

    Args:
        exchanges: of a recording.
        side: ``client``: its requests and the responses that it got; ``upstream``: the forwarded
            requests and its responses.
    """
    return {
        "log": {
            "version": "1.2",
            "creator": {"name": "lifecycle-proxy", "version": __version__},
            "entries": [
                _entry(exchange, side) for exchange in exchanges if _was_asked(exchange, side)
            ],
        }
    }


def dumps(exchanges: Iterable[RecordedExchange], *, side: SideName = "client") -> bytes:
    """The log as the content of a file. Only ASCII, so lone surrogates do no harm.

    Args:
        exchanges: of a recording.
        side: see ``har``.
    """
    return json.dumps(har(exchanges, side=side), indent=1).encode() + b"\n"


def _was_asked(exchange: RecordedExchange, side: SideName) -> bool:
    return side == "client" or exchange.forwarded is not None


def _entry(exchange: RecordedExchange, side: SideName) -> Json:
    request = exchange.request
    if side == "upstream" and exchange.forwarded is not None:
        request = exchange.forwarded
    answer = exchange.side(side)
    timings = _timings(exchange, answer)
    entry: Json = {
        "startedDateTime": exchange.ts,
        "time": sum(timings.values()),
        "request": _request(request),
        "response": _response(answer),
        "cache": {},
        "timings": timings,
        "_id": exchange.id,
        "_side": side,
        "_route": exchange.route,
        "_ended": exchange.ended,
        "_end": answer.end,
        "_sides": _sides(exchange),
        "_frames": [_frame(frame) for frame in timeline.frames(answer)],
        "_tools": exchange.tools,
    }
    if exchange.error:
        entry["_error"] = exchange.error
    if exchange.omitted:
        entry["_omitted"] = exchange.omitted
    comments = (request.omitted, exchange.omitted, "" if exchange.is_complete else "incomplete")
    if comment := "; ".join(filter(None, comments)):
        entry["comment"] = comment
    return entry


def _sides(exchange: RecordedExchange) -> Json:
    """The status and the end of each side; null for an upstream that got no request."""
    client, upstream = (
        {"status": side.status, "end": side.end} for side in (exchange.client, exchange.upstream)
    )
    return {"client": client, "upstream": None if exchange.forwarded is None else upstream}


def _timings(exchange: RecordedExchange, answer: Side) -> dict[str, float]:
    """The three required ones. When the request had been sent is not recorded."""
    last = answer.pieces[-1].ms if answer.pieces else answer.ms
    if not answer.status:
        return {"send": 0, "wait": round(timeline.end_ms(exchange), 3), "receive": 0}
    receive = max(0.0, max(answer.end_ms, last) - answer.ms)
    return {"send": 0, "wait": round(answer.ms, 3), "receive": round(receive, 3)}


def _frame(frame: timeline.Frame) -> Json:
    """The range of a frame in the decompressed body, in bytes, and when it was complete."""
    span: Json = {"ms": frame.ms, "start": frame.start, "stop": frame.start + len(frame.raw)}
    return {**span, "_ours": True} if frame.is_added else span


def _request(request: Request) -> Json:
    url = _url(request)
    fields: Json = {
        "method": request.method,
        "url": url,
        "httpVersion": _HTTP_VERSION,
        "cookies": _cookies(request.headers, "cookie"),
        "headers": _pairs(request.headers),
        "queryString": _pairs(parse_qsl(_query(url), keep_blank_values=True)),
        "headersSize": _UNKNOWN,
        "bodySize": _UNKNOWN if request.body is None else len(request.body),
    }
    if request.body:
        fields["postData"] = {
            "mimeType": request.header("Content-Type"),
            **_text(request.body, "_encoding"),
        }
    return fields


def _response(answer: Side) -> Json:
    """Status 0 means that there was no response, as in HARs of browsers."""
    return {
        "status": answer.status,
        "statusText": answer.reason,
        "httpVersion": _HTTP_VERSION,
        "cookies": _cookies(answer.headers, "set-cookie"),
        "headers": _pairs(answer.headers),
        "content": _content(answer),
        "redirectURL": answer.header("Location"),
        "headersSize": _UNKNOWN,
        "bodySize": len(answer.body),
    }


def _content(answer: Side) -> Json:
    """The body, decompressed."""
    data = _joined(timeline.clear(answer))
    fields: Json = {"size": len(data), "mimeType": answer.header("Content-Type") or "x-unknown"}
    if len(data) != len(answer.body):
        fields["compression"] = len(data) - len(answer.body)
    return {**fields, **_text(data, "encoding")}


def _joined(pieces: Iterable[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def _text(data: bytes, encoding: str) -> Json:
    """Text, or base64 and the field that says so. HAR has that field for responses only."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"text": base64.b64encode(data).decode(), encoding: "base64"}


def _url(request: Request) -> str:
    """The absolute URL, which HAR requires. Only ``X-Forwarded-Proto`` tells whether it was TLS."""
    if not request.target.startswith("/"):
        return request.target
    scheme = request.header("X-Forwarded-Proto").partition(",")[0].strip() or "http"
    return f"{scheme}://{request.header('Host') or _NO_HOST}{request.target}"


def _query(url: str) -> str:
    try:
        return urlsplit(url).query
    except ValueError:  # brackets without an IPv6 address
        return ""


def _pairs(pairs: Iterable[tuple[str, str]]) -> list[Json]:
    return [{"name": name, "value": value} for name, value in pairs]


def _cookies(headers: Headers, name: str) -> list[Json]:
    return [
        cookie
        for header, value in headers
        if header.lower() == name
        for cookie in _parsed_cookies(value)
    ]


def _parsed_cookies(value: str) -> list[Json]:
    try:
        jar = SimpleCookie(value)
    except CookieError:
        return []
    return [{"name": name, "value": morsel.value} for name, morsel in jar.items()]
