"""The log on disk and its format: what a crash may do to it is repaired, anything else is refused."""

import errno
import os
import zlib
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.kv.core import snapshot_codec, wal_codec, wal_replay
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, HardState, Snapshot, Write
from raykube.kv.core.wal_codec import Corrupt, LogWriter, Meta, Place
from raykube.kv.disk import open_disk
from raykube.kv.snapshot_files import SnapshotFiles
from raykube.kv.wal import Wal, owner

META = Meta(5, 9, 1, 0x5A17)


def entries(first: int, *terms: int) -> list[Entry]:
    return [Entry(term, index, 0, b"data %d" % index) for index, term in enumerate(terms, first)]


def fill(folder: Path, writes: int = 5) -> list[Entry]:
    wal, _ = Wal.open(folder, META)
    written = []
    for number in range(writes):
        batch = entries(1 + 2 * number, 1, 1)
        wal.append(Write(HardState(1, 9, number), batch, None, []))
        written += batch
    wal.close()
    return written


def only_segment(folder: Path) -> Path:
    (path,) = folder.glob("*.wal")
    return path


def test_what_is_appended_is_read_again(tmp_path: Path) -> None:
    written = fill(tmp_path / "wal")
    wal, replay = Wal.open(tmp_path / "wal", META)
    wal.close()
    assert replay.entries == written
    assert replay.hard_state == HardState(1, 9, 4)
    # Opening again and again makes new segments, and changes nothing.
    for _ in range(3):
        wal, replay = Wal.open(tmp_path / "wal", META)
        wal.close()
    assert (replay.entries, replay.hard_state) == (written, HardState(1, 9, 4))


def test_what_others_put_beside_a_log_is_none_of_it(tmp_path: Path) -> None:
    written = fill(tmp_path / "wal")
    for name in ("foo.wal", "copy of 0000000000000001-0000000000000001.wal"):
        (tmp_path / "wal" / name).write_bytes(b"?")
    wal, replay = Wal.open(tmp_path / "wal", META)
    wal.purge(100)
    assert wal.bytes_behind(100) == 0
    wal.close()
    assert replay.entries == written
    assert owner(tmp_path / "wal") == META
    assert (tmp_path / "wal" / "foo.wal").exists()


def test_every_torn_tail_is_repaired(tmp_path: Path) -> None:
    fill(tmp_path / "whole", 3)
    whole = only_segment(tmp_path / "whole")
    data = whole.read_bytes()
    second_last = data.rindex(wal_codec.MAGIC_BYTES)
    for cut in range(second_last, len(data)):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        # Cut, and in every other case followed by zeros: blocks that were allocated and never written.
        torn = data[:cut] + (bytes(100) if cut % 2 else b"")
        (folder / whole.name).write_bytes(torn)
        wal, replay = Wal.open(folder, META)
        is_whole = torn.startswith(data)  # what was missing is zeros
        assert [entry.index for entry in replay.entries] == [1, 2, 3, 4, 5, 6][: 6 if is_whole else 4]
        assert not replay.damage
        wal.append(Write(None, entries(5, 2), None, []))
        wal.close()
        wal, replay = Wal.open(folder, META)
        wal.close()
        assert [(entry.index, entry.term) for entry in replay.entries][-1] == (5, 2)


def test_damage_before_valid_records_is_found_and_what_was_promised_is_known(tmp_path: Path) -> None:
    fill(tmp_path / "wal")
    Wal.open(tmp_path / "wal", META)[0].close()
    path = min((tmp_path / "wal").glob("*.wal"))
    data = path.read_bytes()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x40
        replay = wal_replay.replay([(path.name, bytes(damaged)), *segments_behind(path)])
        assert replay.damage
        assert (replay.hard_state, replay.tail) == (HardState(1, 9, 4), Place(1, 10))
        # Only what follows the damage, whole and in order.
        assert replay.entries == entries(1, *[1] * 10)[10 - len(replay.entries) :]
        if position >= wal_codec.FIRST_HEAD_BYTES:
            assert len(replay.entries) < 10  # the head alone holds nothing that is not said again
    path.write_bytes(data[:100] + b"?" + data[101:])
    wal, replay = Wal.open(tmp_path / "wal", META)
    wal.close()
    assert replay.damage
    assert path.read_bytes()[100:101] == b"?"  # left alone, for who wants to look at it


def segments_behind(path: Path) -> list[tuple[str, bytes]]:
    return [(other.name, other.read_bytes()) for other in sorted(path.parent.glob("*.wal")) if other > path]


@pytest.mark.parametrize("lost", [0, 1, 2, 5])
def test_a_missing_segment_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    monkeypatch.setattr("raykube.kv.wal.SEGMENT_BYTES_MAX", 200)
    written = fill(tmp_path / "wal", 20)
    paths = sorted((tmp_path / "wal").glob("*.wal"))
    assert len(paths) > 7
    first_behind = int(paths[lost + 1].stem.partition("-")[2], 16)
    paths[lost].unlink()
    wal, replay = Wal.open(tmp_path / "wal", META)
    wal.close()
    assert replay.entries == written[first_behind - 1 :]
    # Nobody can tell that segments are missing at the beginning: the snapshot's place does.
    assert bool(replay.damage) == (lost > 0)


def test_damage_at_the_end_of_an_inner_segment_is_no_torn_tail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykube.kv.wal.SEGMENT_BYTES_MAX", 200)
    fill(tmp_path / "wal", 20)
    path = sorted((tmp_path / "wal").glob("*.wal"))[1]
    path.write_bytes(path.read_bytes()[:-3])
    wal, replay = Wal.open(tmp_path / "wal", META)
    wal.close()
    assert replay.damage


def test_a_log_without_any_readable_head_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "wal")
    path = only_segment(tmp_path / "wal")
    path.write_bytes(b"?" + path.read_bytes()[1:])
    with pytest.raises(Corrupt, match="no other segment says whose it is"):
        Wal.open(tmp_path / "wal", META)


def test_a_log_whose_readable_head_was_torn_with_the_next_segment_is_refused(tmp_path: Path) -> None:
    """It promised things, and does not know which: it is no new member."""
    fill(tmp_path / "wal")
    path = only_segment(tmp_path / "wal")
    data = path.read_bytes()
    path.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    torn = path.with_name(f"{2:016x}-{11:016x}.wal")
    torn.write_bytes(data[:26] + bytes(4000))
    with pytest.raises(Corrupt, match="no other segment says whose it is"):
        Wal.open(tmp_path / "wal", META)


@pytest.mark.parametrize("written", [1, 26, wal_codec.FIRST_HEAD_BYTES - 1])
def test_a_first_head_that_was_torn_is_begun_again(tmp_path: Path, written: int) -> None:
    fill(tmp_path / "wal", 0)
    path = only_segment(tmp_path / "wal")
    path.write_bytes(path.read_bytes()[:written])
    for _ in range(2):
        wal, replay = Wal.open(tmp_path / "wal", META)
        wal.close()
        assert not replay.damage and not replay.entries


def test_a_frame_inside_a_value_is_none() -> None:
    """A client's value that looks like a frame must not be read as one, wherever the log is damaged around it."""
    writer = LogWriter(META)
    content = writer.head()
    false_entry = Entry(900, 1, 0, b"never written")
    for salt in (0, 1, META.salt ^ 1):
        payload = wal_codec.encode_records(HardState(900, 1, 1), [false_entry], None)
        value = wal_codec.frame(payload, 0, salt)[0] * 3
        content += writer.write(Write(HardState(1), [Entry(1, 1 + salt % 3, 0, value)], None, []))
    for cut in range(len(content)):
        replay = wal_replay.replay([("segment", content[:cut])])
        assert replay.hard_state.term <= 1
        assert false_entry not in replay.entries


def test_looking_behind_damage_takes_no_longer_than_reading(tmp_path: Path) -> None:
    """A value full of what begins like a frame with a huge payload: each must be ruled out by its head alone."""
    bait = wal_codec.FRAME.pack(wal_codec.MAGIC, 1 << 20, 0, 0, 0) * 50_000
    writer = LogWriter(META)
    content = bytearray(writer.head() + writer.write(Write(HardState(1), [Entry(1, 1, 0, bait)], None, [])))
    content[100] ^= 1
    calls = 0
    original = wal_codec.is_whole

    def counted(data: bytes, header: wal_codec.Header) -> bool:
        nonlocal calls
        calls += 1
        return original(data, header)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wal_codec, "is_whole", counted)
        replay = wal_replay.replay([("segment", bytes(content))])
    assert replay.entries == []
    assert calls < 10


def test_purge_keeps_what_a_restart_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykube.kv.wal.SEGMENT_BYTES_MAX", 200)
    wal, _ = Wal.open(tmp_path / "wal", META)
    for index in range(1, 41):
        wal.append(Write(HardState(3, 1, index), entries(index, 1), None, []))
    wal.purge(25)
    wal.close()
    wal, replay = Wal.open(tmp_path / "wal", META)
    wal.close()
    assert 1 < replay.entries[0].index <= 26
    assert [entry.index for entry in wal_replay.entries_after(replay, 25, 1)] == list(range(26, 41))
    assert replay.hard_state == HardState(3, 1, 40)
    with pytest.raises(Corrupt, match="begins at"):
        wal_replay.entries_after(replay, 3, 1)


def test_a_new_leader_s_entries_replace_the_old_tail(tmp_path: Path) -> None:
    wal, _ = Wal.open(tmp_path / "wal", META)
    wal.append(Write(HardState(1), entries(1, 1, 1, 1, 1), None, []))
    wal.append(Write(HardState(2), entries(3, 2), None, []))
    wal.close()
    _, replay = Wal.open(tmp_path / "wal", META)
    assert [(entry.index, entry.term) for entry in replay.entries] == [(1, 1), (2, 1), (3, 2)]


def test_a_snapshot_from_the_leader_replaces_the_log(tmp_path: Path) -> None:
    wal, _ = Wal.open(tmp_path / "wal", META)
    wal.append(Write(HardState(1), entries(1, 1, 1, 1), None, []))
    wal.append(Write(HardState(2), entries(51, 2), Snapshot(50, 2, Membership()), []))
    wal.close()
    _, replay = Wal.open(tmp_path / "wal", META)
    assert replay.base == (50, 2)
    assert [entry.index for entry in wal_replay.entries_after(replay, 50, 2)] == [51]


def test_another_member_s_log_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "wal")
    with pytest.raises(ValueError, match="belongs to member 9 of cluster 5"):
        Wal.open(tmp_path / "wal", Meta(5, 8, 1, 0x5A17))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
def test_a_flipped_bit_never_changes_what_is_read(sizes: list[int], data: st.DataObject) -> None:
    """Either the log is refused, or its damage is found, or a last write is gone as if it had never been."""
    writer = LogWriter(META)
    content = writer.head()
    whole: list[list[Entry]] = [[]]
    for size in sizes:
        batch = entries(1 + len(whole[-1]), *[1] * size)
        content += writer.write(Write(None, batch, None, []))
        whole.append(whole[-1] + batch)
    position = data.draw(st.integers(0, len(content) * 8 - 1))
    damaged = bytearray(content)
    damaged[position // 8] ^= 1 << position % 8
    try:
        replay = wal_replay.replay([("segment", bytes(damaged))])
    except Corrupt:
        return
    if replay.damage:
        count = len(replay.entries)
        assert replay.entries == whole[-1][len(whole[-1]) - count :]
        assert replay.tail == Place(1, len(whole[-1]))
    else:
        assert replay.entries in whole[:-1]


@given(st.binary(max_size=300))
def test_rubbish_is_never_read(rubbish: bytes) -> None:
    try:
        replay = wal_replay.replay([("segment", rubbish)])
    except Corrupt:
        return
    assert replay.entries == []
    with pytest.raises(ValueError, match="snapshot"):
        snapshot_codec.decode(rubbish)


def test_what_others_put_beside_snapshots_is_none_of_them(tmp_path: Path) -> None:
    files = SnapshotFiles(tmp_path / "snap", 5)
    files.save(Snapshot(10, 1, Membership.of(1)), [b"old"])
    (tmp_path / "snap" / "old.snap").write_bytes(files.path(Snapshot(10, 1, Membership.of(1))).read_bytes())
    for index in (20, 30):
        files.save(Snapshot(index, 1, Membership.of(1)), [b"new"])
    newest = files.newest()
    assert newest is not None
    assert newest.index == 30
    files.set_aside(25)
    newest = files.newest()
    assert newest is not None
    assert newest.index == 20


def test_the_newest_whole_snapshot_is_used(tmp_path: Path) -> None:
    files = SnapshotFiles(tmp_path / "snap", 5)
    for index in (10, 20, 30):
        files.save(Snapshot(index, 1, Membership.of(1, 2)), [b"body ", b"%d" % index])
    newest = files.newest()
    assert newest is not None
    assert (newest.index, b"".join(newest.data), newest.membership) == (30, b"body 30", Membership.of(1, 2))
    assert len(list((tmp_path / "snap").iterdir())) == 2
    path = files.path(newest)
    data = bytearray(path.read_bytes())
    rng = Random(3)
    for _ in range(50):
        damaged = bytearray(data)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        found = files.newest()
        assert found is not None
        assert found.index == 20
        assert path.with_suffix(".wrong").read_bytes() == damaged  # kept for who wants to look at it
    path.write_bytes(data)
    with pytest.raises(ValueError, match="belongs to cluster"):
        SnapshotFiles(tmp_path / "snap", 6).newest()


def test_a_folder_whose_name_may_not_be_durable_is_made_so_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first start fails before the folders' names are on the disk: a log in one would be gone with the power."""
    synced: list[set[str]] = []

    def broken(_folder: Path) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("raykube.kv.wal.sync_folder", broken)
    with pytest.raises(OSError, match="Too many open files"):
        open_disk(tmp_path, META, None)
    assert set(os.listdir(tmp_path)) == {"wal", "snap"}
    monkeypatch.setattr("raykube.kv.wal.sync_folder", lambda folder: synced.append(set(os.listdir(folder))))
    open_disk(tmp_path, META, None)[0].close()
    assert {"wal", "snap"} in synced


@given(st.binary(max_size=300), st.integers(0, 2**32 - 1))
def test_checksums_are_zlib_s(data: bytes, start: int) -> None:
    """Of whatever library they come: files of older versions and members of other ones have the same."""
    assert wal_codec.crc32(data, start) == zlib.crc32(data, start)
    assert wal_codec.crc32(memoryview(data)) == zlib.crc32(data)
