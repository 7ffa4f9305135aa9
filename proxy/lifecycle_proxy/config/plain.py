"""Values and types in plain words: what was written, and what would be right."""

import difflib
import json
import re
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from lifecycle_proxy.config.file import SECRETS
from lifecycle_proxy.core.redact import redact

_LONGEST: Final = 60
_MAIN: Final = {
    "server": "listen",
    "upstream": "url",
    "lifecycle": "dialect",
    "recording": "path",
    "streams": "store",
    "faults": "seed",
}
_TARGETS: Final = 'local/qwen3:8b", "cloud/gpt-5-mini'
_QUANTITY: Final = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*(ms|s|sec|m|min|h|)\s*")
_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")
_ROUND: Final = 100_000  # examples above this are no help
_SECONDS: Final = {"ms": 0.001, "m": 60, "min": 60, "h": 3600}


def shown(value: Any, key: str) -> str:
    """A value as TOML writes it, cut short; never that of a key that holds a secret.

    Args:
        value: of any type.
        key: where it stands in the settings.
    """
    if re.sub(r"\[\d+\]", "", key).rpartition(".")[2] in SECRETS:
        return "this value"
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return quoted(value)
        case list() | tuple():
            return f"a list of {len(value)}"
        case dict():
            return "a table"
        case float():
            return repr(value).removesuffix(".0")
        case _:
            return str(value)[:_LONGEST]


def quoted(text: str) -> str:
    """A text in quotes, cut short, without what looks like a credential."""
    scheme, colon, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    if colon and "@" in host:  # a user name, and perhaps a password
        text = f"{scheme}://***@{host.rpartition('@')[2]}{slash}{path}"
    text = redact(text)
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return json.dumps(text, ensure_ascii=False)


def choices(kind: Any) -> list[str]:
    """The values of an enum, with ``true`` and ``false`` if it may be a bool; else none."""
    kinds = (kind, *typing.get_args(kind))
    enums = [one for one in kinds if typing.get_origin(one) is typing.Literal]
    values = [str(value) for one in enums for value in typing.get_args(one)]
    return [*values, "true", "false"] if values and bool in kinds else values


def unknown_value(value: Any, key: str, known: list[str]) -> str:
    """The problem with a value that is not one of a few.

    Args:
        value: as given.
        key: where it stands in the settings.
        known: the allowed values.
    """
    return f"unknown value {shown(value, key)} ({hint(value, known)})"


def hint(value: Any, known: list[str]) -> str:
    """What was probably meant, and what is known.

    Args:
        value: as given.
        known: the allowed values.
    """
    near = difflib.get_close_matches(str(value).lower(), known, n=1)
    return f"{f'did you mean {near[0]}? ' if near else ''}known are {', '.join(known)}"


def without_none(kind: Any) -> Any:
    """The type of a setting that may be left out: no file holds a None."""
    kinds = [one for one in typing.get_args(kind) if one is not type(None)]
    return kinds[0] if type(None) in typing.get_args(kind) else kind


def mismatch(given: Any, kind: Any, key: str, default: Any) -> str:
    """The problem with a value that its type does not take.

    Args:
        given: the value.
        kind: its type.
        key: its dotted key.
        default: the example, if it is a good one.
    """
    name = key.rpartition(".")[2]
    if key.startswith("models."):
        return f'{shown(given, key)} is not a list of targets, such as ["{_TARGETS}"]'
    if known := choices(kind):
        return unknown_value(given, key, known)
    what = _what(kind, name, default)
    if isinstance(given, Mapping):
        return f"a table, where {_what(kind, name)} is needed; write {name} = ..."
    if key == "upstream.url" and isinstance(given, list):
        return "a list, where one URL is needed; write [[upstreams]], and name and url, for each"
    return f"{shown(given, key)} is not {what}{_cure(given, kind, name)}"


def _cure(given: Any, kind: Any, name: str) -> str:
    """What to write instead, where that is plain."""
    base, text = _base(kind), str(given).strip().lower()
    right = ""
    if typing.get_origin(kind) is list:
        words = str(given)[:_LONGEST].split() if name == "agent" else [str(given)[:_LONGEST]]
        right = json.dumps(["..."] if name in SECRETS else words)
    elif base in (int, float) and (found := _QUANTITY.fullmatch(text)):
        number = float(found[1]) * _SECONDS.get(found[2], 1)
        right = f"{number:g}" if isinstance(given, str) and _fits(number, kind) else ""
    elif base is bool and text in _TRUE + _FALSE:
        right = "true" if text in _TRUE else "false"
    elif name == "listen" and isinstance(given, int):
        right = f'"127.0.0.1:{given}"'
    return f"; write {name} = {right}" if right else ""


def _fits(number: float, kind: Any) -> bool:
    try:
        msgspec.convert(number, kind, strict=False)
    except msgspec.ValidationError:
        return False
    return True


def _base(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def _what(kind: Any, name: str, default: Any = None) -> str:
    """A type in plain words, with its limits and an example."""
    base = _base(kind)
    origin = typing.get_origin(base)
    if base is bool:
        return "true or false"
    if base is str:
        return f'text in quotes, such as "{default}"' if default else "text in quotes"
    if base in (int, float):
        return _number(kind, name, default)
    if origin is list:
        return f"a list of {'keys' if name in SECRETS else 'texts'}"
    return "a table of names and texts"


def _number(kind: Any, name: str, default: Any) -> str:
    noun = "a whole number" if _base(kind) is int else "a number"
    unit = " of seconds" if name.endswith("_s") else " of bytes" if name.endswith("_bytes") else ""
    such = f", such as {default:g}" if default and default < _ROUND else ""
    metas = [one for one in typing.get_args(kind)[1:] if isinstance(one, Meta)]
    least = next((one.ge for one in metas if one.ge is not None), None)
    most = next((one.le for one in metas if one.le is not None), None)
    if least is not None and most is not None:
        return f"{noun}{unit} from {least} to {most}"
    return f"{noun}{unit}{'' if least is None else f', {least} or more'}{such}"


def no_table(given: Any, key: str) -> str:
    """The problem with a value where a table is needed.

    Args:
        given: the value.
        key: where it stands in the settings.
    """
    if isinstance(given, list):
        more = "; for several backends write [[upstreams]], each with a name and a url"
        return f"write [{key}] once, with single brackets{more if key == 'upstream' else ''}"
    main, value = _MAIN.get(key), shown(given, key)
    if "[" in key:  # of a list, which may be in one line
        return f'{value} is not a table, such as {{ key = "value" }}'
    if main is None or not isinstance(given, str):
        return f"{value} is not a table; write [{key}], and its keys below it"
    return f"{value} is not a table; write [{key}], and below it {main} = {value}"
