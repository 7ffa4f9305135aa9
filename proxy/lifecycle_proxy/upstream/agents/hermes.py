"""A conversation with Hermes Agent by the runs of its API server.

Its chat completions deny all that would need an approval; its runs ask for it. A run gets the whole
conversation, since Hermes keeps none for runs; a session's id gives it the same terminal each time.

Approvals: Hermes takes an answer for a run, not for a request, and gives it to the oldest that is
open. So the proxy never says yes while it could be for another one: a second request while the
first is not decided denies both, and a call that has ended meanwhile (Hermes denies by itself after
its own ``approvals.timeout``, 60 s) withdraws its request.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final

import orjson

from lifecycle_proxy.core.agents.chunks import maybe_usage
from lifecycle_proxy.core.agents.conversation import Asked
from lifecycle_proxy.core.agents.hermes import HermesReader
from lifecycle_proxy.core.agents.quirks import at
from lifecycle_proxy.core.complexity import is_too_complex
from lifecycle_proxy.core.dialects.fields import dumps
from lifecycle_proxy.core.events import Outcome
from lifecycle_proxy.core.sse import Event, Parser
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.ports import UpstreamResponse
from lifecycle_proxy.upstream.agents.body import BodyReader
from lifecycle_proxy.upstream.agents.runs_api import RunsApi
from lifecycle_proxy.upstream.agents.session import Permission, Stop, TurnSink
from lifecycle_proxy.upstream.collect import collect

log = logging.getLogger("proxy.upstream")

_STARTED: Final = (200, 201, 202)
_RUN_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_MAX_ANSWER: Final = 1 << 16
_MAX_EVENT: Final = 4 << 20
_LAST_WORDS_S: Final = 2.0
_DENY: Final = {"choice": "deny", "all": True}
_ONCE: Final = {"choice": "once"}


class HermesSession:
    """See ``AgentSession``. There is no process: the server runs anyway.

    Args:
        stall_s: how long a run may say nothing, in seconds; 0 for no limit.
    """

    takes_images = False
    pid = 0

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._api: RunsApi | None = None
        self._run = ""
        self._reader = HermesReader("")
        self._turn: TurnSink | None = None
        self._body: BodyReader | None = None
        self._asking: asyncio.Task[bool] | None = None
        self._works: set[asyncio.Task[None]] = set()
        self._readable = asyncio.Event()
        self._readable.set()
        self._is_cancelled = False
        self.session_id = ""

    async def open(self, cwd: str, resume: str) -> bool:
        """See ``AgentSession``. Each run is given the conversation."""
        self.session_id = resume or f"lifecycle-proxy-{secrets.token_hex(12)}"
        return True

    async def start(
        self, api: RunsApi, asked: Asked, text: str, model: str
    ) -> UpstreamResponse | None:
        """Begin the run that ``prompt`` follows.

        Args:
            api: of the server.
            asked: by the client.
            text: the last question.
            model: the client's name for it; "" without one.

        Returns:
            The server's answer where it does not begin one.

        Raises:
            ProxyError: there is no answer, or none that can be read.
        """
        history = [{"role": role, "content": said} for role, said in asked.before]
        payload: dict[str, Any] = {"input": text, "session_id": self.session_id}
        more = {"conversation_history": history, "instructions": asked.instructions, "model": model}
        payload |= {key: value for key, value in more.items() if value}
        self._api, self._run, self._is_cancelled = api, "", False
        work = asyncio.create_task(self._begin(api, dumps(payload)))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:  # the client is gone; the run has begun, perhaps
            self._do(self._abandon(work))
            raise

    async def prompt(self, text: str, images: Sequence[tuple[str, str]], turn: TurnSink) -> Stop:
        """See ``AgentSession``. What is asked is known since ``start``."""
        api, reader = self._api, HermesReader(self._run)
        assert api is not None
        self._turn, self._reader = turn, reader
        is_over = False
        try:
            await self._follow(api)
            is_over = True
        finally:
            self._deny()
            self._turn = None
            for piece in reader.finish(self._outcome(is_over=is_over)):
                turn.piece(piece)
        outcome, ended = self._outcome(is_over=True), reader.ended
        if outcome is Outcome.FAILED:
            words = " ".join(str(at(ended, ("error",)) or "it does not say why").split())
            raise ProxyError("upstream_protocol", f"the agent failed: {words[:300]}")
        usage = maybe_usage(at(ended, ("usage",)))
        return Stop("stop", usage, was_cancelled=outcome is Outcome.CANCELLED)

    def _outcome(self, *, is_over: bool) -> Outcome:
        """Of the run, and of the calls that it left open."""
        last = at(self._reader.ended, ("event",))
        if self._is_cancelled or last == "run.cancelled":
            return Outcome.CANCELLED
        return Outcome.UNKNOWN if is_over and last == "run.completed" else Outcome.FAILED

    def cancel(self) -> None:
        """See ``AgentSession``."""
        self._is_cancelled = True
        self._deny()
        self._do(self._post("stop", {}))

    def pause(self) -> None:
        """See ``AgentSession``."""
        self._readable.clear()

    def resume(self) -> None:
        """See ``AgentSession``."""
        self._readable.set()

    async def end(self) -> None:
        """See ``AgentSession``."""
        self.resume()
        if self._run and self._reader.ended is None and not self._is_cancelled:
            self.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await asyncio.gather(*self._works, return_exceptions=True)
        if self._body is not None:
            self._body.ended(ProxyError("upstream_unreachable", "the agent was stopped"))

    # --- the run ---------------------------------------------------------------------------------

    async def _begin(self, api: RunsApi, body: bytes) -> UpstreamResponse | None:
        response = await api.open("POST", "", body)
        if response.status not in _STARTED:
            return response
        try:
            read = await collect(response, lambda data: len(data) > _MAX_ANSWER)
        finally:
            response.close()
        with suppress(orjson.JSONDecodeError):
            own = at(orjson.loads(read.data), ("run_id",))
            if isinstance(own, str) and _RUN_ID.fullmatch(own) and own.strip("."):
                self._run = own
                return None
        raise ProxyError("upstream_protocol", "the run has no id that can be used")

    async def _abandon(self, work: "asyncio.Task[UpstreamResponse | None]") -> None:
        with suppress(ProxyError):
            response = await work
            if response is not None:
                response.close()
            elif self._run:
                await self._post("stop", {})

    async def _follow(self, api: RunsApi) -> None:
        response = await api.open("GET", f"/{self._run}/events")
        try:
            if response.status != _STARTED[0]:
                text = f"the events of a run were answered with status {response.status}"
                raise ProxyError("upstream_protocol", text)
            parser = Parser(_MAX_EVENT)
            body = self._body = BodyReader(response, self._stall_s)
            async with aclosing(body.pieces()) as pieces:
                async for data in pieces:
                    await self._readable.wait()
                    for event in parser.feed(data):
                        self._read(event)
                    if self._reader.ended is not None:
                        return
            for event in parser.eof():
                self._read(event)
            if self._reader.ended is None:
                raise ProxyError("upstream_protocol", "the events of a run ended before the run")
        finally:
            self._body = None
            response.close()

    def _read(self, event: Event) -> None:
        if not event.parsed:
            text = f"an event of a run has more than {_MAX_EVENT >> 20} MiB, or is too complex"
            raise ProxyError("upstream_protocol", text)
        turn, own = self._turn, None
        if event.data and not is_too_complex(event.data):
            with suppress(orjson.JSONDecodeError):
                own = orjson.loads(event.data)
        if turn is None or self._reader.ended is not None:
            return
        for piece in self._reader.read(own):
            turn.piece(piece)
        kind = at(own, ("event",))
        if kind == "approval.request":
            self._ask(turn, own)
        elif kind == "approval.responded" or not self._reader.is_asking:
            self._forget()

    # --- approvals ------------------------------------------------------------------------------

    def _ask(self, turn: TurnSink, event: Any) -> None:
        permission = Permission(*self._reader.asked(event), is_read=False)
        if self._is_cancelled:
            self._do(self._post("approval", _DENY))
        elif self._asking is not None:
            log.warning("two approvals of one run at a time cannot be told apart: both are denied")
            self._reader.denied()
            self._asking.cancel()
        else:
            self._asking = asyncio.create_task(turn.ask(permission))
            self._asking.add_done_callback(self._decided)

    def _decided(self, asking: asyncio.Task[bool]) -> None:
        self._asking = None
        is_allowed = not asking.cancelled() and asking.result()
        if not (is_allowed or asking.cancelled()):
            self._reader.denied()
        self._do(self._post("approval", _ONCE if is_allowed else _DENY))

    def _deny(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    def _forget(self) -> None:
        """The request was answered elsewhere, or by Hermes' own limit: there is nothing to tell."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.remove_done_callback(self._decided)
            asking.cancel()

    async def _post(self, what: str, payload: Mapping[str, Any]) -> None:
        assert self._api is not None
        try:
            status = await self._api.post(f"/{self._run}/{what}", payload)
        except ProxyError as failure:
            log.warning("a run was not told: %s: %s", what, failure.for_log())
            return
        if status >= 400 and payload is _ONCE:
            log.warning("the approval came too late for the run (status %d)", status)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)
