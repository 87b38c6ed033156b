"""Which endpoint gets the next connection, and which way leads to it."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.kubeproxy.core import balance
from raykube.kubeproxy.core.balance import PENALTY_S, Balance
from raykube.kubeproxy.core.metrics import Histogram, Metrics
from raykube.kubeproxy.core.reach import NodeAddresses, relay_for
from raykube.kubeproxy.core.rules import CLUSTER_IP, Endpoint, Rule
from tests.kubeproxy.objects import node

A, B, C = (Endpoint(f"10.1.0.{n}", 80, "m1") for n in (1, 2, 3))


def rule(*endpoints: Endpoint, affinity_s: int = 0) -> Rule:
    return Rule(("n", "web"), "", CLUSTER_IP, endpoints, affinity_s)


def test_endpoints_take_turns() -> None:
    found = Balance(rule(A, B, C))
    assert Counter(found.pick("c", 0) for _ in range(30)) == {A: 10, B: 10, C: 10}


def test_each_endpoint_is_tried_once() -> None:
    found = Balance(rule(A, B))
    tried = [endpoint for _ in range(2) if (endpoint := found.pick("c", 0, [])) is not None]
    assert set(tried) == {A, B}
    assert found.pick("c", 0, [A]) == B
    assert found.pick("c", 0, [A, B]) is None
    assert Balance(rule()).pick("c", 0) is None


def test_a_failed_endpoint_is_passed_over_for_a_moment() -> None:
    found = Balance(rule(A, B))
    found.on_failure(A, 100)
    assert {found.pick("c", 100.5) for _ in range(4)} == {B}
    assert {found.pick("c", 100 + PENALTY_S) for _ in range(4)} == {A, B}
    found.on_failure(A, 200)
    found.on_failure(B, 200)
    assert found.pick("c", 200) is not None


def test_affinity_lasts_while_the_client_comes_back() -> None:
    found = Balance(rule(A, B, C, affinity_s=10))
    first = found.pick("1.2.3.4", 0)
    assert all(found.pick("1.2.3.4", now) == first for now in range(0, 100, 9))
    grown = Balance(rule(A, affinity_s=10))
    assert grown.pick("1.2.3.4", 0) == A
    clients = [f"1.2.3.{n}" for n in range(50)]
    for client in clients:
        grown.pick(client, 0)
    grown.set_rule(rule(A, B, C, affinity_s=10))
    assert all(grown.pick(client, 5) == A for client in clients)  # newcomers steal nobody
    assert {grown.pick(client, 20) for client in clients} == {A, B, C}  # until the time is up


def test_affinity_moves_when_its_endpoint_is_gone_or_fails() -> None:
    found = Balance(rule(A, B, affinity_s=10))
    first = found.pick("1.2.3.4", 0)
    other = B if first == A else A
    assert found.pick("1.2.3.4", 1, [first] if first else []) == other
    assert found.pick("1.2.3.4", 2) == other
    assert first is not None
    found.set_rule(rule(first, affinity_s=10))
    assert found.pick("1.2.3.4", 3) == first


def test_proxies_that_share_an_address_agree_on_new_clients() -> None:
    one, two = Balance(rule(A, B, C, affinity_s=10), turn=0), Balance(rule(A, B, C, affinity_s=10), turn=7)
    clients = [f"10.0.{n // 250}.{n % 250}" for n in range(300)]
    chosen = [one.pick(client, 0) for client in clients]
    assert chosen == [two.pick(client, 0) for client in clients]
    assert all(count > 60 for count in Counter(chosen).values())


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "CLIENTS_MAX", 100)
    found = Balance(rule(A, affinity_s=1000))
    for n in range(500):
        found.pick(str(n), n)
    assert len(found._clients) == 100
    found.pick("late", 5000)
    assert len(found._clients) == 1


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.sets(st.sampled_from([A, B, C])), st.booleans()))
)
def test_what_is_picked_is_always_an_endpoint_of_the_rule(steps: list[tuple[str, int, set[Endpoint], bool]]) -> None:
    found, now = Balance(rule(A, B, C, affinity_s=3)), 0
    for client, wait, endpoints, fails in steps:
        now += wait
        found.set_rule(rule(*sorted(endpoints), affinity_s=3))
        chosen = found.pick(client, now)
        assert (chosen in endpoints) if endpoints else chosen is None
        if chosen is not None and fails:
            found.on_failure(chosen, now)


def nodes(*found: dict[str, Any]) -> dict[str, NodeAddresses]:
    return {each["metadata"]["name"]: NodeAddresses.of(each) for each in found}


def test_the_way_to_an_endpoint() -> None:
    far = nodes(node("m2", "10.0.0.2", "10.0.0.2:10266"), node("m3", "10.0.0.3"), node("m4", "127.0.0.4"))
    loop2, loop3, loop4 = (Endpoint("127.1.2.1", 80, name) for name in ("m2", "m3", "m4"))
    real = Endpoint("10.1.0.1", 80, "m2")
    assert relay_for(loop2, "m1", far, "auto") == "10.0.0.2:10266"
    assert relay_for(loop2, "m2", far, "auto") == ""
    assert relay_for(real, "m1", far, "auto") == ""
    assert relay_for(loop4, "m1", far, "auto") == ""
    assert relay_for(loop3, "m1", far, "auto") is None  # its kube-proxy has not said where its relay is
    assert relay_for(Endpoint("127.1.2.1", 80, "unknown"), "m1", far, "auto") is None
    assert relay_for(Endpoint("127.1.2.1", 80), "m1", far, "auto") == ""
    assert relay_for(loop2, "m1", far, "never") == ""
    assert relay_for(real, "m1", far, "always") == "10.0.0.2:10266"
    assert relay_for(loop2, "m2", far, "always") == ""


def test_metrics_text() -> None:
    metrics = Metrics()
    metrics.sync_s.observe(0.003)
    metrics.last_sync = 1_800_000_000.25
    lines = metrics.text().splitlines()
    assert "kubeproxy_sync_proxy_rules_duration_seconds_count 1" in lines
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="0.002"} 0' in lines
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="0.004"} 1' in lines
    assert "kubeproxy_sync_proxy_rules_last_timestamp_seconds 1800000000.25" in lines
    histogram = Histogram((1, 2))
    for value in (1, 2, 3):
        histogram.observe(value)
    assert histogram.lines("x") == [
        'x_bucket{le="1"} 1',
        'x_bucket{le="2"} 2',
        'x_bucket{le="+Inf"} 3',
        "x_sum 6",
        "x_count 3",
    ]
