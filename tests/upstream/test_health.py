"""An upstream is assumed to be well until it fails three times in a row."""

from lifecycle_proxy.upstream.health import Health


def failed(health: Health, now: float, times: int = 1) -> None:
    for _ in range(times):
        health.asked()
        health.failed(now, "it failed")


def test_three_failures_in_a_row_set_it_aside_for_longer_each_time() -> None:
    health, now, waits = Health(), 100.0, []
    failed(health, now, 2)
    assert not health.is_aside(now)
    for _ in range(6):
        failed(health, now)
        assert health.is_aside(now)
        waits.append(health.free_at() - now)
        now = health.free_at()
        assert not health.is_aside(now)
    assert waits == [5, 10, 20, 40, 60, 60]


def test_a_success_in_between_starts_anew() -> None:
    health = Health()
    failed(health, 0, 2)
    health.asked()
    health.succeeded()
    failed(health, 0, 2)
    assert not health.is_aside(0)
    failed(health, 0)
    assert health.free_at() == 5


def test_failures_of_requests_that_were_on_their_way_count_once() -> None:
    health = Health()
    failed(health, 0, 9)
    assert health.free_at() == 5


def test_one_request_tries_it_while_others_wait() -> None:
    health = Health()
    failed(health, 0, 3)
    assert not health.is_aside(5)
    health.asked()
    assert health.is_aside(5)
    health.abandoned()  # its client left
    assert not health.is_aside(5)
    health.asked()
    health.succeeded()
    health.asked()
    assert not health.is_aside(5)


def test_a_limit_is_no_failure() -> None:
    health = Health()
    health.limited(10, 7, "429")
    assert (health.is_aside(16.9), health.is_aside(17), health.failures) == (True, False, 0)
    health.limited(20, 7200, "429")
    assert health.free_at() == 80
    health.succeeded()
    assert not health.is_aside(20)
