"""Secrets out of what is recorded, before it reaches the disk.

Known secrets are the keys that the proxy holds and the credentials of the very exchange, wherever
they occur; others are known by their form, by their header, by the name of a query parameter, or by
their place in a JSON body. Each is replaced by a placeholder that is always the same for the same
secret, so that recordings still match each other. What ``scan`` would find is replaced, and more; a
placeholder stays as it is.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import quote, unquote_plus

import orjson

from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.recording import secret_detection
from lifecycle_proxy.recording.known_secrets import SHORTEST, KnownSecrets, credentials, encodings
from lifecycle_proxy.recording.secret_forms import ExchangeRules
from lifecycle_proxy.recording.stream_redaction import (
    RedactedChunk,
    StreamRedaction,
    cut,
    placeholder,
)

# Besides those whose names say that they are secret.
_HEADERS: Final = frozenset(("openai-organization", "openai-project"))
_QUERY_CHARACTERS: Final = "/:@[]"
# A header's value, or one of a cookie's, that is redacted already.
_REDACTED: Final = re.compile(rf"\s*(?:[\w-]+[ =])?{secret_detection.PLACEHOLDER.pattern}\s*")
_SLICE_BYTES: Final = 1 << 13  # searched at once: other threads wait meanwhile
_MOST_TREE_BYTES: Final = 8 << 20
_MOST_CREDENTIAL_BYTES: Final = 1 << 18
TOO_MANY: Final = "its credentials are too many to search for"
_TOO_LARGE: Final = f"over {_MOST_TREE_BYTES >> 20} MiB, too large for recording.redact_paths"


class Redaction:
    """The rules of one proxy.

    Args:
        headers: names of more headers that hold secrets.
        patterns: more forms, as regular expressions; the whole match is the secret.
        paths: places in JSON bodies, as ``messages.*.content`` or ``user``.
        secrets: the proxy's own keys.
    """

    def __init__(
        self,
        *,
        headers: Iterable[str] = (),
        patterns: Iterable[str] = (),
        paths: Iterable[str] = (),
        secrets: Iterable[str] = (),
    ) -> None:
        self._headers = _HEADERS | {name.lower() for name in headers}
        # Each on its own: flags and numbers of groups are of one pattern.
        self._more = [re.compile(pattern.encode()) for pattern in patterns]
        self._paths = [path.split(".") for path in paths]
        own = [secret for secret in secrets if len(secret) >= SHORTEST]
        self._own = KnownSecrets(form for secret in own for form in encodings(secret))

    def exchange(self, headers: Headers) -> "ExchangeRedaction":
        """The rules for one exchange, whose own credentials are secrets, too."""
        words = {
            word
            for name, value in headers
            if name.lower() in self._headers or secret_detection.is_credential_header(name)
            for word in credentials(name.lower(), value)
        }
        is_too_much = sum(map(len, words)) > _MOST_CREDENTIAL_BYTES
        forms = {form for word in words for form in encodings(word)} if not is_too_much else set()
        own = KnownSecrets(self._own.all | forms) if forms - self._own.all else self._own
        rules = ExchangeRules(own, self._more, is_exhausted=is_too_much)
        return ExchangeRedaction(self._headers, rules, self._paths)


def _is_redacted(name: str, value: str) -> bool:
    """Whether a header that holds a secret holds a placeholder instead."""
    parts = [value]
    if name.endswith("cookie"):
        parts = value.split(";")[: 1 if name == "set-cookie" else None]
    return all(_REDACTED.fullmatch(part) for part in parts)


class ExchangeRedaction:
    """The rules for one exchange.

    Attributes:
        rules: those for any bytes.
    """

    def __init__(
        self, headers: frozenset[str], rules: ExchangeRules, paths: Sequence[Sequence[str]]
    ) -> None:
        self.rules = rules
        self._headers = headers
        self._paths = paths

    @property
    def problem(self) -> str:
        """Why nothing of the exchange can be recorded; "" where it can.

        What was redacted until then holds no secret: it is one placeholder.
        """
        return TOO_MANY if self.rules.is_exhausted else ""

    def headers(self, headers: Headers) -> Headers:
        """Names stay; values of headers that hold secrets go as a whole."""
        return tuple((name, self._header(name.lower(), value)) for name, value in headers)

    def _header(self, name: str, value: str) -> str:
        if not (name in self._headers or secret_detection.is_credential_header(name)):
            return self.text(value)
        if _is_redacted(name, value):
            return value
        return placeholder(value.encode("utf-8", "surrogateescape")).decode()

    def target(self, target: str) -> str:
        """A request's path and query, the query also as a server reads it."""
        path, mark, query = self.text(target).partition("?")
        return path + mark + "&".join(self._parameter(part) for part in query.split("&"))

    def _parameter(self, part: str) -> str:
        name, _, value = part.partition("=")
        text = unquote_plus(value)
        is_credential = text and secret_detection.is_credential_parameter(name)
        if is_credential and not secret_detection.PLACEHOLDER.search(text):
            return f"{name}={placeholder(text.encode('utf-8', 'surrogateescape')).decode()}"
        plain = f"{unquote_plus(name)}={text}"
        clear = self.text(plain)
        if clear == plain:
            return part
        return f"{name}={quote(clear.partition('=')[2], safe=_QUERY_CHARACTERS)}"

    def text(self, text: str) -> str:
        return self.data(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def data(self, data: bytes) -> bytes:
        """Any bytes, whole."""
        return cut(data, 0, len(data), self.rules.spans(data))

    def tree(self, value: Any) -> Any:
        """Any JSON, by its texts."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {key: self.tree(inner) for key, inner in value.items()}
            case list():
                return [self.tree(inner) for inner in value]
            case _:
                return value

    def body(self, data: bytes) -> bytes:
        """A body: its JSON places, then all forms; a placeholder where it cannot be searched."""
        own = self.body_stream()
        clear = own.feed(data) + own.flush()
        return placeholder(data) if own.problem or self.problem else clear

    def body_stream(self) -> "BodyRedaction":
        """For a body that comes in pieces."""
        return BodyRedaction(self, self._paths)

    def stream(self) -> StreamRedaction:
        return StreamRedaction(self.rules)


class BodyRedaction:
    """A request body, piece by piece; the result does not depend on where it was cut.

    Args:
        own: the rules of the exchange.
        paths: places in JSON bodies. Where there are any, the body is searched when it is whole.

    Attributes:
        problem: why it cannot be searched, "" where it can.
    """

    def __init__(self, own: ExchangeRedaction, paths: Sequence[Sequence[str]]) -> None:
        self._own = own
        self._paths = paths
        self._waiting = bytearray()
        self._stream: StreamRedaction | None = None
        self.problem = ""

    def feed(self, data: bytes) -> bytes:
        """Take a piece; return what is clear now."""
        if self.problem:
            return b""
        self._waiting += data
        if self._paths:
            if len(self._waiting) > _MOST_TREE_BYTES:
                self.problem = _TOO_LARGE
                self._waiting.clear()
            return b""
        return self._sliced()

    def flush(self) -> bytes:
        """No more comes: return the rest."""
        rest = bytes(self._waiting)
        self._waiting.clear()
        if self._paths and rest and (changed := self._hidden(rest)) is not None:
            rest = changed
        if self._stream is None and len(rest) <= _SLICE_BYTES:
            return self._own.data(rest)
        self._waiting += rest
        clear = self._sliced()
        assert self._stream is not None, "there was more than one slice"
        return clear + _joined(self._stream.feed(None, bytes(self._waiting)), self._stream.flush())

    def _sliced(self) -> bytes:
        clear = []
        start, waiting = 0, self._waiting
        while len(waiting) - start > _SLICE_BYTES:
            if self._stream is None:
                self._stream = StreamRedaction(self._own.rules, keeps_reads=False)
            clear += self._stream.feed(None, bytes(waiting[start : start + _SLICE_BYTES]))
            start += _SLICE_BYTES
        del waiting[:start]
        return _joined(clear)

    def _hidden(self, data: bytes) -> bytes | None:
        """The body without its secret places; None where it has none."""
        try:
            tree = orjson.loads(data)
        except orjson.JSONDecodeError:
            return None
        hidden = [_hide(tree, path) for path in self._paths]
        return orjson.dumps(tree) if any(hidden) else None


def _joined(*clear: list[RedactedChunk]) -> bytes:
    return b"".join(data for some in clear for _, data, _ in some)


def _hide(tree: Any, path: Sequence[str]) -> bool:
    """Replace what stands at a path; True where something did. ``*`` is any key, any index."""
    name, rest = path[0], path[1:]
    if isinstance(tree, list):
        keys: list[Any] = list(range(len(tree))) if name == "*" else []
        if name.isdigit() and int(name) < len(tree):
            keys = [int(name)]
    elif isinstance(tree, dict):
        keys = list(tree) if name == "*" else [name] if name in tree else []
    else:
        return False
    if rest:
        hidden = [_hide(tree[key], rest) for key in keys]
        return any(hidden)
    keys = [key for key in keys if not _is_placeholder(tree[key])]
    for key in keys:
        tree[key] = placeholder(orjson.dumps(tree[key])).decode()
    return bool(keys)


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, str) and secret_detection.PLACEHOLDER.fullmatch(value) is not None
