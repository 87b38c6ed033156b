"""The table of nftables as plain data: what frontends become, how little a change is, and the text of it."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.kubeproxy.core.nftables.desired import Desired
from raykube.kubeproxy.core.nftables.frontend import number
from raykube.kubeproxy.core.nftables.layout import Options
from raykube.kubeproxy.core.reach import NodeAddresses
from raykube.kubeproxy.core.rules import Endpoint, Frontend
from raykube.kubeproxy.core.table import Change, Table
from raykube.nftables.core.objects import Chain, Items
from raykube.nftables.core.ruleset import difference
from raykube.nftables.core.text import transaction
from tests.kit.transcript import Step, play
from tests.kubeproxy.objects import endpoint, endpoint_slice, node, service
from tests.kubeproxy.test_rules import key, steps
from tests.nftables.twin import applied

OPTIONS = Options(pod_networks=("10.1.0.0/16", "fd01::/16"))


def test_transcript(request: pytest.FixtureRequest) -> None:
    """Changes of Services, and the transactions that follow."""
    table, desired = Table("m1"), Desired("m1", OPTIONS, ("ip",))
    desired.take()
    table.set_node("", ("0.0.0.0", "::"))

    def handle(step: Step) -> str:
        words = dict(word.split("=", 1) for word in step.arguments[1:])
        name = step.arguments[0]
        if step.command == "service":
            spec: dict[str, Any] = {"ports": [{"port": 80, "protocol": words.get("protocol", "TCP")}]}
            if "nodeport" in words:
                spec |= {"type": "NodePort"}
                spec["ports"][0]["nodePort"] = int(words["nodeport"])
            if "affinity" in words:
                config = {"clientIP": {"timeoutSeconds": int(words["affinity"])}}
                spec |= {"sessionAffinity": "ClientIP", "sessionAffinityConfig": config}
            if "external" in words:
                spec["externalTrafficPolicy"] = words["external"]
            found = service(name, words["ip"], **spec)
            if "balanced" in words:
                found["status"] = {"loadBalancer": {"ingress": [{"ip": words["balanced"]}]}}
                found["spec"]["loadBalancerSourceRanges"] = words["ranges"].split(",")
            table.set_service(("n", name), found)
        elif step.command == "endpoints":
            pods = [text.split("@") for text in words["pods"].split(",") if text]
            found = endpoint_slice(*(endpoint(pod, on) for pod, on in pods), name=name, service=name)
            table.set_slice(("n", name), found)
        elif step.command == "delete":
            table.set_service(("n", name), None)
        desired.apply(table.sync())
        return transaction("ip raykube-proxy", desired.take()["ip"])

    play(Path(__file__).parent / "testdata/nftables.txt", handle, request.config.getoption("--rewrite"))


@settings(max_examples=150, deadline=None)
@given(steps, st.integers(1, 4), st.booleans())
def test_changes_add_up_to_what_compiling_everything_gives(
    history: list[tuple[str, Any]], batch: int, sticky: bool
) -> None:
    table, desired = Table("m1"), Desired("m1", OPTIONS)
    kernel: dict[str, Items] = {"ip": {}, "ip6": {}}
    for at, (step, value) in enumerate(history, 1):
        if step == "service":
            if sticky and at % 2:
                value["spec"]["sessionAffinity"] = "ClientIP"
            table.set_service(key(value), value)
        elif step == "slice":
            table.set_slice(key(value), value)
        elif step == "no service":
            table.set_service(("n", value), None)
        elif step == "no slice":
            table.set_slice(("n", value), None)
        else:
            table.set_node("", ("0.0.0.0",))
            desired.set_node_ips(value)
        if at % batch == 0 or at == len(history):
            desired.apply(table.sync())
            for family, delta in desired.take().items():
                kernel[family] = applied(kernel[family], delta)
            assert all(not delta for delta in desired.take().values())
    fresh = Desired("m1", OPTIONS)
    fresh.set_node_ips(value for (name, value) in desired.items("ip") if name == "node-ips")
    fresh.apply(Change(set=dict(table.rules)))
    for family in ("ip", "ip6"):
        assert kernel[family] == desired.items(family)
        assert unnumbered(kernel[family]) == unnumbered(fresh.items(family))
        assert not difference(kernel[family], desired.items(family))
        assert kernel[family] == applied({}, difference({}, desired.items(family)))


def unnumbered(items: Items) -> set[tuple[Any, ...]]:
    """Without the numbers that endpoints have, and the order of affinity's rules, which follow from history."""
    found: set[tuple[Any, ...]] = set()
    for (container, name), value in items.items():
        if (match := re.fullmatch(r"([a-z-]*endpoints)-\d+", container)) is not None:
            found.add((match[1], name, value))
        elif isinstance(value, Chain) and name.startswith("affinity-"):
            *rules, draw = value.rules
            found.add((container, name, frozenset(rules), frozenset(re.findall(r"endpoint-[\w-]+", draw))))
        else:
            found.add((container, name, value))
    return found


@given(st.lists(st.sets(st.integers(0, 12)), min_size=1, max_size=8))
def test_endpoints_keep_their_numbers(history: list[set[int]]) -> None:
    before: tuple[Endpoint, ...] = ()
    for wanted in history:
        endpoints = tuple(Endpoint(f"10.1.0.{n}", 80) for n in sorted(wanted))
        found = number(endpoints, before)
        assert set(found) == set(endpoints) and len(found) == len(endpoints)
        moved = sum(a != b for a, b in zip(before, found, strict=False))
        assert moved <= len(set(before) - set(endpoints))  # only the places of those that went
        before = found


def test_one_change_is_a_few_elements_however_many_services_there_are() -> None:
    table, desired = Table("m1"), Desired("m1", OPTIONS)
    for n in range(250):
        table.set_service(("n", f"s{n}"), service(f"s{n}", f"10.96.0.{n}"))
        pods = [endpoint(f"10.1.{n}.{i}") for i in range(4)]
        table.set_slice(("n", f"s{n}"), endpoint_slice(*pods, service=f"s{n}", name=f"s{n}"))
    desired.apply(table.sync())
    desired.take()
    pods = [endpoint(f"10.1.7.{i}") for i in (0, 1, 2, 9)]
    table.set_slice(("n", "s7"), endpoint_slice(*pods, service="s7", name="s7"))
    desired.apply(table.sync())
    delta = desired.take()["ip"]
    assert delta == {
        ("endpoints-3", "10.96.0.7 . 6 . 80"): ("10.1.7.3 . 8080", "10.1.7.9 . 8080"),
        ("hairpin", "10.1.7.3 . 10.1.7.3"): ("", None),
        ("hairpin", "10.1.7.9 . 10.1.7.9"): (None, ""),
    }


@pytest.mark.parametrize("bad", ["10.1.0.1 }\nflush ruleset", "10.1.0.999", "::1", "fe80::1%eth0", "", "10.1.0.1/8"])
def test_what_is_no_address_becomes_no_rule(bad: str) -> None:
    table, desired = Table("m1"), Desired("m1", OPTIONS, ("ip",))
    web = service(ip="10.96.0.9", externalIPs=[bad])
    web["status"] = {"loadBalancer": {"ingress": [{"ip": bad}]}}
    table.set_service(("n", "web"), web)
    table.set_service(("n", "bad"), service("bad", bad))
    table.set_slice(("n", "web"), endpoint_slice(endpoint(bad)))
    desired.apply(table.sync())
    assert [str(f) for f in desired.rules] == ["10.96.0.9:80/TCP"]
    assert not desired.rules[Frontend("10.96.0.9", 80, "TCP")].endpoints


@pytest.mark.parametrize("bad", ["10.1.0.1 }\nflush ruleset", "10.1.0.999", "m1.example", "fe80::1%eth0", ""])
def test_what_a_node_says_of_itself_is_an_address_or_nothing(bad: str) -> None:
    """Nobody checks a Node's addresses before: one that nft does not read would keep all Services from this machine."""
    found = node("m1", bad)
    found["status"]["addresses"].append({"type": "InternalIP", "address": "192.0.2.1"})
    found["spec"] = {"podCIDRs": [bad, "10.1.0.0/24"]}
    known = NodeAddresses.of(found)
    assert known.internal_ips == ("192.0.2.1",)
    assert known.pod_networks == ("10.1.0.0/24",)
