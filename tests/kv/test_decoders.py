"""Files that were damaged in any way: refused with the documented error, or read as what was written."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.kv import backup_files
from raykube.kv.core import backup, snapshot_codec, wal_codec, wal_replay
from raykube.kv.core.mvcc import image
from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.raft.membership import Member, Membership
from raykube.kv.core.raft.messages import Entry, HardState, Snapshot, Write
from raykube.kv.core.wal_codec import Corrupt, LogWriter, Meta, Place
from raykube.kv.snapshot_files import SnapshotFiles
from raykube.kv.stored_snapshot import StoredBody, check

META = Meta(5, 9, 1, 0xBEEF)
MEMBERS = Membership((Member(1, "one", ("http://a:1",)), Member(9, "nine", ("http://b:1",), True)))


def filled_store() -> Store:
    store = Store()
    store.grant(7, 60)
    for number in range(12):
        store.begin()
        store.put(b"/k/%d" % (number % 4), b"v%d" % number, 7 if number % 3 == 0 else 0)
        if number == 5:
            store.delete(b"/k/0")
        store.commit()
    store.compact(6)
    return store


def image_bytes() -> bytes:
    return b"".join(image.capture(filled_store()).chunks())


def snapshot_bytes() -> bytes:
    return b"".join(snapshot_codec.encode(Snapshot(17, 3, MEMBERS), 5, [image_bytes()]))


def log_bytes() -> tuple[bytes, list[Write], list[int]]:
    """A segment, the writes in it, and where each ends."""
    rng = Random(4)
    writer = LogWriter(META)
    data = writer.head()
    writes, ends = [], []
    for first in range(1, 40, 3):
        entries = [Entry(2, first + n, 0, rng.randbytes(rng.randrange(40))) for n in range(3)]
        writes.append(Write(HardState(2, 1, first), entries, None, []))
        data += writer.write(writes[-1])
        ends.append(len(data))
    return data, writes, ends


def flips(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Every byte damaged, one at a time: one bit of it, or all."""
    rng = Random(1)
    for place in range(len(data)):
        for mask in (1 << rng.randrange(8), 0xFF):
            damaged = bytearray(data)
            damaged[place] ^= mask
            yield place, bytes(damaged)


def test_a_log_damaged_at_any_byte_is_known_to_be_or_ends_before_it() -> None:
    data, writes, ends = log_bytes()
    entries = [entry for write in writes for entry in write.entries]
    for place, damaged in flips(data):
        try:
            replay = wal_replay.replay([("segment", damaged)])
        except Corrupt:
            assert place < wal_codec.FIRST_HEAD_BYTES
            continue
        if place >= ends[-2]:
            # The last frame cannot be told from one that was never finished.
            assert not replay.damage
            assert replay.entries == entries[:-3]
        else:
            assert replay.damage
            assert replay.tail == Place(2, 39)
            assert replay.hard_state == writes[-1].hard_state
            behind = next((number for number, end in enumerate(ends) if place < end), 0) + 1
            assert replay.entries == entries[3 * behind :]


def test_a_log_cut_at_any_byte_ends_with_the_last_whole_write() -> None:
    data, writes, ends = log_bytes()
    for cut in range(len(data)):
        replay = wal_replay.replay([("segment", data[:cut])])
        whole = sum(1 for end in ends if end <= cut)
        assert replay.entries == [entry for write in writes[:whole] for entry in write.entries]
        assert not replay.damage
        assert replay.kept_bytes <= cut


@given(st.data())
def test_several_damages_at_once_never_bring_up_what_was_not_written(data: st.DataObject) -> None:
    content, writes, _ = log_bytes()
    written = {entry for write in writes for entry in write.entries}
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, len(content) - 1))
        junk = data.draw(st.binary(min_size=1, max_size=60))
        damaged[start : start + len(junk)] = junk
        if data.draw(st.booleans()):
            del damaged[start : start + data.draw(st.integers(0, 50))]
    try:
        replay = wal_replay.replay([("one", bytes(damaged)), ("two", b"")])
    except Corrupt:
        return
    assert set(replay.entries) <= written
    indexes = [entry.index for entry in replay.entries]
    assert indexes == list(range(indexes[0], indexes[0] + len(indexes))) if indexes else True


def test_a_snapshot_damaged_at_any_byte_is_refused(tmp_path: Path) -> None:
    data = snapshot_bytes()
    path = tmp_path / "file"
    for place, damaged in flips(data):
        with pytest.raises(ValueError, match="snapshot"):
            snapshot_codec.decode(damaged)
        if place % 16 == 0:
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="snapshot"):
                check(path)
            with pytest.raises(ValueError, match="snapshot"):
                list(StoredBody(path))


def test_a_snapshot_cut_or_lengthened_anywhere_is_refused() -> None:
    data = snapshot_bytes()
    for cut in range(len(data)):
        with pytest.raises(ValueError, match="snapshot"):
            snapshot_codec.decode(data[:cut])
    for more in (b"\0", b"x" * 12, data):
        with pytest.raises(ValueError, match="snapshot"):
            snapshot_codec.decode(data + more)


@given(st.lists(st.integers(1, 30), max_size=60))
def test_a_snapshot_in_pieces_is_what_it_is_whole(sizes: list[int]) -> None:
    data = snapshot_bytes()
    decoder = snapshot_codec.Decoder()
    restorer = image.Restorer()
    rest = data
    for size in sizes:
        restorer.feed(decoder.feed(rest[:size]))
        rest = rest[size:]
    restorer.feed(decoder.feed(rest))
    assert decoder.finish() == Snapshot(17, 3, MEMBERS)
    store, _ = restorer.finish()
    assert store.hash() == filled_store().hash()
    assert store.leases == filled_store().leases


def test_a_head_that_claims_gigabytes_is_refused_at_once() -> None:
    claim = snapshot_bytes()[:8] + b"\xff\xff\xff\x7f" + bytes(100)
    with pytest.raises(ValueError, match="head is damaged"):
        snapshot_codec.Decoder().feed(claim)


def test_an_image_cut_anywhere_is_refused_or_between_two_versions() -> None:
    """The image has no checksum of its own: the file around it has. It must not do worse than end early."""
    data = image_bytes()
    keys = set(filled_store().index.histories)
    for cut in range(len(data)):
        try:
            store, _ = image.restore(data[:cut])
        except ValueError:
            continue
        assert set(store.index.histories) <= keys


@given(st.binary(max_size=300))
def test_rubbish_is_no_image_and_no_backup(rubbish: bytes) -> None:
    for read in (image.restore, snapshot_codec.decode):
        try:
            read(rubbish)
        except ValueError:
            continue
        assert rubbish[:4] == bytes(4)  # an image with an empty head, and nothing behind it


def test_a_backup_damaged_or_cut_anywhere_is_refused_in_one_line(tmp_path: Path) -> None:
    content = snapshot_bytes()
    data = b"".join(backup.wrap([content], len(content)))
    path = tmp_path / "backup"
    path.write_bytes(data)
    assert backup_files.read_machine(backup_files.open_backup(path)).store.hash() == filled_store().hash()
    damaged = [bytes(each) for place, each in flips(data) if place % 5 == 0]
    cut = [data[:end] for end in range(0, len(data), 7)]
    for each in damaged + cut + [data + b"\0", data * 2]:
        path.write_bytes(each)
        with pytest.raises(ValueError, match="backup") as error:
            backup_files.open_backup(path)
        assert "\n" not in str(error.value)
        # Without the sum, what is inside still proves itself.
        try:
            found = backup_files.open_backup(path, skip_hash_check=True)
        except ValueError:
            continue
        assert backup_files.read_machine(found).store.hash() == filled_store().hash()


def test_killed_at_any_call_while_a_snapshot_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    for calls_left in range(40):
        files = SnapshotFiles(tmp_path / str(calls_left), 5)
        files.save(Snapshot(10, 1, MEMBERS), [b"old"])
        remaining = calls_left
        with monkeypatch.context() as patch:
            for owner, name in ((Path, "open"), (Path, "rename"), (Path, "unlink")):
                real = getattr(owner, name)

                def call(*arguments: object, real: object = real, **keywords: object) -> object:
                    nonlocal remaining
                    if remaining == 0:
                        raise Killed
                    remaining -= 1
                    return real(*arguments, **keywords)  # type: ignore[operator]

                patch.setattr(owner, name, call)
            is_done = False
            try:
                files.save(Snapshot(20, 1, MEMBERS), [b"new"] * 3)
                arriving = files.arrive()
                for piece in snapshot_codec.encode(Snapshot(30, 2, MEMBERS), 5, [b"newest"]):
                    arriving.write(piece)
                files.adopt(arriving.finish())
                is_done = True
            except Killed:
                pass
        again = SnapshotFiles(tmp_path / str(calls_left), 5)
        newest = again.newest()
        assert newest is not None
        assert (newest.index, b"".join(newest.data)) in ((10, b"old"), (20, b"new" * 3), (30, b"newest"))
        assert not list((tmp_path / str(calls_left)).glob("*.tmp"))
        if is_done:
            assert newest.index == 30
            break
    else:
        pytest.fail("it made more calls than expected")
