"""``env:NAME`` in settings: secrets that are read from the environment."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from lifecycle_proxy.config import agents, shared_store
from lifecycle_proxy.config.reading import Note
from lifecycle_proxy.config.streams import token_problems

if TYPE_CHECKING:
    from lifecycle_proxy.config.model import Settings


def with_variables(settings: "Settings", environ: Mapping[str, str], note: Note) -> "Settings":
    """The settings with what the variables hold.

    Args:
        settings: as they were written.
        environ: the environment.
        note: called with the key and the problem of each variable that is not there.
    """

    def secret(text: str, key: str) -> str:
        if not text.startswith("env:"):
            return text
        value = environ.get(text[4:], "")
        if not value:
            note(key, f"the environment variable {text[4:]} is not set, or is empty")
        return value

    keys = [secret(key, "server.api_keys") for key in settings.server.api_keys]
    upstream = agents.with_secrets(settings.upstream, "upstream", secret)
    api_key = secret(upstream.api_key, "upstream.api_key")
    store = secret(settings.streams.store, "streams.store")
    if store != settings.streams.store:
        for key, text in shared_store.problems(store or "memory"):
            note(key, text)
    token_key = secret(settings.streams.token_key, "streams.token_key")
    if token_key != settings.streams.token_key:
        for key, text in token_problems(token_key):
            note(key, text)
    upstreams = [
        replace(
            agents.with_secrets(one, f"upstreams[{at}]", secret),
            api_key=secret(one.api_key, f"upstreams[{at}].api_key"),
        )
        for at, one in enumerate(settings.upstreams)
    ]
    return replace(
        settings,
        server=replace(settings.server, api_keys=keys),
        upstream=replace(upstream, api_key=api_key),
        streams=replace(settings.streams, store=store, token_key=token_key),
        upstreams=upstreams,
    )
