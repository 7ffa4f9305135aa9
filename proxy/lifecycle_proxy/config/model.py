"""Settings from a TOML file, the environment and flags, each checked before anything starts.

Flags beat the environment, which beats the file, which beats the defaults. All that is wrong is
refused at once, each mistake with the place it came from, the key and what would be right.
"""

import os
import ssl
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from lifecycle_proxy.config import checks
from lifecycle_proxy.config.agents import AgentSettings, ApprovalSettings
from lifecycle_proxy.config.names import ENV_PREFIX
from lifecycle_proxy.config.page import PageSettings
from lifecycle_proxy.config.sources import ConfigError, Problem, Sources
from lifecycle_proxy.config.streams import StreamSettings
from lifecycle_proxy.config.targets import FailoverSettings, NamedUpstream, Written
from lifecycle_proxy.config.traces import TraceSettings
from lifecycle_proxy.config.variables import with_variables
from lifecycle_proxy.core.context import Span
from lifecycle_proxy.core.page_events import PageEvents
from lifecycle_proxy.faults.rules import FaultSettings

__all__ = ("ENV_PREFIX", "ConfigError", "Loaded", "Problem", "Settings", "load", "read")

Mode = typing.Literal["off", "record", "once", "new_episodes", "replay"]
Merge = bool | typing.Literal["auto"]
Seconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Check = Callable[["Settings"], Iterator[tuple[str, str]]]  # keys and what is wrong with them


class Server(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Towards clients."""

    listen: str = "127.0.0.1:8787"
    workers: Annotated[int, Meta(ge=1, le=1024)] = 1
    drain_timeout_s: Seconds = 30
    heartbeat_s: Seconds = 15
    heartbeat_before_first_byte: bool = False
    hosts: list[str] = []
    cors_origins: list[str] = []
    api_keys: list[str] = []
    forwarded: bool = False
    public_url: str = ""
    max_header_bytes: Annotated[int, Meta(ge=1024)] = 65536
    max_head_bytes: Count = 262144
    head_timeout_s: Seconds = 30
    body_idle_s: Seconds = 300
    keep_alive_s: Seconds = 75
    tls_cert: str = ""
    tls_key: str = ""
    log_format: typing.Literal["auto", "text", "json"] = "auto"
    access_log: bool = True


class UpstreamSettings(AgentSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Towards the backend."""

    url: str = "http://127.0.0.1:11434/v1"
    connect_timeout_s: Seconds = 10
    first_byte_timeout_s: Seconds = 600
    stall_timeout_s: Seconds = 300
    max_connections: Count = 0
    retries: Annotated[int, Meta(ge=0, le=10)] = 0
    retry_stale: bool = True
    websocket_idle_s: Seconds = 0
    verify_tls: bool = True
    ca_file: str = ""
    server_name: str = ""
    use_proxy_env: bool = False
    api_key: str = ""
    api_key_header: str = ""
    models_in_answers: typing.Literal["upstream", "public"] = "upstream"


class ClientRule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One ``[[lifecycle.clients]]`` table: which dialect a client gets."""

    header: str
    dialect: str
    match: str = "*"


class LifecycleSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which events of tool calls are added, and in which form."""

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
    page_events: PageEvents = "safe"
    max_event_bytes: Annotated[int, Meta(ge=1024)] = 8 << 20
    emoji: dict[str, str] = {}
    clients: list[ClientRule] = []


class Recording(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is kept of the traffic, and where."""

    mode: Mode = "off"
    path: str = "recordings"
    compress: bool = False
    max_file_bytes: Count = 100 << 20
    max_body_bytes: Count = 64 << 20
    speed: Annotated[float, Meta(ge=0)] = 1
    redact_headers: list[str] = []
    redact_patterns: list[str] = []
    redact_paths: list[str] = []


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything, checked.

    All times are in seconds, fractions allowed; 0 turns a limit off.
    """

    server: Server = Server()
    upstream: UpstreamSettings = UpstreamSettings()
    upstreams: list[NamedUpstream] = []
    models: dict[str, Written] = {}
    failover: FailoverSettings = FailoverSettings()
    lifecycle: LifecycleSettings = LifecycleSettings()
    recording: Recording = Recording()
    streams: StreamSettings = StreamSettings()
    traces: TraceSettings = TraceSettings()
    page: PageSettings = PageSettings()
    faults: FaultSettings = FaultSettings()
    approvals: ApprovalSettings = ApprovalSettings()

    @property
    def is_routed(self) -> bool:
        """Whether requests are routed by their model, to one upstream or another."""
        return bool(self.upstreams or self.models)

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
        url = self.upstream.url
        return url[5:].partition(":")[0] if url.startswith("unix:") else None

    @property
    def upstream_base(self) -> str:
        """The upstream as an OpenAI SDK is given it, without a slash at the end."""
        url, socket = self.upstream.url, self.upstream_socket
        path = urlsplit(url).path if socket is None else url[5:].partition(":")[2]
        return f"{self.upstream_origin}{path.rstrip('/') or '/v1'}"

    @property
    def shown_upstream(self) -> str:
        """The upstream as people are shown it."""
        own = self.upstream
        return f"agent {own.agent_model}" if own.agent else self.upstream_base

    @property
    def upstream_origin(self) -> str:
        if self.upstream_socket is not None:
            return "http://localhost"
        url = urlsplit(self.upstream.url)
        return f"{url.scheme}://{url.netloc}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where they come from.

    Attributes:
        file: the file, if there is one.
        variables: the environment variables that set something, in order.
        flags: the flags that do.
    """

    settings: Settings
    file: Path | None
    variables: tuple[str, ...]
    flags: tuple[str, ...]


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
    return read(file, environ=environ, flags=flags).settings


def read(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    also: Sequence[Check] = (),
) -> Loaded:
    """As ``load``, with where the settings come from.

    Args:
        also: more checks, where the addresses are right.
    """
    environ = os.environ if environ is None else environ
    sources = Sources(Settings)
    if file is not None:
        sources.read_file(file)
    sources.read_environment(environ)
    sources.read_flags(flags or {})
    settings = _finished(sources, environ, also)
    return Loaded(settings, file, tuple(sources.variables), tuple(sources.flags))


def read_faults(file: Path) -> FaultSettings:
    """``[faults]`` of a file. The other tables are not looked at.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    sources = Sources(Settings)
    sources.read_file(file, only="faults")
    return _finished(sources, {}).faults


def _finished(sources: Sources, environ: Mapping[str, str], also: Sequence[Check] = ()) -> Settings:
    """The settings, with ``env:NAME`` replaced by what that variable holds.

    Raises:
        ConfigError: anything was wrong.
    """
    settings = Settings(**sources.tree)
    for check in (checks.problems, *also):
        addresses = ("server.listen", "upstream.url", "upstreams")
        if check is checks.problems or not sources.has_problem(*addresses):
            for key, text in check(settings):
                sources.note(key, text)
    settings = with_variables(settings, environ, sources.note)
    sources.check()
    return settings


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS towards clients; None where no certificate is configured.

    Raises:
        OSError: the certificate or the key cannot be read, or do not belong together.
    """
    return checks.server_context(settings.server)
