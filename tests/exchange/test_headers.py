"""Which headers cross the proxy, as pure functions."""

from collections.abc import Callable, Mapping

import pytest
from lifecycle_proxy.exchange import headers
from multidict import CIMultiDict

Cross = Callable[[Mapping[str, str]], CIMultiDict[str]]

HOP_BY_HOP = [
    "Connection",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
]


@pytest.mark.parametrize("name", [*HOP_BY_HOP, "Host", "Content-Length", "Expect"])
def test_requests_lose_what_is_for_this_hop(name: str) -> None:
    for spelled in (name, name.lower(), name.upper()):
        assert not headers.for_upstream(CIMultiDict({spelled: "x"}))


@pytest.mark.parametrize(
    "name", ["X-Lifecycle-Events", "x-lifecycle-anything", "X-Event-Stream-Id"]
)
def test_requests_lose_what_is_for_the_proxy(name: str) -> None:
    assert not headers.for_upstream(CIMultiDict({name: "x"}))


@pytest.mark.parametrize("name", HOP_BY_HOP)
def test_answers_lose_what_is_for_this_hop(name: str) -> None:
    assert not headers.for_client(CIMultiDict({name: "x"}))


@pytest.mark.parametrize("name", ["Content-Length", "Date", "Server", "Content-Encoding"])
def test_answers_keep_what_describes_them(name: str) -> None:
    assert headers.for_client(CIMultiDict({name: "x"})) == {name: "x"}


@pytest.mark.parametrize("cross", [headers.for_upstream, headers.for_client])
def test_names_listed_in_connection_are_dropped(cross: Cross) -> None:
    listed = [("Connection", "close, X-One ,x-two"), ("connection", "X-Three")]
    pairs = [("X-ONE", "1"), ("X-Two", "2"), ("X-Three", "3"), ("X-Four", "4")]
    assert list(cross(CIMultiDict(listed + pairs)).items()) == [("X-Four", "4")]


@pytest.mark.parametrize("cross", [headers.for_upstream, headers.for_client])
def test_duplicates_order_and_spelling_are_kept(cross: Cross) -> None:
    pairs = [("X-b", "1"), ("Set-Cookie", "a"), ("x-A", ""), ("set-cookie", "b"), ("X-b", "2")]
    assert list(cross(CIMultiDict(pairs)).items()) == pairs
