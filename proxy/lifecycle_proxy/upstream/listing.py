"""What models an upstream has, by its own ``/v1/models``.

A list is kept for 60 s, and shown for longer while its upstream is away. All who want it at the
same time wait for the same request. Whatever an upstream sends, its list is bounded: in bytes,
in entries, in the length of a name, in the time that it may take.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec
from multidict import CIMultiDict

from lifecycle_proxy.core.complexity import is_too_complex
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.ports import UpstreamClient, UpstreamRequest
from lifecycle_proxy.upstream.collect import Collected, collect

PATH: Final = "/v1/models"
FRESH_S: Final = 60.0
_AGAIN_S: Final = 5.0  # after a failure
_WAIT_S: Final = 5.0
_MAX_BYTES: Final = 8 << 20
_THREAD_BYTES: Final = 1 << 16
_MAX_ENTRIES: Final = 10_000
_LONGEST_NAME: Final = 256
_MAX_TENANTS: Final = 64
_OK: Final = 200


class _Answer(msgspec.Struct):
    data: list[msgspec.Raw]


class _Entry(msgspec.Struct):
    id: str
    owned_by: msgspec.Raw = msgspec.Raw(b"null")


_ANSWER: Final = msgspec.json.Decoder(_Answer)
_ENTRY: Final = msgspec.json.Decoder(_Entry)


class Listed(NamedTuple):
    """The list of an upstream.

    Attributes:
        entries: each model's entry as it came, by its id.
        knows_continuation: it is vLLM, which can go on with a message that has begun.
    """

    entries: Mapping[str, bytes]
    knows_continuation: bool = False


class _Kept:
    """The last list, and the last try to get one."""

    def __init__(self) -> None:
        self.listed: Listed | None = None
        self.listed_at = float("-inf")
        self.failed_at = float("-inf")
        self.error = ""
        self.work: asyncio.Task[None] | None = None


class ModelList:
    """The list of one upstream.

    Args:
        client: the upstream.
        wait_s: how long to wait for an answer, in seconds.
        clock: seconds.
    """

    def __init__(
        self,
        client: UpstreamClient,
        *,
        wait_s: float = _WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._wait_s = wait_s
        self._clock = clock
        # An upstream that gets the clients' own keys may list something else for each.
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._works: set[asyncio.Task[None]] = set()

    async def get(
        self,
        headers: CIMultiDict[str],
        tenant: str = "",
        *,
        fresh_s: float = FRESH_S,
    ) -> Listed | None:
        """The list; None if none was ever had.

        Args:
            headers: for the request, with the key.
            tenant: whose key it is, if it is a client's own.
            fresh_s: how old the list may be, in seconds, if the upstream can be asked.
        """
        kept = self._kept_for(tenant)
        now = self._clock()
        if now - kept.listed_at >= fresh_s and now - kept.failed_at >= min(_AGAIN_S, fresh_s):
            if kept.work is None or kept.work.done():
                kept.work = asyncio.create_task(self._ask(kept, headers))
                self._works.add(kept.work)
                kept.work.add_done_callback(self._works.discard)
            await asyncio.shield(kept.work)  # one who leaves does not stop it for the others
        return kept.listed

    def known(self, tenant: str = "") -> Listed | None:
        """The list as far as it is known; nobody is asked."""
        kept = self._kept.get(tenant)
        return None if kept is None else kept.listed

    def error(self, tenant: str = "") -> str:
        """Why the last try failed; "" if it did not."""
        kept = self._kept.get(tenant)
        return "" if kept is None else kept.error

    async def close(self) -> None:
        """Ask no more."""
        for work in tuple(self._works):
            work.cancel()
            await asyncio.wait((work,))

    def _kept_for(self, tenant: str) -> _Kept:
        kept = self._kept.get(tenant)
        if kept is None:
            kept = self._kept[tenant] = _Kept()
            if len(self._kept) > _MAX_TENANTS:
                self._kept.popitem(last=False)  # who waits for it still gets it
        self._kept.move_to_end(tenant)
        return kept

    async def _ask(self, kept: _Kept, headers: CIMultiDict[str]) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                kept.listed = await self._fetched(headers)
            kept.listed_at, kept.error = self._clock(), ""
        except TimeoutError:
            kept.failed_at, kept.error = self._clock(), "no list in time"
        except ProxyError as error:
            kept.failed_at, kept.error = self._clock(), error.message

    async def _fetched(self, headers: CIMultiDict[str]) -> Listed:
        request = UpstreamRequest("GET", PATH, headers, None)
        response = await self._client.open(request, _no_retry)
        try:
            if response.status != _OK:
                text = f"{PATH} was answered with status {response.status}"
                raise ProxyError("upstream_protocol", text)
            read = await collect(response, lambda data: len(data) > _MAX_BYTES)
        finally:
            response.close()
        return await _listed(read)


async def _listed(read: Collected) -> Listed:
    """The entries of an answer.

    Raises:
        ProxyError: it is no list, or too much.
    """
    if read.failure is not None:
        raise read.failure
    if not read.is_complete:
        raise ProxyError("upstream_protocol", f"{PATH} lists more than {_MAX_BYTES} bytes")
    if len(read.data) > _THREAD_BYTES:
        return await asyncio.to_thread(parsed, read.data)
    return parsed(read.data)


def parsed(data: bytes) -> Listed:
    """The entries of an answer. What is no entry is left out, and what is beyond the limit.

    Args:
        data: the body.

    Raises:
        ProxyError: it is no list.
    """
    if is_too_complex(data):
        raise ProxyError("upstream_protocol", f"{PATH} lists too much")
    try:
        raws = _ANSWER.decode(data).data
    except (msgspec.DecodeError, RecursionError):
        raise ProxyError("upstream_protocol", f"what {PATH} lists cannot be read") from None
    entries: dict[str, bytes] = {}
    is_vllm = False
    for raw in raws:
        try:
            entry = _ENTRY.decode(raw)
        except (msgspec.DecodeError, RecursionError):
            continue
        if 0 < len(entry.id) <= _LONGEST_NAME and entry.id not in entries:
            entries[entry.id] = bytes(raw)
            is_vllm = is_vllm or bytes(entry.owned_by) == b'"vllm"'
        if len(entries) >= _MAX_ENTRIES:
            break
    return Listed(entries, is_vllm)


def _no_retry() -> None:
    """Nobody counts these requests."""
