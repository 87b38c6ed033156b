"""Events: counted, bounded."""

from raykube.client.core.eventlog import EventLog, Reference

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
        log.note(POD, "Normal", "Did", f"thing {number}", 5)
    writes = log.flush()
    assert len({write.name for write in writes}) == 100
