"""A response of one of several upstreams, as the relay gets it.

It says which upstream answered, keeps count of what is open there, and notes ids that were made.
Its bytes pass as they are, unless the public name of an alias is to stand in them.
"""

import re
from collections.abc import Callable
from typing import Any, Final

import orjson
from multidict import CIMultiDict, CIMultiDictProxy, istr

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import Headers
from lifecycle_proxy.exchange.ports import BodySink, UpstreamResponse
from lifecycle_proxy.upstream.member import Member

HEADER: Final = istr("X-Lifecycle-Upstream")
_LOOK_BYTES: Final = 1 << 12
_ID: Final = re.compile(rb'"id"\s*+:\s*+"([\x21\x23-\x5b\x5d-\x7e]{1,512})"')


class PooledResponse:
    """The port ``UpstreamResponse`` around another.

    Args:
        inner: of the upstream.
        member: the upstream; it hears once when nothing is open any more, and what broke the body
            off, if anything did.
    """

    __slots__ = (
        *("_before", "_inner", "_made", "_member", "_own", "_renamer"),
        *("headers", "reason", "status"),
    )

    def __init__(self, inner: UpstreamResponse, member: Member) -> None:
        self.status = inner.status
        self.reason = inner.reason
        self._inner = inner
        self._member: Member | None = member
        self._before = member.health.failures
        self._made: Callable[[str], None] | None = None
        self._renamer: _Renamer | None = None
        self._own = CIMultiDict(inner.raw_headers)
        self._own[HEADER] = member.name
        self.headers = CIMultiDictProxy(self._own)

    def note_ids(self, made: Callable[[str], None]) -> None:
        """Look for the id that the body begins with.

        Args:
            made: called with it, if there is one.
        """
        self._made = made

    def rename(self, old: str, new: str) -> None:
        """Replace the model's name in the body.

        Args:
            old: its name at the upstream.
            new: the public one.
        """
        self._renamer = _Renamer(old, new)
        self._own.popall("Content-Length", None)

    @property
    def raw_headers(self) -> Headers:
        return self._inner.raw_headers

    @property
    def was_reset(self) -> bool:
        return self._inner.was_reset

    def attach(self, sink: BodySink) -> None:
        """See ``UpstreamResponse``."""
        self._inner.attach(_Watched(self, sink, self._made, self._renamer))
        self._made = None

    def detach(self) -> None:
        """See ``UpstreamResponse``."""
        self._inner.detach()

    def pause(self) -> None:
        """See ``UpstreamResponse``."""
        self._inner.pause()

    def resume(self) -> None:
        """See ``UpstreamResponse``."""
        self._inner.resume()

    def close(self) -> None:
        """See ``UpstreamResponse``."""
        self.over(None)
        self._inner.close()

    def maybe_upgraded(self) -> Any:
        """See ``UpstreamResponse``."""
        return self._inner.maybe_upgraded()

    def over(self, failure: ProxyError | None) -> None:
        """Nothing is open any more. Only the first call counts.

        Args:
            failure: what broke it off.
        """
        member, self._member = self._member, None
        if member is not None:
            member.over(failure, self._before)


class _Watched:
    """The relay's sink, with a look at what passes."""

    def __init__(
        self,
        response: PooledResponse,
        sink: BodySink,
        made: Callable[[str], None] | None,
        renamer: "_Renamer | None",
    ) -> None:
        self._response = response
        self._sink = sink
        self._made = made
        self._renamer = renamer
        self._start = b""
        if made is None and renamer is None:
            # One call less for each chunk.
            self.data_received = sink.data_received  # type: ignore[method-assign]

    def data_received(self, data: bytes, framed: bytes = b"") -> None:
        """See ``BodySink``."""
        if self._made is not None:
            self._look(data)
        if self._renamer is not None:
            new = self._renamer.feed(data)
            if new != data:
                data, framed = new, b""
        if data:
            self._sink.data_received(data, framed)

    def ended(self, failure: ProxyError | None) -> None:
        """See ``BodySink``."""
        if self._renamer is not None and (rest := self._renamer.rest()):
            self._sink.data_received(rest)
        self._response.over(failure)
        self._sink.ended(failure)

    def _look(self, data: bytes) -> None:
        self._start += data[: _LOOK_BYTES - len(self._start)]
        found = _ID.search(self._start)
        if found is not None and self._made is not None:
            self._made(found[1].decode("ascii"))
        if found is not None or len(self._start) >= _LOOK_BYTES:
            self._made, self._start = None, b""


class _Renamer:
    """Replaces the value of ``model`` in JSON as it comes, at any depth.

    Within a text of JSON the quotation marks are escaped, so nothing in a text is replaced. What
    may be the beginning of such a value waits for the next piece, and nothing else does.
    """

    _KEY: Final = b'"model"'

    def __init__(self, old: str, new: str) -> None:
        # A name that is not ASCII can be written in two ways; the first is what servers send.
        values = [orjson.dumps(old), orjson.dumps(old).replace(b"/", b"\\/")]
        self._values = values
        alternatives = b"|".join(map(re.escape, values))
        self._found = re.compile(rb'("model"[ \t\r\n]{0,8}:[ \t\r\n]{0,8})(?:%b)' % alternatives)
        self._new = orjson.dumps(new)
        self._longest = max(map(len, values)) + len(self._KEY) + 20
        self._kept = b""

    def feed(self, data: bytes) -> bytes:
        """What can be passed on."""
        data = self._kept + data
        data = self._found.sub(lambda match: match[1] + self._new, data)
        at = max(len(data) - self._longest, 0)
        while (at := data.find(b'"', at)) >= 0:
            if self._may_begin(data[at:]):
                self._kept = data[at:]
                return data[:at]
            at += 1
        self._kept = b""
        return data

    def rest(self) -> bytes:
        """What waited in vain."""
        rest, self._kept = self._kept, b""
        return rest

    def _may_begin(self, tail: bytes) -> bool:
        """Whether the end of what came is the beginning of a value to replace."""
        if len(tail) <= len(self._KEY):
            return self._KEY.startswith(tail)
        if not tail.startswith(self._KEY):
            return False
        rest = tail[len(self._KEY) :].lstrip(b" \t\r\n")
        if not rest:
            return True
        if rest[:1] != b":":
            return False
        value = rest[1:].lstrip(b" \t\r\n")
        return any(len(value) < len(one) and one.startswith(value) for one in self._values)
