"""The checks of a run, on histories made by hand: they let good ones pass and name what is wrong with bad ones."""

import pytest

from raykube.pb import etcd_pb2, mvcc_pb2
from tests.robustness.history import Sighting, Written
from tests.robustness.leases import Held, check_locks
from tests.robustness.truth import Truth, check_order
from tests.robustness.watching import NOPUT, Session, check_session


def put(revision: int, key: bytes, value: bytes, created: int = 0, version: int = 1) -> mvcc_pb2.Event:
    kv = mvcc_pb2.KeyValue(
        key=key, value=value, mod_revision=revision, create_revision=created or revision, version=version
    )
    return mvcc_pb2.Event(kv=kv)


def delete(revision: int, key: bytes) -> mvcc_pb2.Event:
    return mvcc_pb2.Event(type=mvcc_pb2.Event.DELETE, kv=mvcc_pb2.KeyValue(key=key, mod_revision=revision))


EVENTS = [
    put(2, b"/a", b"1"),
    put(3, b"/b", b"2"),
    put(4, b"/a", b"3", created=2, version=2),
    put(4, b"/b", b"3", created=3, version=2),
    delete(5, b"/a"),
    put(6, b"/a", b"4"),
]
TRUTH = Truth((), 2, 6, EVENTS)


class TestTruth:
    def test_what_was_written_is_found_or_named(self) -> None:
        assert not TRUTH.check_written([Written(2, b"/a", b"1"), Written(4, b"/b", b"3")])
        wrong = [Written(3, b"/a", b"1"), Written(4, b"/b", b"9"), Written(2, b"/c", b"1")]
        assert TRUTH.check_written(wrong) == wrong

    def test_reads_are_the_state_of_their_revision(self) -> None:
        def read(revision: int, *found: tuple[bytes, int, bytes]) -> None:
            TRUTH.check_sightings([Sighting(0, 1, revision, True, "m1", b"/", b"0", found)])

        read(3, (b"/a", 2, b"1"), (b"/b", 3, b"2"))
        read(5, (b"/b", 4, b"3"))
        for revision, found in ((5, ((b"/a", 4, b"3"), (b"/b", 4, b"3"))), (3, ((b"/a", 2, b"1"),))):
            with pytest.raises(AssertionError, match="the history has"):
                read(revision, *found)

    def test_versions_follow_from_each_other(self) -> None:
        for bad in ([put(2, b"/a", b"1", version=2)], [put(2, b"/a", b"1"), put(3, b"/a", b"1")], [delete(2, b"/a")]):
            with pytest.raises(AssertionError):
                Truth((), 2, 3, bad)

    def test_revisions_follow_time(self) -> None:
        write = Sighting(0.0, 1.0, 7, True, "m1")
        check_order([write, Sighting(0.5, 2.0, 6, True, "m2"), Sighting(1.5, 2.0, 7, True, "m2", found=())])
        check_order([write, Sighting(1.5, 2.0, 6, False, "m2", found=())])
        for late in (Sighting(1.5, 2.0, 6, True, "m2", found=()), Sighting(1.5, 2.0, 7, True, "m2")):
            with pytest.raises(AssertionError, match="back in time"):
                check_order([write, late])


class TestWatches:
    def session(self, *answers: tuple[mvcc_pb2.Event, ...], since: int = 2, **options: object) -> Session:
        request = etcd_pb2.WatchCreateRequest(key=b"/", range_end=b"0", **options)  # type: ignore[arg-type]
        return Session("m1", request, since, answers=list(answers))

    def test_all_told_in_order_is_right(self) -> None:
        two, three, four, _, five, six = EVENTS
        pair = (EVENTS[2], EVENTS[3])
        assert check_session(self.session((two, three), (four, pair[1]), (five,), (six,)), TRUTH) == 6
        assert check_session(self.session((five,), (six,), since=5), TRUTH) == 2
        assert check_session(self.session((five,), filters=[NOPUT]), TRUTH) == 1

    @pytest.mark.parametrize(
        ("places", "what"),
        [
            ([(0,), (2, 3)], "told"),  # one is missing
            ([(0,), (2, 3), (1,)], "not ordered"),
            ([(0,), (1,), (1,)], "not ordered"),  # twice
            ([(0,), (1,), (2,), (3,)], "not atomic"),
            ([(1,)], "told"),  # it began too late
        ],
    )
    def test_what_is_left_out_torn_or_doubled_is_found(self, places: list[tuple[int, ...]], what: str) -> None:
        with pytest.raises(AssertionError, match=what):
            check_session(self.session(*(tuple(EVENTS[place] for place in answer) for answer in places)), TRUTH)

    def test_progress_never_runs_ahead(self) -> None:
        good = self.session((EVENTS[0],), (EVENTS[1],))
        good.bookmarks = [(0, 1), (1, 2), (2, 3)]
        check_session(good, TRUTH)
        for count, revision in ((1, 3), (2, 2), (0, 2)):
            bad = self.session((EVENTS[0],), (EVENTS[1],))
            bad.bookmarks = [(count, revision)]
            with pytest.raises(AssertionError, match="progress"):
                check_session(bad, TRUTH)
        # Nothing after it: what it promised is missing.
        silent = self.session((EVENTS[0],))
        silent.until = 3
        with pytest.raises(AssertionError, match="told"):
            check_session(silent, TRUTH)

    def test_the_previous_version_is_the_previous(self) -> None:
        def told(previous: mvcc_pb2.KeyValue | None) -> mvcc_pb2.Event:
            event = delete(5, b"/a")
            if previous is not None:
                event.prev_kv.CopyFrom(previous)
            return event

        check_session(self.session((told(EVENTS[2].kv),), since=5, prev_kv=True), TRUTH)
        for previous in (None, EVENTS[0].kv):
            with pytest.raises(AssertionError, match="before it"):
                check_session(self.session((told(previous),), since=5, prev_kv=True), TRUTH)
        with pytest.raises(AssertionError, match="before it"):
            check_session(self.session((told(EVENTS[2].kv),), since=5), TRUTH)

    def test_a_wrong_value_is_found(self) -> None:
        with pytest.raises(AssertionError, match="not"):
            check_session(self.session((put(2, b"/a", b"9"),)), TRUTH)


def test_two_holders_are_found() -> None:
    check_locks([Held("one", 0, 1), Held("two", 1, 2), Held("three", 5, 4)])
    with pytest.raises(AssertionError, match="two holders"):
        check_locks([Held("one", 0, 3), Held("two", 1, 2)])
    # A long one hides a short one in between.
    with pytest.raises(AssertionError, match="two holders"):
        check_locks([Held("one", 0, 9), Held("three", 4, 5), Held("two", 10, 11)])
