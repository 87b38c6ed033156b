"""Header blocks into fields (HPACK, RFC 7541 section 6), with the table of one direction of a connection.

`hpack` brings the static table and the Huffman code. The walk is ours, as a client that sends a deadline changes the
table with every call: a third of the library's time.

    1xxxxxxx  a field of the table           001xxxxx  the table's new size
    01xxxxxx  a literal, into the table      000xxxxx  a literal, as it is
"""

from collections import deque

from hpack import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from raykube.rpc.core.frames import ConnectionFault, ErrorCode

Field = tuple[bytes, bytes]

TABLE_BYTES_MAX = 4096  # we never send HEADER_TABLE_SIZE
FIELD_BYTES = 32  # what a field counts beyond its name and value
INTEGER_BYTES_MAX = 16  # beyond the first; what is too large for its use is refused there
_STATIC: tuple[Field, ...] = tuple(HeaderTable.STATIC_TABLE)


class FieldReader:
    """Decodes the blocks of one direction, in their order. A fault leaves the table useless: the connection ends."""

    def __init__(self, list_bytes_max: int) -> None:
        self._list_bytes_max = list_bytes_max
        self._table: deque[Field] = deque()  # latest first
        self._table_bytes = 0
        self._table_bytes_max = TABLE_BYTES_MAX
        self.changes = 0  # of the table
        self.list_bytes = 0  # of the latest block's fields, as RFC 9113 counts

    def read(self, block: bytes) -> list[Field]:
        """The block's fields. Raises ConnectionFault: no HPACK, or longer than `list_bytes_max` (RFC 9113, 6.5.2)."""
        fields: list[Field] = []
        at, end, total = 0, len(block), 0
        try:
            while at < end:
                first = block[at]
                if first & 0x80:
                    index = first & 0x7F
                    at += 1
                    if index == 0x7F:
                        index, at = _integer(block, at, index)
                    field = self._at(index)
                elif first & 0x40:
                    field, at = self._literal(block, at, 0x3F)
                    self._insert(field)
                elif first & 0x20:
                    if fields:
                        raise _fault("the table is resized behind a field")
                    size, at = _small(block, at, 0x1F)
                    self._resize(size)
                    continue
                else:
                    field, at = self._literal(block, at, 0x0F)
                total += len(field[0]) + len(field[1]) + FIELD_BYTES
                if total > self._list_bytes_max:
                    raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the header list is too long")
                fields.append(field)
        except (IndexError, HPACKDecodingError) as error:
            raise _fault("a field is cut short or its Huffman code is wrong") from error
        self.list_bytes = total
        return fields

    def _at(self, index: int) -> Field:
        if index > len(_STATIC):
            if index > len(_STATIC) + len(self._table):
                raise _fault("an index beyond the table")
            return self._table[index - len(_STATIC) - 1]
        if not index:
            raise _fault("index 0")
        return _STATIC[index - 1]

    def _literal(self, block: bytes, at: int, mask: int) -> tuple[Field, int]:
        index, at = _small(block, at, mask)
        if index:
            name = self._at(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        return (name, value), at

    def _insert(self, field: Field) -> None:
        self.changes += 1
        self._table.appendleft(field)
        self._table_bytes += len(field[0]) + len(field[1]) + FIELD_BYTES
        self._evict()

    def _resize(self, size: int) -> None:
        if size > TABLE_BYTES_MAX:
            raise _fault("a table larger than allowed")
        self.changes += 1
        self._table_bytes_max = size
        self._evict()

    def _evict(self) -> None:
        """The oldest fields go first; one larger than the whole table leaves it empty."""
        while self._table_bytes > self._table_bytes_max:
            name, value = self._table.pop()
            self._table_bytes -= len(name) + len(value) + FIELD_BYTES


def _fault(reason: str) -> ConnectionFault:
    return ConnectionFault(ErrorCode.COMPRESSION_ERROR, f"the header block is no HPACK: {reason}")


def _small(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """An integer that begins in the low bits of the byte at `at` (section 5.1), and where it ends."""
    value = block[at] & mask
    return (value, at + 1) if value < mask else _integer(block, at + 1, value)


def _integer(block: bytes, at: int, value: int) -> tuple[int, int]:
    for shift in range(0, 7 * INTEGER_BYTES_MAX, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise _fault("an integer is too long")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    huffman = block[at] & 0x80
    size, at = _small(block, at, 0x7F)
    end = at + size
    if end > len(block):
        raise _fault("a string is cut short")
    return (decode_huffman(block[at:end]) if huffman else block[at:end]), end
