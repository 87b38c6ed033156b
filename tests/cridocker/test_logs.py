"""Docker's stream of a log into CRI's lines, in any pieces, from any position."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from raykube.cridocker.core import logs
from raykube.cridocker.core.logs import Position, Reader

TIME = "2026-01-02T03:04:05.{:09d}Z"

# (time, stream, text): times never go back, and may repeat.
entries = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from((1, 2)),
        st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b"")),
        st.booleans(),
    ),
    max_size=12,
).map(lambda rows: sorted(rows, key=lambda row: row[0]))


def stream_of(rows: list[tuple[int, int, bytes, bool]], *, terminal: bool = False) -> bytes:
    data = b""
    for time, stream, text, whole in rows:
        payload = TIME.format(time).encode() + b" " + text + (b"\n" if whole or terminal else b"")
        data += payload if terminal else struct.pack(">B3xI", stream, len(payload)) + payload
    return data


def lines_of(rows: list[tuple[int, int, bytes, bool]], *, terminal: bool = False) -> bytes:
    return b"".join(
        b"%s %s %s %s\n"
        % (
            TIME.format(time).encode(),
            b"stdout" if stream == 1 or terminal else b"stderr",
            b"F" if whole or terminal else b"P",
            text,
        )
        for time, stream, text, whole in rows
    )


def read(reader: Reader, data: bytes, size: int) -> bytes:
    found = [entry for start in range(0, len(data), size) for entry in reader.feed(data[start : start + size])]
    return b"".join(entry.line() for entry in [*found, *reader.finish()])


@given(entries, st.integers(1, 50), st.booleans())
def test_pieces_do_not_matter(rows: list[tuple[int, int, bytes, bool]], size: int, terminal: bool) -> None:
    reader = Reader(Position(), terminal=terminal)
    assert read(reader, stream_of(rows, terminal=terminal), size) == lines_of(rows, terminal=terminal)


@given(entries, st.integers(0, 12), st.integers(0, 5))
def test_a_file_is_continued_where_it_ends(rows: list[tuple[int, int, bytes, bool]], written: int, cut: int) -> None:
    file = lines_of(rows[:written])
    torn = file + lines_of(rows[written : written + 1])[:cut]  # a crash in the middle of a line
    tail = torn[: len(torn) - logs.whole(torn)]
    position = logs.position_of(torn)
    # Docker begins with the entries of the position's time, all of them.
    given_again = [row for row in rows if TIME.format(row[0]) >= position.time]
    reader = Reader(position, terminal=False)
    assert tail + read(reader, stream_of(given_again), 7) == lines_of(rows)
    if rows:
        assert reader.position == logs.position_of(lines_of(rows))


def test_since_is_exact() -> None:
    assert logs.since(Position("2026-01-02T03:04:05.000000678Z", 1)) == "1767323045.000000678"
