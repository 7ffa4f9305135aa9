"""What the upstream's word for an end says of the calls that it ends.

The word alone is not enough: servers say ``tool_calls`` of a call that ``max_tokens`` cut (vLLM),
and they have words of their own for what broke off. So the arguments are looked at, too.
"""

from typing import Final

from lifecycle_proxy.core.arguments import Arguments
from lifecycle_proxy.core.events import Outcome
from lifecycle_proxy.core.stream_events import DoneStatus

# The words for an end that is none of a failure. What they leave unfinished was cut all the same.
_ORDINARY: Final = frozenset(
    (
        *("stop", "tool_calls", "function_call"),  # OpenAI
        *("end_turn", "tool_use", "stop_sequence", "pause_turn", "compaction"),  # Anthropic
        *("completed", "eos", "eos_token"),  # the Responses API, vLLM, TGI
    )
)
# There was no room for more. A call may have been whole by then.
_LIMITS: Final = frozenset(
    (
        *("length", "max_tokens", "max_output_tokens", "model_length"),
        "model_context_window_exceeded",
    )
)
# Somebody did not want it.
_CANCELLED: Final = frozenset(
    (
        *("content_filter", "refusal", "cancelled", "canceled", "user_cancel"),
        *("sensitive", "safety", "recitation", "blocklist", "prohibited_content", "spii"),
    )
)
# It broke off, however whole the arguments may look.
_FAILED: Final = frozenset(
    (
        *("error", "error_finish", "failed", "failure", "abort", "aborted", "terminated"),
        *("insufficient_system_resource", "network_error", "timeout", "incomplete"),
        *("repetition", "error_toxic", "error_limit", "internal_error", "server_error"),
        *("malformed_function_call", "malformed_response", "unexpected_tool_call"),
        "too_many_tool_calls",
    )
)
_ABORTED: Final = frozenset(("cancelled", "canceled", "user_cancel"))
_MAX_REASON: Final = 100  # characters; a reason is a word, whatever an upstream may send

Verdict = tuple[Outcome, str | None]


def judge_finish(word: str, arguments: Arguments) -> Verdict:
    """How a call ended.

    Args:
        word: a ``finish_reason``, ``stop_reason`` or status, in any case of letters.
        arguments: of the call, as far as they came.

    Returns:
        The outcome, and the reason that clients get; None for an ordinary end.
    """
    known, reason = word.lower(), word[:_MAX_REASON]
    if known in _CANCELLED:
        return Outcome.CANCELLED, reason
    if known in _FAILED:
        return Outcome.FAILED, reason
    if known in _LIMITS:
        return (Outcome.OK if arguments.complete else Outcome.CUT), reason
    if arguments.unfinished:
        return Outcome.CUT, "incomplete_arguments" if known in _ORDINARY else reason
    return Outcome.OK, None


def judge_stream(word: str) -> tuple[DoneStatus, str]:
    """How a stream ended that ended properly, and why; "" for an ordinary end.

    Args:
        word: the upstream's last one for an end; "" without one.
    """
    known, reason = word.lower(), word[:_MAX_REASON]
    if not known or known in _ORDINARY:
        return "completed", ""
    if known in _ABORTED:
        return "cancelled", reason
    if known in _LIMITS or known in _CANCELLED or known == "incomplete":
        return "incomplete", reason
    return ("failed" if known in _FAILED or known == "upstream_error" else "completed"), reason


def maybe_failure(word: str) -> Verdict | None:
    """The verdict on a word that says that something went wrong, whatever the arguments are."""
    verdict = judge_finish(word, Arguments())
    return verdict if verdict[0] in (Outcome.FAILED, Outcome.CANCELLED) else None
