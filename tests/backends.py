"""Several scripted upstreams, and the settings that lead to them."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.fakes import JSON, Answer, Request, Script, Upstream, Wire, ask


class Backend(Upstream):
    """A scripted upstream that lists models, and says in each answer who it is.

    Attributes:
        name: in the settings.
        models: what it lists.
        answer: the script for all other requests.
    """

    def __init__(self, name: str, models: Sequence[str] = ()) -> None:
        super().__init__()
        self.name, self.models = name, list(models)
        self.answer: Script = self.echo
        self.arrived = asyncio.Event()
        self.script = self._serve_all

    @property
    def asked(self) -> list[Request]:
        """All requests but those for the list."""
        return [one for one in self.requests if not one.target.endswith("/models")]

    def table(self, **more: Any) -> dict[str, Any]:
        """Its ``[[upstreams]]`` table."""
        return {"name": self.name, "url": f"{self.origin}/v1", **more}

    async def echo(self, request: Request, wire: Wire) -> None:
        """Who answers, and for which model."""
        try:
            model = json.loads(request.body)["model"]
        except (ValueError, KeyError, TypeError):
            model = None
        told = {"id": "x", "by": self.name, "model": model}
        await wire.answer(json.dumps(told).encode(), "200 OK", JSON)

    async def _serve_all(self, request: Request, wire: Wire) -> None:
        if request.target.endswith("/models"):
            entries = [{"id": one, "object": "model", "by": self.name} for one in self.models]
            body = json.dumps({"object": "list", "data": entries}).encode()
            await wire.answer(body, "200 OK", JSON)
        else:
            self.arrived.set()
            await self.answer(request, wire)


async def came(number: int, *to: Backend) -> None:
    """Wait until so many requests in all have come, besides those for lists."""
    while sum(len(one.asked) for one in to) < number:
        for one in to:
            one.arrived.clear()
        waits = [asyncio.create_task(one.arrived.wait()) for one in to]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


@asynccontextmanager
async def backends(**models: Sequence[str]) -> AsyncIterator[list[Backend]]:
    """Backends by name, each with the models that it lists.

    Raises:
        Exception: a script failed.
    """
    started = [Backend(name, own) for name, own in models.items()]
    try:
        for one in started:
            await one.start()
        yield started
    finally:
        for one in started:
            await one.stop()
    for one in started:
        for failure in one.failures:
            raise failure


def several(*tables: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Settings with these ``[[upstreams]]``; further tables by name, dots as ``__``."""
    settings = {key.replace("__", "."): value for key, value in more.items()}
    return {"upstream.url": None, "upstreams": list(tables), **settings}


async def complete(url: str, model: Any, *lines: str, target: str = "", **more: Any) -> Answer:
    """A chat completion that is no stream; without a model if it is None."""
    asked = {"messages": [{"role": "user", "content": "hi"}], **more}
    if model is not None:
        asked["model"] = model
    target = target or "/v1/chat/completions"
    return await ask(url, "POST", target, JSON, *lines, body=json.dumps(asked).encode())
