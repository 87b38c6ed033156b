"""DNS messages as bytes: names, queries, and the numbers (RFC 1035, 3597, 6891). Pure.

A *wire name* is a name as messages have it, without compression: `\\x03web\\x07default\\x00`. Lower-casing its bytes
lower-cases the name, for lengths are below 64 and letters above; a lower-cased wire name is a *key*.
"""

from typing import NamedTuple

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, OPT, AXFR, IXFR, ANY = 1, 2, 5, 6, 12, 15, 16, 28, 33, 41, 252, 251, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
OPCODE = 0x7800

HEADER_BYTES = 12
NAME_BYTES_MAX = 255
LABEL_BYTES_MAX = 63
UDP_BYTES_MIN = 512  # what a client without EDNS takes
DNSSEC_OK = 0x8000
QUESTION_POINTER = b"\xc0\x0c"  # a compressed owner: the name of the question

TYPE_NAMES = {
    A: "A", NS: "NS", CNAME: "CNAME", SOA: "SOA", PTR: "PTR", MX: "MX", TXT: "TXT", AAAA: "AAAA", SRV: "SRV",
    35: "NAPTR", 43: "DS", 48: "DNSKEY", 64: "SVCB", 65: "HTTPS", ANY: "ANY",
}  # fmt: skip
RCODE_NAMES = {
    NOERROR: "NOERROR", FORMERR: "FORMERR", SERVFAIL: "SERVFAIL", NXDOMAIN: "NXDOMAIN", NOTIMP: "NOTIMP",
    REFUSED: "REFUSED", BADVERS: "BADVERS",
}  # fmt: skip


class Malformed(ValueError):
    """Bytes that are no DNS message."""


def wire_name(text: str) -> bytes:
    """`web.default` or `web.default.` → its wire name. Raises ValueError."""
    stripped = text.removesuffix(".")
    found = bytearray()
    for label in stripped.split(".") if stripped else ():
        encoded = label.encode("ascii")
        if not 0 < len(encoded) <= LABEL_BYTES_MAX:
            raise ValueError(f"{text!r} has a label of {len(encoded)} bytes")
        found.append(len(encoded))
        found += encoded
    found.append(0)
    if len(found) > NAME_BYTES_MAX:
        raise ValueError(f"{text!r} is longer than {NAME_BYTES_MAX} bytes")
    return bytes(found)


def text_name(wire: bytes) -> str:
    """A wire name for people, with a dot at the end; bytes that are not printable are `\\DDD`."""
    labels, position = [], 0
    while length := wire[position]:
        label = wire[position + 1 : position + 1 + length]
        labels.append("".join(chr(c) if 33 <= c <= 126 and c not in b".\\" else f"\\{c:03d}" for c in label))
        position += 1 + length
    return ".".join(labels) + "."


class Query(NamedTuple):
    """A question with what its sender takes. `refusal` is the response code when it cannot be served, else 0."""

    id: bytes
    flags: int
    name: bytes  # the wire name in the sender's spelling, which the answer repeats
    key: bytes
    labels: tuple[int, ...]  # where each label starts in the name, the root's too
    type: int
    edns: bool
    size_bytes_max: int  # what the sender takes over UDP
    dnssec_ok: bool
    refusal: int = NOERROR
    klass: bytes = b"\0\1"


def read_query(data: bytes) -> Query | None:
    """The query in a datagram; None for what must not be answered: too short, or itself an answer."""
    if len(data) < HEADER_BYTES:
        return None
    flags = data[2] << 8 | data[3]
    if flags & QR:
        return None
    unreadable = Query(data[:2], flags, b"", b"", (), 0, False, UDP_BYTES_MIN, False, FORMERR)
    if flags & OPCODE:
        return unreadable._replace(refusal=NOTIMP)
    if data[4:6] != b"\0\1":
        return unreadable
    size = len(data)
    position = HEADER_BYTES
    labels = []
    while True:
        if position >= size:
            return unreadable
        length = data[position]
        labels.append(position - HEADER_BYTES)
        if length == 0:
            break
        if length > LABEL_BYTES_MAX:  # a pointer has nothing to point at yet
            return unreadable
        position += length + 1
    end = position + 5
    if end > size or position + 1 - HEADER_BYTES > NAME_BYTES_MAX:
        return unreadable
    name = data[HEADER_BYTES : position + 1]
    kind = data[position + 1] << 8 | data[position + 2]
    found = Query(data[:2], flags, name, name.lower(), tuple(labels), kind, False, UDP_BYTES_MIN, False)
    if data[position + 3 : end] != b"\0\1":
        found = found._replace(refusal=REFUSED, klass=data[position + 3 : end])  # other classes than IN
    if end == size and data[6:12] == b"\0\0\0\0\0\0":
        return found
    return _with_records(found, data, end)


def _with_records(query: Query, data: bytes, position: int) -> Query:
    """The query with what its other sections say: they must be whole, and only OPT means something."""
    answers, authorities, additionals = (int.from_bytes(data[at : at + 2], "big") for at in (6, 8, 10))
    broken = query._replace(refusal=FORMERR)
    try:
        for index in range(answers + authorities + additionals):
            owner = position
            position = _skip_name(data, position)
            kind = int.from_bytes(data[position : position + 2], "big")
            rest = position + 10
            position = rest + int.from_bytes(data[position + 8 : rest], "big")
            if position > len(data) or rest > len(data):
                return broken
            if kind != OPT:
                continue
            if query.edns or index < answers + authorities or data[owner]:
                return broken
            size, version = int.from_bytes(data[rest - 8 : rest - 6], "big"), data[rest - 5]
            bits = int.from_bytes(data[rest - 4 : rest - 2], "big")
            query = query._replace(
                edns=True,
                size_bytes_max=max(size, UDP_BYTES_MIN),
                dnssec_ok=bool(bits & DNSSEC_OK),
                refusal=query.refusal or (BADVERS if version else NOERROR),
            )
    except (IndexError, Malformed):
        return broken
    return query if position == len(data) else broken


def _skip_name(data: bytes, position: int) -> int:
    while length := data[position]:
        if length >= 0xC0:
            return position + 2
        if length > LABEL_BYTES_MAX:
            raise Malformed("a label of an unknown kind")
        position += length + 1
    return position + 1


def read_name(data: bytes, position: int) -> tuple[bytes, int]:
    """The wire name at `position`, its pointers followed, and where the next thing starts. Raises Malformed."""
    found = bytearray()
    after = 0
    limit = position  # pointers go backwards only, so that none loops
    try:
        while True:
            length = data[position]
            if length >= 0xC0:
                target = (length & 0x3F) << 8 | data[position + 1]
                after = after or position + 2
                if target >= limit:
                    raise Malformed("a pointer that does not point backwards")
                position = limit = target
                continue
            if length > LABEL_BYTES_MAX:
                raise Malformed("a label of an unknown kind")
            label = data[position : position + length + 1]
            if len(label) != length + 1:
                raise Malformed("a name ends with the message")
            found += label
            position += length + 1
            if len(found) > NAME_BYTES_MAX:
                raise Malformed("a name is too long")
            if length == 0:
                return bytes(found), after or position
    except IndexError:
        raise Malformed("a name ends with the message") from None
