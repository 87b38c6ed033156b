"""The work queue against its promises."""

from hypothesis import given
from hypothesis import strategies as st

from raykube.base.backoff import Backoff
from raykube.client.core.workqueue import WorkQueue


def test_a_key_added_twice_is_handed_out_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add("a")
    assert queue.get(0) == "a"
    assert queue.get(0) is None


def test_a_key_added_in_work_comes_back_after_done() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert queue.get(0) == "a"
    queue.add("a")
    assert queue.get(0) is None
    queue.done("a")
    assert queue.get(0) == "a"


def test_the_earliest_of_several_delays_counts() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 10, now=0)
    queue.add_after("a", 2, now=0)
    queue.add_after("a", 5, now=0)
    assert queue.next_ready_at() == 2
    assert queue.get(1.9) is None
    assert queue.get(2) == "a"
    queue.done("a")
    assert queue.get(100) is None
    assert queue.delayed == 0


def test_backoff_grows_until_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue(Backoff(initial_s=1, max_s=3))
    assert [queue.add_rate_limited("a", 0) for _ in range(3)] == [1, 2, 3]
    queue.forget("a")
    assert queue.add_rate_limited("a", 0) == 1


def test_what_was_worked_on_is_given_back_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "c"):
        queue.add(key)
    assert [queue.get(0), queue.get(0)] == ["a", "b"]
    queue.add("b")
    queue.give_back(())
    assert queue.processing == 0
    assert queue.get(0) == "c" and {queue.get(0), queue.get(0)} == {"a", "b"} and queue.get(0) is None
    queue.give_back({"b", "c"})
    assert queue.processing == 2
    assert queue.get(0) == "a" and queue.get(0) is None


@given(st.lists(st.tuples(st.sampled_from(["add", "get", "done", "after", "tick", "back"]), st.integers(0, 4))))
def test_no_key_is_lost_and_none_is_worked_on_twice(steps: list[tuple[str, int]]) -> None:
    queue: WorkQueue[int] = WorkQueue()
    now = 0.0
    wanted: set[int] = set()  # added since last handed out
    working: set[int] = set()
    for step, key in steps:
        if step == "add":
            queue.add(key)
            wanted.add(key)
        elif step == "after":
            queue.add_after(key, 2, now)
            wanted.add(key)
        elif step == "tick":
            now += 1
        elif step == "get":
            got = queue.get(now)
            if got is not None:
                assert got not in working
                wanted.discard(got)
                working.add(got)
        elif step == "back":
            queue.give_back(())
            wanted |= working
            working.clear()
        elif working:
            done = min(working)
            working.discard(done)
            queue.done(done)
    for key in working:
        queue.done(key)
    now += 10
    seen = set()
    while (got := queue.get(now)) is not None:
        seen.add(got)
        queue.done(got)
    assert wanted <= seen
