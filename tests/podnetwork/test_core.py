"""The pure parts: which routes follow from which Nodes, and what the files and tables say."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.nftables.core.text import replacement
from raykube.podnetwork.core.conflist import conflist
from raykube.podnetwork.core.endpoints import endpoint_of
from raykube.podnetwork.core.masquerade import masquerading
from raykube.podnetwork.core.policies import Policies
from raykube.podnetwork.core.policy import parse
from raykube.podnetwork.core.routes import Backend, Peer, Route, differing, peer_of, tunnel_mac, wanted
from tests.podnetwork.world import node, pod, policy

OWN = Peer("m1", ("192.0.2.11",), ("10.244.1.0/24",))
NEAR = Peer("m2", ("192.0.2.12",), ("10.244.2.0/24",))
FAR = Peer("m3", ("198.51.100.13",), ("10.244.3.0/24",))
CLUSTER = ["10.244.0.0/16", "fd00::/8"]
SEGMENTS = ["192.0.2.11/24", "10.244.1.1/24"]


def test_a_near_machine_gets_a_route_and_a_far_one_a_tunnel() -> None:
    found = wanted(OWN, [OWN, NEAR, FAR], SEGMENTS, "auto", CLUSTER)
    assert found.routes == {
        "10.244.2.0/24": Route("10.244.2.0/24", "192.0.2.12", tunnelled=False),
        "10.244.3.0/24": Route("10.244.3.0/24", "10.244.3.0", tunnelled=True),
    }
    mac = tunnel_mac("10.244.3.0/24")
    assert found.neighbours == {"10.244.3.0": mac}
    assert found.forwarding == {mac: "198.51.100.13"}


@pytest.mark.parametrize(("backend", "tunnelled"), [("direct", [False, False]), ("vxlan", [True, True])])
def test_the_operator_decides(backend: Backend, tunnelled: list[bool]) -> None:
    found = wanted(OWN, [NEAR, FAR], SEGMENTS, backend, CLUSTER)
    assert [route.tunnelled for route in found.routes.values()] == tunnelled


def test_two_stacks() -> None:
    own = Peer("m1", ("192.0.2.11", "2001:db8::11"), ("10.244.1.0/24", "fd00:1::/64"))
    near = Peer("m2", ("192.0.2.12", "2001:db8::12"), ("10.244.2.0/24", "fd00:2::/64"))
    found = wanted(own, [near], ["192.0.2.11/24", "2001:db8::11/64"], "auto", CLUSTER)
    assert found.routes["fd00:2::/64"] == Route("fd00:2::/64", "2001:db8::12", tunnelled=False)
    tunnelled = wanted(own, [near], [], "auto", CLUSTER)
    assert tunnelled.routes["fd00:2::/64"].tunnelled
    assert set(tunnelled.forwarding.values()) == {"192.0.2.12"}  # one tunnel, over IPv4, carries both


def test_a_cidr_belongs_to_one_machine() -> None:
    thief = Peer("m9", ("192.0.2.19",), ("10.244.1.0/24", "10.244.2.0/24", "10.244.9.0/24"))
    found = wanted(OWN, [thief, NEAR], SEGMENTS, "auto", CLUSTER)
    assert {cidr: route.via for cidr, route in found.routes.items()} == {
        "10.244.2.0/24": "192.0.2.12",
        "10.244.9.0/24": "192.0.2.19",
    }


def test_a_machine_gets_no_more_than_the_cluster_has() -> None:
    greedy = Peer("a", ("192.0.2.9",), ("0.0.0.0/0", "203.0.113.0/24", "10.244.0.0/23"))  # the last holds our own
    assert wanted(OWN, [greedy, NEAR], SEGMENTS, "auto", CLUSTER).routes.keys() == {"10.244.2.0/24"}


def test_what_cannot_be_read_of_a_node_is_left_out() -> None:
    odd: dict[str, Any] = node("m2", "not an address", "nor a range", "10.244.2.0/24")
    assert peer_of(odd) == Peer("m2", (), ("10.244.2.0/24",))
    assert peer_of({"metadata": {"name": "new"}}) == Peer("new", (), ())
    assert wanted(OWN, [peer_of(odd)], SEGMENTS, "auto", CLUSTER).routes == {}


@given(st.dictionaries(st.text(max_size=3), st.integers()), st.dictionaries(st.text(max_size=3), st.integers()))
def test_differences_make_one_of_the_other(target: dict[str, int], installed: dict[str, int]) -> None:
    to_set, to_remove = differing(target, installed)
    result = {key: value for key, value in installed.items() if key not in to_remove}
    assert result | {key: target[key] for key in to_set} == target
    assert not set(to_set) & set(to_remove)


def test_the_cni_file_names_only_plug_ins_that_are_there() -> None:
    document = json.loads(
        conflist(["10.244.1.0/24"], "bridge", bridge="b0", mtu=1450, available={"portmap"}, data_dir="/d")
    )
    attach, portmap = document["plugins"]
    assert (attach["type"], attach["bridge"], attach["mtu"], attach["hairpinMode"]) == ("bridge", "b0", 1450, True)
    assert attach["ipam"]["dataDir"] == "/d"
    assert attach["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}]]
    assert portmap == {"type": "portmap", "capabilities": {"portMappings": True}}
    both = json.loads(
        conflist(["10.244.1.0/24", "fd00::/64"], "ptp", bridge="b0", mtu=9000, available=(), data_dir="/d")
    )
    assert [route["dst"] for route in both["plugins"][0]["ipam"]["routes"]] == ["0.0.0.0/0", "::/0"]
    assert "bridge" not in both["plugins"][0]


def test_only_what_leaves_the_cluster_is_masqueraded() -> None:
    script = replacement("inet t", masquerading(["10.244.1.0/24", "fd00:1::/64"], ["10.244.0.0/16", "fd00::/16"]))
    assert "ip saddr 10.244.1.0/24 ip daddr != { 10.244.0.0/16, 224.0.0.0/4 } masquerade" in script
    assert "ip6 saddr fd00:1::/64 ip6 daddr != { fd00::/16, ff00::/8 } masquerade" in script


def test_pods_without_addresses_of_their_own_are_no_end_points() -> None:
    made = pod("a", "m1", "10.244.1.2", ports={"http": 80}, app="web")
    found = endpoint_of(made)
    assert found is not None
    assert (found.addresses, found.ports) == (("10.244.1.2",), (("http", "tcp", 80),))
    assert endpoint_of(made | {"status": {"phase": "Succeeded", "podIP": "10.244.1.2"}}) is None
    assert endpoint_of(made | {"spec": {"hostNetwork": True, "containers": []}}) is None
    assert endpoint_of(pod("a", "m1", "")) is None


def test_policy_types_by_default() -> None:
    assert parse(policy()).directions == {"ingress"}
    assert parse(policy(egress=[{}])).directions == {"ingress", "egress"}
    assert parse(policy(policyTypes=["Egress"], ingress=[{}])).allowances == ()


def test_a_rule_that_cannot_be_read_allows_nothing_and_isolates() -> None:
    found = parse(policy(ingress=[{"ports": [{"port": 90, "endPort": 80}]}, {"ports": [{"port": 80}]}]))
    assert (len(found.allowances), len(found.flaws), found.directions) == (1, 1, {"ingress"})
    assert parse(policy(ingress=[{"from": [{"ipBlock": {"cidr": "fd00::%x\n/64"}}]}])).allowances == ()


def test_one_pod_more_is_one_element_more() -> None:
    state = Policies("m1")
    state.set_policy(("default", "web"), parse(policy("web", ingress=[{"from": [{"podSelector": {}}]}])))
    for number in (1, 2):
        state.set_pod(("default", f"p{number}"), endpoint_of(pod(f"p{number}", "m2", f"10.0.0.{number}")))
    state.take()
    state.set_pod(("default", "p3"), endpoint_of(pod("p3", "m2", "10.0.0.3")))
    (((_, element), change),) = state.take().items()
    assert (element, change) == ("10.0.0.3", (None, ""))
    assert not state.take()
