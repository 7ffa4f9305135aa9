"""OpenTelemetry, if it is asked for: nothing of it is imported otherwise."""

import importlib
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lifecycle_proxy.config import traces
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.targets import upstreams_of

if TYPE_CHECKING:
    from lifecycle_proxy.telemetry.otel import OpenTelemetry

log = logging.getLogger("proxy.app")


def maybe_telemetry(
    settings: Settings, environ: Mapping[str, str], lost: Callable[[int], None]
) -> "OpenTelemetry | None":
    """What makes and sends spans and metrics; None where both are off.

    Args:
        settings: ``[traces]``, and the upstream.
        environ: the environment.
        lost: is called with how many spans could not be sent, from a thread.
    """
    wanted = {
        "traces": traces.are_on(settings.traces, environ, "TRACES"),
        "metrics": traces.are_on(settings.traces, environ, "METRICS"),
    }
    if not any(wanted.values()):
        return None
    if missing := traces.missing():
        log.warning("OTEL_… asks for traces, but %s is missing: %s", missing, traces.cure())
        return None
    module = importlib.import_module("lifecycle_proxy.telemetry.otel")
    try:
        made: OpenTelemetry = module.OpenTelemetry(urls(settings), lost, environ, **wanted)
    except ValueError as wrong:
        log.warning("no traces and no metrics are sent: %s", wrong)
        return None
    return made


def urls(settings: Settings) -> dict[str, str]:
    """The URLs of the upstreams by their names, the usual one first; "" for an agent."""
    return {one.name: "" if one.agent else one.url for one in upstreams_of(settings)}
