"""A request's messages, for an agent that has a memory of its own.

An agent keeps what was said in its session, so it is sent the last message only. Which session that
is, is known by what was said before: ``fingerprint`` is the same for what this proxy answered and
for what the client sends back, and different for all else.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from lifecycle_proxy.core.agents.quirks import at

_ROLES: Final = ("user", "assistant")
_MAX_IMAGES: Final = 16
_BLANKS: Final = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
_WIDE_BLANKS: Final = ("\x85", "\xa0", "\u2028", "\u2029", "\u202f", "\u3000")
_YES: Final = frozenset(("yes", "y", "allow", "approve", "approved", "ok", "allow once"))
_NO: Final = frozenset(("no", "n", "deny", "denied", "reject", "stop"))


class Asked(NamedTuple):
    """What a request asks.

    Attributes:
        before: roles and texts of the messages in front of the last question, without system
            messages and results.
        instructions: the system messages.
        text: the last question.
        images: in it: media type and base64.
        skipped_images: how many are not sent: URLs, or more than an agent is given.
    """

    before: tuple[tuple[str, str], ...]
    instructions: str
    text: str
    images: tuple[tuple[str, str], ...]
    skipped_images: int = 0

    def fingerprint(self) -> str:
        """Of what was said before this question."""
        return fingerprint(self.before)

    def after(self, answer: str) -> str:
        """The fingerprint that the next request will have if this was the answer."""
        return fingerprint((*self.before, ("user", self.text), ("assistant", answer)))

    def whole(self) -> str:
        """Everything, for an agent that knows nothing yet."""
        parts = [self.instructions] if self.instructions else []
        if self.before:
            said = "\n\n".join(f"{role.capitalize()}: {text}" for role, text in self.before)
            parts.append(f"The conversation so far:\n\n{said}\n\nThe user goes on:")
        return "\n\n".join((*parts, self.text))


def maybe_asked(messages: Sequence[Any]) -> Asked | None:
    """Read the messages of a request; None if none of them is the user's."""
    last = next((n for n in range(len(messages) - 1, -1, -1) if _role(messages[n]) == "user"), None)
    if last is None:
        return None
    before = tuple(
        (role, text)
        for one in messages[:last]
        if (role := _role(one)) in _ROLES and (text := text_of(one).strip())
    )
    system = (text_of(one) for one in messages if _role(one) in ("system", "developer"))
    found, skipped = _images(messages[last])
    return Asked(before, "\n\n".join(filter(None, system)), text_of(messages[last]), found, skipped)


def fingerprint(said: Iterable[tuple[str, str]]) -> str:
    """A hash of roles and texts.

    Blanks do not count, and neighbours of the same role count as one: pages join what cards had
    parted, and trim.
    """
    digest = hashlib.sha256()
    last = ""
    for role, text in said:
        if role != last:
            digest.update(f"\0{role}\0".encode())
            last = role
        digest.update(_without_blanks(text))
    return digest.hexdigest()


def _without_blanks(text: str) -> bytes:
    """What counts of a text. To split it takes ten times as long, and it may be large."""
    for blank in () if text.isascii() else _WIDE_BLANKS:
        text = text.replace(blank, "")
    return text.encode("utf-8", "surrogatepass").translate(None, _BLANKS)


def maybe_answer(text: str) -> bool | None:
    """What a message says to the question for a permission; None if it is no answer to it."""
    word = text.strip().strip(".!").lower()
    if word in _YES:
        return True
    return False if word in _NO else None


def text_of(message: Any) -> str:
    """The text of a message, whose content is a string or a list of parts."""
    content = at(message, ("content",))
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(text for part in parts if isinstance(text := at(part, ("text",)), str))


def _role(message: Any) -> str:
    role = at(message, ("role",))
    return role if isinstance(role, str) else ""


def _images(message: Any) -> tuple[tuple[tuple[str, str], ...], int]:
    content = at(message, ("content",))
    found: list[tuple[str, str]] = []
    skipped = 0
    for part in content if isinstance(content, list) else []:
        url = at(part, ("image_url", "url"))
        if not isinstance(url, str):
            continue
        head, comma, data = url.partition(";base64,")
        if comma and head.startswith("data:image/") and len(found) < _MAX_IMAGES:
            found.append((head.removeprefix("data:"), data))
        else:
            skipped += 1
    return tuple(found), skipped
