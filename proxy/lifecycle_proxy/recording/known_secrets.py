"""Secrets that are known literally: the proxy's own keys and the credentials of one request.

A request may bring thousands of credentials (a cookie header of 60 KB holds 3,500 values), and each
may stand in a body in twenty encodings. So the time for a search must not grow with their number:

- A secret of eight bytes or more contains a whole aligned four-byte word of the data, wherever it
  stands. A set of such words says in one pass, at the speed of C, that there is no secret.
- Where there is such a word, only the secrets that begin with the same eight bytes are compared.
- A request that makes even those comparisons many is not searched to its end: ``spans`` returns
  None, and the exchange cannot be recorded.
"""

import base64
import json
import re
import sys
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_from_bytes, quote_plus

from lifecycle_proxy.recording import secret_detection

Span = tuple[int, int]

SHORTEST: Final = 8  # bytes; a shorter word stands in too many innocent places
_WORD: Final = 4  # bytes that are looked up at once
_LONGEST_NAME: Final = 24
_COMPARED_BYTES: Final = 256  # compared at the price of one lookup
_LEAST_LOOKUPS: Final = 10_000
_LOOKUPS_PER_BYTE: Final = 4
_AUTHORIZATIONS: Final = ("authorization", "proxy-authorization")
_ESCAPE: Final = re.compile("%[0-9A-F]{2}")
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


class KnownSecrets:
    """Finds any of some secrets.

    Args:
        secrets: those shorter than ``SHORTEST`` are ignored.

    Attributes:
        all: the secrets.
    """

    def __init__(self, secrets: Iterable[bytes] = ()) -> None:
        self.all = frozenset(one for one in secrets if len(one) >= SHORTEST)
        self._offsets: dict[int, set[int]] = {}
        self._by_head: dict[bytes, list[bytes]] = {}
        for secret in sorted(self.all, key=len, reverse=True):
            self._by_head.setdefault(secret[:SHORTEST], []).append(secret)
            for offset in range(_WORD):
                word = int.from_bytes(secret[offset : offset + _WORD], sys.byteorder)
                self._offsets.setdefault(word, set()).add(offset)

    def may_occur(self, data: bytes) -> bool:
        """Whether any of the secrets may be in there."""
        return not self._offsets.keys().isdisjoint(_words(data))

    def spans(self, data: bytes) -> list[Span] | None:
        """Where secrets stand; of those that begin at the same byte the longest.

        Returns:
            Spans in any order, which may overlap; None where the search would take too long.
        """
        offsets = self._offsets
        words = _words(data)
        if not offsets or offsets.keys().isdisjoint(words):
            return []
        found: list[Span] = []
        left = _LEAST_LOOKUPS + _LOOKUPS_PER_BYTE * len(data)
        for number in [number for number, word in enumerate(words) if word in offsets]:
            for offset in offsets[words[number]]:
                start = number * _WORD - offset
                if start < 0:
                    continue
                for secret in self._by_head.get(data[start : start + SHORTEST], ()):
                    left -= 1 + len(secret) // _COMPARED_BYTES
                    if left < 0:
                        return None
                    if data.startswith(secret, start):
                        found.append((start, start + len(secret)))
                        break
        return found


def _words(data: bytes) -> memoryview:
    """The aligned words, as numbers."""
    return memoryview(data)[: len(data) // _WORD * _WORD].cast("I")


def credentials(name: str, value: str) -> list[str]:
    """What of a header is a secret wherever it occurs.

    Schemes and names of cookies are none. Nor are words such as ``undefined``, ``localhost`` or
    ``dark-mode``, which stand for a key, or beside one in a cookie, and in any chat as well.

    Args:
        name: in lower case.
        value: as it was sent.
    """
    words = [value]
    if name.endswith("cookie"):
        words = [part.partition("=")[2] for part in value.split(";")]
    elif name in _AUTHORIZATIONS:
        scheme, _, rest = value.partition(" ")
        words = re.split(r"[,\s]+", rest or scheme)
        words += [word.partition("=")[2] for word in words]  # as in Digest
    words = [word.strip(' \t"') for word in words]
    return [w for w in words if len(w) >= SHORTEST and not _is_innocent(w)]


def encodings(secret: str) -> set[bytes]:
    """A secret as it is, and as it stands in a URL, in JSON, in hexadecimal and in base64."""
    plain = secret.encode("utf-8", "surrogateescape")
    quoted = quote_from_bytes(plain, safe="")
    escaped = json.dumps(secret)[1:-1]
    percents = "".join(f"%{byte:02X}" for byte in plain)
    units = "".join(f"\\u{ord(letter):04x}" for letter in secret if ord(letter) <= 0xFFFF)
    texts = {
        *(quoted, quote_plus(plain), _ESCAPE.sub(lambda found: found[0].lower(), quoted)),
        *(quote(quoted, safe=""), percents, percents.lower(), quote(percents, safe="")),
        *(escaped, escaped.replace("/", "\\/"), units, units.upper().replace("\\U", "\\u")),
        *(plain.hex(), plain.hex().upper()),
    }
    coded = {base64.b64encode(plain).rstrip(b"="), *(_inside_base64(plain, n) for n in range(3))}
    return {plain, *coded, *(one.translate(_URL_SAFE) for one in coded), *map(str.encode, texts)}


def _inside_base64(plain: bytes, before: int) -> bytes:
    """The characters that a secret alone decides where it stands in base64 between other bytes.

    Args:
        before: how many bytes of a group of three are those before it.
    """
    first = (before * 8 + 5) // 6
    stop = (before + len(plain)) * 8 // 6
    return base64.b64encode(b"\0" * before + plain)[first:stop]


def _is_innocent(text: str) -> bool:
    """A word, or a placeholder that stands for what is not known any more."""
    is_word = len(text) < _LONGEST_NAME and not any(letter.isdigit() for letter in text)
    return is_word or bool(secret_detection.PLACEHOLDER.search(text))
