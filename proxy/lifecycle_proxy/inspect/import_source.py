"""What kind of file is to be imported, and the exchanges in it."""

import importlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from lifecycle_proxy.core.sse import begins_stream
from lifecycle_proxy.inspect import har_reader, vcr_reader
from lifecycle_proxy.inspect.imported import Imported, Unreadable
from lifecycle_proxy.recording.cassette import Json

_NO_YAML: Final = (
    "this is YAML, and PyYAML is not installed: pip install PyYAML, or convert it to JSON"
)
_VCR: Final = re.compile(r"^(?:http_)?interactions\s*:", re.MULTILINE)
# What the events of an API hold, and its path.
_CHAT: Final = "/v1/chat/completions"
_PATHS: Final = ((b'"response.', "/v1/responses"), (b'"message_start"', "/v1/messages"))
_LOOKED_AT: Final = 1 << 16
_PYTHON_TAG: Final = "python/"


def exchanges(source: Path, raw: bytes, written: datetime) -> list[Imported]:
    """The exchanges of a file.

    Args:
        source: its path; bodies may be in files beside it.
        raw: what is in it.
        written: the time of exchanges that do not say theirs.

    Raises:
        Unreadable: it is something else, or holds nothing.
    """
    if source.suffix == ".sse":
        return [_stream(raw, written)]
    tree, read = _tree(raw)
    try:
        found = list(read(tree, source.parent))
    except (AttributeError, TypeError) as error:
        raise Unreadable(f"not as it should be: {error}") from None
    if not found:
        raise Unreadable("there are no exchanges in it")
    for one in found:
        one.ts = one.ts or written
    return found


def _stream(raw: bytes, written: datetime) -> Imported:
    """An event stream by itself; what was asked is not known.

    Raises:
        Unreadable: it is none.
    """
    if not begins_stream(raw):
        raise Unreadable("not an event stream")
    path = next((path for mark, path in _PATHS if mark in raw[:_LOOKED_AT]), _CHAT)
    return Imported(
        method="POST",
        url=path,
        request_headers=(("Content-Type", "application/json"),),
        request_body=b'{"stream": true}',
        status=200,
        reason="OK",
        headers=(("Content-Type", "text/event-stream"),),
        body=raw,
        ts=written,
    )


def _tree(raw: bytes) -> tuple[Json, Callable[[Json, Path], Iterator[Imported]]]:
    """The document, and who can read it."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("neither HAR 1.2 nor vcrpy: not UTF-8 (unpack it first?)") from None
    tree: Any = None
    with suppress(ValueError, RecursionError):
        tree = json.loads(text, parse_constant=_refuse)
    if tree is None and _VCR.search(text):
        tree = _yaml(text)
    if isinstance(tree, dict) and isinstance(tree.get("log"), dict):
        return tree, har_reader.exchanges
    if isinstance(tree, dict) and vcr_reader.interactions(tree) is not None:
        return tree, vcr_reader.exchanges
    if isinstance(tree, dict) and isinstance(tree.get("fixtures"), list):
        raise Unreadable(
            "fixtures of aimock match parts of requests, which a recording cannot: run aimock as "
            "the upstream and record it (lifecycle-proxy serve --upstream URL --record FOLDER)"
        )
    is_ours = text.startswith(('{"kind":"cassette"', '{"kind": "cassette"'))
    cure = "this is a cassette already" if is_ours else "export one of these, or check the file"
    raise Unreadable(f"neither HAR 1.2 nor vcrpy: {cure}")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _yaml(text: str) -> Any:
    """A document of plain data; whatever would make objects is refused."""
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        raise Unreadable(_NO_YAML) from None
    try:
        return yaml.safe_load(text)
    except yaml.constructor.ConstructorError as error:
        problem, mark = str(error.problem or ""), error.problem_mark
        where = f"line {mark.line + 1}: " if mark is not None else ""
        if _PYTHON_TAG in problem:
            tag = problem.partition("yaml.org,2002:")[2].strip("'\" ")
            raise Unreadable(
                f"{where}a Python object (!!{tag}), which could run code as it is read; "
                "nothing of it was. Write that value as text, or record it again with plain bodies"
            ) from None
        raise Unreadable(f"{where}{problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Unreadable(f"no YAML: {' '.join(str(error).split())[:300]}") from None
