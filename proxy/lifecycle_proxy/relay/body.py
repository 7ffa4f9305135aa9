"""What becomes of a response's bytes on the way to the client: the stages of the body pipe.

A response passes these, in this order::

    upstream -> faults (faults.live, when a rule hits) -> decompression -> core.Pipeline -> client

Faults stand between the upstream and the relay, as an ``UpstreamResponse`` of their own: they take
time, and may end the body. The rest computes: bytes in, bytes out, in the same tick.
"""

from collections.abc import Callable
from typing import Protocol

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.model import Added


class Body(Protocol):
    """The stages that one body passes.

    Attributes:
        added: where in the bytes given last frames of the proxy's stand, as (start, stop).
        ends_after_error: the client is to see a proper end behind an error frame (see ``Dialect``).
    """

    added: Added
    ends_after_error: bool

    @property
    def skim(self) -> Callable[[bytes], bool]:
        """Whether a read is to be passed on as it is. Else it is for ``feed``."""
        ...

    def feed(self, data: bytes, now: float) -> bytes:
        """What the client gets for a read that ``skim`` did not take.

        Args:
            data: as the upstream sent it.
            now: seconds on the monotonic clock.

        Raises:
            ProxyError: it cannot go on.
        """
        ...

    def check_end(self) -> None:
        """Raise ProxyError if what ended properly, by HTTP, is truncated all the same."""
        ...

    def eof(self, now: float) -> bytes:
        """The last bytes, at a proper end."""
        ...

    def abort(self, failure: ProxyError, now: float) -> bytes:
        """The last bytes, before the connection breaks.

        Args:
            failure: why it breaks.
            now: seconds on the monotonic clock.
        """
        ...

    def client_gone(self, now: float) -> None:
        """The client has left; nobody gets any bytes."""
        ...

    def heartbeat(self) -> bytes:
        """A comment for a silent stream; empty where none can be written now."""
        ...


class PlainBody:
    """A body that passes unchanged."""

    added: Added = ()
    ends_after_error = False

    def skim(self, data: bytes) -> bool:
        """See ``Body``."""
        return True

    def feed(self, data: bytes, now: float) -> bytes:
        """See ``Body``."""
        return data

    def check_end(self) -> None:
        """Its length or its chunks say what is whole."""

    def eof(self, now: float) -> bytes:
        return b""

    def abort(self, failure: ProxyError, now: float) -> bytes:
        """See ``Body``."""
        return b""

    def client_gone(self, now: float) -> None:
        """Nothing was added."""

    def heartbeat(self) -> bytes:
        return b""
