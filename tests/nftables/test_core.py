"""Items, what changed in them, and reading them back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.nftables.core.listing import UNKNOWN, Unreadable, installed
from raykube.nftables.core.objects import CHAIN, CONTAINER, Chain, Items
from raykube.nftables.core.ruleset import Ruleset, difference
from raykube.nftables.core.text import removal, replacement, transaction
from tests.nftables.tables import holdings
from tests.nftables.twin import applied

FRONTEND = ["ipv4_addr", "inet_proto", "inet_service"]
BASE: Items = {
    (CONTAINER, "services"): "map type ipv4_addr . inet_proto . inet_service : verdict;",
    (CONTAINER, "node-ips"): "set type ipv4_addr;",
    (CHAIN, "nat-output"): Chain(("jump services",), "nat hook output priority -100"),
}


@given(st.lists(holdings, max_size=12), st.integers(1, 3))
def test_deltas_add_up_to_what_all_hold(history: list[tuple[int, Items]], batch: int) -> None:
    ruleset, kernel = Ruleset(), dict[Any, Any]()
    held: dict[object, Items] = {}
    for at, (holder, items) in enumerate(history, 1):
        ruleset.replace({holder: items})
        held[holder] = items
        if at % batch == 0 or at == len(history):
            kernel = applied(kernel, ruleset.take())
            assert kernel == ruleset.items == {item: value for each in held.values() for item, value in each.items()}
            assert ruleset.take() == {}


def test_only_what_differs_is_in_a_transaction() -> None:
    old: Items = {
        (CHAIN, "c"): Chain(("ip saddr @s accept",)),
        (CONTAINER, "s"): "set type ipv4_addr;",
        ("s", "10.0.0.1"): "",
    }
    new = old | {("s", "10.0.0.2"): ""}
    assert transaction("inet t", difference(old, new)) == "add table inet t\nadd element inet t s { 10.0.0.2 }\n"
    assert transaction("inet t", difference(new, new)) == ""
    assert replacement("inet t", {}) == removal("inet t") == "add table inet t\ndelete table inet t\n"


def test_a_listing_is_read_back() -> None:
    endpoint_0 = [{"concat": ["10.96.0.1", "tcp", 80]}, {"concat": ["10.1.0.1", 8080]}]
    service_0 = [{"concat": ["10.96.0.1", 17, 80]}, {"goto": {"target": "cluster-1"}}]
    clients = {"name": "clients-x", "type": "ipv4_addr", "size": 65536, "flags": ["timeout"]}
    listing = {
        "nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "ip", "name": "t"}},
            {"map": {"name": "endpoints-0", "type": FRONTEND, "map": "ipv4_addr . inet_service", "elem": [endpoint_0]}},
            {"map": {"name": "services", "type": FRONTEND, "map": "verdict", "elem": [service_0]}},
            {"set": {"name": "node-ips", "type": "ipv4_addr", "elem": ["192.0.2.1"]}},
            {"set": clients | {"elem": [{"elem": {"val": "1.2.3.4"}}]}},
            {"set": {"name": "stranger", "type": "ipv4_addr", "elem": ["192.0.2.1"]}},
            {"chain": {"name": "cluster-1"}},
            {"chain": {"name": "nat-output", "type": "nat", "hook": "output", "prio": -100}},
            {"rule": {"chain": "cluster-1"}},
        ]
    }
    found = installed(listing, BASE)
    assert found["endpoints-0", "10.96.0.1 . 6 . 80"] == "10.1.0.1 . 8080"
    assert found["services", "10.96.0.1 . 17 . 80"] == "goto cluster-1"
    assert found["node-ips", "192.0.2.1"] == ""
    assert found[CONTAINER, "clients-x"] == "set type ipv4_addr; flags dynamic,timeout; size 65536;"
    assert found[CHAIN, "cluster-1"] == found[CHAIN, "nat-output"] == UNKNOWN
    text = transaction("ip t", difference(found, BASE))
    assert "delete set ip t stranger" in text
    assert "delete map ip t endpoints-0" in text
    assert "delete element ip t services { 10.96.0.1 . 17 . 80 }" in text
    assert "flush chain ip t nat-output" in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"chain": {"name": "nat-output", "type": "nat", "hook": "output", "prio": 0}},
        {"set": {"name": "services", "type": FRONTEND}},
        {"map": {"name": "services", "type": FRONTEND, "map": "verdict", "elem": [["x", {"drop": None}]]}},
        {"map": {"name": "services"}},
        {"map": []},
    ],
)
def test_a_listing_of_anything_else_is_not_taken_for_ours(wrong: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        installed({"nftables": [wrong]}, BASE)
