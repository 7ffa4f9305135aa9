"""What a name that no setting has was probably meant to be."""

import difflib
import re
import typing
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import Struct

ENV_PREFIX: Final = "LIFECYCLE_PROXY_"
# Short names beside TABLE__KEY.
ENV_SHORT: Final = {"UPSTREAM": "UPSTREAM__URL", "LISTEN": "SERVER__LISTEN"}

_CLOSE: Final = 0.75  # elsewhere; in the same table difflib's own 0.6
# What other programs call it.
_ELSEWHERE: Final = {
    **dict.fromkeys(("host", "port", "bind", "address", "addr"), "server.listen"),
    **dict.fromkeys(("base_url", "api_base", "backend", "target", "endpoint"), "upstream.url"),
    **dict.fromkeys(("cors", "origins", "allowed_origins"), "server.cors_origins"),
    **dict.fromkeys(("cert", "certfile", "ssl_cert", "certificate"), "server.tls_cert"),
    **dict.fromkeys(("keyfile", "ssl_key"), "server.tls_key"),
    **dict.fromkeys(("key", "token", "bearer"), "upstream.api_key"),
    **dict.fromkeys(("timeout", "timeout_s", "read_timeout"), "upstream.first_byte_timeout_s"),
    **dict.fromkeys(("verify", "insecure", "ssl_verify"), "upstream.verify_tls"),
    **dict.fromkeys(("record",), "recording.mode"),
    **dict.fromkeys(("dir", "folder", "directory"), "recording.path"),
    **dict.fromkeys(("format", "events"), "lifecycle.dialect"),
    **dict.fromkeys(("rules", "client"), "lifecycle.clients"),
    **dict.fromkeys(("log", "logging", "log_level"), "server.log_format"),
}


def fields(table: type[Struct]) -> dict[str, Any]:
    """The keys of a table, and their types."""
    return {field.name: field.type for field in msgspec.structs.fields(table)}


def tables(root: type[Struct]) -> dict[str, type[Struct]]:
    """The tables of which there is one each, by their names."""
    return {name: kind for name, kind in fields(root).items() if isinstance(kind, type(Struct))}


def struct_in(kind: Any) -> type[Struct] | None:
    """The table that a type is, or is a list of."""
    for candidate in (kind, *typing.get_args(kind)):
        if isinstance(candidate, type(Struct)):
            return candidate
    return None


def unknown_key(key: str, table: type[Struct], path: str, root: type[Struct]) -> str:
    """The problem with a key that its table does not have.

    Args:
        key: as it was written.
        table: where it was written.
        path: the name of that table, with a dot behind it; "" at the top.
        root: all tables.
    """
    known = fields(table)
    near = _near(key, table, path, root)
    cure = (
        f"did you mean {', or '.join(near)}?" if near else f"known are {', '.join(sorted(known))}"
    )
    return f"unknown key ({cure})"


def unknown_variable(name: str, text: str, root: type[Struct]) -> str:
    """The problem with an environment variable that no setting reads.

    Args:
        name: without ``LIFECYCLE_PROXY_``.
        text: its value; only a port number is looked at.
    """
    found = _variables(name, root)
    if found == ["LISTEN"] and text.isdecimal():
        found = [f"LISTEN=127.0.0.1:{text[:5]}"]
    if found:
        cure = f"did you mean {', or '.join(ENV_PREFIX + one for one in found)}?"
    else:
        cure = f"names are {ENV_PREFIX}TABLE__KEY, such as {ENV_PREFIX}UPSTREAM__URL"
    return f"no setting has this name ({cure})"


def _near(key: str, table: type[Struct], path: str, root: type[Struct]) -> list[str]:
    known, name = fields(table), key.strip().lower().replace("-", "_").rpartition(".")[2]
    if name in known:
        return [name]
    places = _places(root, path)
    found = [_shown(place, path) for place in places.get(name, ())]
    if not found and name in _ELSEWHERE:
        found = [_shown(_ELSEWHERE[name], path)]
    else:
        found += difflib.get_close_matches(name, known, n=1)
    if not found:
        close = difflib.get_close_matches(name, places, n=1, cutoff=_CLOSE)
        found = [_shown(place, path) for one in close for place in places[one]]
    return list(dict.fromkeys(found))[:2]


def _places(root: type[Struct], path: str) -> dict[str, list[str]]:
    """By last name: the dotted keys of all tables, and the tables themselves."""
    found: dict[str, list[str]] = {}
    for table in fields(root) if path else ():
        found.setdefault(table, []).append(table)
    for table, kind in tables(root).items():
        for key in fields(kind):
            found.setdefault(key, []).append(f"{table}.{key}")
    return found


def _shown(place: str, path: str) -> str:
    """A key, as it is written in the file, seen from the table ``path``."""
    table, _, key = place.partition(".")
    if path == f"{table}.":
        return key
    if not key:
        return "[[upstreams]]" if table == "upstreams" else f"[{table}]"
    if key in ("clients", "rules"):
        return f"[[{place}]]"
    return f"[{place}]" if key == "emoji" else f"{key} under [{table}]"


def _variables(name: str, root: type[Struct]) -> list[str]:
    """The variables that come closest."""
    asked = re.sub("_+", "_", name.lower().replace("-", "_").replace(".", "_")).strip("_")
    known: dict[str, list[str]] = {}
    for table, kind in tables(root).items():
        for key in fields(kind):
            variable = f"{table}__{key}".upper()
            for form in (f"{table}_{key}", key):
                known.setdefault(form, []).append(variable)
    known["upstream"] = ["UPSTREAM"]
    for word, place in _ELSEWHERE.items():
        known.setdefault(word, [place.replace(".", "__").upper()])
    last = name.lower().rpartition("__")[2]  # in the wrong table, perhaps
    close = difflib.get_close_matches(asked, known, n=1, cutoff=_CLOSE)
    close = next(([one] for one in (asked, last) if one in known), close)
    return _short(variable for one in close for variable in known[one])[:2]


def _short(variables: Iterable[str]) -> list[str]:
    long = {value: key for key, value in ENV_SHORT.items()}
    return list(dict.fromkeys(long.get(one, one) for one in variables))
