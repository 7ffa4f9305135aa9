"""The part that does no I/O: bytes to events to observations to lifecycle events to bytes."""
