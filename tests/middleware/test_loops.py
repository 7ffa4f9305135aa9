"""A request that comes back to the proxy that sent it."""

import pytest
from lifecycle_proxy.exchange.hops import HEADER

from tests.conftest import StartProxy
from tests.fakes import CHAT, JSON, Answer, Client, Request, Upstream, Wire, ask

pytestmark = pytest.mark.usefixtures("quiet")


def assert_loop(answer: Answer) -> None:
    error = answer.json()["error"]
    assert (answer.status, error["type"], error["code"]) == (508, "proxy_error", "loop_detected")
    assert "upstream.url" in error["message"]


@pytest.mark.parametrize("others", [0, 1, 3])
@pytest.mark.parametrize(
    ("method", "target"), [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/-/as/off/x")]
)
async def test_a_request_that_comes_round_is_refused(
    upstream: Upstream, start_proxy: StartProxy, others: int, method: str, target: str
) -> None:
    """Whatever stands in between: here a scripted server, and more proxies."""
    urls = [await start_proxy()]
    for _ in range(others):
        urls.append(await start_proxy({"upstream.url": f"{urls[-1]}/v1"}))

    async def round_again(request: Request, wire: Wire) -> None:
        hops = request.headers[HEADER]
        async with Client(urls[-1]) as client:
            await client.send(request.method, request.target, JSON, f"{HEADER}: {hops}", body=b"{}")
            answer = await (await client.head()).read()
        await wire.answer(answer.body, f"{answer.status} {answer.reason}", JSON)

    upstream.script = round_again
    assert_loop(await ask(urls[-1], method, target, JSON, body=b"{}"))
    assert len(upstream.requests) == 1


async def test_many_hops_are_a_loop(upstream: Upstream, proxy: str) -> None:
    hops = ", ".join(str(number) for number in range(16))
    assert_loop(await ask(proxy, "GET", "/v1/models", f"{HEADER}: {hops}"))
    assert (await ask(proxy, "GET", "/v1/models", f"{HEADER}: {hops[4:]}")).status == 200
    assert (await ask(proxy, "GET", "/-/healthy", f"{HEADER}: {hops}")).status == 200
    assert len(upstream.requests) == 1


async def test_clients_are_not_told_of_hops(upstream: Upstream, proxy: str) -> None:
    answer = await ask(proxy, "GET", "/v1/models")
    assert HEADER not in answer.headers
    assert len(upstream.request.headers.getall(HEADER)) == 1
