"""Which call does a delta belong to?

Neither ``index`` nor ``id`` alone is an identity on the wire of real backends: Ollama numbers every
call 0, LM Studio sends a fresh id with every delta, Mistral sends no index, vLLM no id. The eight
rules below are tried in order, per choice; each names a backend that needs it.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from proxy.core.events import Arguments

# A label, not a position. Calls that come under a key of their own have slots of their own.
Index = int | str | tuple[str, int]


class Delta(NamedTuple):
    """What a delta says of its call. Absent parts (null, "", "null", no such key) are None."""

    slot: Index | None
    id: str | None
    name: str | None
    arguments: str
    chunk_id: str | None
    whole: bool = False  # of a message that sums up what was streamed


@dataclass(slots=True, eq=False)
class Call:
    """One tool call, as the observer tells them apart."""

    key: int
    choice: int
    chunk_id: str | None
    id: str | None = None
    name: str | None = None
    arguments: Arguments = field(default_factory=Arguments)
    finished: bool = False  # its choice has had a finish_reason
    answered: bool = False  # its result was in the stream
    reused: bool = False  # its slot was an earlier call's
    sealed: bool = False  # its arguments came again: it takes no more of them

    @property
    def over(self) -> bool:
        return self.finished or self.answered

    def takes_no_more(self, piece: str, *, again: bool = False) -> bool:
        """Whether a piece repeats arguments that are complete.

        Some backends send them whole and then once more, at once or in pieces: chatgpt.com's,
        Kimi's, MiniMax in its summary. What begins anew behind a complete object is a repetition.
        """
        if (again or piece.startswith("{")) and self.arguments.complete:
            self.sealed = True
        return self.sealed


@dataclass(slots=True)
class Choice:
    """The calls of one choice."""

    index: int
    by_id: dict[str, Call] = field(default_factory=dict)
    slots: dict[Index, Call] = field(default_factory=dict)
    touched: Call | None = None
    calls: list[Call] = field(default_factory=list)  # since the last finish


def maybe_id(chunk: dict[str, Any]) -> str | None:
    """The id of a chunk."""
    chunk_id = chunk.get("id")
    return chunk_id if isinstance(chunk_id, str) else None


class Identities:
    """The calls of one stream."""

    def __init__(self) -> None:
        self.choices: dict[int, Choice] = {}
        self._keys = 0
        self.version = 0  # changes whenever a delta might belong to another call than before

    def choice(self, index: int) -> Choice:
        found = self.choices.get(index)
        if found is None:
            found = self.choices[index] = Choice(index)
        return found

    def find(self, call_id: str) -> Call | None:
        """The call of an id, whatever its choice."""
        for choice in self.choices.values():
            if call := choice.by_id.get(call_id):
                return call
        return None

    def finish(self, index: int) -> None:
        """Rule 8: after a choice's finish_reason its slots are free again."""
        self.version += 1
        choice = self.choice(index)
        for call in choice.calls:
            call.finished = True
        choice.calls.clear()

    def resolve(self, choice: Choice, delta: Delta) -> Call | None:
        """The call that a delta belongs to, new or known; None where there is nothing to show."""
        find = self._by_place if delta.id is None else self._by_id
        call = find(choice, delta)
        if call is None:
            return None
        choice.touched = call
        if delta.id is not None and call.id is None and not call.over:
            call.id = delta.id
            choice.by_id[delta.id] = call
        call.name = call.name or delta.name
        if delta.whole and call.arguments:
            return call
        if not (call.over or call.takes_no_more(delta.arguments, again=delta.name is not None)):
            call.arguments.append(delta.arguments)
        return call

    def open(self, choice: Choice, index: Index | None, chunk_id: str | None) -> Call:
        """A new call, in its slot if it has one."""
        self.version += 1
        self._keys += 1
        call = Call(self._keys, choice.index, chunk_id)
        choice.calls.append(call)
        if index is not None:
            call.reused = index in choice.slots
            choice.slots[index] = call
        return call

    def _by_id(self, choice: Choice, delta: Delta) -> Call | None:
        index, name, chunk_id = delta.slot, delta.name, delta.chunk_id
        known = choice.by_id.get(delta.id or "")
        if known is not None:
            # Rule 2, whatever the index says (LibreChat with Bedrock). Rule 8: ids that restart
            # every turn (Kimi K3) are a new call only in another chunk id, or after a result.
            returns = known.answered or (known.finished and known.chunk_id != chunk_id)
            return self.open(choice, index, chunk_id) if name and returns else known
        place = choice.touched if index is None else choice.slots.get(index)
        if place is None or place.over:
            return self.open(choice, index, chunk_id)  # rule 3: a free slot
        if place.id is None:
            # Rule 3: the late id of the waiting call, unless this is another one.
            another = name and place.name and name != place.name
            if another or (index is None and name and place.arguments.complete):
                return self.open(choice, index, chunk_id)
            return place
        if name is None:
            return place  # rule 4: LM Studio, Kimi for coding: a fresh id on every delta
        if name == place.name and not place.arguments.complete:
            return place  # rule 4, exception: mlx-openai-server repeats the name as well
        return self.open(choice, index, chunk_id)  # rule 4: Ollama, Gemini: index 0 for all

    def _by_place(self, choice: Choice, delta: Delta) -> Call | None:
        index, name = delta.slot, delta.name
        place = choice.touched if index is None else choice.slots.get(index)
        if name is None:
            # Rules 5, 6 and 7: the slot's call, else the one touched last (SGLang with MiniMax
            # sends arguments at an index that never had a name).
            place = place or choice.touched
            if place is None and index is not None:
                place = self.open(choice, index, delta.chunk_id)  # its identity may follow
            return place
        if place is None or place.over:
            return self.open(choice, index, delta.chunk_id)
        if place.name is None:
            return place  # the name of the waiting call
        unfinished = not place.arguments.complete
        if name == place.name:
            # vLLM with a named tool_choice repeats the name in every delta, the last one empty.
            if index is not None:
                same = unfinished or not delta.arguments
            else:
                same = unfinished and bool(place.arguments)
        else:
            # Rule 5. A piece of a name (Gemini via gateways) adds nothing.
            same = unfinished and index is not None
        return place if same else self.open(choice, index, delta.chunk_id)  # rules 5 and 6
