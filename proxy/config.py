"""Settings from a TOML file, the environment and flags, each checked before anything starts.

Flags beat the environment, which beats the file, which beats the defaults. Whatever is wrong is
refused with the place it came from, the key and what would be right.
"""

import difflib
import os
import re
import ssl
import tomllib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from proxy.core.calls import Span
from proxy.core.dialects import DIALECTS
from proxy.recording.fault_rules import FaultSettings

Mode = typing.Literal["off", "record", "once", "new_episodes", "replay"]
Merge = bool | typing.Literal["auto"]
Seconds = Annotated[float, Meta(ge=0)]
_Place = Callable[[str], str]
Count = Annotated[int, Meta(ge=0)]

ENV_PREFIX: Final = "LIFECYCLE_PROXY_"
_FLAGS: Final = {
    "upstream.url": "--upstream",
    "server.listen": "--listen",
    "server.workers": "--workers",
    "recording.path": "--record",
    "recording.mode": "--record",
}
# Short names beside TABLE__KEY.
_ENV_SHORT: Final = {"UPSTREAM": "UPSTREAM__URL", "LISTEN": "SERVER__LISTEN"}
# Kubernetes puts such variables into every pod beside a service that is named lifecycle-proxy.
_ENV_FOREIGN: Final = re.compile(r"(PORT|SERVICE)(_|$)")


class ConfigError(Exception):
    """A setting that is not acceptable. The text names place, key and cure."""

    def __init__(self, place: str, key: str, problem: str) -> None:
        super().__init__(": ".join(part for part in (place, key, problem) if part))
        self.key = key
        self.problem = problem


class Server(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Towards clients."""

    listen: str = "127.0.0.1:8787"
    workers: Annotated[int, Meta(ge=1, le=1024)] = 1
    drain_timeout_s: Seconds = 30
    heartbeat_s: Seconds = 15
    heartbeat_before_first_byte: bool = False
    cors_origins: list[str] = []
    api_keys: list[str] = []
    max_header_bytes: Annotated[int, Meta(ge=1024)] = 65536
    tls_cert: str = ""
    tls_key: str = ""
    log_format: typing.Literal["auto", "text", "json"] = "auto"
    access_log: bool = True


class Upstream(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Towards the backend."""

    url: str = "http://127.0.0.1:11434/v1"
    connect_timeout_s: Seconds = 10
    first_byte_timeout_s: Seconds = 600
    stall_timeout_s: Seconds = 300
    max_connections: Count = 0
    retries: Annotated[int, Meta(ge=0, le=10)] = 0
    websocket_idle_s: Seconds = 0
    verify_tls: bool = True
    ca_file: str = ""
    server_name: str = ""
    use_proxy_env: bool = False
    api_key: str = ""


class ClientRule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One ``[[lifecycle.clients]]`` table: which dialect a client gets."""

    header: str
    dialect: str
    match: str = "*"


class Lifecycle(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is told of tool calls, and how."""

    span: Span = "call"
    registry_ttl_s: Seconds = 900
    dialect: str = "chunk"
    builtin_clients: bool = True
    native: typing.Literal["translate", "pass"] = "translate"
    internal_prefix: str = "_"
    label_max: Count = 120
    redact: bool = True
    result_preview: Count = 0
    infer_completion: bool = False
    merge_rounds: Merge = "auto"
    max_event_bytes: Annotated[int, Meta(ge=1024)] = 8 << 20
    emoji: dict[str, str] = {}
    clients: list[ClientRule] = []


class Recording(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is kept of the traffic, and where."""

    mode: Mode = "off"
    path: str = "recordings"
    compress: bool = False
    max_file_bytes: Count = 100 << 20
    speed: Annotated[float, Meta(ge=0)] = 1
    redact_headers: list[str] = []
    redact_patterns: list[str] = []
    redact_paths: list[str] = []


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything, checked.

    All times are in seconds, fractions allowed; 0 turns a limit off.
    """

    server: Server = Server()
    upstream: Upstream = Upstream()
    lifecycle: Lifecycle = Lifecycle()
    recording: Recording = Recording()
    faults: FaultSettings = FaultSettings()

    @property
    def listen_socket(self) -> str | None:
        """The path of a unix socket to listen on, if that is asked for."""
        return self.server.listen[5:] if self.server.listen.startswith("unix:") else None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        host, _, port = self.server.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def upstream_socket(self) -> str | None:
        """The path of the upstream's unix socket (``unix:/run/x.sock`` or ``...sock:/base``)."""
        if not self.upstream.url.startswith("unix:"):
            return None
        return self.upstream.url[5:].partition(":")[0]

    @property
    def upstream_base(self) -> str:
        """The upstream as an OpenAI SDK is given it, without a slash at the end."""
        if self.upstream_socket is not None:
            path = self.upstream.url[5:].partition(":")[2]
        else:
            path = urlsplit(self.upstream.url).path
        return f"{self.upstream_origin}{path.rstrip('/') or '/v1'}"

    @property
    def upstream_origin(self) -> str:
        if self.upstream_socket is not None:
            return "http://localhost"
        url = urlsplit(self.upstream.url)
        return f"{url.scheme}://{url.netloc}"


def load(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Read and check the settings.

    Args:
        file: a TOML file.
        environ: the environment; ``LIFECYCLE_PROXY_<TABLE>__<KEY>``.
        flags: values by dotted key, such as ``server.listen``; None is not given.

    Raises:
        ConfigError: a key, type or value is wrong, or the file cannot be read.
    """
    tree: dict[str, Any] = {}
    places: dict[str, str] = {}
    environ = os.environ if environ is None else environ
    if file is not None:
        tree = _read(file)
        _check_keys(tree, Settings, str(file))
    for key, value, place in _from_environment(environ):
        _set(tree, places, key, value, place)
    for key, value in (flags or {}).items():
        if value is not None:
            _set(tree, places, key, value, _FLAGS.get(key, key))
    place = str(file) if file else ""
    settings: Settings = _convert(tree, Settings, place, places)
    _check_values(settings, lambda key: places.get(key, place))
    return _with_secrets(settings, environ, lambda key: places.get(key, place))


def _with_secrets(settings: Settings, environ: Mapping[str, str], place: _Place) -> Settings:
    """``env:NAME`` replaced by what that variable holds."""

    def secret(text: str, key: str) -> str:
        if not text.startswith("env:"):
            return text
        value = environ.get(text[4:], "")
        if not value:
            problem = f"the environment variable {text[4:]} is not set, or is empty"
            raise ConfigError(place(key), key, problem)
        return value

    keys = [secret(key, "server.api_keys") for key in settings.server.api_keys]
    if not all(keys):
        raise ConfigError(place("server.api_keys"), "server.api_keys", "a key must not be empty")
    replace = msgspec.structs.replace
    api_key = secret(settings.upstream.api_key, "upstream.api_key")
    return replace(
        settings,
        server=replace(settings.server, api_keys=keys),
        upstream=replace(settings.upstream, api_key=api_key),
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(file), "", error.strerror or str(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), "", f"not TOML: {error}") from None


def _check_keys(tree: Mapping[str, Any], table: type[Struct], place: str, path: str = "") -> None:
    """Refuse unknown keys, with the nearest known one as the cure."""
    known = _fields(table)
    for key, value in tree.items():
        if key not in known:
            raise ConfigError(place, path + key, _unknown(key, known))
        inner = _struct_in(known[key])
        if inner is None:
            continue
        for number, item in enumerate(value if isinstance(value, list) else [value]):
            suffix = f"[{number}]." if isinstance(value, list) else "."
            if isinstance(item, Mapping):
                _check_keys(item, inner, place, path + key + suffix)


def _unknown(key: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    cure = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
    return f"unknown key ({cure})"


def _fields(table: type[Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(table)}


def _struct_in(kind: Any) -> type[Struct] | None:
    for candidate in (kind, *typing.get_args(kind)):
        if isinstance(candidate, type(Struct)):
            return candidate
    return None


def _from_environment(environ: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    found = []
    for variable, text in sorted(environ.items()):
        name = variable.removeprefix(ENV_PREFIX)
        if name in (variable, "CONFIG") or _ENV_FOREIGN.match(name):
            continue
        table, _, key = _ENV_SHORT.get(name, name).lower().partition("__")
        place = f"environment {variable}"
        tables = _fields(Settings)
        if table not in tables:
            raise ConfigError(place, table, _unknown(table, tables))
        keys = _fields(tables[table])
        if key not in keys:
            raise ConfigError(place, f"{table}.{key}", _unknown(key, keys))
        found.append((f"{table}.{key}", _from_text(text, keys[key], place, key), place))
    return found


def _from_text(text: str, kind: Any, place: str, key: str) -> Any:
    """A value given as text: lists by comma, or any list or table as TOML writes it."""
    if text[:1] in ("[", "{"):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(place, key, f"not a TOML value: {error}") from None
    if typing.get_origin(kind) is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    return _convert(text, kind, place, {}, key=key, strict=False)


def _set(tree: dict[str, Any], places: dict[str, str], key: str, value: Any, place: str) -> None:
    table, _, name = key.partition(".")
    if not isinstance(tree.setdefault(table, {}), dict):
        return  # reported by the conversion
    tree[table][name] = value
    places[key] = place


def _convert(
    value: Any,
    kind: Any,
    place: str,
    places: Mapping[str, str],
    *,
    key: str = "",
    strict: bool = True,
) -> Any:
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at ")
        key = where.strip("`").removeprefix("$.") or key
        problem = problem.replace("`", "").removeprefix("Object ")
        if known := _values(kind, where.strip("`").removeprefix("$")):
            problem += f" (known are {', '.join(known)})"
        raise ConfigError(
            places.get(key.partition("[")[0], place), key, problem[:1].lower() + problem[1:]
        ) from None


def _values(kind: Any, where: str) -> list[str]:
    """The values of an enum, by its place in a type; none for anything else.

    ``bool`` beside an enum adds its own two.
    """
    for name in where.split(".")[1:]:
        table = _struct_in(kind)
        kind = None if table is None else _fields(table).get(name.partition("[")[0])
    kinds = (kind, *typing.get_args(kind))
    enums = [one for one in kinds if typing.get_origin(one) is typing.Literal]
    values = [str(value) for one in enums for value in typing.get_args(one)]
    return [*values, "true", "false"] if values and bool in kinds else values


def _check_values(settings: Settings, place: _Place) -> None:
    """What types cannot say."""
    listen = settings.server.listen
    host, colon, port = listen.rpartition(":")
    unix = listen.startswith("unix:/")
    if not unix and not (
        colon and host and port.isascii() and port.isdigit() and int(port) < 65536
    ):
        problem = (
            f"{listen!r} is not HOST:PORT, such as 127.0.0.1:8787 (port 0 picks a free one), "
            "nor unix:/PATH"
        )
        raise ConfigError(place("server.listen"), "server.listen", problem)
    _check_url(settings.upstream.url, place("upstream.url"))
    _check_tls(settings, place)
    _check_recording(settings, place)
    _check_dialect(settings.lifecycle.dialect, place("lifecycle.dialect"), "lifecycle.dialect")
    for number, rule in enumerate(settings.lifecycle.clients):
        key = f"lifecycle.clients[{number}].dialect"
        _check_dialect(rule.dialect, place("lifecycle.clients"), key)


def _check_url(text: str, place: str) -> None:
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        good = False
    if text.startswith("unix:/"):
        return
    if (
        not good
        or not text.isprintable()
        or " " in text
        or url.query
        or url.fragment
        or url.username is not None
    ):
        problem = (
            f"{text!r} is not a base URL, such as http://127.0.0.1:11434/v1 "
            "nor unix:/PATH (no query, no user name; a key is upstream.api_key)"
        )
        raise ConfigError(place, "upstream.url", problem)


def _check_tls(settings: Settings, place: _Place) -> None:
    """Whether the files can be used. They are read again where they are."""
    server, upstream = settings.server, settings.upstream
    if server.tls_cert:
        key = "server.tls_cert"
        try:
            server_context(settings)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(place(key), key, f"cannot be used: {error}") from None
    if upstream.ca_file:
        key = "upstream.ca_file"
        try:
            ssl.create_default_context(cafile=upstream.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(place(key), key, f"cannot be used: {error}") from None


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS towards clients; None where no certificate is configured.

    Raises:
        OSError: the certificate or the key cannot be read, or do not belong together.
    """
    if not settings.server.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.server.tls_cert, settings.server.tls_key or None)
    return context


def _check_recording(settings: Settings, place: _Place) -> None:
    own = settings.recording
    is_one = own.path.endswith((".jsonl", ".jsonl.gz"))
    if own.mode != "off" and is_one and settings.server.workers > 1:
        problem = "one cassette, but several workers; give a folder"
        raise ConfigError(place("recording.path"), "recording.path", problem)
    _check_patterns(own, place("recording.redact_patterns"))


def _check_patterns(recording: Recording, place: str) -> None:
    for number, pattern in enumerate(recording.redact_patterns):
        try:
            re.compile(pattern)
        except re.error as error:
            key = f"recording.redact_patterns[{number}]"
            raise ConfigError(place, key, f"no regular expression: {error}") from None


def _check_dialect(name: str, place: str, key: str) -> None:
    if name not in DIALECTS:
        raise ConfigError(place, key, f"unknown dialect {name!r} (known are {', '.join(DIALECTS)})")
