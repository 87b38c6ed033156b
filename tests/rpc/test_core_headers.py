"""Header blocks: our reader against the library's, ours against what we wrote, and what is remembered of them."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.rpc.core.fields import Field, FieldReader
from raykube.rpc.core.frames import ConnectionFault
from raykube.rpc.core.headers import HeaderDecoder, encode

LIST_BYTES_MAX = 16 * 1024

names = st.sampled_from([b":path", b":method", b"te", b"content-type", b"grpc-timeout"]) | st.binary(max_size=300)
values = st.sampled_from([b"", b"POST", b"/", b"trailers", b"4999999u"]) | st.binary(max_size=3000)
lists = st.lists(st.tuples(names, values), max_size=6)


def by_the_library(decoder: hpack.Decoder, block: bytes) -> list[Field] | None:
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except (hpack.HPACKError, IndexError):
        return None


def by_us(reader: FieldReader, block: bytes) -> list[Field] | None:
    try:
        return reader.read(block)
    except ConnectionFault:
        return None


@given(st.lists(st.tuples(lists, st.booleans(), st.sampled_from([None, None, 0, 100, 4096])), max_size=8))
def test_what_encoders_send_is_read_as_it_was_meant(blocks: list[tuple[list[Field], bool, int | None]]) -> None:
    encoder, reader = hpack.Encoder(), FieldReader(1 << 20)
    for fields, huffman, table_size in blocks:
        if table_size is not None:
            encoder.header_table_size = table_size
        assert reader.read(encoder.encode(fields, huffman=huffman)) == fields


first_bytes = st.sampled_from([0x80, 0x82, 0xBE, 0xBF, 0xC0, 0xFF, 0x40, 0x41, 0x7F, 0x20, 0x3F, 0x00, 0x10, 0x0F])
pieces = st.one_of(
    st.binary(max_size=8),
    st.tuples(first_bytes, st.binary(max_size=6)).map(lambda pair: bytes((pair[0],)) + pair[1]),
    lists.map(encode),
    lists.map(lambda fields: hpack.Encoder().encode(fields)),
)


@given(st.lists(st.lists(pieces, max_size=5).map(b"".join), max_size=4))
def test_any_bytes_mean_what_they_mean_to_the_library(blocks: list[bytes]) -> None:
    library, reader = hpack.Decoder(max_header_list_size=LIST_BYTES_MAX), FieldReader(LIST_BYTES_MAX)
    for block in blocks:
        expected = by_the_library(library, block)
        assert by_us(reader, block) == expected
        if expected is None:
            return  # the connection ends


@given(lists)
def test_what_we_write_any_decoder_reads(fields: list[Field]) -> None:
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    assert by_the_library(decoder, encode(fields)) == fields
    assert len(decoder.header_table.dynamic_entries) == 0


@pytest.mark.parametrize("block", [b"\x80", b"\xff" * 20, b"\x3f\xff\xff\xff\x01", b"\x82\x20", b"\x00\x85ab"])
def test_what_is_no_block(block: bytes) -> None:
    with pytest.raises(ConnectionFault):
        FieldReader(LIST_BYTES_MAX).read(block)


def test_a_list_may_count_as_much_as_is_allowed() -> None:
    reader = FieldReader(3 * 34)
    field = b"\x00\x01a\x01b"
    assert len(reader.read(field * 3)) == 3
    with pytest.raises(ConnectionFault, match="too long"):
        reader.read(field * 4)


def test_a_small_block_cannot_stand_for_a_large_list() -> None:
    reader = FieldReader(LIST_BYTES_MAX)
    reader.read(b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000)
    with pytest.raises(ConnectionFault, match="too long"):
        reader.read(b"\xbe" * 5)


def test_a_block_is_parsed_once_until_the_table_changes() -> None:
    parsed: list[list[Field]] = []

    def parse(fields: list[Field]) -> list[Field]:
        parsed.append(fields)
        return fields

    decoder = HeaderDecoder(parse, LIST_BYTES_MAX)
    decoder.decode(b"\x40\x01a\x01b")
    for _ in range(5):
        assert decoder.decode(b"\xbe") == [(b"a", b"b")]
    assert len(parsed) == 2
    decoder.decode(b"\x40\x01a\x01c")
    assert decoder.decode(b"\xbe") == [(b"a", b"c")]
    decoder.decode(b"\x20")
    with pytest.raises(ConnectionFault):
        decoder.decode(b"\xbe")


def test_what_is_remembered_is_bounded() -> None:
    decoder = HeaderDecoder(len, LIST_BYTES_MAX)
    for number in range(10_000):
        decoder.decode(encode([(b"x", str(number).encode())]))
        decoder.decode(encode([(b"x", b"y" * 2000)]))
    assert len(decoder._remembered) <= 256
    assert max(map(len, decoder._remembered)) < 100


def test_small_blocks_that_stand_for_large_lists_are_not_all_remembered() -> None:
    """A byte each for a field of the table, of 4 KB: 256 such lists would be megabytes for every connection."""
    decoder = HeaderDecoder(lambda fields: sum(len(value) for _, value in fields), 64 * 1024)
    decoder.decode(b"\x40\x03abc\x7f\xa1\x1e" + b"v" * 4000)
    held = [decoder.decode(b"\xbe" * 15 + encode([(b"x", b"%d" % number)])) for number in range(1000)]
    assert min(held) > 60_000
    assert sum(decoder._remembered.values()) < 512 * 1024
