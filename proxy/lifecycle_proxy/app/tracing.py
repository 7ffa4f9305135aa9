"""Traces, if they are asked for: nothing of OpenTelemetry is imported otherwise."""

import importlib
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lifecycle_proxy.config import traces
from lifecycle_proxy.config.model import Settings
from lifecycle_proxy.config.targets import upstreams_of

if TYPE_CHECKING:
    from lifecycle_proxy.telemetry.traces import Traces

log = logging.getLogger("proxy.app")


def maybe_traces(
    settings: Settings, environ: Mapping[str, str], lost: Callable[[int], None]
) -> "Traces | None":
    """The listener that makes spans; None where it is off.

    Args:
        settings: ``[traces]``, and the upstream.
        environ: the environment.
        lost: is called with how many spans could not be sent, from a thread.
    """
    if not traces.are_on(settings.traces, environ):
        return None
    if missing := traces.missing():
        log.warning("OTEL_… asks for traces, but %s is missing: %s", missing, traces.cure())
        return None
    module = importlib.import_module("lifecycle_proxy.telemetry.traces")
    made: Traces = module.Traces({one.name: one.url for one in upstreams_of(settings)}, lost)
    return made
