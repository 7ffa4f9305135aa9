"""Which call of a Responses stream an item or a piece of arguments belongs to.

The counterpart of ``identity`` for chat completions. By the specification an item has an id and a
place (``output_index``), and a call has a ``call_id`` besides. Real streams break each of these:

- GitHub Copilot gives an item another id in each event (vercel/ai#18548, litellm#30072); its call
  id and its place stay.
- Gateways forward several answers in one stream, and ids and places begin anew with each.
- Some give all calls of an answer one call id, and some change it between added and done.
- Tools that the server searches for have no call id at all.
"""

from dataclasses import dataclass, field
from typing import Final

from lifecycle_proxy.core.counts import MAX_CALLS, Counts
from lifecycle_proxy.core.observers import responses_items as items
from lifecycle_proxy.core.observers.snapshots import EARLIER
from lifecycle_proxy.core.observers.typed import Json, ReplaceableArguments, maybe_text

_MAX_IDS: Final = 4 * MAX_CALLS  # a call has one or two, at GitHub Copilot one in each event


@dataclass(slots=True, eq=False)
class ResponsesCall:
    """One call.

    Attributes:
        place: its output index; ``EARLIER`` once its answer is over.
        shares_id: its call id is that of another call that is open.
        is_announced: the lifecycle knows it, with its name.
        is_written: no more arguments will come.
        is_answered: its result was in the stream.
    """

    key: int
    kind: str
    place: int | None
    hosted: bool
    call_id: str | None = None
    item_id: str | None = None
    name: str | None = None
    shares_id: bool = False
    is_announced: bool = False
    is_written: bool = False
    is_answered: bool = False
    arguments: ReplaceableArguments = field(default_factory=ReplaceableArguments)

    @property
    def is_over(self) -> bool:
        return self.is_written or self.is_answered

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(name for name in (self.call_id, self.item_id) if name)


class ResponsesCalls:
    """The calls of one stream.

    Attributes:
        current: those of the latest answer, in order of appearance.

    Args:
        counts: says how many calls may be followed.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.current: list[ResponsesCall] = []
        self._keys = 0
        self._by_id: dict[str, ResponsesCall] = {}  # by call id and by item id
        self._by_place: dict[int, ResponsesCall] = {}
        self._unanswered: dict[str, list[ResponsesCall]] = {}  # by tool, the latest last

    def open(self, item: Json, place: int | None, *, done: bool) -> ResponsesCall | None:
        """A new call; None where no more are followed. The id of one that is open stays with it.

        Args:
            item: its first.
            place: its output index.
            done: it is whole; one that is not followed has been counted when it began.
        """
        is_counted = done and self._counts.not_followed > 0
        if is_counted or not self._counts.may_follow():
            return None
        self._keys += 1
        call = ResponsesCall(self._keys, item["type"], place, items.is_hosted(item))
        call.arguments.is_free_form = call.kind == "custom_tool_call"
        namesake = self._by_id.get(maybe_text(item.get("call_id")) or "")
        call.shares_id = namesake is not None and not namesake.is_over
        self.current.append(call)
        self._unanswered.setdefault(items.tool(call.kind), []).append(call)
        return call

    def register(self, call: ResponsesCall, item: Json) -> None:
        """Note under which ids and in which place a call can be found.

        Args:
            call: any.
            item: the latest of it.
        """
        call.call_id = call.call_id or maybe_text(item.get("call_id"))
        call.item_id = call.item_id or maybe_text(item.get("id"))
        for name in (None if call.shares_id else call.call_id, maybe_text(item.get("id"))):
            if name and (name in self._by_id or len(self._by_id) < _MAX_IDS):
                self._by_id[name] = call
        if call.place is not None:
            self._by_place[call.place] = call

    def end_answer(self) -> list[ResponsesCall]:
        """Another answer begins: forget the places. Returns the calls that were not written."""
        unfinished = [
            call
            for call in self.current
            if not (call.is_over or call.hosted or call.arguments.complete)
        ]
        for call in self.current:
            call.is_written, call.place = True, EARLIER
        self.current.clear()
        self._by_place.clear()
        return unfinished

    def is_earlier(self, item: Json) -> bool:
        """Whether an item belongs to an earlier answer of the stream, by its ids."""
        ids = (maybe_text(item.get(key)) or "" for key in ("call_id", "id"))
        return any(call.place == EARLIER for name in ids if (call := self._by_id.get(name)))

    def maybe_known(self, item: Json, place: int | None, *, done: bool) -> ResponsesCall | None:
        """The call that an item belongs to.

        Where call ids are sent they are the identity, unless item id, place and name agree. Ids
        may come again, in another place, once their call is over.

        Args:
            item: of a call, or of anything else.
            place: its output index.
            done: it is whole.
        """
        call_id, item_id = maybe_text(item.get("call_id")), maybe_text(item.get("id"))
        call = self._by_id.get(call_id or "") or self._by_id.get(item_id or "")
        if done and place is not None and (call is None or call.place != place):
            there = self._by_place.get(place)
            call = call if there is None or there.is_over else there
        if call is None or call.kind != item["type"]:
            return None
        name = items.name(item)
        if call_id and call.call_id and call_id != call.call_id:
            return call if done and item_id == call.item_id and name == call.name else None
        if call.place == place or None in (call.place, place):
            return call
        own = items.arguments(item)
        is_other = call.arguments.complete and own not in ("", str(call.arguments))
        return None if call.is_over or is_other or name not in (None, call.name) else call

    def maybe_growing(self, item_id: str | None, place: int | None) -> ResponsesCall | None:
        """The call that a piece of arguments belongs to; None also for one that is over.

        Args:
            item_id: as the piece has it.
            place: its output index.
        """
        call = self._by_id.get(item_id or "")
        if call is None and place is not None:
            call = self._by_place.get(place)
        return None if call is None or call.is_over else call

    def maybe_answered(self, item: Json) -> ResponsesCall | None:
        """The call that an output item answers, by its call id, else by its kind."""
        if call_id := maybe_text(item.get("call_id")):
            return self._by_id.get(call_id)
        waiting = self._unanswered.get(items.tool(item["type"].removesuffix("_output")), [])
        while waiting and waiting[-1].is_answered:
            waiting.pop()
        return waiting[-1] if waiting else None
