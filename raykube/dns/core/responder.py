"""A datagram in, an answer out, or what is to be asked elsewhere. Pure.

    respond(data) ─► bytes      the answer
                  ─► Ask        a name of others: ask upstream, then `relay` makes the answer of what it said
                  ─► None       nothing may be said to that

An ExternalName is followed: inside the zone here, outside by an Ask that carries the CNAMEs so far.
"""

from typing import NamedTuple

from raykube.dns.core.message import Body, Message, Record, encode, read_answer
from raykube.dns.core.reply import TCP_BYTES_MAX, UDP_BYTES_MAX, assemble, failure, record
from raykube.dns.core.wire import (
    AA,
    AAAA,
    AD,
    AXFR,
    CNAME,
    IN,
    IXFR,
    NOERROR,
    NOTIMP,
    NXDOMAIN,
    PTR,
    QUESTION_POINTER,
    SERVFAIL,
    TXT,
    A,
    Query,
    read_query,
    wire_name,
)
from raykube.dns.core.zone import Absent, Alias, Foreign, Found, Zone

CHAIN_MAX = 8  # CNAMEs in a row
# Names below this one every raykube DNS answers, and nobody else: whoever gets this answer from an upstream server has
# found a loop. No upstream server keeps it (TTL 0), and no resolver answers for it by itself, as some do for `invalid`.
PROBE = wire_name("loop-probe.raykube")
PROBE_ANSWER = b"\x0braykube-dns"


class Ask(NamedTuple):
    """A question for upstream servers: that of `query`, or where the CNAMEs of an ExternalName lead."""

    query: Query
    wanted: Query
    aliases: tuple[Record, ...] = ()


class Responder:
    """Answers from one zone."""

    def __init__(self, zone: Zone, *, udp_bytes_max: int = UDP_BYTES_MAX) -> None:
        self.zone = zone
        self.synced = True  # while False, the zone's names get SERVFAIL: nothing is said to be absent that may be there
        self._udp_bytes_max = udp_bytes_max
        self._turn = 0

    def bytes_max(self, query: Query, tcp: bool) -> int:
        """How long the answer may be."""
        return TCP_BYTES_MAX if tcp else min(query.size_bytes_max, self._udp_bytes_max)

    def respond(self, data: bytes, *, tcp: bool = False) -> bytes | Ask | None:
        query = read_query(data)
        return None if query is None else self.answer(query, tcp=tcp)

    def answer(self, query: Query, *, tcp: bool = False) -> bytes | Ask:
        """The same for a query that was read already."""
        if query.refusal:
            return self.refuse(query, query.refusal)
        if query.type in (AXFR, IXFR):
            return self.refuse(query, NOTIMP)
        found = self.zone.lookup(query)
        if not self.synced and (query.type == PTR or not isinstance(found, Foreign)):
            return self.refuse(query, SERVFAIL)
        if isinstance(found, Found):
            answer = found.answer
            if answer.records:
                records = self._rotated(answer.records) if query.type in (A, AAAA) else answer.records
                return self._own(query, NOERROR, tcp, records, (), answer.additional)
            return self._own(query, NOERROR, tcp, (), (self.zone.negative_soa(query),))
        if isinstance(found, Foreign):
            if query.key.endswith(PROBE):
                return self._own(query, NOERROR, tcp, (record(QUESTION_POINTER, TXT, 0, PROBE_ANSWER),))
            return Ask(query, query)
        if isinstance(found, Alias):
            return self._follow(query, found, tcp)
        return self._own(query, NXDOMAIN, tcp, (), (self.zone.negative_soa(query),))

    def _own(
        self,
        query: Query,
        rcode: int,
        tcp: bool,
        answers: tuple[bytes, ...],
        authority: tuple[bytes, ...] = (),
        additional: tuple[bytes, ...] = (),
    ) -> bytes:
        return assemble(
            query,
            rcode,
            answers,
            authority,
            additional,
            bytes_max=self.bytes_max(query, tcp),
            edns_size=self._udp_bytes_max,
        )

    def _rotated(self, records: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Another one first each time: many clients take the first."""
        if len(records) < 2:
            return records
        self._turn += 1
        cut = self._turn % len(records)
        return records[cut:] + records[:cut]

    def refuse(self, query: Query, rcode: int) -> bytes:
        return failure(query, rcode, edns_size=self._udp_bytes_max)

    # Aliases

    def _follow(self, query: Query, alias: Alias, tcp: bool) -> bytes | Ask:
        if query.type == CNAME:
            return self._own(query, NOERROR, tcp, (alias.record,))
        aliases: list[Record] = []
        wanted = query
        found: object = alias
        while isinstance(found, Alias):
            ttl_s = int.from_bytes(alias.record[6:10], "big")
            aliases.append(Record(wanted.key, CNAME, IN, ttl_s, found.target))
            if len(aliases) > CHAIN_MAX:
                return self.refuse(query, SERVFAIL)
            wanted = _query_for(query, found.target)
            found = self.zone.lookup(wanted)
        if isinstance(found, Found | Absent):
            # What the zone says of the target, taken apart to stand behind the CNAMEs.
            inner = self.answer(wanted._replace(edns=False), tcp=True)
            assert isinstance(inner, bytes)
            return self.relay(Ask(query, wanted, tuple(aliases)), read_answer(inner, inner), None, 0, tcp=tcp, flags=AA)
        return Ask(query, wanted, tuple(aliases))

    def relay(self, ask: Ask, message: Message, body: Body | None, age_s: int, *, tcp: bool, flags: int = 0) -> bytes:
        """The answer to `ask.query` out of what was said to `ask.wanted` `age_s` ago; `body` is the message encoded."""
        query = ask.query
        if body is None or ask.aliases:
            body = encode(query.key, message, first=ask.aliases)
        rcode = message.rcode
        if rcode > 15 and not query.edns:
            rcode = SERVFAIL  # a code that only EDNS can say
        if message.authentic and (query.dnssec_ok or query.flags & AD):
            flags |= AD
        return assemble(
            query,
            rcode,
            *body.aged(age_s),
            bytes_max=self.bytes_max(query, tcp),
            flags=flags,
            edns_size=self._udp_bytes_max,
        )


def _query_for(query: Query, target: bytes) -> Query:
    labels, position = [], 0
    while length := target[position]:
        labels.append(position)
        position += length + 1
    return query._replace(name=target, key=target.lower(), labels=(*labels, position))
