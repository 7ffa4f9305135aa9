"""Compares the signatures of two responses: which differences break clients, and which do not."""

from collections.abc import Iterable, Iterator
from typing import Final

import orjson

from lifecycle_proxy.inspect.signature import (
    Comparison,
    Path,
    Reply,
    ResponseSignature,
    signature_of,
)

_LISTED: Final = 10  # differences of one sort
_MESSAGE: Final = 200  # characters
# Parts that a response has or has not depending on its text only.
_WORDING: Final = frozenset(("content", "refusal", "annotations", "[message]", "[reasoning]"))
_WORDING_KINDS: Final = (
    *("response.output_text.", "response.content_part.", "response.refusal."),
    "response.reasoning",
)


def compare(before: Reply, after: Reply) -> Comparison:
    """How a response differs from an earlier one.

    Args:
        before: the recorded response.
        after: the response to the same request now.
    """
    if after.broken:
        return Comparison((after.broken,))
    if before.status != after.status:
        return Comparison((f"status {before.status} is now {after.status}{_why(after)}",))
    if before.media_type != after.media_type:
        was, now = (reply.media_type or "none" for reply in (before, after))
        return Comparison((f"content type {was} is now {now}",))
    then, now_ = signature_of(before), signature_of(after)
    breaking = [*_missing(then, now_), *_missing_tools(then, now_), *_other_end(then, now_)]
    return Comparison(tuple(breaking), tuple(_benign(then, now_)))


def _why(reply: Reply) -> str:
    """The message of an error response."""
    try:
        error = orjson.loads(reply.body)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return ""
    return f": {' '.join(str(text).split())[:_MESSAGE]}"


def _missing(then: ResponseSignature, now: ResponseSignature) -> Iterator[str]:
    missing = [path for path in _topmost(then, now) if not _is_wording(path)]
    yield from _listed("missing", missing)
    for path in sorted(then.types.keys() & now.types.keys()):
        was, is_ = then.types[path], now.types[path]
        if was and is_ - was:
            yield f"type of {_shown(path)}: {_names(was)} is now {_names(is_)}"


def _missing_tools(then: ResponseSignature, now: ResponseSignature) -> Iterator[str]:
    called = now.tools()
    for name, keys in then.tools().items():
        if name not in called:
            yield f"no call of {name}"
            continue
        given = called[name]
        if keys is not None and given is None:
            yield f"the arguments of {name} are not a JSON object"
        elif keys and given is not None and not keys & given:
            yield f"the arguments of {name}: {_names(keys)} are now {_names(given)}"


def _other_end(then: ResponseSignature, now: ResponseSignature) -> Iterator[str]:
    if then.finishes and then.finishes != now.finishes:
        yield f"finish {_names(then.finishes)} is now {_names(now.finishes)}"
    elif "error" in now.finishes - then.finishes:
        yield "there is an error in it"
    if then.text and not now.text and not then.calls:
        yield "no text"
    if then.is_done and not now.is_done:
        yield "no [DONE]"


def _benign(then: ResponseSignature, now: ResponseSignature) -> Iterator[str]:
    yield from _listed("new", _topmost(now, then))
    yield from _listed("not there", [p for p in _topmost(then, now) if _is_wording(p)])
    nulls = [p for p in then.types.keys() & now.types.keys() if then.types[p] and not now.types[p]]
    yield from _listed("null", sorted(nulls))
    called, before = now.tools(), then.tools()
    if more := called.keys() - before.keys():
        yield f"more tools are called: {_names(more)}"
    for name in sorted(called.keys() & before.keys()):
        keys, given = before[name], called[name]
        if keys != given and (given is not None or keys is None):
            yield f"the arguments of {name} are now {_names(given or ())}"
    if now.is_done and not then.is_done:
        yield "[DONE] is new"
    if then.text != now.text or _said(then) != _said(now):
        yield "other wording"
    if then.events != now.events:
        yield f"{now.events} events, {then.events} before"


def _said(one: ResponseSignature) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in one.calls.values()]


def _topmost(has: ResponseSignature, lacks: ResponseSignature) -> list[Path]:
    """The paths that only the first one has, without those below them."""
    missing = has.types.keys() - lacks.types.keys()
    return sorted(path for path in missing if path[:-1] not in missing)


def _is_wording(path: Path) -> bool:
    return bool(_WORDING.intersection(path)) or path[0].startswith(_WORDING_KINDS)


def _listed(what: str, paths: Iterable[Path]) -> Iterator[str]:
    shown = [f"{what}: {_shown(path)}" for path in paths]
    yield from shown[:_LISTED]
    if len(shown) > _LISTED:
        yield f"{what}: {len(shown) - _LISTED} more"


def _shown(path: Path) -> str:
    """``choices[].delta.content``; with the kind of the event, if there are several."""
    kind, *rest = path
    inside = ".".join(rest).replace(".[", "[")
    if not inside or kind.startswith("chat."):
        return inside or kind or "the body"
    return f"{kind}: {inside}" if kind else inside


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
