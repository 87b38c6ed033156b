"""The list-watch machine, and a property: whatever breaks, the copy ends equal to the store, by changes that add up."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.client.core.listwatch import (
    ADDED,
    BOOKMARK,
    DELETED,
    MODIFIED,
    ListWatch,
    Stale,
    WatchEvent,
    identity,
    key_of,
)


def obj(name: str, revision: int, uid: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "d", "uid": uid or name, "resourceVersion": str(revision)}}


def initial(objects: list[dict[str, Any]], revision: int) -> list[WatchEvent]:
    events = [WatchEvent(ADDED, item, int(item["metadata"]["resourceVersion"])) for item in objects]
    return [*events, WatchEvent(BOOKMARK, None, revision, initial_events_end=True)]


def test_nothing_shows_before_the_initial_state_is_complete() -> None:
    machine = ListWatch()
    assert machine.request() == (0, True)
    assert machine.on_events(initial([obj("a", 3)], 5)[:1]) == []
    assert not machine.objects
    assert not machine.synced
    changes = machine.on_events(initial([], 5))
    assert [change.type for change in changes] == [ADDED]
    assert machine.synced
    assert machine.request() == (5, False)


def test_events_at_or_before_the_revision_are_dropped() -> None:
    machine = ListWatch()
    machine.request()
    machine.on_events(initial([obj("a", 3)], 5))
    assert machine.on_events([WatchEvent(MODIFIED, obj("a", 4), 4), WatchEvent(MODIFIED, obj("a", 5), 5)]) == []
    (change,) = machine.on_events([WatchEvent(MODIFIED, obj("a", 6), 6)])
    assert change.old == obj("a", 3)
    assert change.new == obj("a", 6)


def test_a_relist_emits_the_differences_only() -> None:
    machine = ListWatch()
    machine.request()
    machine.on_events(initial([obj("a", 1), obj("b", 2), obj("c", 3), obj("e", 4, "old")], 5))
    machine.on_expired()
    assert machine.request() == (0, True)
    changes = machine.on_events(initial([obj("b", 2), obj("c", 7), obj("d", 8), obj("e", 9, "new")], 9))
    assert [(change.type, change.object["metadata"]["name"]) for change in changes] == [
        (DELETED, "a"),
        (MODIFIED, "c"),
        (ADDED, "d"),
        (DELETED, "e"),
        (ADDED, "e"),
    ]


def test_an_older_initial_state_is_refused_and_the_copy_stays() -> None:
    machine = ListWatch()
    machine.request()
    machine.on_events(initial([obj("a", 9)], 9))
    machine.on_expired()
    machine.request()
    with pytest.raises(Stale):
        machine.on_events(initial([], 8))
    assert list(machine.objects) == [("d", "a")]
    machine.request()
    machine.on_events(initial([obj("a", 9)], 10))
    assert machine.resource_version == 10


def test_a_break_in_the_initial_state_starts_over() -> None:
    machine = ListWatch()
    machine.request()
    machine.on_events(initial([obj("a", 1)], 2)[:1])
    assert machine.request() == (0, True)
    machine.on_events(initial([obj("b", 3)], 4))
    assert list(machine.objects) == [("d", "b")]


def test_a_copy_may_keep_less_than_was_told() -> None:
    machine, whole = ListWatch(kept=identity), ListWatch()
    batches = [
        initial([obj("a", 1), obj("b", 2), obj("c", 3)], 5),
        [WatchEvent(MODIFIED, obj("a", 6), 6), WatchEvent(DELETED, obj("b", 7), 7), WatchEvent(ADDED, obj("d", 8), 8)],
        initial([obj("a", 6), obj("c", 9), obj("d", 10, "new")], 11),
    ]
    for number, batch in enumerate(batches):
        events = [
            event._replace(object=event.object and {**event.object, "spec": {"large": number}}) for event in batch
        ]
        for each in (machine, whole):
            if batch[-1].initial_events_end:
                each.on_expired()
                each.request()
        changes = machine.on_events(events)
        expected = whole.on_events(events)
        assert [(change.type, change.new) for change in changes] == [(change.type, change.new) for change in expected]
        assert machine.objects == {key: identity(each) for key, each in whole.objects.items()}
        assert all("spec" not in change.old for change in changes if change.type == MODIFIED)


WRITES = st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=30)


@given(WRITES, st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["resume", "expire"])), max_size=20))
def test_the_copy_follows_the_store_through_breaks(
    writes: list[tuple[str, bool]], breaks: list[tuple[int, str]]
) -> None:
    # The store's history: after write i (revision i+1) the objects are states[i+1].
    states: list[dict[str, dict[str, Any]]] = [{}]
    events: list[WatchEvent] = []
    for revision, (name, delete) in enumerate(writes, start=1):
        state = dict(states[-1])
        if delete and name in state:
            events.append(WatchEvent(DELETED, state.pop(name), revision))
        else:
            kind = MODIFIED if name in state else ADDED
            uid = state[name]["metadata"]["uid"] if name in state else f"{name}{revision}"
            state[name] = obj(name, revision, uid)
            events.append(WatchEvent(kind, state[name], revision))
        states.append(state)
    machine = ListWatch()
    mirror: dict[tuple[str, str], dict[str, Any]] = {}
    head = 0

    def feed(batch: list[WatchEvent]) -> None:
        last = machine.resource_version
        for change in machine.on_events(batch):
            if change.type == ADDED:
                assert key_of(change.object) not in mirror
            if change.type != ADDED:
                assert key_of(change.object) in mirror
            if change.new is None:
                del mirror[key_of(change.object)]
            else:
                mirror[key_of(change.object)] = change.new
        assert machine.resource_version >= last
        assert mirror == machine.objects
        if machine.synced:
            assert {key[1]: item for key, item in mirror.items()} == states[machine.resource_version]

    for count, how in [*breaks, (len(events), "resume")]:
        position, whole = machine.request()
        head = min(len(events), max(head, position) + count)
        if whole:
            feed(initial(list(states[position].values()), position) if not machine.synced else [])
            if machine.synced and machine.request()[1]:
                machine.request()
                feed(initial(list(states[head].values()), head))
                position = head
        feed(events[position:head])
        if how == "expire":
            machine.on_expired()
    if machine.request()[1]:
        feed(initial(list(states[-1].values()), len(events)))
    feed(events[machine.resource_version :])
    assert {key[1]: item for key, item in machine.objects.items()} == states[-1]
