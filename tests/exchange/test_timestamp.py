from datetime import UTC, datetime, timedelta, timezone

from lifecycle_proxy.exchange.timestamp import iso_utc


def test_a_time_has_milliseconds_even_if_there_are_none() -> None:
    assert iso_utc(datetime(2026, 1, 31, 12, tzinfo=UTC)) == "2026-01-31T12:00:00.000Z"


def test_a_time_of_another_zone_is_converted() -> None:
    zone = timezone(timedelta(hours=2))
    when = datetime(2026, 1, 31, 1, 2, 3, 456_789, tzinfo=zone)
    assert iso_utc(when) == "2026-01-30T23:02:03.456Z"
