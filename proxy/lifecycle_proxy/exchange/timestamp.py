"""Times as logs and recordings have them."""

from datetime import UTC, datetime


def iso_utc(when: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, such as ``2026-01-31T12:00:00.123Z``.

    Args:
        when: with its time zone.
    """
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
