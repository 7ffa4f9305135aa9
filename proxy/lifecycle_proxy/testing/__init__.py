"""The pytest plugin, and assertions for tests: public API.

pytest loads this package in every run of every project that has it installed. So the public names
are imported only when they are used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lifecycle_proxy.testing.assertions import (
        LifecycleProxy,
        Pair,
        Served,
        assert_paired,
        lifecycle_events,
    )

__all__ = ["LifecycleProxy", "Pair", "Served", "assert_paired", "lifecycle_events"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("lifecycle_proxy.testing.assertions"), name)
