"""Answers to no request are refused, and the log does not grow with them."""

import logging

import pytest
from lifecycle_proxy.upstream.agents.approvals import Approvals


def test_refused_answers_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    now = 5.0
    approvals = Approvals(120, clock=lambda: now)
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            assert not approvals.decide("0" * 32, allowed=True, by="page")
        said = [record.getMessage() for record in caplog.records]
        assert said[:-1] == ["approval refused: no such request, or it has its answer (page)"] * 10
        assert said[-1] == "more approvals refused: not logged for 60 s"
        now += 60
        assert not approvals.decide("0" * 32, allowed=True, by="page")
    assert len(caplog.records) == 12
