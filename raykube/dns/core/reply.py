"""Answers as bytes. Pure.

    header (12) │ question │ answers │ authority │ additional │ OPT, where the query had one

Records are encoded for the place they get: their owner is a pointer to the question's name wherever it can be. What
does not fit into the sender's buffer is left out record by record, the additional section first and silently; the bit
TC says that answers are missing, and the sender asks again over TCP.
"""

from collections.abc import Sequence

from raykube.dns.core.wire import AA, CD, HEADER_BYTES, OPCODE, QR, RA, RD, SERVFAIL, TC, Query

OPT_BYTES = 11
TCP_BYTES_MAX = 65535
UDP_BYTES_MAX = 1232  # fits one packet of any network (DNS flag day 2020)
_IN = b"\0\1"


def record(owner: bytes, kind: int, ttl_s: int, data: bytes) -> bytes:
    """One resource record of class IN."""
    return owner + kind.to_bytes(2, "big") + _IN + ttl_s.to_bytes(4, "big") + len(data).to_bytes(2, "big") + data


def pointer(offset: int) -> bytes:
    """A compressed name: the one that starts at `offset` of the message."""
    return (0xC000 | offset).to_bytes(2, "big")


def question_bytes(query: Query) -> bytes:
    return query.name + query.type.to_bytes(2, "big") + query.klass if query.name else b""


def assemble(
    query: Query,
    rcode: int,
    answers: Sequence[bytes] = (),
    authority: Sequence[bytes] = (),
    additional: Sequence[bytes] = (),
    *,
    bytes_max: int = TCP_BYTES_MAX,
    flags: int = AA,
    edns_size: int = UDP_BYTES_MAX,
) -> bytes:
    """The answer to `query`; `flags` on top of those that every answer has."""
    body = b"".join((*answers, *authority, *additional))
    counts = [len(answers), len(authority), len(additional)]
    question = question_bytes(query)
    room = bytes_max - HEADER_BYTES - len(question) - (OPT_BYTES if query.edns else 0)
    if len(body) > room:
        body, counts, flags = _truncated([answers, authority, additional], room, flags)
    opt = b""
    if query.edns:
        opt = bytes((0, 0, 41, edns_size >> 8, edns_size & 255, rcode >> 4, 0, query.dnssec_ok << 7, 0, 0, 0))
        counts[2] += 1
    flags |= QR | RA | query.flags & (OPCODE | RD | CD) | rcode & 15
    return b"".join(
        (
            query.id,
            flags.to_bytes(2, "big"),
            b"\0\1" if question else b"\0\0",
            *(count.to_bytes(2, "big") for count in counts),
            question,
            body,
            opt,
        )
    )


def _truncated(sections: list[Sequence[bytes]], room: int, flags: int) -> tuple[bytes, list[int], int]:
    """As many records as fit, in order."""
    kept: list[bytes] = []
    counts = [0, 0, 0]
    for number, records in enumerate(sections):
        for each in records:
            if len(each) > room:
                return b"".join(kept), counts, flags if number == 2 else flags | TC
            kept.append(each)
            counts[number] += 1
            room -= len(each)
    return b"".join(kept), counts, flags


def failure(query: Query, rcode: int = SERVFAIL, *, edns_size: int = UDP_BYTES_MAX) -> bytes:
    """An answer without records."""
    return assemble(query, rcode, flags=0, edns_size=edns_size)
