"""Which call does a delta belong to?

Neither ``index`` nor ``id`` alone is an identity on the wire of real backends: Ollama numbers every
call 0, LM Studio sends a fresh id with every delta, Mistral sends no index, vLLM no id.

Strategy: each choice remembers its calls by id and by slot (the index), and which one was touched
last. A delta is resolved by what it has: with an id in ``_by_id``, without one in ``_by_place``.
Where that leaves two readings, the arguments decide: nothing can follow a whole JSON object, so
what comes behind one is another call.

Rules, per choice, in the order in which they are tried; the code names them where they apply:

1. null, "", "null" and a missing key mean that a part is absent (``chat_fields.maybe_present``).
2. A known id is the known call, whatever the index is (LibreChat with Bedrock).
3. An unknown id opens a call in a free slot, or is the late id of the call that waits in the slot.
4. In a taken slot an unknown id with a name is another call (Ollama, Gemini: index 0 for all), but
   for the same name before whole arguments (mlx-openai-server). Without a name it is the same call.
5. Without an id the slot decides; a name behind whole arguments is another call.
6. Without id and index a name is another call; else it is the call touched last (Mistral).
7. Arguments at an index that never had a name belong to the call touched last (SGLang, MiniMax).
8. Behind the choice's finish its slots are free. A finished id that comes again with a name is
   another call only under another chunk id, or behind its result (Kimi). A finish that cut
   arguments which go on was none (Gemini via LiteLLM).

Warnings: ids and indexes repeat over the rounds of an agent, in one stream. Two places with one id
may be one call that is repeated (LocalAI) or two (gateways): see ``Echo``. Whenever a delta might
resolve to another call than before, ``version`` must change, or ``chunk_templates`` go on with the
old one.
"""

from collections import deque

from lifecycle_proxy.core.arguments import Arguments
from lifecycle_proxy.core.counts import MAX_CALLS, Counts
from lifecycle_proxy.core.observers.chat_calls import ChatCall, Choice, Delta, Echo, Index


class Identities:
    """The calls of one stream.

    Args:
        counts: says how many calls may be followed.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.choices: dict[int, Choice] = {}
        self._first: dict[str, Choice] = {}  # by id: the first choice that has a call of it
        self._keys = 0
        self.version = 0  # changes whenever a delta might belong to another call than before

    def choice(self, index: int) -> Choice:
        found = self.choices.get(index)
        if found is None:
            found = Choice(index, len(self.choices))
            if len(self.choices) < MAX_CALLS:
                self.choices[index] = found  # of others no call is followed
        return found

    def find(self, call_id: str) -> ChatCall | None:
        """The call of an id, of the first choice that has one."""
        choice = self._first.get(call_id)
        if choice is None:
            return None
        call = choice.by_id[call_id]
        if call.answered and (twins := choice.twins.get(call_id)):
            call = choice.by_id[call_id] = twins.popleft()
        return call

    def finish(self, index: int) -> None:
        """Rule 8: after a choice's finish_reason its slots are free again."""
        self.version += 1
        choice = self.choice(index)
        for call in choice.calls:
            call.finished = True
        choice.calls.clear()
        for echo in choice.echoes.values():
            if not echo.call.arguments:  # all that came of them came in the other place
                echo.call.arguments.append(str(echo.arguments))
        choice.echoes.clear()

    def restart(self, choice: Choice) -> list[ChatCall]:
        """The choice's answer begins anew: the calls that broke off."""
        self.version += 1
        broken = [call for call in choice.calls if not call.arguments.complete]
        for call in broken:
            call.answered = True
        choice.calls = [call for call in choice.calls if not call.answered]
        choice.echoes.clear()
        return broken

    def resolve(self, choice: Choice, delta: Delta) -> ChatCall | None:
        """The call that a delta belongs to, new or known; None where there is nothing to show.

        Args:
            choice: of the delta.
            delta: what it says of its call.
        """
        echo = self._maybe_echo(choice, delta)
        if echo is not None:
            call = self._echoed(choice, echo, delta)
            choice.touched = call or choice.touched
            return call
        find = self._by_place if delta.id is None else self._by_id
        call = find(choice, delta)
        if call is None:
            return None
        choice.touched = call
        if delta.id is not None and call.id is None and not call.over:
            call.id = delta.id
            choice.by_id[delta.id] = call
            if self._first.setdefault(delta.id, choice).position > choice.position:
                self._first[delta.id] = choice
        call.name = call.name or delta.name
        call.arguments.is_free_form |= delta.is_free_form
        if delta.whole and call.arguments:
            return call
        if call.is_cut and delta.arguments:
            call.finished, call.resumed = False, True
            choice.calls.append(call)
        if not call.over:
            call.arguments.take(delta.arguments)
        return call

    def open(self, choice: Choice, index: Index | None, chunk_id: str | None) -> ChatCall | None:
        """A new call, in its slot if it has one; None where no more are followed.

        Args:
            choice: that it belongs to.
            index: of its slot, if it has one.
            chunk_id: of the chunk that opens it.
        """
        if not self._counts.may_follow(has_place=self.choices.get(choice.index) is choice):
            choice.touched = None  # or what follows would be taken for a piece of another call
            return None
        self.version += 1
        self._keys += 1
        call = ChatCall(self._keys, choice.index, chunk_id)
        choice.calls.append(call)
        if index is not None:
            call.reused = index in choice.slots
            choice.slots[index] = call
        return call

    def _maybe_echo(self, choice: Choice, delta: Delta) -> Echo | None:
        slot = delta.slot
        if slot is None or ((place := choice.slots.get(slot)) and not place.over):
            return None
        echo = choice.echoes.get(slot)
        known = choice.by_id.get(delta.id or "")
        if echo is not None and (delta.id is None or known is echo.call):
            return echo
        if known is None or known.over or delta.name is None or delta.name != known.name:
            return None
        echo = choice.echoes[slot] = Echo(known, Arguments(is_free_form=delta.is_free_form))
        return echo

    def _echoed(self, choice: Choice, echo: Echo, delta: Delta) -> ChatCall | None:
        """The known call, or another one as soon as that is certain."""
        known, own = echo.call.arguments, echo.arguments
        own.take(delta.arguments)
        if not own.complete:
            return echo.call
        if not known:
            known.append(str(own))
        if not known.complete or str(own) == str(known):
            return echo.call
        call = self._twin(choice, echo.call, delta)
        if call is not None:
            call.arguments.append(str(own))
        return call

    def _twin(self, choice: Choice, known: ChatCall, delta: Delta) -> ChatCall | None:
        """Another call under the id of a call that is open."""
        call = self.open(choice, delta.slot, delta.chunk_id)
        if call is None:
            return None
        call.id, call.name, call.shares_id = known.id, delta.name or known.name, True
        call.ends = known if known.arguments.complete else None
        assert known.id is not None
        choice.twins.setdefault(known.id, deque()).append(call)
        if delta.slot is not None:
            choice.echoes.pop(delta.slot, None)
        return call

    def _known(self, choice: Choice, known: ChatCall, delta: Delta) -> ChatCall | None:
        """Rule 2: the id is known, whatever the index says (LibreChat with Bedrock)."""
        index, name = delta.slot, delta.name
        place = None if index is None else choice.slots.get(index)
        if place is not None and place.id == delta.id and not place.over:
            known = place  # one of several under this id
        if not name:
            return known
        # Rule 8: ids that restart every turn (Kimi K3) are a new call only in another chunk id, or
        # after a result.
        if known.answered or (known.finished and known.chunk_id != delta.chunk_id):
            return self.open(choice, index, delta.chunk_id)
        if known.name in (None, name):
            return known
        if known.over:
            return self.open(choice, index, delta.chunk_id)
        # Gateways that give all calls of an answer one id. But a piece of a name is none.
        is_other = known.arguments.complete or (index is not None and place is not known)
        return self._twin(choice, known, delta) if is_other else known

    def _by_id(self, choice: Choice, delta: Delta) -> ChatCall | None:
        index, name, chunk_id = delta.slot, delta.name, delta.chunk_id
        known = choice.by_id.get(delta.id or "")
        if known is not None:
            return self._known(choice, known, delta)
        place = choice.touched if index is None else choice.slots.get(index)
        if self._is_of_none(place, delta):
            return None
        if place is None or (place.over and not _goes_on(place, delta)):
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

    def _is_of_none(self, place: ChatCall | None, delta: Delta) -> bool:
        """Whether it is a piece of a call that is not followed, as there are too many."""
        is_piece = delta.name is None and delta.slot is not None
        return place is None and is_piece and self._counts.not_followed > 0

    def _by_place(self, choice: Choice, delta: Delta) -> ChatCall | None:
        index, name = delta.slot, delta.name
        place = choice.touched if index is None else choice.slots.get(index)
        if name is None:
            # Rules 5, 6 and 7: the slot's call, else the one touched last (SGLang with MiniMax
            # sends arguments at an index that never had a name).
            if self._is_of_none(place, delta):
                return None
            place = place or choice.touched
            if place is None and index is not None:
                place = self.open(choice, index, delta.chunk_id)  # its identity may follow
            return place
        if place is None or (place.over and not _goes_on(place, delta)):
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


def _goes_on(place: ChatCall, delta: Delta) -> bool:
    """Whether a finish in the middle of a call's arguments was none (Gemini via LiteLLM)."""
    begins = delta.name is not None and delta.arguments[:1] == "{"
    same = delta.name in (None, place.name) and delta.chunk_id == place.chunk_id
    return place.is_cut and same and not begins
