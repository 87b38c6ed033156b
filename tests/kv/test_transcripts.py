"""Protocol runs of the raft and mvcc cores, read aloud: tests/kv/testdata."""

from pathlib import Path

import pytest

from tests.kit.transcript import play
from tests.kv.mvcc_room import MvccRoom
from tests.kv.raft_group import RaftGroup

DATA = Path(__file__).parent / "testdata"


@pytest.mark.parametrize("path", sorted(DATA.glob("raft/*.txt")), ids=lambda path: path.stem)
def test_raft(path: Path, rewrite: bool) -> None:
    play(path, RaftGroup().handle, rewrite)


@pytest.mark.parametrize("path", sorted(DATA.glob("mvcc/*.txt")), ids=lambda path: path.stem)
def test_mvcc(path: Path, rewrite: bool) -> None:
    play(path, MvccRoom().handle, rewrite)
