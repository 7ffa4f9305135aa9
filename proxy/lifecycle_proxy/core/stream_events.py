"""The events of a stream's log: what readers beside the stream are sent.

The log numbers them densely from 1. A vocabulary (``core/vocabularies/``) turns them into the bytes
of one system's clients; the proxy's own form has each as ``id``, ``event`` and JSON ``data`` with
``seq``, ``ts`` and ``streamId`` besides the fields below.

====================  ==========================================================================
type                  data
====================  ==========================================================================
``stream.started``    ``model``, ``api`` (``chat``, ``responses``, ``messages``), ``requestId``
``text``              ``text``, ``kind`` (``text`` or ``reasoning``), ``choice``; in batches
``tool.running``      as dialect ``bare``: ``tool``, ``emoji``, ``label``, ``toolCallId``,
                      ``status``, ``choice`` where it is not 0, ``hosted`` if the upstream runs it;
                      ``arguments`` (JSON, redacted) where they are known
``tool.arguments``    ``toolCallId``, ``choice`` where it is not 0, ``delta``; in batches, or whole
                      where secrets are redacted; none where ``tool.running`` has them
``tool.completed``    as ``tool.running``, with ``durationMs``, ``isError``, ``reason``, ``result``
                      and ``outcome`` (``ok``, ``failed``, ``cancelled``, ``cut``, ``unknown``)
``usage``             ``inputTokens``, ``outputTokens``, ``totalTokens``
``llm_failover``      ``from_provider``, ``from_model``, ``to_provider``, ``to_model``, ``reason``
``approval.request``  an agent waits for a person: ``id``, ``tool``, ``label``, ``options``, ``url``
``stream.done``       ``status`` (``completed``, ``failed``, ``cancelled``, ``incomplete``),
                      ``reason`` where it is not the ordinary end, ``durationMs``, ``calls``
====================  ==========================================================================
"""

from typing import Any, Final, Literal, NamedTuple

EventType = Literal[
    "stream.started",
    "text",
    "tool.running",
    "tool.arguments",
    "tool.completed",
    "usage",
    "llm_failover",
    "approval.request",
    "stream.done",
]
# How a stream ended.
DoneStatus = Literal["completed", "failed", "cancelled", "incomplete"]
FINAL_TYPE: Final = "stream.done"
# Why a reader's connection ends before its stream does.
ClosedReason = Literal[
    "not_begun", "too_many_readers", "draining", "stream_expired", "streams_unavailable"
]


class StreamEvent(NamedTuple):
    """One event of a stream's log.

    Attributes:
        seq: its number in the stream, dense from 1.
        at: when, in seconds of Unix time.
        type: what happened.
        data: JSON fields, as the table above has them.
    """

    seq: int
    at: float
    type: EventType
    data: dict[str, Any]
