"""Which upstream made an id: per credential, and bounded."""

from lifecycle_proxy.state.made_ids import MadeIds


def test_an_id_belongs_to_its_credential() -> None:
    ids = MadeIds()
    ids.add("t", "resp_1", "a")
    ids.add("t", "resp_1", "b")
    assert (ids.maybe("t", "resp_1"), ids.maybe("u", "resp_1"), len(ids)) == ("b", "", 1)


def test_the_memory_is_bounded_for_each_and_for_all() -> None:
    ids = MadeIds(per_tenant=3, in_all=5)
    for number in range(5):
        ids.add("t", f"{number}", "a")
    assert [ids.maybe("t", f"{number}") for number in range(5)] == ["", "", "a", "a", "a"]
    for number in range(3):
        ids.add("u", f"{number}", "a")
    assert len(ids) == 5
    assert [ids.maybe("t", f"{number}") for number in range(5)] == ["", "", "", "a", "a"]
    for tenant in ("v", "w"):
        for number in range(3):
            ids.add(tenant, f"{number}", "a")
    assert len(ids) == 5
    assert ids.maybe("t", "4") == ""


def test_an_id_of_no_usual_length_is_not_kept() -> None:
    ids = MadeIds()
    ids.add("t", "", "a")
    ids.add("t", "x" * 513, "a")
    assert len(ids) == 0
