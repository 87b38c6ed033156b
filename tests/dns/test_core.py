"""The small cores: whom to ask, what is remembered, what the Service must be, what is counted."""

from itertools import pairwise
from typing import Any

import pytest

from raykube.dns.core import registration
from raykube.dns.core.cache import Cache, Entry
from raykube.dns.core.message import Message, Record, encode, lifetime_s
from raykube.dns.core.metrics import Metrics
from raykube.dns.core.upstreams import Upstreams, nameservers
from raykube.dns.core.wire import NOERROR, NXDOMAIN, SERVFAIL, SOA, A, wire_name

ONE, TWO, THREE = ("192.0.2.1", 53), ("192.0.2.2", 53), ("192.0.2.3", 53)


def test_nameservers_of_a_resolv_conf() -> None:
    text = """
# nameserver 1.1.1.1
search example.com
nameserver 192.0.2.1
nameserver\tfd00::1   # the other
nameserver fe80::1%eth0
nameserver 192.0.2.1
nameserver example.com
nameserver
options ndots:2
"""
    assert nameservers(text) == ["192.0.2.1", "fd00::1", "fe80::1%eth0"]
    assert len(nameservers("".join(f"nameserver 10.0.0.{number}\n" for number in range(30)))) == 15


def test_servers_that_failed_are_asked_last() -> None:
    upstreams = Upstreams()
    upstreams.set([ONE, TWO, THREE])
    assert upstreams.order(0) == [ONE, TWO, THREE]
    upstreams.on_failure(ONE, 0)
    assert upstreams.order(0.1) == [TWO, THREE, ONE]
    upstreams.on_failure(TWO, 0.1)
    upstreams.on_failure(TWO, 0.1)  # for longer
    upstreams.on_failure(THREE, 0.1)
    assert upstreams.order(0.2) == [ONE, THREE, TWO]  # all rest: the one due first
    assert upstreams.order(0.7) == [ONE, THREE, TWO]
    upstreams.on_answer(TWO)
    assert upstreams.order(0.2) == [TWO, ONE, THREE]
    upstreams.set([THREE, ONE])  # what is known of them stays
    assert upstreams.order(0.2) == [ONE, THREE]
    upstreams.on_failure(TWO, 0.2)  # an answer that came too late, of one that is gone
    assert upstreams.order(100) == [THREE, ONE]


def test_servers_that_are_ourselves_are_left_out() -> None:
    upstreams = Upstreams()
    upstreams.own = {ONE}
    assert upstreams.set([ONE, TWO]) == [ONE]
    assert upstreams.addresses == [TWO]
    assert upstreams.on_probe(TWO, True)
    assert not upstreams.on_probe(TWO, True)  # no news
    assert (upstreams.looping, upstreams.order(0)) == ([TWO], [])
    assert upstreams.on_probe(TWO, False)
    assert upstreams.order(0) == [TWO]


def soa(ttl_s: int, minimum_s: int) -> Record:
    data = wire_name("ns.x") + wire_name("root.x") + bytes(16) + minimum_s.to_bytes(4, "big")
    return Record(wire_name("x"), SOA, 1, ttl_s, data)


def a(ttl_s: int) -> Record:
    return Record(wire_name("a.x"), A, 1, ttl_s, bytes(4))


@pytest.mark.parametrize(
    ("rcode", "answers", "authority", "expected"),
    [
        (NOERROR, [a(60), a(30)], [], 30),
        (NOERROR, [a(60)], [soa(10, 5)], 10),
        (NOERROR, [], [soa(60, 17)], 17),  # NODATA
        (NXDOMAIN, [], [soa(9, 17)], 9),
        (NXDOMAIN, [a(5)], [soa(9, 17)], 5),  # a CNAME that leads nowhere
        (NXDOMAIN, [], [], 0),
        (NOERROR, [], [], 0),
        (SERVFAIL, [a(60)], [], 0),
    ],
)
def test_how_long_answers_hold(rcode: int, answers: list[Record], authority: list[Record], expected: int) -> None:
    assert lifetime_s(Message(rcode, False, False, tuple(answers), tuple(authority), ())) == expected


def test_what_is_remembered() -> None:
    message = Message(NOERROR, False, False, (a(60),), (), ())
    body = encode(wire_name("a.x"), message)

    def entry(since: float, until: float) -> Entry:
        return Entry(message, body, since, until)

    cache = Cache(2)
    keys = [(wire_name(name), A, False, False) for name in ("a.x", "b.x", "c.x")]
    cache.put(keys[0], entry(0, 10))
    cache.put(keys[1], entry(0, 10))
    assert cache.get(keys[0], 9.9) is not None  # asked for: the other one is older now
    cache.put(keys[2], entry(0, 10))
    assert [cache.get(key, 1) is not None for key in keys] == [True, False, True]
    assert cache.get(keys[0], 10) is None
    assert len(cache) == 1
    assert [int.from_bytes(each[6:10], "big") for each in body.aged(25)[0]] == [35]
    assert [int.from_bytes(each[6:10], "big") for each in body.aged(90)[0]] == [0]
    nothing = Cache(0)
    nothing.put(keys[0], entry(0, 10))
    assert len(nothing) == 0


def test_the_service_of_two_families() -> None:
    spec = registration.service(["10.96.0.10", "fd00::a"], 9153)["spec"]
    assert (spec["ipFamilies"], spec["ipFamilyPolicy"]) == (["IPv4", "IPv6"], "RequireDualStack")
    assert "selector" not in spec


def slices(node: str, *addresses: str, **options: Any) -> list[dict[str, Any]]:
    owner = {"metadata": {"uid": "u-1"}}
    return registration.own_slices(node, addresses, 10053, 9153, owner, **options)


def test_the_slices_of_a_server() -> None:
    four, six = slices("m1", "192.0.2.1", "fd00::1")
    assert [four["addressType"], six["addressType"]] == ["IPv4", "IPv6"]
    assert four["metadata"]["name"] == "kube-dns-m1-ipv4"
    assert slices("m1", "0.0.0.0") == []  # nobody can be sent to a wildcard
    assert registration.is_ours(four)
    assert registration.node_of(four) == "m1"
    long = slices("n" * 250, "192.0.2.1")[0]["metadata"]["name"]
    assert len(long) <= 253


def test_a_slice_is_written_when_it_differs() -> None:
    (wanted,) = slices("m1", "192.0.2.1")
    present = {**wanted, "metadata": {**wanted["metadata"], "uid": "x", "generation": 3}}
    present["metadata"]["labels"] = {**wanted["metadata"]["labels"], "others": "too"}
    present["endpoints"] = [{**wanted["endpoints"][0], "zone": None, "hostname": ""}]  # as a server may fill it up
    present["endpoints"][0].pop("hostname")
    assert not registration.differs(wanted, present)
    assert registration.differs(slices("m1", "192.0.2.1", stopping=True)[0], present)
    assert registration.differs(slices("m1", "192.0.2.9")[0], present)
    assert registration.differs(wanted, registration.marked(present))
    other = {**present, "metadata": {**present["metadata"], "ownerReferences": []}}
    assert registration.differs(wanted, other)


def test_servers_of_lost_machines() -> None:
    every = [slices(name, "192.0.2.1")[0] for name in ("fit", "lost", "gone")]
    mark, remove = registration.stale(every, {"fit": True, "lost": False})
    assert [registration.node_of(each) for each in mark] == ["lost"]
    assert [registration.node_of(each) for each in remove] == ["gone"]
    mark, _ = registration.stale([registration.marked(every[1])], {"lost": False})
    assert mark == []  # said already


def test_a_slice_that_is_undone_again_and_again_is_written_ever_later() -> None:
    """A server lives on a machine whose Node is not ready: the elected one undoes what it writes, at once."""
    wanted, other = slices("m1", "192.0.2.1", "fd00::1")
    repairs = registration.Repairs()
    now, written = 0.0, []
    while now < 600:
        if wait_s := repairs.wait_s(wanted, now):
            now += wait_s
            continue
        repairs.on_written(wanted, now)
        written.append(now)
    assert written[:6] == [0, 0, 0.5, 1.5, 3.5, 7.5]
    assert {after - before for before, after in pairwise(written[7:])} == {registration.REPAIR.max_s}
    assert repairs.wait_s(other, now) == 0
    assert repairs.wait_s({**wanted, "ports": []}, now) == 0  # news of our own are no repair
    now = written[-1] + registration.CALM_S
    repairs.on_written(wanted, now)
    assert repairs.wait_s(wanted, now) == 0  # nobody disagreed for long


def test_metrics_are_prometheus() -> None:
    metrics = Metrics("cluster.local")
    metrics.requests[True, A, True] += 2
    metrics.requests[False, 9999, False] += 1
    metrics.responses[NXDOMAIN, True] += 1
    metrics.local_s.observe(0.0004)
    metrics.on_upstream("192.0.2.1:53", NOERROR, 0.003)
    metrics.upstream_failures["192.0.2.2:53"] += 1
    lines = metrics.text().splitlines()
    for expected in (
        'coredns_dns_requests_total{proto="tcp",type="A",zone="cluster.local."} 2',
        'coredns_dns_requests_total{proto="udp",type="other",zone="."} 1',
        'coredns_dns_responses_total{rcode="NXDOMAIN",zone="cluster.local."} 1',
        'coredns_dns_request_duration_seconds_bucket{zone="cluster.local.",le="0.00025"} 0',
        'coredns_dns_request_duration_seconds_bucket{zone="cluster.local.",le="0.0005"} 1',
        'coredns_dns_request_duration_seconds_count{zone="cluster.local."} 1',
        'coredns_forward_responses_total{rcode="NOERROR",to="192.0.2.1:53"} 1',
        'coredns_proxy_healthcheck_failures_total{to="192.0.2.2:53"} 1',
    ):
        assert expected in lines
