"""The permissions that one turn waits for: each is answered once, whatever happens."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

_MAX_OPEN: Final = 16


class Questions:
    """Those of one agent.

    Args:
        answer: sends the answer to a request.
        refusal: the answer where nobody decides any more.
    """

    def __init__(self, answer: Callable[[Any, Any], None], refusal: Any) -> None:
        self._answer = answer
        self._refusal = refusal
        self._open: set[asyncio.Task[None]] = set()

    def add(self, request_id: Any, work: Coroutine[Any, Any, Any] | None) -> None:
        """Answer a request with what comes of some work; without any, or with too many, at once.

        Args:
            request_id: of the request.
            work: gives the answer.
        """
        if work is None or len(self._open) >= _MAX_OPEN:
            if work is not None:
                work.close()
            self._answer(request_id, self._refusal)
            return
        task = asyncio.create_task(self._run(request_id, work))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    def close(self) -> None:
        """Nobody decides any more."""
        for task in list(self._open):
            task.cancel()

    async def _run(self, request_id: Any, work: Coroutine[Any, Any, Any]) -> None:
        result = self._refusal
        try:
            result = await work
        finally:
            self._answer(request_id, result)
