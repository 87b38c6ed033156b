"""The rules: upstream's cases one by one, and the incremental table against compiling everything again."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.kubeproxy.core.conntrack import StaleFlows, gone_while_away
from raykube.kubeproxy.core.rules import (
    CLUSTER_IP,
    Endpoint,
    Frontend,
    NodeFacts,
    Rule,
    compile_service,
    service_of_slice,
)
from raykube.kubeproxy.core.table import Table
from raykube.nftables.core.objects import Delta
from tests.kubeproxy.objects import endpoint, endpoint_slice, service

NODE = "m1"


def compiled(
    svc: dict[str, Any], *slices: dict[str, Any], addresses: tuple[str, ...] = ("10.0.0.1",)
) -> dict[str, Any]:
    """Endpoints as text by frontend as text."""
    rules = compile_service(svc, slices, NodeFacts(NODE, addresses=addresses))
    return {str(f): [f"{e.address}:{e.port}" for e in rule.endpoints] for f, rule in rules.items()}


def test_cluster_ip() -> None:
    slices = (
        endpoint_slice(endpoint("10.1.0.2"), endpoint("10.1.0.1", "m2")),
        endpoint_slice(endpoint("10.1.0.2"), name="b"),
    )
    assert compiled(service(ip="10.96.0.9"), *slices) == {"10.96.0.9:80/TCP": ["10.1.0.1:8080", "10.1.0.2:8080"]}


@pytest.mark.parametrize(
    "spec",
    [
        {"clusterIP": "None", "clusterIPs": ["None"]},
        {"type": "ExternalName", "externalName": "x"},
        {"clusterIP": "", "clusterIPs": []},
    ],
)
def test_no_address_no_rule(spec: dict[str, Any]) -> None:
    assert compiled(service(**spec), endpoint_slice(endpoint("10.1.0.1"))) == {}


def test_node_ports_and_external_addresses() -> None:
    svc = service(
        ip="10.96.0.9",
        type="LoadBalancer",
        ports=[{"port": 80, "nodePort": 30080, "protocol": "TCP"}],
        externalIPs=["192.0.2.7"],
    )
    svc["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}, {"ip": "192.0.2.9", "ipMode": "Proxy"}]}}
    found = compiled(svc, endpoint_slice(endpoint("10.1.0.1")), addresses=("10.0.0.1", "127.0.0.1"))
    assert sorted(found) == [
        "10.0.0.1:30080/TCP", "10.96.0.9:80/TCP", "127.0.0.1:30080/TCP", "192.0.2.7:80/TCP", "192.0.2.8:80/TCP",
    ]  # fmt: skip


def test_ports_are_matched_by_name_and_protocol() -> None:
    svc = service(
        ip="10.96.0.9",
        ports=[
            {"name": "http", "port": 80, "protocol": "TCP"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "sctp", "port": 9, "protocol": "SCTP"},
        ],
    )
    tcp = endpoint_slice(endpoint("10.1.0.1"), port={"http": 8080, "dns": 1, "other": 2})
    udp = endpoint_slice(endpoint("10.1.0.2"), port={"dns": 5353}, protocol="UDP", name="udp")
    assert compiled(svc, tcp, udp) == {
        "10.96.0.9:80/TCP": ["10.1.0.1:8080"],
        "10.96.0.9:53/UDP": ["10.1.0.2:5353"],
        "10.96.0.9:9/SCTP": [],
    }


def test_only_ready_endpoints_then_those_that_serve_while_they_go() -> None:
    svc = service(ip="10.96.0.9")
    unknown = {"addresses": ["10.1.0.4"], "nodeName": "m1"}
    unready = endpoint("10.1.0.2", ready=False)
    going = endpoint("10.1.0.3", ready=False, serving=True, terminating=True)
    gone = endpoint("10.1.0.5", ready=False, serving=False, terminating=True)

    def served(*endpoints: dict[str, Any]) -> list[str]:
        return compiled(svc, endpoint_slice(*endpoints))["10.96.0.9:80/TCP"]

    assert served(endpoint("10.1.0.1"), unready, going, gone) == ["10.1.0.1:8080"]
    assert served(unready, going, gone) == ["10.1.0.3:8080"]
    assert served(unready, gone) == []
    assert served(unknown, going) == ["10.1.0.4:8080"]


def test_traffic_policies_keep_traffic_on_the_node() -> None:
    slices = endpoint_slice(endpoint("10.1.0.1", "m1"), endpoint("10.1.0.2", "m2"))
    ports = [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]
    both, one = ["10.1.0.1:8080", "10.1.0.2:8080"], ["10.1.0.1:8080"]
    outside = compiled(service(ip="10.96.0.9", type="NodePort", ports=ports, externalTrafficPolicy="Local"), slices)
    assert outside == {"10.96.0.9:80/TCP": both, "10.0.0.1:30080/TCP": one}
    inside = compiled(service(ip="10.96.0.9", type="NodePort", ports=ports, internalTrafficPolicy="Local"), slices)
    assert inside == {"10.96.0.9:80/TCP": one, "10.0.0.1:30080/TCP": both}


def test_families_do_not_mix() -> None:
    svc = service(ip="10.96.0.9", clusterIPs=["10.96.0.9", "fd00::9"])
    v4 = endpoint_slice(endpoint("10.1.0.1"))
    v6 = endpoint_slice(endpoint("fd00::1"), family="IPv6", name="six")
    fqdn = endpoint_slice(endpoint("host.example"), family="FQDN", name="name")
    assert compiled(svc, v4, v6, fqdn) == {"10.96.0.9:80/TCP": ["10.1.0.1:8080"], "[fd00::9]:80/TCP": ["fd00::1:8080"]}


def test_affinity() -> None:
    def affinity(**spec: Any) -> int:
        (rule,) = compile_service(service(**spec), [endpoint_slice(endpoint("10.1.0.1"))], NodeFacts(NODE)).values()
        return rule.affinity_s

    assert affinity() == affinity(sessionAffinity="None") == 0
    assert affinity(sessionAffinity="ClientIP") == 10800
    assert affinity(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 5}}) == 5


def key(obj: dict[str, Any]) -> tuple[str, str]:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def test_a_cluster_ip_cannot_be_taken_by_an_external_one() -> None:
    table = Table(NODE)
    thief = service("thief", "127.1.0.2", externalIPs=["127.1.0.1"])
    thief["metadata"]["creationTimestamp"] = "2000-01-01T00:00:00Z"
    table.set_service(key(thief), thief)
    table.set_slice(("n", "t"), endpoint_slice(endpoint("10.6.6.6"), service="thief", name="t"))
    assert Frontend("127.1.0.1", 80, "TCP") in table.sync().set
    web = service("web", "127.1.0.1")
    web["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z"
    table.set_service(key(web), web)
    assert table.sync().set[Frontend("127.1.0.1", 80, "TCP")].endpoints == ()
    table.set_slice(("n", "w"), endpoint_slice(endpoint("10.1.0.1"), name="w"))
    change = table.sync()
    assert change.set[Frontend("127.1.0.1", 80, "TCP")].service == ("n", "web")
    table.set_service(("n", "web"), None)
    assert table.sync().set[Frontend("127.1.0.1", 80, "TCP")].service == ("n", "thief")


def test_what_does_not_concern_traffic_changes_nothing() -> None:
    table = Table(NODE)
    table.set_service(("n", "web"), service())
    table.set_slice(("n", "s"), endpoint_slice(endpoint("10.1.0.1")))
    assert table.sync()
    relabelled = service()
    relabelled["metadata"]["labels"] = {"a": "b"}
    table.set_service(("n", "web"), relabelled)
    assert not table.sync()
    assert not table.sync()


def test_only_own_endpoints_are_local() -> None:
    table = Table(NODE)
    first = endpoint_slice(
        endpoint("10.1.0.1"), endpoint("10.1.0.2", "m2"), endpoint("10.1.0.3", ready=False), name="a"
    )
    table.set_slice(("n", "a"), first)
    table.set_slice(("n", "b"), endpoint_slice(endpoint("10.1.0.1"), name="b"))
    assert table.is_local("10.1.0.1", 8080)
    assert table.is_local("10.1.0.3", 8080)
    assert not table.is_local("10.1.0.2", 8080)
    assert not table.is_local("10.1.0.1", 8081)
    table.set_slice(("n", "a"), None)
    assert table.is_local("10.1.0.1", 8080)
    table.set_slice(("n", "b"), endpoint_slice(name="b"))
    assert not table.is_local("10.1.0.1", 8080)
    unowned = endpoint_slice(endpoint("10.1.0.9"), name="c")
    unowned["metadata"]["labels"] = {}
    table.set_slice(("n", "c"), unowned)
    assert not table.is_local("10.1.0.9", 8080)


# The table against a twin that compiles everything again

ips = st.sampled_from(("127.1.0.1", "127.1.0.2", "127.1.0.1", "None"))
# Drawn at their odds: most Services and slices fit together, so that random histories have traffic to get wrong.
ONE_PORT = [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]
TWO_PORTS = [
    {"name": "a", "port": 80, "protocol": "TCP"},
    {"name": "b", "port": 81, "nodePort": 30081, "protocol": "TCP"},
]
ports = st.sampled_from((ONE_PORT, ONE_PORT, ONE_PORT, TWO_PORTS, [{"port": 80, "protocol": "UDP"}]))
policies = st.sampled_from(({}, {}, {"internalTrafficPolicy": "Local"}, {"externalTrafficPolicy": "Local"}))


@st.composite
def services(draw: Any) -> dict[str, Any]:
    found = service(
        draw(st.sampled_from("xy")),
        draw(ips),
        ports=draw(ports),
        type=draw(st.sampled_from(("ClusterIP", "NodePort"))),
        externalIPs=draw(st.lists(st.sampled_from(("127.1.0.1", "192.0.2.1")), max_size=2)),
        **draw(policies),
    )
    found["metadata"]["creationTimestamp"] = f"2026-01-0{draw(st.integers(1, 3))}T00:00:00Z"
    return found


@st.composite
def slices(draw: Any) -> dict[str, Any]:
    endpoints = draw(
        st.lists(
            st.builds(
                lambda address, node, ready: endpoint(address, node, ready=ready, serving=True, terminating=not ready),
                st.sampled_from(("10.1.0.1", "10.1.0.2")),
                st.sampled_from(("m1", "m2")),
                st.booleans(),
            ),
            min_size=1,
            max_size=3,
        )
    )
    port = draw(st.sampled_from((8080, 8080, 8080, {"a": 8080, "b": 8081})))
    protocol = draw(st.sampled_from(("TCP", "TCP", "TCP", "UDP")))
    of = draw(st.sampled_from("xy"))
    return endpoint_slice(*endpoints, port=port, service=of, name=draw(st.sampled_from("pq")), protocol=protocol)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("service"), services()),
        st.tuples(st.just("slice"), slices()),
        st.tuples(st.just("no service"), st.sampled_from("xy")),
        st.tuples(st.just("no slice"), st.sampled_from("pq")),
        st.tuples(st.just("addresses"), st.lists(st.sampled_from(("10.0.0.1", "10.0.0.2")), max_size=2)),
    ),
    min_size=10,
    max_size=40,
)


def everything(
    known: dict[str, dict[str, Any]], slices_: dict[str, dict[str, Any]], addresses: list[str]
) -> dict[Frontend, Rule]:
    """All rules, from scratch."""
    claims: dict[Frontend, list[tuple[Any, ...]]] = {}
    for name, svc in known.items():
        own = [s for s in slices_.values() if service_of_slice(s) == ("n", name)]
        for frontend, rule in compile_service(svc, own, NodeFacts(NODE, addresses=tuple(addresses))).items():
            order = (rule.kind != CLUSTER_IP, svc["metadata"]["creationTimestamp"], name)
            claims.setdefault(frontend, []).append((order, rule))
    return {frontend: min(found, key=lambda claim: claim[0])[1] for frontend, found in claims.items()}


@settings(max_examples=300, deadline=None)
@given(steps, st.integers(1, 4))
def test_the_table_is_what_compiling_everything_gives(history: list[tuple[str, Any]], batch: int) -> None:
    """Events come in batches of `batch` between two syncs."""
    table = Table(NODE)
    known: dict[str, dict[str, Any]] = {}
    slices_: dict[str, dict[str, Any]] = {}
    addresses: list[str] = []
    served: dict[Frontend, Rule] = {}
    for number, (step, value) in enumerate(history, 1):
        if step == "service":
            known[value["metadata"]["name"]] = value
            table.set_service(key(value), value)
        elif step == "slice":
            slices_[value["metadata"]["name"]] = value
            table.set_slice(key(value), value)
        elif step == "no service":
            known.pop(value, None)
            table.set_service(("n", value), None)
        elif step == "no slice":
            slices_.pop(value, None)
            table.set_slice(("n", value), None)
        elif step == "addresses":
            addresses = list(dict.fromkeys(value))
            table.set_node("", addresses)
        if number % batch == 0 or number == len(history):
            change = table.sync()
            assert not set(change.removed) & change.set.keys()
            for frontend in change.removed:
                del served[frontend]  # a frontend that was never served is not removed
            for frontend, rule in change.set.items():
                assert served.get(frontend) != rule  # nothing is set again
                served[frontend] = rule
            assert served == everything(known, slices_, addresses) == table.rules
            local = {
                (address, 8080)
                for s in slices_.values()
                for e in s["endpoints"]
                for address in e["addresses"]
                if e["nodeName"] == NODE and any(p["port"] == 8080 and p["protocol"] == "TCP" for p in s["ports"])
            }
            assert {(a, 8080) for a in ("10.1.0.1", "10.1.0.2") if table.is_local(a, 8080)} == local
    assert Endpoint("a", 1) < Endpoint("b", 1)


def test_udp_flows_to_what_went_while_nobody_looked() -> None:
    """A flow that goes on would keep its former endpoint for ever, sent to an address or to a node port."""
    delta: Delta = {
        ("services", "10.96.0.9 . 17 . 53"): ("goto cluster-1", None),
        ("services", "10.96.0.9 . 6 . 53"): ("goto cluster-1", None),
        ("services", "10.96.0.8 . 17 . 53"): ("goto cluster-1", "goto cluster-2"),
        ("node-ports", "17 . 30053"): ("goto node-outside-1", None),
        ("inside", "192.0.2.77 . 17 . 53"): ("goto inside-1", None),
        ("node-inside", "17 . 30054"): ("goto node-inside-1", None),
        ("endpoints-0", "10.96.0.9 . 17 . 53"): ("10.1.0.1 . 53", None),
    }
    assert list(gone_while_away(delta, "ip", ["192.0.2.1", "fd00::1", "192.0.2.2"])) == [
        StaleFlows("10.96.0.9", 53, frozenset()),
        StaleFlows("192.0.2.1", 30053, frozenset()),
        StaleFlows("192.0.2.2", 30053, frozenset()),
        StaleFlows("192.0.2.77", 53, frozenset()),
        StaleFlows("192.0.2.1", 30054, frozenset()),
        StaleFlows("192.0.2.2", 30054, frozenset()),
    ]
    six: Delta = {("services", "fd00::9 . 17 . 53"): ("goto cluster-1", None)}
    assert list(gone_while_away(six, "ip6", [])) == [StaleFlows("fd00::9", 53, frozenset())]
