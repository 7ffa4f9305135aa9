"""Where models lead, in lines for people: ``check-config``, ``routes`` and the banner."""

from collections.abc import Iterator

from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.targets import (
    SINGLE,
    Groups,
    NamedUpstream,
    leads,
    settings_for,
    upstreams_of,
)


def each(settings: Settings) -> dict[str, Settings]:
    """The settings of each upstream, by what is printed in front of its URL."""
    if not settings.upstreams:
        return {"": settings}
    return {f"{one.name} ": settings_for(settings, one) for one in settings.upstreams}


def bases(settings: Settings) -> list[str]:
    """The base URL of each upstream."""
    return [one.shown_upstream for one in each(settings).values()]


def lines(settings: Settings) -> Iterator[str]:
    """Each upstream, and where each name of ``[models]`` leads."""
    for one in upstreams_of(settings):
        base = settings_for(settings, one).shown_upstream
        yield f"{one.name}: {base}, {_models(one)} ({_key(one)})"
    names = [one.name for one in upstreams_of(settings)]
    for name, groups in leads(settings.models, names).items():
        yield f"{name} -> {described(groups)}"


def described(groups: Groups) -> str:
    """Targets in order: ``a/x, then b/y or c/z``."""
    return ", then ".join(" or ".join(map(str, group)) for group in groups)


def _models(one: NamedUpstream) -> str:
    return f"models {', '.join(one.models)}" if one.models else "the models that it lists"


def _key(one: NamedUpstream) -> str:
    if one.api_key:
        return "with its api_key" if one.name != SINGLE else "with upstream.api_key"
    return "with the clients' own key" if one.client_key == "pass" else "without a key"
