"""A request that went on to the next target after one had failed."""

from typing import NamedTuple


class Failover(NamedTuple):
    """From one target to the next. The names of the fields are those of the event ``llm_failover``.

    Attributes:
        from_provider: the upstream that failed.
        from_model: the model's name there.
        to_provider: the upstream that is asked next.
        to_model: the model's name there.
        reason: ``rate_limit``, ``server_error``, the code of a ``ProxyError``, or ``stream_error``
            within a stream that had begun.
    """

    from_provider: str
    from_model: str
    to_provider: str
    to_model: str
    reason: str
