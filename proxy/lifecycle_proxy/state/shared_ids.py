"""Ids that several processes know: each keeps those that it saw, and a table has those of all.

An id is noted in this process's memory and, in the background, in the table. The table is asked
only for what this process does not know, and for what may be an id: most of a path is a word of the
API. While it cannot be reached, a process goes on with what it has itself.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Final, Protocol

from lifecycle_proxy.state.health import StoreError
from lifecycle_proxy.state.made_ids import LONGEST_ID, MadeIds

_WORD: Final = re.compile(r"[a-z_]*|v\d\w{0,8}")  # of an API's paths, such as "batches", "v1beta"


class IdTable(Protocol):
    """Ids outside of this process. Both methods fail with ``StoreError``, after a short time."""

    def keep(self, tenant: str, made: str, upstream: str) -> "asyncio.Future[None]":
        """Remember an id, whether or not the result is awaited.

        Args:
            tenant: a hash of the credential.
            made: the id.
            upstream: the name of the one that made it.
        """
        ...

    def find(self, tenant: str, ids: Sequence[str]) -> "asyncio.Future[str]":
        """The name of the upstream that made the first id that is known; "" for none.

        Args:
            tenant: a hash of the credential.
            ids: perhaps made.
        """
        ...


class SharedIds(MadeIds):
    """The ids of this process, and those that others have put into a table.

    Args:
        table: what is shared.
    """

    is_shared = True

    def __init__(self, table: IdTable) -> None:
        super().__init__()
        self._table = table

    def add(self, tenant: str, made: str, upstream: str) -> None:
        """See ``MadeIds``."""
        if self.maybe(tenant, made) != upstream:
            super().add(tenant, made, upstream)
            if len(made) <= LONGEST_ID:
                self._table.keep(tenant, made, upstream)

    async def find(self, tenant: str, ids: Sequence[str]) -> str:
        """See ``MadeIds``."""
        known = await super().find(tenant, ids)
        asked = [one for one in ids if len(one) <= LONGEST_ID and not _WORD.fullmatch(one)]
        if known or not asked:
            return known
        try:
            return await self._table.find(tenant, asked)
        except StoreError:
            return ""

    def __bool__(self) -> bool:
        """See ``MadeIds``: others may know some."""
        return True
