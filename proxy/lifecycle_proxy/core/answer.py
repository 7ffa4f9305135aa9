"""The choices of a whole answer, and their calls, as they grow: see ``assembly``."""

from typing import Final

from lifecycle_proxy.core.merged import Budget, Json, Merged
from lifecycle_proxy.core.observers.chat_calls import ChatCall

_ENTRY_OWN: Final = frozenset(("index", "id", "type", "function", "custom"))


class AnswerCall:
    """One call.

    Args:
        call: as the observer knows it.
        budget: of the answer.
        is_legacy: the one of the older ``function_call``.
    """

    def __init__(self, call: ChatCall, budget: Budget, *, is_legacy: bool) -> None:
        self.call = call
        self._budget = budget
        self.is_legacy = is_legacy
        self.kind = "function"
        self.extra = Merged(budget)
        self._pieces: list[str] = []
        self._name = ""

    def take(self, entry: Json, name: str | None, arguments: str) -> None:
        """Add a piece. Names come in pieces (Gemini via gateways), or again and again.

        Args:
            entry: of the delta.
            name: in it.
            arguments: in it.

        Raises:
            TooMuchError: it is too large.
        """
        if name is not None and name != self.call.name and not self._name.endswith(name):
            self._budget.add(len(name))
            self._name += name
        if isinstance(entry.get("custom"), dict):
            self.kind = "custom"
        self._budget.add(len(arguments))
        self._pieces.append(arguments)
        self.extra.take({key: entry[key] for key in entry if key not in _ENTRY_OWN})

    def value(self) -> Json:
        """The call, for ``orjson.dumps``."""
        arguments = str(self.call.arguments)
        if len(arguments) >= self.call.arguments.LIMIT:
            arguments = "".join(self._pieces)  # the start only is kept there
        name = (self.call.name or "") + self._name
        if self.is_legacy:
            return {"name": name, "arguments": arguments}
        field = "input" if self.kind == "custom" else "arguments"
        body = {"name": name, field: arguments}
        call_id = self.call.id or f"call_{self.call.key}"
        return {"id": call_id, "type": self.kind, self.kind: body, **self.extra.value()}


class AnswerChoice:
    """One choice.

    Attributes:
        message: all but its calls.
        fields: all but its message.
        calls: by their keys.

    Args:
        budget: of the answer.
    """

    def __init__(self, budget: Budget) -> None:
        self.message = Merged(budget)
        self.fields = Merged(budget)
        self.calls: dict[int, AnswerCall] = {}

    def value(self, index: int) -> Json:
        """The choice, for ``orjson.dumps``."""
        calls = [call for call in self.calls.values() if not call.call.answered]
        whole = [call.value() for call in calls if not call.is_legacy]
        message = {"role": "assistant", "content": None, **self.message.value()}
        if not message["content"] and (calls or message.get("refusal")):
            message["content"] = None  # streams begin with "" there, whatever follows
        if whole:
            message["tool_calls"] = whole
        for call in calls:
            if call.is_legacy:
                message["function_call"] = call.value()
        fields = {"logprobs": None, "finish_reason": None, **self.fields.value()}
        return {"index": index, "message": message, **fields}
