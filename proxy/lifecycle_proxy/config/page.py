"""The settings of ``[page]``: what people can look at, at ``/-/``."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

from lifecycle_proxy.config.machine import is_open

if TYPE_CHECKING:
    from lifecycle_proxy.config.model import Settings


class PageSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The live page."""

    enabled: bool | Literal["auto"] = "auto"
    keep: Annotated[int, Meta(ge=0, le=10_000)] = 200
    embed: bool = False


def problems(settings: "Settings") -> Iterator[tuple[str, str]]:
    """What cannot be shown in a chat."""
    if settings.page.embed and not settings.server.public_url:
        yield "page.embed", "needs server.public_url: where browsers reach this proxy"
    if settings.page.embed and not settings.streams.max_streams:
        yield "page.embed", "needs streams that are kept: streams.max_streams is 0"


def is_on(settings: "Settings") -> bool:
    """Whether there is a page. On an address that others reach, only with keys or if asked for."""
    asked = settings.page.enabled
    if asked != "auto":
        return asked
    return bool(settings.server.api_keys) or not is_open(settings)
