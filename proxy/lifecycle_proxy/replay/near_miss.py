"""A request that no recording answers: which one is nearest, and where it differs."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from lifecycle_proxy.core.redact import redact, redact_json
from lifecycle_proxy.recording import normalize
from lifecycle_proxy.recording.cassette import Request
from lifecycle_proxy.recording.repetition import common_start

# Not one that an SDK tries again by itself (408, 409, 429, 5xx).
MISS_STATUS: Final = 404
# OpenAI's and Anthropic's SDKs obey the first; the second tells a miss from an answer.
NO_RETRY: Final = {"X-Should-Retry": "false", "X-Lifecycle-Miss": "1"}

_MAX_LEAVES: Final = 5_000
_LISTED: Final = 20  # differences that are listed
_NAMED: Final = 3  # and in the message
_SHOWN: Final = 100  # characters of a value
_BEFORE: Final = 30  # of them before the first that differs
_COMPARED: Final = 2_000  # characters: enough to tell which of two texts is nearer
_COMPARED_BYTES: Final = 4 << 20  # of all recordings together
_MARGIN: Final = 4_000  # characters around those shown, in which a secret may begin or end
_OF_ONE_ALONE: Final = 0.25  # what a key counts in which nothing is alike
_NOTHING: Final = object()

Leaves = dict[str, object]


class Difference(NamedTuple):
    """Where two requests differ.

    Attributes:
        path: keys and positions, with dots between them; ``:method``, ``:target``, and ``:body``
            for one that is not JSON, ``:part.1`` and so on where it is multipart.
        recorded: a number, a boolean, or a text, shortened, its secrets redacted; None where
            there is nothing. A JSON null is the text ``null``.
        asked: the same of what was asked.
    """

    path: str
    recorded: object
    asked: object


def _error(message: str, **more: object) -> bytes:
    told = {"message": message, "type": "proxy_error", "param": None, "code": "no_recording"}
    return json.dumps({"error": {**told, **more}}, ensure_ascii=False).encode("utf-8", "replace")


# For clients that must not hear what others have asked.
UNTOLD: Final = _error("no recording for this request; the log of the proxy says more")


@dataclass(frozen=True, slots=True)
class Miss:
    """No recording fits.

    Attributes:
        message: for people. Holds no secrets.
        nearest: the id of the recording that is most like it; "" where there is none.
        diff: how that one differs, the first of many.
        differences: how many there are.
    """

    message: str
    nearest: str = ""
    diff: tuple[Difference, ...] = ()
    differences: int = 0

    def body(self) -> bytes:
        """The error in the shape that OpenAI SDKs show; to be sent with ``MISS_STATUS``."""
        diff = [difference._asdict() for difference in self.diff]
        return _error(
            self.message, diff=diff, differences=self.differences, nearest=self.nearest or None
        )

    def text(self) -> str:
        """The same in lines for a terminal."""
        lines = [self.message]
        for path, recorded, asked in self.diff:
            lines.append(f"  {_line(path)}")
            lines += (f"    recorded: {_line(recorded)}", f"    asked:    {_line(asked)}")
        if self.differences > len(self.diff):
            lines.append(f"  … and {self.differences - len(self.diff)} more")
        return "\n".join(lines)


def miss(
    asked: Request,
    recorded: Iterable[tuple[str, Request]],
    volatile: Sequence[str] = normalize.VOLATILE,
    *,
    is_used_up: bool = False,
) -> Miss:
    """What to say about a request that nothing answers.

    Args:
        recorded: what it may be compared with, each with the id of its recording.
        volatile: JSON paths that do not count.
        is_used_up: there were recordings that fit, and all have been given out.
    """
    name = redact(f"{asked.method} {asked.target}"[:_MARGIN])
    wanted = leaves(asked, volatile)
    views = [(one, leaves(request, volatile)) for one, request in _some(recorded)]
    if not views:
        return Miss(f"no recording for {name}: there are no recordings")
    nearest, view = max(views, key=lambda one: likeness(one[1], wanted))
    paths = _differing(view, wanted)
    why = "all that fit have been given out" if is_used_up else _where(paths)
    message = f"no recording for {name}; nearest: {nearest}, {why}"
    diff = tuple(_difference(path, view, wanted) for path in paths[:_LISTED])
    return Miss(message, nearest, diff, len(paths))


def _some(recorded: Iterable[tuple[str, Request]]) -> Iterator[tuple[str, Request]]:
    """The first of them, and more while they are not too large to be compared."""
    left = _COMPARED_BYTES
    for one, request in recorded:
        yield one, request
        left -= len(request.body or b"")
        if left < 0:
            return


def leaves(request: Request, volatile: Sequence[str] = normalize.VOLATILE) -> Leaves:
    """All values of a request by their path; of a very large one the first thousands.

    Args:
        request: the request.
        volatile: JSON paths that do not count.
    """
    found: Leaves = {":method": request.method, ":target": request.target}
    document = normalize.normal(request, volatile)
    if document is None:
        parts = normalize.parts(request)
        texts = {":body": request.body} if parts is None else _numbered(parts)
        return found | {path: _as_text(text) for path, text in texts.items()}
    for path, value in _walk(document, ""):
        if path or value not in ({}, []):
            found[path or ":body"] = value
        if len(found) >= _MAX_LEAVES:
            break
    return found


def likeness(one: Leaves, other: Leaves) -> float:
    """How alike two requests are, from 0 to 1.

    Args:
        one: of ``leaves``.
        other: of another one.

    ``tools`` counts as ``model`` does, however long it is, and what only one of them has counts
    little: a question is known by what was said.
    """
    parts: dict[str, list[float]] = {}
    for path in one.keys() | other.keys():
        alike = _alike(one[path], other[path]) if path in one and path in other else 0.0
        parts.setdefault(path.partition(".")[0], []).append(alike)
    likes = [sum(part) / len(part) for part in parts.values()]
    return sum(likes) / sum(1 if like else _OF_ONE_ALONE for like in likes)


def _differing(recorded: Leaves, asked: Leaves) -> list[str]:
    """Where two requests differ, in the order of the recorded one."""
    paths = [*recorded, *(path for path in asked if path not in recorded)]
    return [p for p in paths if recorded.get(p, _NOTHING) != asked.get(p, _NOTHING)]


def _difference(path: str, recorded: Leaves, asked: Leaves) -> Difference:
    one, other = recorded.get(path, _NOTHING), asked.get(path, _NOTHING)
    key = next((k for k in reversed(path.split(".")) if not k.isdigit()), "")
    start = _first_difference(one, other)
    return Difference(path, _shown(one, key, start), _shown(other, key, start))


def _where(paths: Sequence[str]) -> str:
    if not paths:
        return "which differs in nothing that is compared"
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return f"which differs in {', '.join(path[:_SHOWN] for path in paths[:_NAMED])}{more}"


def _walk(node: Any, path: str) -> Iterator[tuple[str, object]]:
    dot = path and f"{path}."
    if isinstance(node, dict) and node:
        for key, child in node.items():
            yield from _walk(child, f"{dot}{key}")
    elif isinstance(node, list) and node:
        for number, child in enumerate(node):
            yield from _walk(child, f"{dot}{number}")
    else:
        yield path, {} if node == {} else [] if node == [] else node


def _numbered(parts: Sequence[bytes]) -> dict[str, bytes | None]:
    """The parts of a multipart body; what is before the first is none."""
    return {f":part.{number}": part for number, part in enumerate(parts) if number}


def _as_text(body: bytes | None) -> object:
    if body is None:
        return "(not recorded)"
    try:
        return body.decode()
    except UnicodeDecodeError:
        return f"({len(body)} bytes)"


def _alike(one: object, other: object) -> float:
    if one == other:
        return 1.0
    if not (isinstance(one, str) and isinstance(other, str)):
        return 0.0
    return common_start(one[:_COMPARED], other[:_COMPARED]) / max(len(one), len(other))


def _first_difference(one: object, other: object) -> int:
    if isinstance(one, str) and isinstance(other, str):
        return common_start(one, other)
    return 0


def _shown(value: object, key: str, start: int) -> object:
    """A value for people: no secrets, and of a long text what is around the difference."""
    if value is _NOTHING:
        return None
    if value is None or isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    if not isinstance(value, str):
        return value
    # Of a long text only the part around the difference is searched for secrets.
    first = max(0, start - _MARGIN)
    part = value[first : start + _MARGIN]
    text = str(redact_json(redact(part), key))
    before, after = first > 0, first + len(part) < len(value)
    if len(text) > _SHOWN:
        at = max(0, min(start - first - _BEFORE, len(text) - _SHOWN))
        before, after = before or at > 0, after or at + _SHOWN < len(text)
        text = text[at : at + _SHOWN]
    return f"{'…' if before else ''}{text}{'…' if after else ''}"


def _line(value: object) -> str:
    """A value in one line that a terminal can be given; an absent one as a dash."""
    text = "-" if value is None else " ".join(str(value)[: 2 * _SHOWN].split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
