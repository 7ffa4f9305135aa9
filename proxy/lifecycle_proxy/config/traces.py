"""The settings of ``[traces]``, and whether OpenTelemetry's own variables turn them on."""

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from msgspec import Struct

_PACKAGES: Final = ("opentelemetry.sdk", "opentelemetry.proto")
_CURE: Final = 'install the extra "otel", or: pip install opentelemetry-sdk opentelemetry-proto'
_Signal = Literal["TRACES", "METRICS"]


class TraceSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Spans for chats and tool calls. Where they go is said by the variables ``OTEL_…``."""

    enabled: bool | Literal["auto"] = "auto"


def problems(traces: TraceSettings) -> Iterator[tuple[str, str]]:
    """What makes traces that were asked for impossible."""
    if traces.enabled is True and missing():
        yield "traces.enabled", f"true needs the package {missing()}, which is missing; {_CURE}"


def missing() -> str:
    """The first package that is not installed; "" if all are there."""
    return next((name for name in _PACKAGES if not _is_there(name)), "")


def are_on(traces: TraceSettings, environ: Mapping[str, str], signal: _Signal = "TRACES") -> bool:
    """Whether spans are to be made, or metrics sent.

    Args:
        traces: ``[traces]``.
        environ: the environment. ``auto`` asks what OpenTelemetry's own programs ask.
        signal: which of the two.
    """
    exporter = environ.get(f"OTEL_{signal}_EXPORTER", "").strip()
    if traces.enabled is False:
        return False
    if traces.enabled is True:
        return signal == "TRACES" or exporter in ("", "otlp")
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if exporter:
        return exporter == "otlp"
    endpoints = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return any(environ.get(name) for name in endpoints)


def cure() -> str:
    """How to get what is missing."""
    return _CURE


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a parent
        return False
