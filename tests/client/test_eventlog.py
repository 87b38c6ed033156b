"""Events: counted, bounded."""

from raykube.base.clock import rfc3339
from raykube.client.core.eventlog import COMBINED, EventLog, EventWrite, Reference

POD = Reference("v1", "Pod", "default", "web", "uid-1")


def test_equal_happenings_become_one_event_that_counts() -> None:
    log = EventLog("tester")
    assert log.note(POD, "Warning", "Failed", "no", 10)
    assert log.note(POD._replace(resource_version="9"), "Warning", "Failed", "no", 12)
    (write,) = log.flush()
    assert not write.patch
    assert write.body["count"] == 2
    assert write.body["firstTimestamp"] < write.body["lastTimestamp"]
    assert write.body["involvedObject"] == {
        "kind": "Pod",
        "namespace": "default",
        "name": "web",
        "uid": "uid-1",
        "apiVersion": "v1",
    }
    log.note(POD, "Warning", "Failed", "no", 20)
    (again,) = log.flush()
    assert again.patch
    assert again.name == write.name
    assert again.body["count"] == 3
    log.forget(again.key)
    log.note(POD, "Warning", "Failed", "no", 30)
    assert not log.flush()[0].patch


def test_too_many_are_dropped_and_counted() -> None:
    log = EventLog("tester", pending_max=2)
    for number in range(5):
        log.note(POD, "Normal", "Did", f"thing {number}", 0)
    assert log.dropped == 3
    assert len(log.flush()) == 2


def test_names_differ_at_one_instant() -> None:
    log = EventLog("tester")
    for number in range(100):
        log.note(POD._replace(uid=f"uid-{number}"), "Normal", "Did", "a thing", 5)
    writes = log.flush()
    assert len({write.name for write in writes}) == 100


def told(log: EventLog, first: int, last: int, now: float) -> list[EventWrite]:
    """What is written when each of these things happened to POD, one flush after the other."""
    writes = []
    for number in range(first, last):
        log.note(POD, "Normal", "Did", f"thing {number}", now)
        writes += log.flush()
    return writes


def test_the_tenth_message_alike_begins_the_event_of_all_that_follow() -> None:
    log = EventLog("tester")
    writes = told(log, 0, 12, 5)
    assert [write.body["message"] for write in writes[:9]] == [f"thing {number}" for number in range(9)]
    tenth, *later = writes[9:]
    assert (tenth.patch, tenth.body["message"], tenth.body["count"]) == (False, f"{COMBINED}thing 9", 1)
    assert [(write.patch, write.name, write.body) for write in later] == [
        (True, tenth.name, {"count": count, "lastTimestamp": rfc3339(5), "message": f"{COMBINED}thing {number}"})
        for count, number in ((2, 10), (3, 11))
    ]
    # Another reason is another matter, and after ten quiet minutes so is this one.
    log.note(POD, "Normal", "Undid", "thing 0", 5)
    assert log.flush()[0].body["message"] == "thing 0"
    (after,) = told(log, 20, 21, 5 + 601)
    assert after.body["message"] == "thing 20"


def test_a_message_that_is_known_stays_an_event_of_its_own() -> None:
    log = EventLog("tester")
    first = told(log, 0, 12, 5)[0]
    (again,) = told(log, 0, 1, 6)
    assert (again.patch, again.name, again.body) == (True, first.name, {"count": 2, "lastTimestamp": rfc3339(6)})
    # Of those that came too late the last one is known as well.
    (last,) = told(log, 11, 12, 7)
    assert (last.patch, last.body["message"], last.body["count"]) == (False, "thing 11", 1)
    (other,) = told(log, 10, 11, 8)
    assert (other.patch, other.body["message"]) == (True, f"{COMBINED}thing 10")


def test_an_object_has_so_many_writes_and_then_one_in_five_minutes() -> None:
    log = EventLog("tester")
    assert len(told(log, 0, 100, 5)) == 25
    assert not told(log, 100, 101, 5 + 299)
    (late,) = told(log, 101, 102, 5 + 301)
    assert (late.patch, late.body["count"]) == (True, 93)  # what was not written is counted: 9 things were told apart
    log.note(POD._replace(uid="uid-2"), "Normal", "Did", "a thing", 5 + 301)
    assert len(log.flush()) == 1
    assert log.dropped == 0


def test_what_waits_is_one_write_whatever_its_object_has_told() -> None:
    log = EventLog("tester")
    for number in range(1000):
        log.note(POD, "Normal", "Did", f"thing {number}", 5)
    writes = log.flush()
    assert len(writes) == 10
    assert writes[-1].body["count"] == 991
    assert writes[-1].body["message"] == f"{COMBINED}thing 999"
