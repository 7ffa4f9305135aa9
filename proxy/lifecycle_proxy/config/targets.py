"""``[[upstreams]]``, ``[models]`` and ``[failover]``: several backends behind one URL.

Here are the tables, and what ``[models]`` means: each name leads to groups of targets, in order of
preference. The targets of one group are equal. Which of them a request gets is decided in
``upstream.routes``.
"""

import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct
from msgspec.structs import replace

from lifecycle_proxy.config.agents import AgentSettings, copied
from lifecycle_proxy.config.plain import hint, quoted

if typing.TYPE_CHECKING:
    from lifecycle_proxy.config.model import Settings, UpstreamSettings

# The name of the one upstream where there is no [[upstreams]].
SINGLE: Final = "upstream"
# Names that lead to names: more than this is a mistake, or an attack on the stack.
_DEEPEST: Final = 16

_Seconds = Annotated[float, Meta(ge=0)]
_Count = Annotated[int, Meta(ge=0)]
# "UPSTREAM/MODEL", or the name of another entry; a list within the list has equal targets.
Written = str | list[str | list[str]]


class NamedUpstream(AgentSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One ``[[upstreams]]`` table. What is None or "" is taken from ``[upstream]``."""

    name: str
    url: str = ""
    models: list[str] = []  # noqa: RUF012  a Struct copies it
    api_key: str = ""
    api_key_header: str = ""
    client_key: typing.Literal["auto", "drop", "pass"] = "auto"
    connect_timeout_s: _Seconds | None = None
    first_byte_timeout_s: _Seconds | None = None
    max_connections: _Count | None = None
    verify_tls: bool | None = None
    ca_file: str = ""
    server_name: str = ""


class FailoverSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When the next target of a model is asked."""

    budget_s: _Seconds = 20
    in_stream: bool = False


class Target(NamedTuple):
    """Where a request may go.

    Attributes:
        upstream: the name of one.
        model: the model's name there.
    """

    upstream: str
    model: str

    def __str__(self) -> str:
        return f"{self.upstream}/{self.model}"


Groups = tuple[tuple[Target, ...], ...]


def upstreams_of(settings: "Settings") -> list[NamedUpstream]:
    """All upstreams, by ``[[upstreams]]`` or, without it, by ``[upstream]``."""
    if settings.upstreams:
        return settings.upstreams
    own = settings.upstream
    return [
        NamedUpstream(
            name=SINGLE,
            url=own.url,
            models=["*"],
            api_key=own.api_key,
            api_key_header=own.api_key_header,
            client_key="drop" if own.api_key else "pass",
            **copied(own),
        )
    ]


def settings_for(settings: "Settings", own: NamedUpstream) -> "Settings":
    """The settings as they are for one upstream: what it leaves out is as in ``[upstream]``.

    Args:
        settings: everything.
        own: the upstream.
    """
    common: UpstreamSettings = settings.upstream
    names = ("connect_timeout_s", "first_byte_timeout_s", "max_connections", "verify_tls")
    changes = {name: value for name in names if (value := getattr(own, name)) is not None}
    changes |= {
        name: getattr(own, name) for name in ("ca_file", "server_name") if getattr(own, name)
    }
    agent = copied(own) | {"agent_name": own.agent_name or own.name}
    upstream = replace(
        common,
        **agent,
        url=own.url or common.url,
        api_key=own.api_key,
        api_key_header=own.api_key_header,
        **changes,
    )
    return replace(settings, upstream=upstream)


def leads(
    models: Mapping[str, Written],
    names: Sequence[str],
    note: Callable[[str, str], None] = lambda key, text: None,
) -> dict[str, Groups]:
    """Where each name of ``[models]`` leads.

    Args:
        models: the table.
        names: of the upstreams.
        note: called with the key and the problem of each mistake; such a target is left out.
    """
    reader = _Reader(models, names, note)
    return {name: reader.groups(name) for name in models}


class _Reader:
    """Reads ``[models]``; a name that leads to another one is replaced by what that leads to."""

    def __init__(
        self,
        models: Mapping[str, Written],
        names: Sequence[str],
        note: Callable[[str, str], None],
    ) -> None:
        self._models, self._names, self._note = models, names, note
        self._found: dict[str, Groups] = {}
        self._path: list[str] = []

    def groups(self, name: str) -> Groups:
        """Where one name leads, without repetitions."""
        if name in self._found:
            return self._found[name]
        if name in self._path or len(self._path) >= _DEEPEST:
            circle = " -> ".join((*self._path, name)[-6:])
            text = f"leads to itself ({circle}); name an upstream's model: UPSTREAM/MODEL"
            self._note(f"models.{self._path[-1]}", text)
            return ()
        self._path.append(name)
        written = self._models[name]
        seen: set[Target] = set()
        found: list[tuple[Target, ...]] = []
        for one in [written] if isinstance(written, str) else written:
            for group in self._one(one) if isinstance(one, str) else self._equal(one):
                fresh = tuple(dict.fromkeys(target for target in group if target not in seen))
                seen.update(fresh)
                found += [fresh] if fresh else []
        self._path.pop()
        self._found[name] = tuple(found)
        return self._found[name]

    def _equal(self, texts: Sequence[str]) -> Groups:
        """The targets of a list within the list: one group."""
        return (tuple(target for one in texts for group in self._one(one) for target in group),)

    def _one(self, text: str) -> Groups:
        """The targets of one text: ``UPSTREAM/MODEL``, or another name's."""
        upstream, slash, model = text.partition("/")
        if slash and upstream in self._names and model:
            return ((Target(upstream, model),),)
        if text in self._models:
            return self.groups(text)
        self._note(f"models.{self._path[-1]}", self._unknown(text))
        return ()

    def _unknown(self, text: str) -> str:
        upstream, slash, _ = text.partition("/")
        if slash and upstream in self._names:
            return f"{quoted(text)} names no model; write {quoted(f'{upstream}/MODEL')}"
        if slash:
            known = hint(upstream, list(self._names))
            return f"{quoted(text)} leads to an unknown upstream ({known})"
        cure = f"{self._names[0]}/{text or 'MODEL'}"
        known = ", ".join(self._names)
        return f"{quoted(text)} names no upstream; write {quoted(cure)} (known are {known})"
