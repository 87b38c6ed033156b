"""What an update of a Service keeps and drops, and which address families it gets."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api.validation.service import check_cluster_ips, check_service_update
from raykube.apiserver.config import Config
from raykube.apiserver.core import servicefamilies, servicespec

FOUR, SIX = ("IPv4",), ("IPv6",)
BOTH = ("IPv4", "IPv6")
TURNED = ("IPv6", "IPv4")
NOT_DUAL = 'Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services'


def service(**spec: Any) -> dict[str, Any]:
    return {"spec": {"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP"}], **copy.deepcopy(spec)}}


def kept(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    servicespec.keep(new, old)
    spec: dict[str, Any] = new["spec"]
    return spec


NODE_PORT = service(
    type="NodePort",
    clusterIP="10.0.0.5",
    clusterIPs=["10.0.0.5"],
    ipFamilies=["IPv4"],
    ipFamilyPolicy="SingleStack",
    externalTrafficPolicy="Cluster",
    ports=[{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81, "nodePort": 30002}],
)
BALANCED = service(
    type="LoadBalancer",
    clusterIP="10.0.0.5",
    clusterIPs=["10.0.0.5"],
    externalTrafficPolicy="Local",
    allocateLoadBalancerNodePorts=True,
    loadBalancerClass="a/b",
    healthCheckNodePort=30009,
)


def test_what_is_left_out_stays() -> None:
    ports = [{"name": "b", "port": 8081}, {"name": "c", "port": 90}, {"name": "a", "port": 80}]
    spec = kept(NODE_PORT, service(type="NodePort", ports=ports))
    assert (spec["clusterIP"], spec["clusterIPs"]) == ("10.0.0.5", ["10.0.0.5"])
    assert [port.get("nodePort") for port in spec["ports"]] == [30002, None, 30001]
    swapped = [{"name": "a", "port": 80, "nodePort": 30002}, {"name": "b", "port": 81}]
    spec = kept(NODE_PORT, service(type="NodePort", ports=swapped))
    assert [port.get("nodePort") for port in spec["ports"]] == [30002, None]
    spec = kept(BALANCED, service(type="LoadBalancer", externalTrafficPolicy="Local"))
    assert spec["healthCheckNodePort"] == 30009
    assert servicespec.addresses(NODE_PORT).ports == {30001, 30002}
    assert servicespec.addresses(BALANCED) == servicespec.Addresses(frozenset({"10.0.0.5"}), frozenset({30009}))


def test_what_another_type_has_no_use_for_goes() -> None:
    new = copy.deepcopy(NODE_PORT)
    new["spec"]["type"] = "ClusterIP"
    spec = kept(NODE_PORT, new)
    assert not any("nodePort" in port for port in spec["ports"])
    assert "externalTrafficPolicy" not in spec
    new = copy.deepcopy(NODE_PORT)
    new["spec"] |= {"type": "ExternalName", "externalName": "a"}
    assert not {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} & set(kept(NODE_PORT, new))
    new = copy.deepcopy(BALANCED)
    new["spec"]["type"] = "NodePort"
    new["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    before = new["status"]
    spec = kept(BALANCED, new)
    assert not {"healthCheckNodePort", "allocateLoadBalancerNodePorts", "loadBalancerClass"} & set(spec)
    assert spec["externalTrafficPolicy"] == "Local"
    assert new["status"] == {"loadBalancer": {}} != before


def test_what_the_client_changed_with_the_type_is_his_mistake() -> None:
    new = copy.deepcopy(NODE_PORT)
    new["spec"] |= {"type": "ClusterIP", "externalTrafficPolicy": "Local"}
    new["spec"]["ports"][0]["nodePort"] = 30003
    spec = kept(NODE_PORT, new)
    assert [port["nodePort"] for port in spec["ports"]] == [30003, 30002]
    assert spec["externalTrafficPolicy"] == "Local"


def test_clients_that_know_one_address_only() -> None:
    created = service(clusterIP="10.0.0.5")
    servicespec.prepare(created)
    assert created["spec"]["clusterIPs"] == ["10.0.0.5"]
    changed = kept(NODE_PORT, service(clusterIP="10.0.0.6", clusterIPs=["10.0.0.5"]))
    assert changed["clusterIPs"] == ["10.0.0.6"]  # which validation refuses then


CASES: list[tuple[tuple[str, ...], dict[str, Any], list[str]]] = [
    (FOUR, {}, ["IPv4"]),
    (SIX, {}, ["IPv6"]),
    (BOTH, {}, ["IPv4"]),
    (TURNED, {}, ["IPv6"]),
    (FOUR, {"ipFamilyPolicy": "PreferDualStack"}, ["IPv4"]),
    (BOTH, {"ipFamilyPolicy": "PreferDualStack"}, ["IPv4", "IPv6"]),
    (TURNED, {"ipFamilyPolicy": "RequireDualStack"}, ["IPv6", "IPv4"]),
    (BOTH, {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}, ["IPv6", "IPv4"]),
    (BOTH, {"ipFamilies": ["IPv6"]}, ["IPv6"]),
    (BOTH, {"clusterIP": "fd00::5", "clusterIPs": ["fd00::5"]}, ["IPv6"]),
    (
        BOTH,
        {"ipFamilyPolicy": "PreferDualStack", "clusterIP": "fd00::5", "clusterIPs": ["fd00::5", "10.0.0.5"]},
        ["IPv6", "IPv4"],
    ),
    (FOUR, {"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}}, ["IPv4"]),
    (FOUR, {"clusterIP": "None", "clusterIPs": ["None"]}, ["IPv4", "IPv6"]),  # endpoints are somebody else's
    (SIX, {"clusterIP": "None", "clusterIPs": ["None"], "ipFamilyPolicy": "SingleStack"}, ["IPv6"]),
]


@pytest.mark.parametrize(("cluster", "spec", "families"), CASES)
def test_families_of_a_new_service(cluster: tuple[str, ...], spec: dict[str, Any], families: list[str]) -> None:
    found = copy.deepcopy(spec)
    assert servicefamilies.choose(found, None, cluster) == []
    assert found["ipFamilies"] == families
    assert len(families) == 1 or found["ipFamilyPolicy"] != "SingleStack"
    again = copy.deepcopy(found)
    assert servicefamilies.choose(again, found, cluster) == []
    assert again == found


REFUSED: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
    (
        FOUR,
        {"ipFamilyPolicy": "RequireDualStack"},
        f"spec.ipFamilyPolicy: {NOT_DUAL}",
    ),
    (FOUR, {"ipFamilies": ["IPv6"]}, 'spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster'),
    (
        FOUR,
        {"clusterIP": "fd00::5", "clusterIPs": ["fd00::5"]},
        'spec.clusterIPs[0]: Invalid value: ["fd00::5"]: IPv6 is not configured on this cluster',
    ),
    (
        BOTH,
        {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "SingleStack"},
        (
            'spec.ipFamilyPolicy: Invalid value: "SingleStack": '
            "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"
        ),
    ),
    (
        BOTH,
        {"clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5", "fd00::5"]},
        (
            'spec.ipFamilyPolicy: Invalid value: "SingleStack": '
            "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"
        ),
    ),
]


@pytest.mark.parametrize(("cluster", "spec", "why"), REFUSED)
def test_families_that_cannot_be_had(cluster: tuple[str, ...], spec: dict[str, Any], why: str) -> None:
    assert [str(cause) for cause in servicefamilies.choose(copy.deepcopy(spec), None, cluster)] == [why]


TWO = {
    "clusterIP": "10.0.0.5",
    "clusterIPs": ["10.0.0.5", "fd00::5"],
    "ipFamilies": ["IPv4", "IPv6"],
    "ipFamilyPolicy": "PreferDualStack",
}
ONE = {
    "clusterIP": "10.0.0.5",
    "clusterIPs": ["10.0.0.5"],
    "ipFamilies": ["IPv4"],
    "ipFamilyPolicy": "SingleStack",
}


def test_a_second_family_comes_and_goes_with_the_policy() -> None:
    grown = ONE | {"ipFamilyPolicy": "PreferDualStack"}
    assert servicefamilies.choose(grown, ONE, BOTH) == []
    assert grown["ipFamilies"] == ["IPv4", "IPv6"]
    shrunk = TWO | {"ipFamilyPolicy": "SingleStack"}
    assert servicefamilies.choose(shrunk, TWO, BOTH) == []
    assert (shrunk["clusterIPs"], shrunk["ipFamilies"]) == (["10.0.0.5"], ["IPv4"])
    stays = copy.deepcopy(TWO)
    assert servicefamilies.choose(stays, TWO, FOUR) == []  # the cluster has lost one: nobody's Service changes
    assert stays == TWO
    single = ONE | {"ipFamilyPolicy": "PreferDualStack"}
    assert servicefamilies.choose(copy.deepcopy(single), copy.deepcopy(single), BOTH) == []
    cut = TWO | {"clusterIPs": ["10.0.0.5"]}
    assert [str(cause) for cause in servicefamilies.choose(cut, TWO, BOTH)] == [
        (
            'spec.ipFamilyPolicy: Invalid value: "PreferDualStack": '
            "must be 'SingleStack' to release the secondary cluster IP"
        )
    ]


policies = st.sampled_from([None, "SingleStack", "PreferDualStack", "RequireDualStack"])
lists = st.sampled_from([None, ["IPv4"], ["IPv6"], ["IPv4", "IPv6"], ["IPv6", "IPv4"]])
ips = st.sampled_from([None, ["10.0.0.5"], ["fd00::5"], ["10.0.0.5", "fd00::5"], ["fd00::5", "10.0.0.5"], ["None"]])
selectors = st.sampled_from([None, {"a": "b"}])
clusters = st.sampled_from([FOUR, SIX, BOTH, TURNED])


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    addresses = draw(ips)
    spec = {
        "clusterIP": addresses[0] if addresses else None,
        "clusterIPs": addresses,
        "ipFamilies": draw(lists),
        "ipFamilyPolicy": draw(policies),
        "selector": draw(selectors),
    }
    return copy.deepcopy({name: value for name, value in spec.items() if value is not None})


def allocated(spec: dict[str, Any]) -> dict[str, Any]:
    """With the addresses that it lacks."""
    if spec.get("clusterIP") != "None":
        had = spec.get("clusterIPs") or []
        spec["clusterIPs"] = had + [{"IPv4": "10.0.0.9", "IPv6": "fd00::9"}[f] for f in spec["ipFamilies"][len(had) :]]
        spec["clusterIP"] = spec["clusterIPs"][0]
    return spec


@given(specs(), specs(), clusters)
def test_what_is_chosen_is_valid_and_stays(
    first: dict[str, Any], second: dict[str, Any], cluster: tuple[str, ...]
) -> None:
    if servicefamilies.choose(first, None, cluster):
        return
    assert check_cluster_ips(allocated(first)) == []
    selectorless = first["clusterIP"] == "None" and "selector" not in first
    assert selectorless or set(first["ipFamilies"]) <= set(cluster)
    if first["ipFamilyPolicy"] == "RequireDualStack":
        assert len(first["ipFamilies"]) == 2
    if first["ipFamilyPolicy"] == "SingleStack":
        assert len(first["ipFamilies"]) == 1
    new = {"spec": second}
    servicespec.keep(new, {"spec": first})
    if servicefamilies.choose(second, first, cluster) or check_service_update(new, {"spec": first}):
        return
    assert check_cluster_ips(allocated(second)) == []
    assert (first["clusterIP"] == "None") == (second["clusterIP"] == "None")
    if second["clusterIP"] != "None":
        shorter = min(len(first["clusterIPs"]), len(second["clusterIPs"]))
        assert first["clusterIPs"][:shorter] == second["clusterIPs"][:shorter]
        assert len(second["clusterIPs"]) == len(second["ipFamilies"])


@pytest.mark.parametrize(
    ("flags", "loopback"),
    [
        ({"bind_address": "127.5.0.2"}, True),  # a local cluster: machines, pods and Services are all there
        ({"bind_address": "192.0.2.1"}, False),
        ({"advertise_address": "192.0.2.1"}, False),
        ({"advertise_address": "fd00::1"}, False),
        ({"advertise_address": "192.0.2.1", "allow_loopback_endpoints": True}, True),  # the process runtime on hosts
        ({"bind_address": "127.5.0.2", "allow_loopback_endpoints": False}, False),
    ],
)
def test_where_services_may_lead_to_loopback_addresses(flags: dict[str, Any], loopback: bool) -> None:
    assert Config(etcd_servers=["m1:2379"], **flags).networks.loopback == loopback


def test_service_networks() -> None:
    def families(text: str) -> tuple[str, ...]:
        return Config(etcd_servers=["m1:2379"], service_cluster_ip_range=text).networks.families

    assert families("10.96.0.0/12") == FOUR
    assert families("fd96::/112,10.96.0.0/12") == TURNED
    for wrong in ("10.96.0.0/12,10.97.0.0/16", "10.96.0.0/12,fd96::/112,fd97::/112", "", "x"):
        with pytest.raises(ValueError):
            families(wrong)
