"""What an upstream server answered: checked, taken apart, and encoded again for whoever asks next. Pure.

Names are expanded and compressed anew, so that a body fits behind any question of the same length, and behind the
CNAME of an ExternalName Service. A body knows where its TTLs are and where its records end: it can be aged and cut.
"""

from collections.abc import Sequence
from typing import NamedTuple

from raykube.dns.core.wire import (
    AD,
    CNAME,
    HEADER_BYTES,
    NOERROR,
    NXDOMAIN,
    OPT,
    QR,
    SOA,
    TC,
    Malformed,
    read_name,
)

# Types whose data hold names that may be compressed (RFC 1035; RFC 3597 section 4): bytes before the names, how many
# names, bytes after them.
_NAMES_IN = {
    2: (0, 1, 0), 5: (0, 1, 0), 6: (0, 2, 20), 7: (0, 1, 0), 8: (0, 1, 0), 9: (0, 1, 0), 12: (0, 1, 0), 14: (0, 2, 0),
    15: (2, 1, 0), 17: (0, 2, 0), 18: (2, 1, 0), 21: (2, 1, 0), 33: (6, 1, 0), 36: (2, 1, 0), 39: (0, 1, 0),
}  # fmt: skip
TTL_S_MAX = 0x7FFFFFFF


class Record(NamedTuple):
    """One resource record, its names expanded."""

    owner: bytes
    type: int
    klass: int
    ttl_s: int
    data: bytes


class Message(NamedTuple):
    """An answer without its question."""

    rcode: int
    authentic: bool  # AD: the upstream server checked the signatures
    truncated: bool
    answers: tuple[Record, ...]
    authority: tuple[Record, ...]
    additional: tuple[Record, ...]


def read_answer(data: bytes, sent: bytes) -> Message:
    """The answer to the query message `sent`. Raises Malformed, also for an answer to something else."""
    if len(data) < HEADER_BYTES or data[:2] != sent[:2] or not data[2] & QR >> 8:
        raise Malformed("not an answer to this query")
    flags = int.from_bytes(data[2:4], "big")
    counts = [int.from_bytes(data[at : at + 2], "big") for at in (4, 6, 8, 10)]
    rcode = flags & 15
    position = HEADER_BYTES
    name, end = read_name(sent, HEADER_BYTES)
    if counts[0] == 1:
        answered, position = read_name(data, HEADER_BYTES)
        if answered.lower() != name.lower() or data[position : position + 4] != sent[end : end + 4]:
            raise Malformed("an answer to another question")
        position += 4
    elif counts[0] or rcode in (NOERROR, NXDOMAIN):
        raise Malformed("an answer without its question")  # servers that refuse may leave it out
    sections: list[tuple[Record, ...]] = []
    if flags & TC:
        # It is asked for again over TCP: what was cut may end anywhere.
        return Message(rcode, False, True, (), (), ())
    for count in counts[1:]:
        records = []
        for _ in range(count):
            found, position = _read_record(data, position)
            if found.type == OPT:
                rcode |= found.ttl_s >> 24 << 4
            else:
                records.append(found)
        sections.append(tuple(records))
    return Message(rcode, bool(flags & AD), False, *sections)


def _read_record(data: bytes, position: int) -> tuple[Record, int]:
    owner, position = read_name(data, position)
    fixed = data[position : position + 10]
    start, end = position + 10, position + 10 + int.from_bytes(fixed[8:10], "big")
    if len(fixed) < 10 or end > len(data):
        raise Malformed("a record ends with the message")
    kind, ttl_s = int.from_bytes(fixed[:2], "big"), int.from_bytes(fixed[4:8], "big")
    if ttl_s > TTL_S_MAX and kind != OPT:
        ttl_s = 0  # RFC 2181 section 8
    content = data[start:end]
    if kind in _NAMES_IN:
        before, count, after = _NAMES_IN[kind]
        parts, at = [data[start : start + before]], start + before
        for _ in range(count):
            name, at = read_name(data, at)
            parts.append(name)
        if at + after != end:
            raise Malformed("a record's data has another length than its names")
        content = b"".join((*parts, data[at:end]))
    return Record(owner, kind, int.from_bytes(fixed[2:4], "big"), ttl_s, content), end


class Body(NamedTuple):
    """Records encoded for the place behind a question of a certain length."""

    records: tuple[bytes, ...]
    ttl_at: tuple[int, ...]  # where each record's TTL stands in it
    counts: tuple[int, int, int]

    def aged(self, age_s: int) -> list[list[bytes]]:
        """The three sections, TTLs less by `age_s`."""
        records: Sequence[bytes] = self.records
        if age_s > 0:
            records = [_older(each, at, age_s) for each, at in zip(self.records, self.ttl_at, strict=True)]
        answers, authority = self.counts[0], self.counts[0] + self.counts[1]
        return [list(records[:answers]), list(records[answers:authority]), list(records[authority:])]


def _older(encoded: bytes, at: int, age_s: int) -> bytes:
    ttl_s = max(0, int.from_bytes(encoded[at : at + 4], "big") - age_s)
    return encoded[:at] + ttl_s.to_bytes(4, "big") + encoded[at + 4 :]


def encode(question: bytes, message: Message, *, ttl_s_max: int = TTL_S_MAX, first: Sequence[Record] = ()) -> Body:
    """The message's records behind a question for the wire name `question`; `first` come before the answers."""
    offsets: dict[bytes, int] = {}
    _remember(offsets, question.lower(), HEADER_BYTES)
    position = HEADER_BYTES + len(question) + 4
    records, ttl_at = [], []
    answers = (*first, *message.answers)
    for each in (*answers, *message.authority, *message.additional):
        owner = _compressed(offsets, each.owner, position)
        data_at = position + len(owner) + 10
        if each.type == CNAME:
            _remember(offsets, each.data.lower(), data_at)  # the next record is likely to be of that name
        ttl = min(each.ttl_s, ttl_s_max)
        encoded = b"".join(
            (
                owner,
                each.type.to_bytes(2, "big"),
                each.klass.to_bytes(2, "big"),
                ttl.to_bytes(4, "big"),
                len(each.data).to_bytes(2, "big"),
                each.data,
            )
        )
        ttl_at.append(len(owner) + 4)
        records.append(encoded)
        position += len(encoded)
    counts = (len(answers), len(message.authority), len(message.additional))
    return Body(tuple(records), tuple(ttl_at), counts)


def _remember(offsets: dict[bytes, int], key: bytes, at: int) -> None:
    start = 0
    while key[start] and at + start < 0x4000:
        offsets.setdefault(key[start:], at + start)
        start += key[start] + 1


def _compressed(offsets: dict[bytes, int], name: bytes, at: int) -> bytes:
    """The name with its longest known end as a pointer; what is new is remembered."""
    key = name.lower()
    start = 0
    while key[start]:
        known = offsets.get(key[start:])
        if known is not None:
            break
        start += key[start] + 1
    else:
        _remember(offsets, key, at)
        return name
    found = name[:start] + (0xC000 | known).to_bytes(2, "big")
    new = 0
    while new < start and at + new < 0x4000:
        offsets.setdefault(key[new:], at + new)
        new += key[new] + 1
    return found


def lifetime_s(message: Message) -> int:
    """How long the answer may be remembered (RFC 2308): 0 when it may not."""
    if message.rcode not in (NOERROR, NXDOMAIN):
        return 0
    ttls = [each.ttl_s for each in (*message.answers, *message.authority)]
    soa = [each for each in message.authority if each.type == SOA]
    if message.rcode == NXDOMAIN or not message.answers:
        if not soa:
            return 0  # absent, and nobody says for how long
        ttls += [int.from_bytes(each.data[-4:], "big") for each in soa]
    return min(ttls, default=0)
