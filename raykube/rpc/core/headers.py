"""Header blocks (HPACK, RFC 7541).

Sending is stateless: literals without indexing, no Huffman code, so that blocks may be made once, remembered and sent
in any order. Receiving knows everything; a block that leaves the dynamic table as it was means the same until the table
changes, so its meaning is remembered: with most clients a call's head costs one look into a dict.
"""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from raykube.rpc.core.fields import Field, FieldReader

T = TypeVar("T")

REMEMBERED_MAX = 256
REMEMBERED_BYTES_MAX = 1024  # of one block
REMEMBERED_LISTS_BYTES_MAX = 256 * 1024  # of all their lists: with the table's help small blocks stand for large ones

# Indices in RFC 7541's static table, appendix A
METHOD_POST, SCHEME = b"\x83", {"http": b"\x86", "https": b"\x87"}
STATUS_200 = b"\x88"
_AUTHORITY, _PATH, _CONTENT_TYPE, _USER_AGENT = 1, 4, 31, 58
_NAMES = {b":authority": _AUTHORITY, b":path": _PATH, b"content-type": _CONTENT_TYPE, b"user-agent": _USER_AGENT}
SIZE_UPDATE_0 = b"\x20"  # "my dynamic table holds nothing": owed to a peer that lowers HEADER_TABLE_SIZE


def _integer(value: int, bits: int) -> bytes:
    """Section 5.1, the first byte's upper bits zero."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((value,))
    out = bytearray((most,))
    value -= most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(headers: Iterable[Field]) -> bytes:
    """A header block of literals."""
    parts: list[bytes] = []
    for name, value in headers:
        index = _NAMES.get(name)
        parts += (b"\0" + _integer(len(name), 7) + name,) if index is None else (_integer(index, 4),)
        parts += (_integer(len(value), 7), value)
    return b"".join(parts)


class HeaderDecoder(Generic[T]):
    """One direction of a connection: blocks to what `parse` makes of their headers."""

    def __init__(self, parse: Callable[[list[Field]], T], list_bytes_max: int) -> None:
        self._parse = parse
        self._reader = FieldReader(list_bytes_max)
        self._remembered: dict[bytes, T] = {}
        self._lists_bytes = 0  # of those

    def decode(self, block: bytes) -> T:
        """What the block means; the value may be shared by calls.

        Raises ConnectionFault when the block is no HPACK or too long, and whatever `parse` raises.
        """
        found = self._remembered.get(block)
        if found is not None:
            return found
        before = self._reader.changes
        fields = self._reader.read(block)
        same = before == self._reader.changes
        if not same or len(self._remembered) >= REMEMBERED_MAX or self._lists_bytes >= REMEMBERED_LISTS_BYTES_MAX:
            self._remembered.clear()
            self._lists_bytes = 0
        value = self._parse(fields)
        if same and len(block) <= REMEMBERED_BYTES_MAX:
            self._remembered[block] = value
            self._lists_bytes += self._reader.list_bytes
        return value
