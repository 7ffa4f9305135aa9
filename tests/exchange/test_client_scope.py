"""Whose streams a request may read."""

from lifecycle_proxy.exchange.client_scope import ANONYMOUS, owner_of
from multidict import CIMultiDict


def owner(*headers: tuple[str, str]) -> str:
    return owner_of(CIMultiDict(headers))


def test_a_key_is_the_same_in_whatever_header_it_comes() -> None:
    same = {
        owner(("authorization", "bearer  k")),
        owner(("X-Api-Key", "k")),
        owner(("Authorization", "Bearer k"), ("x-api-key", "k")),
        owner(("api-key", "k")),
    }
    assert len(same) == 1
    assert "k" not in same


def test_other_keys_are_other_owners() -> None:
    others = {
        ANONYMOUS,
        owner(("Authorization", "Bearer k")),
        owner(("Authorization", "Bearer l")),
        owner(("Authorization", "Basic k")),
        owner(("Authorization", "k")),
        owner(("Authorization", "Bearer k"), ("X-Api-Key", "l")),
    }
    assert len(others) == 5  # a bare key is the same as a bearer token's


def test_sessions_and_empty_keys_make_no_owner() -> None:
    assert owner(("Authorization", "Bearer "), ("X-Session-Id", "s")) == ANONYMOUS
