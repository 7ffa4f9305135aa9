"""Takes out of the upstream's events what a client must not see.

The one place where the core removes bytes. It joins ``hosted_calls`` (calls that the client cannot
run), ``rounds`` (finishes behind which the answer goes on) and ``without_results`` (results that a
page would show as text), in this order: a chunk is stripped before its finish is judged. In front
of all of them stands ``page_events`` (events that a page would act on): nobody looks at those.
"""

from lifecycle_proxy.core import sse
from lifecycle_proxy.core.context import StreamContext
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.hosted_calls import HostedCallFilter, without_results
from lifecycle_proxy.core.page_events import PageEvents, maybe_filter
from lifecycle_proxy.core.rounds import FinishMerger


class Rewriter:
    """What is left of the events of one stream.

    Attributes:
        is_active: an event may have to be changed or kept back.
        merges_rounds: finishes may be kept back.

    Args:
        context: what is known of this stream.
        hides_results: deltas of ``role: "tool"`` are taken out.
        page_events: which of the upstream's a page may get.
    """

    def __init__(
        self, context: StreamContext, *, hides_results: bool, page_events: PageEvents = "all"
    ) -> None:
        tools = context.client_tools
        self._rounds = FinishMerger() if context.merge_rounds else None
        self._hosted_calls = None if tools is None else HostedCallFilter(tools)
        self._hides_results = hides_results
        self.merges_rounds = context.merge_rounds
        self._page_events = maybe_filter(page_events, context.own_pages)
        self.is_active = context.merge_rounds or hides_results or self._page_events is not None

    @property
    def needs_full_parse(self) -> bool:
        """Whether the next event has to pass through ``edit``, whatever is in it."""
        rounds, calls = self._rounds, self._hosted_calls
        return rounds is not None and (rounds.holds or (calls is not None and calls.is_active))

    @property
    def is_cutting(self) -> bool:
        """Whether the rest of an event, of which a part has passed, is taken out."""
        return self._page_events is not None and self._page_events.is_cutting

    def takes_out(self, event: sse.Event, counts: Counts) -> bool:
        """Whether nobody is to see an event, or this piece of a large one.

        Args:
            event: or a piece of a large one.
            counts: where it is counted.
        """
        return self._page_events is not None and self._page_events.blocks(event, counts)

    def edit(self, event: sse.Event) -> bytes:
        """What is left of an event, behind what had been kept back for it.

        The same object as ``event.raw`` where nothing is changed.
        """
        left = without_results(event) if self._hides_results else event
        if left is not None and self._hosted_calls is not None:
            left = self._hosted_calls.strip(left)
        if self._rounds is None:
            return b"" if left is None else left.raw
        if left is None:
            return self._rounds.pass_on(event).removesuffix(event.raw)
        return self._rounds.pass_on(left)

    def left_out(self) -> bytes:
        """Finishes that were left out and turned out to be the last: they stand at the end."""
        return b"" if self._rounds is None else self._rounds.left_out()

    def release(self) -> bytes:
        """All that is held back, unchanged."""
        return b"" if self._rounds is None else self._rounds.release()

    def unfinished(self, rest: bytes) -> bytes:
        """What a client may see of an event that broke off.

        Clients that read by line take a whole line of it, without a blank line, for an event: a
        call in it could be one that they are not to see, or an event for their page.
        """
        is_call = self._hosted_calls is not None and b"tool" in rest
        is_page_event = self._page_events is not None and self._page_events.blocks_rest(rest)
        return b"" if is_call or is_page_event else rest
