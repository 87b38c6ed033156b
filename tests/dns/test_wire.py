"""Bytes from anybody: never a crash, never an answer to something else; and dnslib reads what we write."""

from dnslib import AAAA, CNAME, EDNS0, MX, NS, QTYPE, RR, SOA, SRV, TXT, A, DNSHeader, DNSQuestion, DNSRecord
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raykube.dns.core.message import encode, read_answer
from raykube.dns.core.responder import Ask, Responder
from raykube.dns.core.wire import (
    FORMERR,
    HEADER_BYTES,
    Malformed,
    Query,
    read_name,
    read_query,
    text_name,
    wire_name,
)
from raykube.dns.core.zone import Zone
from tests.dns.objects import endpoint_slice, namespace, put, query, service

labels = st.text("abcXYZ019-_", min_size=1, max_size=12)
names = st.one_of(
    st.lists(labels, min_size=1, max_size=6).map(".".join),
    st.sampled_from(["big.one.svc.cluster.local", "web.one.svc.cluster.local", "_p._tcp.big.one.svc.cluster.local"]),
)
kinds = st.sampled_from(["A", "AAAA", "SRV", "TXT", "PTR", "CNAME", "MX", "ANY", "SOA", "NS", "HTTPS"])


def responder() -> Responder:
    zone = Zone("cluster.local", servers=["10.96.0.10"])
    big = [f"10.1.{number // 200}.{number % 200 + 1}" for number in range(300)]
    put(
        zone,
        namespace("one"),
        service("big", "None", ns="one"),
        service("web", "10.96.0.7", ns="one", ports=["p:1/TCP"]),
    )
    put(
        zone,
        endpoint_slice("big", *big, ns="one", ports=["p:1/TCP"]),
        service("ex", ns="one", external="www.example.com"),
    )
    return Responder(zone)


RESPONDER = responder()


def check(data: bytes, answer: bytes | Ask | None, bytes_max: int) -> None:
    """Whatever came, what goes back is a message that an independent reader understands, to that query."""
    if not isinstance(answer, bytes):
        return
    assert len(answer) <= bytes_max
    assert answer[:2] == data[:2]
    assert answer[2] >> 7 == 1
    assert answer[2] >> 3 & 15 == data[2] >> 3 & 15
    end = HEADER_BYTES
    if answer[5]:
        end = read_name(answer, HEADER_BYTES)[1] + 4
        assert answer[HEADER_BYTES:end] == data[HEADER_BYTES:end]  # the question, as it was spelled
    if answer[HEADER_BYTES:end].isascii():  # dnslib takes no other labels
        DNSRecord.parse(answer)


@given(st.binary(max_size=80))
@example(b"\0" * 12)
@example(b"\0\0\1\0\0\1" + b"\0" * 6)
@settings(deadline=None)
def test_any_bytes(data: bytes) -> None:
    answer = RESPONDER.respond(data)
    if len(data) < HEADER_BYTES or data[2] & 0x80:
        assert answer is None
    check(data, answer, 512)


@given(names, kinds, st.integers(0, 5000), st.integers(0, 65535), st.booleans(), st.data())
@settings(deadline=None)
def test_damaged_queries(name: str, kind: str, edns: int, number: int, tcp: bool, data: st.DataObject) -> None:
    """A whole query is understood as dnslib wrote it; cut or changed anywhere it still does no harm."""
    whole = query(name, kind, edns=edns, number=number)
    found = read_query(whole)
    assert found is not None
    assert found.refusal == 0
    assert (text_name(found.name), found.type) == (f"{name}.", getattr(QTYPE, kind))
    assert found.id == number.to_bytes(2, "big")
    assert found.edns == bool(edns)
    assert found.size_bytes_max == max(512, edns)
    bytes_max = 65535 if tcp else min(max(512, edns), 1232)
    check(whole, RESPONDER.respond(whole, tcp=tcp), bytes_max)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    if len(cut) >= HEADER_BYTES:
        broken = read_query(cut)
        assert broken is not None
        assert broken.refusal == FORMERR
    check(cut, RESPONDER.respond(cut, tcp=tcp), 65535)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + bytes((data.draw(st.integers(0, 255)),)) + whole[at + 1 :]
    check(changed, RESPONDER.respond(changed, tcp=tcp), 65535)


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=5))
def test_labels_of_any_bytes(parts: list[bytes]) -> None:
    """Only the zone's own names are the zone's, whatever bytes a label has."""
    name = b"".join(bytes((len(part),)) + part for part in parts) + b"\0"
    if len(name) > 255:
        return
    for suffix in (b"", b"\x07cluster\x05local"):
        wire = name[:-1] + suffix + b"\0"
        if len(wire) > 255:
            continue
        data = b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + wire + b"\0\1\0\1"
        answer = RESPONDER.respond(data)
        assert isinstance(answer, Ask) == (suffix == b"" and [p.lower() for p in parts[-2:]] != [b"cluster", b"local"])


@given(names)
def test_names_there_and_back(name: str) -> None:
    wire = wire_name(name)
    assert text_name(wire) == f"{name}."
    assert read_name(b"xx" + wire + b"rest", 2) == (wire, 2 + len(wire))


def answer_of(name: str, count: int) -> bytes:
    """dnslib's answer, with compressed names of every kind."""
    reply = DNSRecord(DNSHeader(id=7, qr=1, ra=1), q=DNSQuestion(name, QTYPE.ANY))
    for number in range(count):
        host = f"n{number}.{name}"
        for kind, data in (
            (QTYPE.CNAME, CNAME(host)),
            (QTYPE.MX, MX(f"mail.{name}", 10)),
            (QTYPE.SRV, SRV(1, 2, 3, host)),
            (QTYPE.TXT, TXT("some text")),
            (QTYPE.AAAA, AAAA(f"fd00::{number + 1}")),
        ):
            reply.add_answer(RR(name, kind, rdata=data, ttl=60 + kind))
        reply.add_answer(RR(host, rdata=A(f"192.0.2.{number + 1}"), ttl=61))
    if count:
        reply.add_auth(RR(name, QTYPE.SOA, rdata=SOA(f"ns.{name}", f"root.{name}", (1, 2, 3, 4, 5)), ttl=70))
        reply.add_auth(RR(name, QTYPE.NS, rdata=NS(f"ns.{name}"), ttl=71))
        reply.add_ar(RR(f"ns.{name}", rdata=A("192.0.2.200"), ttl=72))
    reply.add_ar(EDNS0(udp_len=1232))
    return bytes(reply.pack())


@given(st.lists(labels, min_size=1, max_size=4).map(".".join), st.integers(0, 4), st.data())
@settings(deadline=None)
def test_upstreams_answers_are_read_and_written_again(name: str, count: int, data: st.DataObject) -> None:
    whole = answer_of(name, count)
    sent = query(name, "ANY", number=7)
    message = read_answer(whole, sent)
    asked = read_query(sent)
    assert asked is not None
    written = RESPONDER.relay(Ask(asked, asked), message, encode(asked.key, message), 10, tcp=True)
    before, after = DNSRecord.parse(whole), DNSRecord.parse(written)
    for section in ("rr", "auth", "ar"):
        old = [each for each in getattr(before, section) if each.rtype != QTYPE.OPT]
        new = getattr(after, section)
        assert [(str(e.rname).lower(), e.rtype, e.rdata, e.ttl - 10) for e in old] == [
            (str(e.rname).lower(), e.rtype, e.rdata, e.ttl) for e in new
        ]
    # Damaged anywhere: refused, or read as something; never a crash.
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + bytes((data.draw(st.integers(0, 255)),)) + whole[at + 1 :]
    for damaged in (whole[:at], changed):
        try:
            read = read_answer(damaged, sent)
        except Malformed:
            continue
        if not read.truncated and read.rcode <= 15:
            again = RESPONDER.relay(Ask(asked, asked), read, None, 0, tcp=True)
            kept = read_answer(again, sent)
            assert [each.data for each in kept.answers] == [each.data for each in read.answers]
            assert (kept.authority, kept.additional) == (read.authority, read.additional)


def test_pointers_that_lead_nowhere() -> None:
    for data in (b"\xc0\x00", b"\xc0\x01\xc0\x00", b"\x01a\xc0\x00", b"\xc0", b"\x05ab", b"\x80a", b"\x01a"):
        try:
            read_name(data, 0)
        except Malformed:
            continue
        raise AssertionError(data)
    # Long chains of pointers end with the longest name there may be.
    chain = b"\x3f" + b"a" * 63
    data = b"\0" + b"".join(chain + (b"\xc0\x00" if index == 0 else b"") for index in range(1))
    assert read_name(data, 1)[0] == chain + b"\0"


def test_a_query_knows_its_labels() -> None:
    found = read_query(query("a.bc.d"))
    assert isinstance(found, Query)
    assert found.labels == (0, 2, 5, 7)
