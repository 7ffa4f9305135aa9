"""Which upstream made an id: a stored response, a file, a batch, a thread.

Nobody else knows what is behind it, so requests that name it go there. Ids are kept for each
credential: what one user made decides nothing for another. The memory is bounded, for all and for
each; the oldest are forgotten first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

PER_TENANT: Final = 2_000
_IN_ALL: Final = 20_000
LONGEST_ID: Final = 512


class MadeIds:
    """Ids by the upstream that made them, in this process.

    Args:
        per_tenant: how many are kept for one credential.
        in_all: how many are kept.

    Attributes:
        is_shared: other processes know them, too.
    """

    is_shared = False

    def __init__(self, per_tenant: int = PER_TENANT, in_all: int = _IN_ALL) -> None:
        self._per_tenant = per_tenant
        self._in_all = in_all
        self._size = 0
        self._tenants: OrderedDict[str, OrderedDict[str, str]] = OrderedDict()

    def add(self, tenant: str, made: str, upstream: str) -> None:
        """Remember an id.

        Args:
            tenant: a hash of the credential.
            made: the id.
            upstream: the name of the one that made it.
        """
        if not 0 < len(made) <= LONGEST_ID:
            return
        own = self._tenants.setdefault(tenant, OrderedDict())
        self._tenants.move_to_end(tenant)
        self._size += made not in own
        own[made] = upstream
        own.move_to_end(made)
        if len(own) > self._per_tenant:
            own.popitem(last=False)
            self._size -= 1
        while self._size > self._in_all:
            self._forget_oldest()

    def maybe(self, tenant: str, made: str) -> str:
        """The name of the upstream that made an id; "" if that is not known.

        Args:
            tenant: a hash of the credential.
            made: the id.
        """
        own = self._tenants.get(tenant)
        return "" if own is None else own.get(made, "")

    async def find(self, tenant: str, ids: Sequence[str]) -> str:
        """The name of the upstream that made one of these; "" if that is not known.

        Args:
            tenant: a hash of the credential.
            ids: perhaps made; the first that is known counts.
        """
        return next(filter(None, (self.maybe(tenant, one) for one in ids)), "")

    def __bool__(self) -> bool:
        """Whether any may be known."""
        return self._size > 0

    def __len__(self) -> int:
        return self._size

    def _forget_oldest(self) -> None:
        """One id of the credential that has made none for the longest time."""
        tenant, own = next(iter(self._tenants.items()))
        own.popitem(last=False)
        self._size -= 1
        if not own:
            del self._tenants[tenant]
