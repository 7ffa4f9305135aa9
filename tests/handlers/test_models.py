"""``/v1/models`` of several upstreams."""

import asyncio
import json
from typing import Any

import pytest
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.upstream.listing import parsed

from tests.backends import Backend, backends, complete, several
from tests.conftest import StartProxy
from tests.fakes import JSON, Request, Wire, ask

pytestmark = pytest.mark.usefixtures("quiet")


async def listed(url: str, *lines: str, target: str = "/v1/models") -> list[str]:
    answer = await ask(url, "GET", target, *lines)
    assert answer.status == 200
    return [entry["id"] for entry in answer.json()["data"]]


async def test_the_lists_are_one_in_order_and_names_come_last(start_proxy: StartProxy) -> None:
    async with backends(a=["x", "both"], b=["both", "gpt-5", "other"]) as (one, two):
        models = {"fast": "a/x", "gpt-5": "b/gpt-5"}
        own = several(one.table(), two.table(models=["gpt-*", "both"]), models=models)
        url = await start_proxy(own)
        answer = await ask(url, "GET", "/v1/models")
        data = answer.json()["data"]
        assert [entry["id"] for entry in data] == ["x", "both", "gpt-5", "fast"]
        assert data[0] == {"id": "x", "object": "model", "by": "a"}  # as it came
        assert data[1]["by"] == "a"
        assert (data[2]["by"], data[3]["owned_by"]) == ("b", "lifecycle-proxy")
        assert await listed(url, target="/models") == ["x", "both", "gpt-5", "fast"]
        assert len(one.requests) == len(two.requests) == 1  # kept


async def test_one_entry(start_proxy: StartProxy) -> None:
    async with backends(a=["org/x"], b=[]) as (one, two):
        url = await start_proxy(several(one.table(), two.table(), models={"fast": "a/x"}))
        for name in ("org/x", "org%2Fx", "fast"):
            answer = await ask(url, "GET", f"/v1/models/{name}")
            assert answer.json()["id"] == name.replace("%2F", "/")
        answer = await ask(url, "GET", "/v1/models/org/y")
        assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_named_upstream_answers_itself(start_proxy: StartProxy) -> None:
    async with backends(a=["x"], b=["y"]) as (one, two):
        url = await start_proxy(several(one.table(), two.table(), models={"fast": "a/x"}))
        assert await listed(url, target="/-/to/b/v1/models") == ["y"]
        assert await listed(url, "X-Lifecycle-Upstream: b") == ["y"]
        assert await listed(url) == ["x", "y", "fast"]


async def test_a_list_is_shown_while_its_upstream_is_away(start_proxy: StartProxy) -> None:
    async with backends(a=["x"], b=["y"]) as (one, two):
        url = await start_proxy(several(one.table(), two.table()))
        assert await listed(url) == ["x", "y"]
        await two.stop()
        assert await listed(url) == ["x", "y"]


async def test_an_upstream_that_never_listed_is_no_404(start_proxy: StartProxy) -> None:
    async with backends(a=["x"], b=[]) as (one, two):
        await two.stop()
        url = await start_proxy(several(one.table(), two.table()))
        assert await listed(url) == ["x"]
        error = (await complete(url, "z")).json()["error"]
        assert error["code"] == "upstream_unreachable"
        assert "the list of b could not be read" in error["message"]
        assert (await complete(url, "x")).status == 200


async def test_lists_by_a_clients_key_are_seen_by_that_client_only(
    start_proxy: StartProxy,
) -> None:
    class Own(Backend):
        async def _serve_all(self, request: Request, wire: Wire) -> None:
            name = request.headers.get("Authorization", "none").removeprefix("Bearer ")
            body = {"data": [{"id": f"of-{name}"}]}
            await wire.answer(json.dumps(body).encode(), "200 OK", JSON)

    one = Own("a")
    await one.start()
    url = await start_proxy(several(one.table(client_key="pass")))
    assert await listed(url, "Authorization: Bearer u1") == ["of-u1"]
    assert await listed(url, "Authorization: Bearer u2") == ["of-u2"]
    assert await listed(url) == ["of-none"]
    answer = await complete(url, "of-u1", "Authorization: Bearer u2")
    assert answer.status == 404
    assert "of-u2" in answer.json()["error"]["message"]
    assert "there are: of-u1" not in answer.json()["error"]["message"]
    answer = await ask(url, "GET", "/-/upstreams")
    assert b"of-u1" not in answer.body
    await one.stop()


async def test_many_clients_with_keys_of_their_own_ask_at_the_same_time(
    start_proxy: StartProxy,
) -> None:
    async with backends(a=["x"]) as (one,):
        url = await start_proxy(several(one.table(client_key="pass")))
        asked = [complete(url, "x", f"Authorization: Bearer {number}") for number in range(100)]
        assert {answer.status for answer in await asyncio.gather(*asked)} == {200}


async def test_no_upstream_gets_a_key_of_the_proxy_s(start_proxy: StartProxy) -> None:
    async with backends(a=["x"], b=["y"]) as (one, two):
        tables = one.table(client_key="pass"), two.table()
        url = await start_proxy({**several(*tables), "server.api_keys": ["ours-secret-1"]})
        own = "Authorization: Bearer ours-secret-1"
        assert await listed(url, own) == await listed(url, own, "X-Api-Key: theirs") == ["x", "y"]
        assert (await ask(url, "GET", "/v1/models/x", own)).status == 200
        assert [b"ours-secret" in one.raw for one in one.requests + two.requests] == [False] * 3
        assert b"theirs" in one.requests[-1].raw


NONSENSE: list[Any] = [
    b"",
    b"nonsense",
    b"[]",
    b'{"data":5}',
    b'{"data":[1,null,{},{"id":5},{"id":""}]}',
    b'{"object":"list","data":[]}',
    b'{"data":[%b]}' % b",".join([b"[]"] * 400_000),
    b'{"data":%b}' % (b"[" * 100_000),
    b'{"data":["%b"]}' % (b"x" * (9 << 20)),
]


@pytest.mark.parametrize("body", NONSENSE, ids=lambda body: f"{len(body)}")
async def test_nonsense_is_no_list_and_harms_no_other(start_proxy: StartProxy, body: bytes) -> None:
    async def script(request: Request, wire: Wire) -> None:
        await wire.answer(body, "200 OK", JSON)

    async with backends(a=[], b=["y"]) as (one, two):
        one.script = script
        url = await start_proxy(several(one.table(), two.table()))
        assert await listed(url) == ["y"]
        assert (await complete(url, "y")).status == 200


async def test_a_list_that_does_not_come_is_not_waited_for_long(start_proxy: StartProxy) -> None:
    async def silence(request: Request, wire: Wire) -> None:
        await wire.gone.wait()

    async with backends(a=[], b=["y"]) as (one, two):
        one.script = silence
        url = await start_proxy(several(one.table(), two.table()))
        assert await listed(url) == ["y"]


async def test_ten_thousand_models(start_proxy: StartProxy) -> None:
    names = [f"model-{number}" for number in range(12_000)]
    async with backends(a=names, b=[]) as (one, two):
        url = await start_proxy(several(one.table(), two.table(models=["gpt-*"])))
        assert await listed(url) == names[:10_000]
        assert (await complete(url, "model-9999")).status == 200
        error = (await complete(url, "model-999x")).json()["error"]
        assert error["message"].endswith(" and 9980 more")
        assert len(error["message"]) < 1000


def test_long_names_and_repeated_ones_are_left_out() -> None:
    entries = [{"id": "a", "n": 1}, {"id": "x" * 257}, {"id": "a", "n": 2}]
    found = parsed(json.dumps({"data": entries}).encode())
    assert list(found.entries) == ["a"]
    assert json.loads(found.entries["a"])["n"] == 1
    with pytest.raises(ProxyError):
        parsed(b"{}")
