"""The calls that clients run: how long they wait, for whom, and who may tell their end."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from lifecycle_proxy.core.events import DelegatedCall, Outcome, ToolCompleted, ToolRunning
from lifecycle_proxy.core.followup import TrailingCall, fingerprint, last_calls
from lifecycle_proxy.exchange.client_scope import Scope, maybe_scope, scope_of
from lifecycle_proxy.state.pending_calls import ConversationCalls, MemoryStore, Waiting
from multidict import CIMultiDict

from tests.core import told


def delegated(
    call_id: str = "a", choice: int = 0, started: float = 0.0, content: str = ""
) -> DelegatedCall:
    return DelegatedCall(
        ToolRunning(call_id, choice, "f", "label", "*", repeat=2), started, content
    )


class Kept:
    """A store, and what it told of those that nobody answered."""

    def __init__(self, ttl_s: float = 60.0, **more: Any) -> None:
        self.expired: list[ToolCompleted] = []
        self.store = MemoryStore(ttl_s, self.expired.append, **more)

    def put(self, *call_ids: str, scope: str = "s") -> None:
        for call_id in call_ids:
            self.store.put(scope, Waiting(delegated(call_id)))

    def conversation(self, *messages: Any, scope: str = "s") -> ConversationCalls:
        return ConversationCalls(self.store, Scope(scope, True), last_calls(list(messages)))

    def stranger(self, *messages: Any) -> ConversationCalls:
        """A request whose user nothing but a credential tells from others."""
        return ConversationCalls(self.store, Scope("s", False), last_calls(list(messages)))

    async def looked(self, scope: str, call_id: str) -> list[DelegatedCall]:
        found = (await self.store.look([scope]))[scope]
        return [one.call for one in found if one.call.announced.id == call_id]

    @property
    def told(self) -> list[str]:
        return [told(event) for event in self.expired]


def asked(*call_ids: str) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"id": call_id} for call_id in call_ids]}


def answer(call_id: str = "a", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "r", **more}


# --- the store ----------------------------------------------------------------------------------


async def test_a_call_waits_for_one_taker() -> None:
    kept = Kept()
    kept.put("a")
    assert await kept.looked("s", "a") == [delegated()]
    assert kept.store.maybe_take("s", "a", 0) == Waiting(delegated())
    assert kept.store.maybe_take("s", "a", 0) is None
    assert await kept.looked("s", "a") == []
    assert len(kept.store) == 0


async def test_calls_of_an_id_are_told_apart_by_choice_and_scope() -> None:
    kept = Kept()
    for choice in (1, 0):
        kept.store.put("s", Waiting(delegated(choice=choice)))
    kept.put("a", scope="t")
    assert {call.announced.choice for call in await kept.looked("s", "a")} == {0, 1}
    assert kept.store.maybe_take("s", "a", 1) is not None
    assert [call.announced.choice for call in await kept.looked("s", "a")] == [0]
    assert len(await kept.looked("t", "a")) == 1


async def test_a_call_expires_once() -> None:
    kept = Kept(ttl_s=10, clock=lambda: 100.0)
    kept.put("a", "b")
    kept.store.maybe_take("s", "b", 0)
    kept.store.sweep(109)
    assert kept.told == []
    kept.store.sweep(110)
    kept.store.sweep(199)
    assert kept.told == ["completed a f unknown:expired"]
    assert kept.expired[0].repeat == 2
    assert (len(kept.store), await kept.looked("s", "a")) == (0, [])


def test_only_what_has_waited_long_enough_expires() -> None:
    now = 0.0
    kept = Kept(ttl_s=10, clock=lambda: now)
    kept.put("a")
    now = 5.0
    kept.put("b")
    kept.store.sweep(12.0)
    assert kept.told == ["completed a f unknown:expired"]
    kept.store.sweep(15.0)
    assert len(kept.told) == 2


async def test_a_call_put_again_waits_anew_and_the_earlier_is_over() -> None:
    now = 0.0
    kept = Kept(ttl_s=10, clock=lambda: now)
    kept.put("a", "b")
    now = 5.0
    kept.store.put("s", Waiting(delegated("a", started=5.0)))
    assert kept.told == ["completed a f unknown:superseded"]
    kept.store.sweep(12.0)
    assert kept.told[1:] == ["completed b f unknown:expired"]
    assert [call.started for call in await kept.looked("s", "a")] == [5.0]


def test_above_the_cap_the_oldest_expire() -> None:
    kept = Kept(max_calls=2)
    kept.put("a", "b", "c", "d")
    assert kept.told == ["completed a f unknown:expired", "completed b f unknown:expired"]
    assert len(kept.store) == 2


def test_there_is_a_cap() -> None:
    kept = Kept()
    kept.put(*map(str, range(10_001)))
    assert (len(kept.store), len(kept.expired)) == (1_000, 9_001)
    for scope in range(11):
        kept.put(*map(str, range(1_000)), scope=f"t{scope}")
    assert len(kept.store) == 10_000


async def test_one_user_does_not_push_out_the_calls_of_another() -> None:
    kept = Kept(max_calls_of_scope=2)
    kept.put("a", scope="t")
    for content in ("x", "y", "z"):
        kept.stranger().put(delegated(content, content=content))
    assert kept.told == ["completed x f unknown:expired"]
    assert len(await kept.looked("t", "a")) == 1
    kept.put("b", "c", "d", scope="s")
    assert (len(kept.store), len(kept.told)) == (3, 4)


async def test_calls_expire_by_themselves() -> None:
    expired: asyncio.Queue[ToolCompleted] = asyncio.Queue()
    store = MemoryStore(0.02, expired.put_nowait)
    store.put("s", Waiting(delegated()))
    sweeping = asyncio.create_task(store.run())
    async with asyncio.timeout(5):
        assert told(await expired.get()) == "completed a f unknown:expired"
    sweeping.cancel()
    with suppress(asyncio.CancelledError):
        await sweeping


# --- a request and its stream ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ([asked("a"), answer()], "completed a f ok"),
        ([answer(), asked("a"), answer()], "completed a f ok"),
        ([{"role": "user"}, answer()], "completed a f ok"),
        ([answer(), {"role": "user"}], "completed a f ok"),
        ([asked("a"), asked("b"), answer("b"), answer()], "completed a f ok"),
        ([asked("a"), answer(status="error")], "completed a f failed"),
        ([asked("a"), answer(is_error=True)], "completed a f failed"),
        ([asked("a"), answer(), answer(status="error")], "completed a f ok"),
        ([asked("a")], "completed a f unknown:abandoned"),
        ([asked("a"), answer("b")], "completed a f unknown:abandoned"),
        ([asked("a"), {"role": "user", "content": "stop"}], "completed a f unknown:abandoned"),
    ],
)
async def test_the_next_request_tells_how_a_call_ended(messages: list[Any], line: str) -> None:
    kept = Kept()
    kept.put("a")
    (event,) = await kept.conversation(*messages).resume(1.5)
    assert told(event) == line
    assert (event.duration_ms, event.label, event.repeat) == (1500, "label", 2)
    assert await kept.conversation(*messages).resume(2.0) == []
    assert kept.expired == []


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [asked("b"), answer("b")],
        [{"role": "user", "content": "a"}],
        [asked("a"), answer(), {"role": "assistant", "content": "done"}],
        [asked("a"), answer(), {"role": "assistant", "content": "done"}, {"role": "user"}],
        [asked("a"), answer(), {"role": "user"}, asked("b"), answer("b")],
    ],
)
async def test_a_request_that_does_not_know_the_call_leaves_it(messages: list[Any]) -> None:
    kept = Kept()
    kept.put("a")
    assert await kept.conversation(*messages).resume(1.0) == []
    assert len(kept.store) == 1


async def test_ids_that_begin_anew_with_every_turn() -> None:
    kept = Kept()
    first = [asked("0"), answer("0")]
    kept.conversation(*first).put(delegated("0"))  # the second turn's
    assert await kept.conversation(*first).resume(1.0) == []  # asked once more
    assert (await kept.conversation(*first, asked("0")).resume(1.0))[0].reason == "abandoned"
    kept.conversation(*first).put(delegated("0"))
    (event,) = await kept.conversation(*first, *first).resume(1.0)
    assert event.outcome is Outcome.OK


def said(call_id: str, arguments: str = "{}", result: str | None = "r") -> list[dict[str, Any]]:
    """A call of a conversation, and mostly its result."""
    call = {"id": call_id, "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "tool_calls": [call]}
    return [message, *([] if result is None else [answer(call_id, content=result)])]


@pytest.mark.parametrize(
    ("now", "is_over"),
    [
        ([], False),
        (said("0"), False),  # asked once more
        (said("0") + said("0"), True),
        (said("0", '{"x":1}'), True),  # the earlier call was compacted away
        (said("0", result="other"), True),
        ([{"role": "user"}, answer("0", content="other")], True),
    ],
)
async def test_a_compacted_conversation(now: list[Any], is_over: bool) -> None:
    kept = Kept()
    kept.conversation({"role": "user"}, *said("0")).put(delegated("0"))
    told = await kept.conversation({"role": "user", "content": "summary"}, *now).resume(1.0)
    assert [event.outcome for event in told] == [Outcome.OK] * is_over


async def test_clients_that_rewrite_ids() -> None:
    kept = Kept()
    content = fingerprint("f", '{"b":2,"a":1}')
    kept.conversation().put(delegated("functions.f:0", content=content))
    other = said("functions_f_0", '{"a": 2}')
    assert await kept.conversation(*other).resume(1.0) == []
    mine = said("functions_f_0", '{"a": 1, "b": 2}')
    (event,) = await kept.conversation(*mine).resume(1.0)
    assert told(event) == "completed functions.f:0 f ok"
    kept.conversation(*mine).put(delegated("functions.f:1", content=content))
    assert await kept.conversation(*mine).resume(1.0) == []  # asked once more
    (event,) = await kept.conversation(*mine, *mine[:1]).resume(1.0)
    assert told(event) == "completed functions.f:1 f unknown:abandoned"
    assert len(kept.store) == 0


async def test_two_calls_alike_under_other_ids() -> None:
    kept = Kept()
    content = fingerprint("f", "{}")
    for number in range(2):
        kept.conversation().put(delegated(f"a{number}", started=float(number), content=content))
    calls = said("x") + said("y", result=None)
    assert [told(event) for event in await kept.conversation(*calls).resume(3.0)] == [
        "completed a0 f ok",
        "completed a1 f unknown:abandoned",
    ]


async def test_a_call_is_of_its_scope_only() -> None:
    kept = Kept()
    kept.put("a")
    assert await kept.conversation(asked("a"), answer(), scope="t").resume(1.0) == []
    assert kept.conversation(scope="t").maybe_take("a", 0) is None
    assert kept.conversation().maybe_take("a", 0) == delegated()


async def test_of_two_requests_with_the_same_result_one_tells_it() -> None:
    kept = Kept()
    kept.put("a")
    one, two = (kept.conversation(asked("a"), answer()) for _ in range(2))
    assert len(await one.resume(1.0)) + len(await two.resume(1.0)) == 1


class Raced(MemoryStore):
    """Somebody else takes each call between the look and the grasp."""

    async def look(self, scopes: Sequence[str]) -> dict[str, list[Waiting]]:
        found = await super().look(scopes)
        for scope, calls in found.items():
            await self.claim([(scope, waiting) for waiting in calls])
        return found


async def test_a_call_that_another_request_took_is_not_told() -> None:
    store = Raced(60.0, lambda _: None)
    store.put("s", Waiting(delegated()))
    seen = [TrailingCall("a", result="r")]
    assert await ConversationCalls(store, Scope("s", True), seen).resume(1.0) == []


async def test_all_choices_of_an_id_and_the_longest_first() -> None:
    kept = Kept()
    conversation = kept.conversation()
    for call in (delegated("b", started=1.0), delegated("a", 1, 3.0), delegated("a", 0, 2.0)):
        conversation.put(call)
    events = await kept.conversation(asked("a", "b"), answer("b"), answer("a")).resume(4.0)
    assert [told(event) for event in events] == [
        "completed b f ok",
        "completed a f ok",
        "completed a/1 f ok",
    ]


# --- where a credential may be shared -------------------------------------------------------------

CONTENT = fingerprint("f", '{"x": 1}')


async def test_a_guessed_id_tells_nothing() -> None:
    kept = Kept()
    kept.stranger().put(delegated("f:0", content=CONTENT))
    for guess in (
        [asked("f:0"), answer("f:0")],
        [answer("f:0")],
        said("f:0", '{"x": 2}'),
        [asked("f:0")],
    ):
        assert await kept.stranger(*guess).resume(1.0) == []
    assert kept.stranger().maybe_take("f:0", 0) is None
    (event,) = await kept.stranger(*said("f:0", '{"x":1}')).resume(1.0)
    assert told(event) == "completed f:0 f ok"
    assert await kept.stranger(*said("f:0", '{"x":1}')).resume(1.0) == []


async def test_the_same_id_of_two_users_is_two_calls() -> None:
    kept = Kept()
    other = fingerprint("f", '{"x": 2}')
    mine, theirs = kept.stranger(), kept.stranger()
    mine.put(delegated("f:0", content=CONTENT))
    theirs.put(delegated("f:0", content=other))
    assert kept.expired == []
    (event,) = await kept.stranger(*said("f:0", '{"x": 1}')).resume(1.0)
    assert told(event) == "completed f:0 f ok"
    assert theirs.maybe_take("f:0", 0) == delegated("f:0", content=other)
    assert mine.maybe_take("f:0", 0) is None


async def test_an_id_that_was_given_twice_ends_as_its_own_call_did() -> None:
    kept = Kept()
    kept.stranger().put(delegated("f:0", content=CONTENT))
    messages = said("f:0", '{"x": 1}', result=None) + said("f:0", '{"x": 2}')
    (event,) = await kept.stranger(*messages).resume(1.0)
    assert told(event) == "completed f:0 f unknown:abandoned"


async def test_rewritten_ids_are_known_by_what_is_called() -> None:
    kept = Kept()
    kept.stranger().put(delegated("f:0", content=CONTENT))
    assert await kept.stranger(*said("f_0", '{"x": 2}')).resume(1.0) == []
    (event,) = await kept.stranger(*said("f_0", '{"x": 1}')).resume(1.0)
    assert told(event) == "completed f:0 f ok"


# --- whose they are -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {}, True),
        ({"Authorization": "Bearer a"}, {"authorization": "Bearer a"}, True),
        ({"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}, False),
        ({"Authorization": "Bearer a"}, {}, False),
        ({"X-Api-Key": "a"}, {"Api-Key": "a"}, False),
        ({"X-Session-Id": "1"}, {"X-Session-Id": "2"}, False),
        ({"X-OpenWebUI-Chat-Id": "1"}, {"x-openwebui-chat-id": "1"}, True),
        ({"X-OpenWebUI-Chat-Id": "1"}, {"X-OpenWebUI-Chat-Id": "2"}, False),
        ({"X-Request-Id": "1"}, {"X-Request-Id": "2"}, True),
        ({"User-Agent": "a"}, {"User-Agent": "b"}, True),
    ],
)
def test_calls_belong_to_a_credential_and_a_session(
    one: dict[str, str], other: dict[str, str], same: bool
) -> None:
    assert (scope_of(CIMultiDict(one)) == scope_of(CIMultiDict(other))) is same


@pytest.mark.parametrize(
    ("headers", "known"),
    [
        ({}, None),
        ({"Cookie": "session=1", "X-Forwarded-For": "10.0.0.1", "X-Request-Id": "1"}, None),
        ({"Authorization": " "}, None),
        ({"Authorization": "Bearer a"}, False),
        ({"X-Api-Key": "a"}, False),
        ({"Api-Key": "a"}, False),
        ({"X-Goog-Api-Key": "a"}, False),
        ({"X-Session-Id": "1"}, True),
        ({"Authorization": "Bearer a", "X-OpenWebUI-Chat-Id": "1"}, True),
    ],
)
def test_who_is_told_apart(headers: dict[str, str], known: bool | None) -> None:
    scope = maybe_scope(CIMultiDict(headers))
    assert (None if scope is None else scope.has_session) is known
    if scope is not None:
        assert scope.key == scope_of(CIMultiDict(headers))


def test_a_scope_holds_no_key() -> None:
    assert "sk-secret" not in scope_of({"Authorization": "sk-secret\udcff"})
