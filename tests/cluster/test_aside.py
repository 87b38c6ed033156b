"""What a former member of the store left on a machine makes room for a new one's data, and not for ever."""

import logging
from pathlib import Path

import pytest

from raykube.cluster.steward.aside import set_aside
from raykube.kv import joins, recall
from raykube.kv.core.raft.messages import Entry, EntryKind, Write
from raykube.kv.core.wal_codec import Meta
from raykube.kv.wal import Wal


@pytest.mark.parametrize("disk", ["the machine's", "mounted", "linked"])
def test_a_new_member_begins_with_nothing_where_a_former_one_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, disk: str
) -> None:
    """Also on a disk of its own, which stays where it is mounted or linked to: a mount cannot be renamed."""
    folder = tmp_path / "machines" / "a" / "kv"
    if disk == "linked":
        (tmp_path / "disk").mkdir()
        folder.parent.mkdir(parents=True)
        folder.symlink_to(tmp_path / "disk")
    if disk == "mounted":
        monkeypatch.setattr(Path, "is_mount", lambda path: path == folder)
    (folder / "snap").mkdir(parents=True)
    (folder / "lost+found").mkdir()
    (folder / "snap" / "1.snap").write_bytes(b"1")
    (folder / joins.INCARNATION).write_text("1")
    Wal.open(folder / "wal", Meta(7, 8, 9))[0].close()
    caplog.set_level(logging.INFO)
    set_aside(folder, 8)
    assert recall.has_log(folder), "it is this very member"
    set_aside(folder, 10)
    set_aside(folder, 10)
    has_stayed = (folder / "lost+found").is_dir()
    assert has_stayed == (disk != "the machine's")
    assert not any((folder / name).exists() for name in ("wal", "snap", joins.INCARNATION))
    (aside,) = (folder if has_stayed else folder.parent).glob("kv.8.*")
    assert recall.has_log(aside)
    assert (aside / "snap" / "1.snap").read_bytes() == b"1"
    (told,) = caplog.messages
    assert str(aside) in told, "nobody removes it but who is told where it takes up room"


@pytest.mark.parametrize("is_disk", [False, True])
def test_of_what_was_set_aside_the_last_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_disk: bool) -> None:
    """And the last that has a snapshot: learners that failed before they got any push out only each other."""
    folder = tmp_path / "kv"
    if is_disk:
        monkeypatch.setattr(Path, "is_mount", lambda path: path == folder)
    now = 1_700_000_000.0
    monkeypatch.setattr("raykube.cluster.steward.aside.time.time", lambda: now)
    others = [tmp_path / "kv.bad", tmp_path / "kv.lost", tmp_path / "kv.1.bak"]
    for path in others:
        path.mkdir(parents=True)
    (tmp_path / "kv.9.1700000000").symlink_to(tmp_path / "kv.lost")

    def ends(member: int, *, has_snapshot: bool) -> set[str]:
        """A member lived here, another one begins; what is there of all before."""
        nonlocal now
        now += 100 if member != 5 else -10_000  # a clock may be set
        Wal.open(folder / "wal", Meta(7, member, 9))[0].close()
        (folder / "snap").mkdir()
        if has_snapshot:
            (folder / "snap" / "1.snap").write_bytes(b"1")
        set_aside(folder, 99)
        return {path.name.split(".")[1] for path in (folder if is_disk else tmp_path).glob("kv.[1-8].1*")}

    folder.mkdir()
    assert ends(1, has_snapshot=True) == {"1"}
    assert ends(2, has_snapshot=True) == {"2"}
    assert ends(3, has_snapshot=False) == {"2", "3"}
    assert ends(4, has_snapshot=False) == {"2", "4"}
    assert ends(5, has_snapshot=False) == {"2", "5"}
    assert ends(6, has_snapshot=True) == {"5", "6"}
    assert all(path.exists() for path in others), "what somebody else put there is nobody's to remove"
    assert (tmp_path / "kv.9.1700000000").is_symlink()


def test_a_learner_that_got_little_of_a_young_store_does_not_push_out_what_there_was(tmp_path: Path) -> None:
    """No member has a snapshot before its store's first ten thousand entries."""
    folder = tmp_path / "kv"

    def ends(member: int, entries: int) -> set[str]:
        wal, _ = Wal.open(folder / "wal", Meta(7, member, 9))
        wal.append(Write(None, [Entry(1, index + 1, EntryKind.NORMAL, b"x") for index in range(entries)], None, []))
        wal.close()
        set_aside(folder, 99)
        return {path.name.split(".")[1] for path in tmp_path.glob("kv.*")}

    assert ends(1, 500) == {"1"}
    assert ends(2, 10) == {"1", "2"}
    assert ends(3, 20) == {"1", "3"}
    assert ends(4, 5) == {"1", "4"}
    assert ends(5, 900) == {"5"}
