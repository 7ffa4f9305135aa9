"""Makes the lifecycle events of one stream: for each call ``running``, then ``completed``.

``lifecycle`` decides when a call starts or ends; this module decides whether there is an event,
and what is in it.

Rules:

- A call is moved here only, through ``Call.move``: what the table of ``calls`` does not know has no
  event. So a second start, result or end of a call has none.
- An id may come again in a choice once its call is completed. While that is open, the second call
  is suppressed, unless the first is delegated to the client: then it is completed as superseded.
- A call that a client runs belongs to ``PendingCalls`` as well, and what takes it from there
  announces its end: this stream, a later request, or a timeout.
"""

from collections.abc import Callable

from lifecycle_proxy.core.arguments import Arguments
from lifecycle_proxy.core.calls import Call, Signal, State
from lifecycle_proxy.core.context import PendingCalls, Presenter
from lifecycle_proxy.core.events import (
    DelegatedCall,
    LifecycleEvent,
    NativeProgress,
    Outcome,
    ToolCompleted,
    ToolRunning,
)
from lifecycle_proxy.core.followup import fingerprint
from lifecycle_proxy.core.open_calls import OpenCalls


class Announcer:
    """The events of one stream.

    Args:
        presenter: labels and emojis.
        make_id: makes an id, unique beyond this stream, for a call that never gets one.
        internal_prefix: tools whose names start so have no events (Hermes' rule); "" for none.
        pending: the calls that clients run; None in the span ``call``, where they run none.
        calls: of the stream, as long as they have not ended.
        follows_arguments: running events have the arguments that grow.
    """

    def __init__(
        self,
        *,
        presenter: Presenter,
        make_id: Callable[[], str],
        internal_prefix: str,
        pending: PendingCalls | None,
        calls: OpenCalls,
        follows_arguments: bool = False,
    ) -> None:
        self._presenter = presenter
        self._make_id = make_id
        self._internal_prefix = internal_prefix
        self._pending = pending
        self._by_id: dict[tuple[int, str], Call] = {}  # the latest announced of a choice and id
        self._has_labels = True
        self._calls = calls
        self._follows_arguments = follows_arguments

    def freeze_labels(self) -> None:
        """Ask the presenter no more. Nothing is announced now; what was is completed as shown."""
        self._has_labels = False

    def maybe_announced(self, choice: int, call_id: str) -> Call | None:
        """The call that was announced last under an id.

        Args:
            choice: the index of its choice.
            call_id: as clients have it.
        """
        return self._by_id.get((choice, call_id))

    def move(self, call: Call, signal: Signal) -> bool:
        """Follow the table, and keep account of it.

        Args:
            call: any.
            signal: what happened to it.

        Returns:
            False where the table has no such move.
        """
        before = call.state
        if not call.move(signal):
            return False
        self._calls.moved(call, before)
        return True

    def start(self, call: Call, now: float) -> list[LifecycleEvent]:
        """Announce a call that is new and has a name; nothing for any other.

        Args:
            call: any.
            now: seconds on the lifecycle's clock.
        """
        if call.state is not State.NEW or not call.name or not self._has_labels:
            return []
        if not call.id:
            call.id, call.has_made_id = self._make_id(), True
        twin = self._by_id.get((call.choice, call.id))
        events = [] if self._pending is None else self._supersede(call, twin, now)
        if twin is not None and twin.state is State.FINISHING and twin.native == call.native:
            events += self.complete(twin, now)  # one id for two calls, one behind the other
        if self._is_internal(call.name) or (twin is not None and not _may_follow(call, twin)):
            self.move(call, Signal.SUPPRESS)
            return events
        label, emoji = self._present(call)
        self.move(call, Signal.START)
        self._by_id[call.choice, call.id] = call
        call.repeat = 0 if twin is None else twin.repeat + 1
        call.started = now
        shown = self._presenter.arguments(str(call.arguments)) if call.hosted else ""
        running = ToolRunning(
            call.id,
            call.choice,
            call.name,
            label,
            emoji,
            call.hosted,
            call.repeat,
            shown,
            call.arguments if self._follows_arguments else None,
        )
        return [*events, running]

    def complete(self, call: Call, now: float, output: str | None = None) -> list[LifecycleEvent]:
        """End a call with the outcome and reason that it has; nothing where it has ended.

        Args:
            call: any.
            now: seconds on the lifecycle's clock.
            output: the result, where the stream held it.
        """
        was_delegated = call.state is State.DELEGATED
        if not self.move(call, Signal.END):
            return []
        if was_delegated and self._take(call) is None:
            return []  # its end has been announced elsewhere
        label, emoji = self._present(call)
        duration_ms = round((now - call.started) * 1000)
        return [
            ToolCompleted(
                call.id,
                call.choice,
                call.name,
                label,
                emoji,
                call.outcome,
                duration_ms,
                call.reason,
                output,
                call.hosted,
                call.repeat,
            )
        ]

    def end_writing(self, call: Call, outcome: Outcome, reason: str | None) -> None:
        """The model has written a call. If all is well with it, it runs now.

        Args:
            call: any.
            outcome: as the finish has it.
            reason: the upstream's word for it; None for an ordinary finish.
        """
        pending = self._pending
        if pending is None or call.hosted or call.has_made_id or reason is not None:
            if self.move(call, Signal.FINISH):
                call.outcome, call.reason = outcome, reason
        elif self.move(call, Signal.DELEGATE):
            call.outcome, call.reason = outcome, reason
            content = fingerprint(call.name, str(call.arguments))
            pending.put(DelegatedCall(call.announcement(), call.started, content))

    def native_call(self, seen: NativeProgress) -> Call:
        """A call that is known only from the upstream's own lifecycle event."""
        call = Call(0, Arguments(), seen.id, seen.tool, hosted=True, native=True)
        # Hermes redacts nothing, and its labels may be of any length.
        call.label = self._presenter.shown(seen.label) if seen.label else None
        call.emoji = seen.emoji
        return call

    def take_back(self, call: Call) -> None:
        """The upstream runs a finished call: no client does, unless its result is known already."""
        was_delegated = call.state is State.DELEGATED
        is_over = was_delegated and self._take(call) is None
        self.move(call, Signal.END if is_over else Signal.RESUME)

    def _take(self, call: Call) -> DelegatedCall | None:
        return None if self._pending is None else self._pending.maybe_take(call.id, call.choice)

    def _supersede(self, call: Call, twin: Call | None, now: float) -> list[LifecycleEvent]:
        """An id is announced again while its call, of this stream or an earlier, is delegated."""
        earlier = self._take(call)
        if twin is not None and twin.state is State.DELEGATED:
            self.move(twin, Signal.END)
        return [] if earlier is None else [earlier.completed(now, reason="superseded")]

    def _present(self, call: Call) -> tuple[str, str]:
        if self._has_labels:
            text = str(call.arguments)
            if text != call.presented_of or not call.presented[0]:
                label = call.label or self._presenter.label(call.name, text)
                call.presented = label, call.emoji or self._presenter.emoji(call.name)
                call.presented_of = text
        return call.presented

    def _is_internal(self, name: str) -> bool:
        return bool(self._internal_prefix) and name.startswith(self._internal_prefix)


def _may_follow(call: Call, earlier: Call) -> bool:
    """Whether a call may be announced although its id was announced before in this choice.

    Ids repeat over the rounds of an agent (Kimi, TGI's "0"): a new pair, once the old is closed.
    But a call that the upstream announced natively and sends as deltas too is one call.
    """
    return earlier.state is State.DONE and earlier.native == call.native
