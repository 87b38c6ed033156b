"""The queue: order, back-off, and who is woken by what."""

from hypothesis import given
from hypothesis import strategies as st

from raykube.scheduler.core.cluster import Cluster
from raykube.scheduler.core.diagnosis import Diagnosis
from raykube.scheduler.core.events import Event
from raykube.scheduler.core.filters.node_affinity import NodeAffinity
from raykube.scheduler.core.filters.node_resources_fit import NodeResourcesFit
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.queue import PodQueue
from tests.scheduler.objects import pod

READER = Cluster()
NO_CPU = Diagnosis("no cpu", frozenset({NodeResourcesFit.name}), NodeResourcesFit.helped_by)
NO_LABEL = Diagnosis("no label", frozenset({NodeAffinity.name}), NodeAffinity.helped_by)


def view(name: str, priority: int = 0, cpu: str = "1") -> Pod:
    return READER.read_pod(pod(name, cpu, priority=priority))


def names(queue: PodQueue, now: float, count: int = 100) -> list[str]:
    return [pending.pod.name for pending in queue.pop(count, now)]


def test_by_priority_then_by_age() -> None:
    queue = PodQueue()
    for number, (name, priority) in enumerate([("a", 0), ("b", 10), ("c", 0), ("d", 10)]):
        queue.add(view(name, priority), number)
    assert names(queue, 5) == ["b", "d", "a", "c"]
    assert names(queue, 5) == []


def test_a_batch_is_taken_class_by_class_within_priorities() -> None:
    queue = PodQueue()
    for name, priority, cpu in [("a1", 0, "1"), ("b1", 0, "2"), ("a2", 0, "1"), ("top", 9, "2"), ("b2", 0, "2")]:
        queue.add(view(name, priority, cpu), 0)
    assert [p.pod.name for p in PodQueue.by_class(queue.pop(9, 0))] == ["top", "a1", "a2", "b1", "b2"]


def test_an_event_wakes_only_those_it_may_help_and_after_their_backoff() -> None:
    queue = PodQueue()
    queue.add(view("cpu"), 0)
    queue.add(view("label"), 0)
    cpu, label = queue.pop(2, 0)
    queue.on_unschedulable(cpu, NO_CPU, 0)
    queue.on_unschedulable(label, NO_LABEL, 0)
    assert queue.counts["unschedulable"] == 2
    assert queue.on_event(Event.POD_GONE, 0.5) == 1
    assert queue.counts == {"active": 0, "backoff": 1, "unschedulable": 1, "": 0}
    assert queue.next_ready_at() == 1
    assert names(queue, 0.9) == []
    assert names(queue, 1.0) == ["cpu"]
    assert queue.on_event(Event.NODE, 20) == 1
    assert names(queue, 20) == ["label"]


def test_an_event_during_the_attempt_counts() -> None:
    queue = PodQueue()
    queue.add(view("a"), 0)
    (taken,) = queue.pop(1, 0)
    queue.on_event(Event.POD_GONE, 0)
    queue.on_unschedulable(taken, NO_CPU, 0)
    assert names(queue, 1) == ["a"]


def test_events_are_not_kept_while_a_pod_is_in_work_for_long() -> None:
    queue = PodQueue()
    for name in ("slow", "quick"):
        queue.add(view(name), 0)
    (slow,) = queue.pop(1, 0)
    for _ in range(1000):
        queue.on_event(Event.POD_GONE, 0)
    (quick,) = queue.pop(1, 0)
    queue.on_event(Event.NODE, 0)
    kept = [value for value in vars(queue).values() if isinstance(value, list | dict)]
    assert sum(map(len, kept)) < 20
    queue.on_unschedulable(quick, NO_LABEL, 0)  # of a node
    queue.on_unschedulable(slow, Diagnosis("", frozenset(), Event.POD_GONE), 0)
    assert queue.counts["backoff"] == 2


def test_an_event_before_the_attempt_does_not_count() -> None:
    queue = PodQueue()
    queue.add(view("a"), 0)
    queue.on_event(Event.POD_GONE, 0)
    (taken,) = queue.pop(1, 0)
    queue.on_unschedulable(taken, NO_CPU, 0)
    assert names(queue, 100) == []


def test_a_wake_up_during_the_attempt_counts_once() -> None:
    queue = PodQueue()
    queue.add(view("a"), 0)
    (taken,) = queue.pop(1, 0)
    queue.wake(taken.pod.uid, 0)
    queue.on_unschedulable(taken, NO_LABEL, 0)
    (taken,) = queue.pop(1, 1)
    queue.on_unschedulable(taken, NO_LABEL, 1)
    assert names(queue, 100) == []


def test_backoff_doubles_to_its_maximum() -> None:
    queue = PodQueue()
    queue.add(view("a"), 0)
    now, pauses = 0.0, []
    for _ in range(6):
        (taken,) = queue.pop(1, now)
        queue.on_error(taken, now)
        due = queue.next_ready_at()
        assert due is not None
        pauses.append(due - now)
        now = due
    assert pauses == [1, 2, 4, 8, 10, 10]


def test_a_changed_request_makes_it_active_a_changed_status_does_not() -> None:
    queue = PodQueue()
    queue.add(view("a"), 0)
    (taken,) = queue.pop(1, 0)
    queue.on_unschedulable(taken, NO_CPU, 0)
    queue.add(view("a"), 5)
    assert names(queue, 5) == []
    queue.add(view("a", cpu="500m"), 5)
    assert names(queue, 5) == ["a"]


def test_nobody_waits_for_ever() -> None:
    queue = PodQueue()
    queue.add(view("a"), 0)
    (taken,) = queue.pop(1, 0)
    queue.on_unschedulable(taken, NO_CPU, 0)
    assert queue.on_tick(299) == 0
    assert queue.on_tick(300) == 1
    assert names(queue, 300) == ["a"]


def test_a_pod_removed_in_work_does_not_come_back() -> None:
    queue = PodQueue()
    queue.add(view("a"), 0)
    (taken,) = queue.pop(1, 0)
    queue.remove(taken.pod.uid)
    queue.on_unschedulable(taken, NO_CPU, 0)
    queue.on_error(taken, 0)
    queue.on_event(Event.NODE | Event.POD_GONE, 50)
    assert names(queue, 50) == []
    assert not len(queue)
    assert not any(queue.counts.values())


@given(
    st.lists(st.tuples(st.sampled_from(["add", "pop", "fail", "error", "bind", "event", "tick"]), st.integers(0, 5)))
)
def test_a_pod_is_in_one_place_and_none_is_lost(steps: list[tuple[str, int]]) -> None:
    queue, now = PodQueue(), 0.0
    waiting: set[str] = set()
    work = {}
    for step, number in steps:
        name = f"p{number}"
        if step == "add":
            queue.add(view(name), now)
            waiting.add(name)
        elif step == "pop":
            for pending in queue.pop(2, now):
                assert pending.pod.name in waiting
                assert pending.pod.name not in work
                work[pending.pod.name] = pending
        elif step == "event":
            queue.on_event(Event.POD_GONE, now)
        elif step == "tick":
            now += 1
        elif name in work:
            pending = work.pop(name)
            if step == "fail":
                queue.on_unschedulable(pending, NO_CPU, now)
            elif step == "error":
                queue.on_error(pending, now)
            else:
                queue.remove(pending.pod.uid)
                waiting.discard(name)
        assert sum(queue.counts.values()) + len(work) == len(queue) == len(waiting)
    for pending in work.values():
        queue.on_error(pending, now)
    queue.on_event(Event.POD_GONE, now)
    assert set(names(queue, now + 1000)) == waiting
