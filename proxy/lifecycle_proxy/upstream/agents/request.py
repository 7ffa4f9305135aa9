"""One request on its way to a session, and the answer on its way back."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from lifecycle_proxy.core.agents.conversation import Asked
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.ports import AskedBy, UpstreamResponse
from lifecycle_proxy.upstream.agents.outputs import TurnOutput, WholeOutput
from lifecycle_proxy.upstream.agents.places import Place, PlaceKey
from lifecycle_proxy.upstream.agents.response import WrittenResponse, stored
from lifecycle_proxy.upstream.agents.serving import AgentServing
from lifecycle_proxy.upstream.agents.turn import Turn

log = logging.getLogger("proxy.upstream")

# Begins a turn with a text, where that can be refused; gives the refusal.
Start = Callable[[str], Awaitable[UpstreamResponse | None]]


class AgentRequest:
    """One request on its way to a session.

    Args:
        agent: that is asked.
        body: of the request.
        asked: what it asks.
        asked_by: the client.
        key: by which the session was looked for.
        place: the session.
    """

    def __init__(
        self,
        agent: AgentServing,
        body: Mapping[str, Any],
        asked: Asked,
        asked_by: AskedBy,
        key: PlaceKey,
        *,
        place: Place,
    ) -> None:
        self._agent = agent
        self._body = body
        self._asked = asked
        self._asked_by = asked_by
        self._key = key
        self._place = place
        self._turn: Turn | None = None
        self._work: asyncio.Task[None] | None = None

    async def begin(self, *, is_known: bool, start: Start | None = None) -> UpstreamResponse:
        """A new turn.

        Args:
            is_known: the session knows what was said before.
            start: is done first; None for nothing.
        """
        asked, place = self._asked, self._place
        text = asked.text if is_known else asked.whole()
        assert place.session is not None
        images = asked.images if place.session.takes_images else ()
        if left := len(asked.images) - len(images) + asked.skipped_images:
            text += f"\n\n({left} pictures are not shown to you.)"
        if start is not None and (refusal := await self._started(start, text)) is not None:
            return refusal
        output, response = self._output()
        policy = self._agent.policy(self._asked_by, self._key.owner)
        turn = self._turn = Turn(policy, output)
        self._work = place.work = asyncio.create_task(self._run(turn, text, images))
        self._agent.follow(place.work)
        return await self._answer(output, response, place.work)

    async def _started(self, start: Start, text: str) -> UpstreamResponse | None:
        refusal = None
        is_begun = False
        try:
            refusal = await start(text)
            is_begun = refusal is None
        finally:
            if not is_begun:
                self._agent.places.drop(self._place)
        return refusal

    async def go_on(self, turn: Turn) -> WrittenResponse:
        """A turn that has waited for this request's answer."""
        self._turn = turn
        output, response = self._output()
        work = self._work = self._place.work
        assert work is not None
        turn.attach(output)
        return await self._answer(output, response, work)

    def _output(self) -> tuple[TurnOutput, WrittenResponse | None]:
        if not self._body.get("stream"):
            return WholeOutput(self._asked, self._agent.envelope(self._body), self._pause), None
        response = WrittenResponse(
            "text/event-stream; charset=utf-8",
            on_close=self._stop,
            on_pressure=self._press,
        )
        output = self._agent.output(self._asked, self._body, self._asked_by, response)
        return output, response

    async def _answer(
        self, output: TurnOutput, response: WrittenResponse | None, work: asyncio.Task[None]
    ) -> WrittenResponse:
        if response is not None:
            self._agent.beat(response, work)
            return response
        assert isinstance(output, WholeOutput)
        try:
            return stored(await output.result)
        except ProxyError as failure:
            failure.is_final = True  # tools have run, perhaps
            raise
        except asyncio.CancelledError:  # the client is gone
            self._stop()
            raise

    def _stop(self) -> None:
        assert self._work is not None
        self._agent.stop(self._place, self._work, self._key.owner)

    def _press(self, is_behind: bool) -> None:
        session = self._place.session
        if session is not None:
            (session.pause if is_behind else session.resume)()

    def _pause(self) -> None:
        """The completion has ended with a question: its answer is the next message."""
        turn = self._turn
        assert turn is not None
        turn.hold()
        self._keep(turn)

    def _keep(self, turn: Turn, *, waits: bool = True) -> None:
        key = self._key._replace(fingerprint=turn.output.fingerprint)
        self._agent.places.keep(self._place, key, turn if waits else None)

    async def _run(self, turn: Turn, text: str, images: tuple[tuple[str, str], ...]) -> None:
        place = self._place
        session = place.session
        assert session is not None
        try:
            stop = await session.prompt(text, images, turn)
        except ProxyError as failure:
            self._over()
            turn.output.failed(failure)
            self._agent.places.drop(place)
        except Exception:
            log.exception("a bug in the proxy: agent %s", self._agent.name)
            self._over()
            turn.output.failed(ProxyError("internal", "the proxy failed; its log says why"))
            self._agent.places.drop(place)
        else:
            self._over()
            self._keep(turn, waits=False)
            turn.output.done(stop)

    def _over(self) -> None:
        if self._place.timer is not None:
            self._place.timer.cancel()
            self._place.timer = None
