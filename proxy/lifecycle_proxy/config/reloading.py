"""Which settings a running proxy can change."""

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from lifecycle_proxy.config.sources import ConfigError

if TYPE_CHECKING:
    from lifecycle_proxy.config.model import Settings

# Of the socket and of its connections, and what is created once for a process.
_FIXED: Final = {
    "server": (
        *("listen", "workers", "tls_cert", "tls_key", "max_header_bytes", "max_head_bytes"),
        *("head_timeout_s", "body_idle_s", "keep_alive_s", "log_format"),
    ),
    "lifecycle": ("registry_ttl_s",),
    "approvals": (),
    "page": (),
    "recording": (),
    "streams": (),
    "traces": (),
}


def reloaded(old: "Settings", new: "Settings") -> tuple["Settings", list[str]]:
    """The settings for new requests, and the keys that stay as they were until a restart.

    Args:
        old: in force.
        new: as they were read.

    Raises:
        ConfigError: recordings would hold keys that they do not know.
    """
    fixed: list[str] = []
    for table, keys in _FIXED.items():
        before, after = getattr(old, table), getattr(new, table)
        names = keys or before.__struct_fields__
        changed = [name for name in names if getattr(before, name) != getattr(after, name)]
        fixed += [f"{table}.{name}" for name in changed]
        same = replace(after, **{name: getattr(before, name) for name in changed})
        new = replace(new, **{table: same})
    if old.recording.mode != "off" and _keys(old) != _keys(new):
        text = "recording is on and a key has changed, which recordings must not hold; restart"
        raise ConfigError("", "recording.mode", text)
    return new, fixed


def _keys(settings: "Settings") -> set[str]:
    given = (settings.upstream.api_key, *(one.api_key for one in settings.upstreams))
    return {*settings.server.api_keys, *given}
