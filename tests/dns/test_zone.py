"""Random clusters, changed step by step: every name is answered as the twin says, and nothing of what was is left."""

from typing import Any

import pytest
from dnslib import QTYPE, RCODE, DNSRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.dns.core.responder import Ask, Responder
from raykube.dns.core.zone import Zone
from tests.dns import twin
from tests.dns.objects import endpoint_slice, namespace, put, query, remove, service

NAMES = ("a", "b")
NAMESPACES = ("one", "two")
PORTS = ("http:80/TCP", "http:80/UDP", "pg:5432/TCP", ":9/TCP")
IPS = ("10.96.0.1", "10.96.0.2", "fd00::1", "10.1.0.1")
ADDRESSES = ("10.1.0.1", "10.1.0.2", "h=10.1.0.1", "i=10.1.0.2", "h=10.1.0.3", "!10.1.0.4", "!h=10.1.0.4")
ADDRESSES_V6 = ("fd00::a", "h=fd00::b", "!fd00::c")

ports = st.lists(st.sampled_from(PORTS), max_size=3, unique=True)
services = st.builds(
    lambda name, ns, ips, own, external: service(name, *ips, ns=ns, ports=own, external=external),
    st.sampled_from(NAMES),
    st.sampled_from(NAMESPACES),
    st.one_of(st.just(["None"]), st.lists(st.sampled_from(IPS), min_size=1, max_size=2, unique=True)),
    ports,
    st.sampled_from(["", "", "", "www.example.com"]),
)
slices = st.builds(
    lambda name, points, ns, own, number: endpoint_slice(name, *points, ns=ns, ports=own, name=f"slice-{number}"),
    st.sampled_from(NAMES),
    st.one_of(
        st.lists(st.sampled_from(ADDRESSES), max_size=4, unique=True),
        st.lists(st.sampled_from(ADDRESSES_V6), max_size=3, unique=True),
    ),
    st.sampled_from(NAMESPACES),
    ports,
    st.integers(0, 2),  # so that a slice moves from one Service to another
)
steps = st.lists(
    st.tuples(st.booleans(), st.one_of(services, slices, st.builds(namespace, st.sampled_from(NAMESPACES)))),
    max_size=12,
)
CANDIDATES = [
    f"{prefix}{name}.{ns}.svc.cluster.local"
    for prefix in (
        "", "h.", "i.", "x.", "10-1-0-1.", "10-1-0-2.", "10-1-0-4.", "fd00--a.", "_tcp.", "_http._tcp.", "_http._udp.",
        "_pg._tcp.", "_none._tcp.", "y._http._tcp.",
    )
    for name in NAMES
    for ns in NAMESPACES
]  # fmt: skip
OTHERS = [
    "cluster.local", "svc.cluster.local", "pod.cluster.local", "one.svc.cluster.local", "two.pod.cluster.local",
    "x.svc.cluster.local", "x.cluster.local", "ns.dns.cluster.local",
]  # fmt: skip
REVERSE = [
    twin.ip_address(address.lstrip("!").rpartition("=")[2]).reverse_pointer
    for address in (*IPS, *ADDRESSES, *ADDRESSES_V6)
]


def apply(zone: Zone, present: dict[Any, Any], keep: bool, obj: dict[str, Any]) -> None:
    key = (obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
    if keep:
        put(zone, obj)
        present[key] = obj
    elif present.pop(key, None) is not None:
        remove(zone, obj)


def told(answer: DNSRecord, kind: str) -> set[str]:
    found = {
        f"{each.rdata.port} {each.rdata.target}" if kind == "SRV" else str(each.rdata)
        for each in answer.rr
        if QTYPE[each.rtype] == kind
    }
    assert len(answer.rr) == len(found), "a record twice, or of another type"
    return found


@given(steps)
@settings(max_examples=150, deadline=None)
def test_answers_are_the_specifications(changes: list[tuple[bool, dict[str, Any]]]) -> None:
    zone = Zone("cluster.local", servers=["10.96.0.10"])
    responder = Responder(zone)
    present: dict[Any, dict[str, Any]] = {}
    for number, (keep, obj) in enumerate(changes):
        apply(zone, present, keep, obj)
        if number % 3 and number + 1 < len(changes):
            continue
        namespaces = {name for kind, _, name in present if kind == "Namespace"}
        all_rows, names = twin.rows(
            [each for each in present.values() if each["kind"] == "Service"],
            [each for each in present.values() if each["kind"] == "EndpointSlice"],
            namespaces,
        )
        records = twin.only_services_reverse(all_rows)
        aliases = {name: data for name, kind, data in records if kind == "CNAME"}
        for name in (*CANDIDATES, *OTHERS):
            for kind in ("A", "AAAA", "SRV", "TXT"):
                found = responder.respond(query(name, kind), tcp=True)
                if name in aliases:
                    assert isinstance(found, Ask)
                    continue
                assert isinstance(found, bytes)
                answer = DNSRecord.parse(found)
                expected = {data for row, row_kind, data in records if (row, row_kind) == (name, kind)}
                if (name, kind) == ("ns.dns.cluster.local", "A"):
                    expected = {"10.96.0.10"}
                assert told(answer, kind) == expected, (name, kind)
                exists = name in names
                assert RCODE[answer.header.rcode] == ("NOERROR" if exists else "NXDOMAIN"), (name, kind)
                assert bool(answer.auth) == (not expected)
        for name in REVERSE:
            expected = {data for row, _, data in records if row == name}
            found = responder.respond(query(name, "PTR"), tcp=True)
            assert isinstance(found, bytes) == bool(expected), name
            if isinstance(found, bytes):
                assert told(DNSRecord.parse(found), "PTR") == expected
    for _, obj in changes:
        apply(zone, present, False, obj)
    assert not zone._services  # nothing is remembered of what is gone
    assert not zone._reverse
    assert not zone._reverse_of
    assert not zone._service_of_slice


@pytest.mark.parametrize("odd", [70000, -1])
def test_a_port_that_is_none_leaves_the_others_answered(odd: int) -> None:
    """The API does not look at the ports of slices: the whole name's SRV query stayed without any answer."""
    zone = Zone("cluster.local")
    put(zone, namespace("default"), service("db", "None", ports=["pg:5432/TCP"]))
    put(zone, endpoint_slice("db", "h=10.1.0.1", ports=["pg:5432/TCP"]))
    put(zone, endpoint_slice("db", "i=10.1.0.2", name="db-2", ports=[f"pg:{odd}/TCP"]))
    found = Responder(zone).respond(query("_pg._tcp.db.default.svc.cluster.local", "SRV"))
    assert isinstance(found, bytes)
    assert [str(each.rdata) for each in DNSRecord.parse(found).rr] == ["0 100 5432 h.db.default.svc.cluster.local."]
