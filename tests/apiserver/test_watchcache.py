"""The watch cache against a dumb twin: all states it ever had, kept whole."""

from itertools import islice

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.api.resources import builtin
from raykube.api.selectors import FieldSelector, LabelSelector
from raykube.apiserver.core.history import Expired
from raykube.apiserver.core.item import without_resource_version
from raykube.apiserver.core.scan import Page
from raykube.apiserver.core.selecting import Selection, selection
from raykube.apiserver.core.watchcache import ResourceCache
from raykube.apiserver.core.watcher import Watcher

PODS = builtin("v1", "Pod")
NODES = builtin("v1", "Node")
START = 10

State = dict[str, dict[str, object]]


def pod(key: str, color: str, node: str = "") -> bytes:
    namespace, name = key.split("/")
    metadata = {"name": name, "namespace": namespace, "labels": {"color": color}}
    return orjson.dumps({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"nodeName": node}})


def shown(items: list[tuple[str, bytes]]) -> State:
    return {key: orjson.loads(data) for key, data in items}


def listed(page: Page) -> State:
    return shown([(item.key, item.data) for item in page.items])


keys = st.sampled_from(["a/x", "a/y", "b/x", "b/y", "b/z"])
changes = st.tuples(keys, st.sampled_from(["red", "blue", None]), st.sampled_from(["", "n1", "n2"]))
histories = st.lists(changes, max_size=30)
selections = st.sampled_from(
    [
        Selection(),
        Selection("a"),
        Selection("b", labels=LabelSelector.parse("color=red")),
        Selection(labels=LabelSelector.parse("color!=red")),
        Selection("a", "x", fields=FieldSelector.parse("metadata.name=x")),
        Selection("", "x", fields=FieldSelector.parse("metadata.name=x")),
        Selection(fields=FieldSelector.parse("spec.nodeName=n1"), node="n1"),
        Selection(nodes=frozenset({"n1", "n2"})),
        Selection("b", nodes=frozenset({"n1"})),
    ]
)


class Twin:
    """Feeds a cache and keeps every state, selected by reading each object."""

    def __init__(self, history: list[tuple[str, str | None, str]], **bounds: int) -> None:
        self.cache = ResourceCache(PODS, **bounds)
        self.cache.load([], START)
        self.states: dict[int, State] = {START: {}}
        self._history = history
        self.revision = START

    def step(self, change: tuple[str, str | None, str]) -> None:
        key, color, node = change
        self.revision += 1
        state = dict(self.states[self.revision - 1])
        value = None if color is None else pod(key, color, node)
        self.cache.apply(key, self.revision, value)
        if value is None:
            state.pop(key, None)
        else:
            obj = orjson.loads(value)
            obj["metadata"]["resourceVersion"] = str(self.revision)
            state[key] = obj
        self.states[self.revision] = state

    def run(self) -> "Twin":
        for change in self._history:
            self.step(change)
        return self

    def selected(self, selection: Selection, revision: int) -> State:
        def matches(key: str, obj: dict) -> bool:  # type: ignore[type-arg]  # an object
            fields = {"metadata.name": key.split("/")[1], "spec.nodeName": obj["spec"]["nodeName"]}
            return (
                (not selection.namespace or key.startswith(selection.namespace + "/"))
                and (selection.labels is None or selection.labels.matches(obj["metadata"]["labels"]))
                and (selection.fields is None or selection.fields.matches(fields))
                and (not selection.nodes or obj["spec"]["nodeName"] in selection.nodes)
            )

        return {key: obj for key, obj in self.states[revision].items() if matches(key, obj)}


def replay(state: State, watcher: Watcher) -> State:
    """A client's view: a list, then events. Checks that each event makes sense where it comes."""
    state = dict(state)
    last = 0
    for kind, item in watcher.drain():
        obj = orjson.loads(item.data)
        revision = int(obj["metadata"]["resourceVersion"])
        assert revision == item.revision > last
        last = revision
        assert (item.key in state) == (kind != "ADDED")
        if kind == "DELETED":
            del state[item.key]
        else:
            state[item.key] = obj
    return state


@settings(max_examples=200, deadline=None)
@given(histories, selections, st.data())
def test_watch_from_any_revision_leads_to_the_present_list(history, selection, data) -> None:
    twin = Twin(history).run()
    revision = data.draw(st.integers(START, twin.revision))
    watcher = twin.cache.watch(selection, revision)
    assert replay(twin.selected(selection, revision), watcher) == twin.selected(selection, twin.revision)


@settings(max_examples=100, deadline=None)
@given(histories, histories, selections)
def test_a_live_watcher_sees_what_follows(before, after, selection) -> None:
    twin = Twin(before).run()
    watcher = twin.cache.watch(selection, twin.revision)
    start = twin.selected(selection, twin.revision)
    for change in after:
        twin.step(change)
    assert replay(start, watcher) == twin.selected(selection, twin.revision)
    watcher.close()
    assert twin.cache.watchers() == []


@settings(max_examples=200, deadline=None)
@given(histories, selections, st.integers(1, 3), st.data())
def test_chunks_together_are_the_list_at_their_revision(history, selection, limit, data) -> None:
    twin = Twin(history).run()
    revision = data.draw(st.integers(START, twin.revision))
    whole: State = {}
    start = ""
    while True:
        page = twin.cache.page(selection, limit, start, revision)
        assert page.revision == revision
        assert len(page.items) <= limit
        assert not set(listed(page)) & set(whole)
        whole |= listed(page)
        if page.remaining is not None:
            assert page.remaining == len(twin.selected(selection, revision)) - len(whole)
        start = page.next_key
        if not start:
            break
    assert whole == twin.selected(selection, revision)
    assert list(whole) == sorted(whole)


@settings(max_examples=200, deadline=None)
@given(histories, histories, selections, st.integers(1, 4), st.integers(0, 3), st.data())
def test_a_scan_in_steps_is_the_list_of_its_first_moment(before, after, selection, most, limit, data) -> None:
    twin = Twin(before).run()
    revision = data.draw(st.integers(START, twin.revision))
    whole = twin.cache.page(selection, limit, revision=revision)
    scan = twin.cache.scan(selection, limit, revision=revision)
    scan.step(most)
    changes = iter(after)
    while not scan.done:
        for change in islice(changes, data.draw(st.integers(0, 3))):
            twin.step(change)
        scan.step(most)
    assert scan.page == whole


def test_a_step_looks_at_so_many_items_and_what_is_taken_is_not_found_again() -> None:
    cache = ResourceCache(PODS)
    cache.load([(f"a/{number}", 5, pod(f"a/{number}", "red")) for number in range(5)], START)
    scan = cache.scan(Selection())
    found = []
    while not scan.done:
        scan.step(2)
        found.append([item.key for item in scan.take()])
    assert found == [["a/0", "a/1"], ["a/2", "a/3"], ["a/4"]]


@settings(max_examples=200, deadline=None)
@given(histories, histories, st.sampled_from(["", "a", "b"]))
def test_pods_of_a_node_are_found_as_they_come_move_and_go(before, after, namespace) -> None:
    twin = Twin(before).run()
    selection = Selection(namespace, node="n1")
    fields = Selection(namespace, fields=FieldSelector.parse("spec.nodeName=n1"))
    for change in after:
        assert listed(twin.cache.page(selection)) == twin.selected(fields, twin.revision)
        twin.step(change)
    page = twin.cache.page(selection)
    assert listed(page) == twin.selected(fields, twin.revision)
    assert [item.key for item in page.items] == sorted(item.key for item in page.items)
    twin.cache.load([("a/x", 5, pod("a/x", "red", "n1"))], twin.revision + 1)
    assert [item.key for item in twin.cache.page(Selection(node="n1")).items] == ["a/x"]


def test_selectors_that_name_an_index_leave_nothing_else_to_be_read() -> None:
    of_node = selection(PODS, "", "", "spec.nodeName=n1")
    assert (of_node.node, of_node.fields) == ("n1", None)
    of_one = selection(PODS, "a", "", "metadata.name=x")
    assert of_one.is_plain and of_one.key(PODS) == "a/x"
    both = selection(PODS, "", "", "metadata.name=x,metadata.name=y")
    cache = ResourceCache(PODS)
    cache.load([("a/x", 5, pod("a/x", "red")), ("a/y", 6, pod("a/y", "red"))], START)
    assert cache.page(both).items == []  # no pod has two names
    unbound = selection(PODS, "", "", "spec.nodeName=")
    assert [item.key for item in cache.page(unbound).items] == ["a/x", "a/y"]


@settings(max_examples=100, deadline=None)
@given(st.lists(changes, min_size=5, max_size=40), st.integers(1, 8))
def test_what_the_history_has_forgotten_is_expired_and_the_rest_is_right(history, kept) -> None:
    twin = Twin(history, history_max=kept).run()
    for revision in range(START, twin.revision + 1):
        if revision < twin.cache.oldest:
            with pytest.raises(Expired):
                twin.cache.page(Selection(), revision=revision)
            with pytest.raises(Expired):
                twin.cache.watch(Selection(), revision)
        else:
            assert listed(twin.cache.page(Selection(), revision=revision)) == twin.states[revision]


def test_history_is_bounded_by_bytes() -> None:
    cache = ResourceCache(PODS, history_bytes_max=10_000)
    cache.load([], START)
    for revision in range(START + 1, START + 200):
        cache.apply("a/x", revision, pod("a/x", "red" * 100))
    assert 5 < cache.revision - cache.oldest < 50
    cache.watch(Selection(), cache.oldest)


def test_a_slow_watcher_is_closed_and_told() -> None:
    cache = ResourceCache(PODS)
    cache.load([], START)
    watcher = cache.watch(Selection(), START, limit=3)
    woken = []
    watcher.wake = lambda: woken.append(watcher.closed)
    for revision in range(START + 1, START + 5):
        cache.apply("a/x", revision, pod("a/x", "red"))
    assert watcher.closed
    assert watcher.drain() == []
    assert woken == [False, True]
    assert cache.watchers() == []


def test_a_slow_watcher_of_large_objects_is_closed_long_before_they_fill_the_memory() -> None:
    """All that the history has forgotten is held by the queue alone."""
    cache = ResourceCache(PODS, history_bytes_max=1 << 20)
    cache.load([], START)
    slow, brisk = cache.watch(Selection(), START, limit=1000), cache.watch(Selection(), START, limit=1000)
    small, large = pod("a/x", "red"), pod("a/x", "red" * 100_000)
    taken = 0
    for revision in range(START + 1, START + 901):
        cache.apply("a/x", revision, large if revision > START + 500 else small)
        assert not slow.closed or revision > START + 500
        if revision == START + 520:
            # What one takes at a time, to send it, has a bound too.
            taken = len(brisk.drain())
            assert 500 < taken < 520
        elif revision > START + 520:
            taken += len(brisk.drain())
    assert slow.closed and not slow.pending
    assert not brisk.closed and taken == 900


def test_who_was_closed_for_large_objects_goes_on_from_where_it_was() -> None:
    """What is there before it begins is held by the history anyway: it has not been slow with that."""
    cache = ResourceCache(PODS)
    cache.load([], START)
    watcher, got = cache.watch(Selection(), START), 0
    for number in range(200):
        cache.apply(f"a/{number}", START + 1 + number, pod(f"a/{number}", "red" * 300_000))
        if number < 3:
            got += len(watcher.drain())
    assert watcher.closed
    watcher = cache.watch(Selection(), START + got)
    assert not watcher.closed
    while events := watcher.drain():
        got += len(events)
    assert got == 200
    small = cache.watch(Selection(namespace="a", name="7"), START)
    assert not small.closed
    for each in (watcher, small):
        each.close()
    assert cache.watchers() == []


def test_a_reload_closes_watchers_and_tells_listeners_what_changed() -> None:
    cache = ResourceCache(PODS)
    seen = []
    cache.listeners.append(lambda change: seen.append((change.key, change.before is None, change.after is None)))
    cache.load([("a/x", 3, pod("a/x", "red")), ("a/y", 4, pod("a/y", "red"))], START)
    watcher = cache.watch(Selection(), START)
    cache.load([("a/y", 12, pod("a/y", "blue"))], START + 5)
    assert watcher.closed
    assert seen[2:] == [("a/x", False, True), ("a/y", False, False)]
    with pytest.raises(Expired):
        cache.watch(Selection(), START)


def test_a_reload_tells_an_object_that_was_made_again_from_one_that_changed() -> None:
    cache = ResourceCache(PODS)
    seen = []
    cache.listeners.append(lambda change: seen.append((change.key, change.before, change.after)))

    def of_uid(uid: str, color: str) -> bytes:
        return pod("a/x", color).replace(b'"name":"x"', b'"name":"x","uid":"%b"' % uid.encode())

    cache.load([("a/x", 3, of_uid("1", "red"))], START)
    first = cache.get("a/x")
    cache.load([("a/x", 12, of_uid("1", "blue"))], START + 5)
    changed = cache.get("a/x")
    cache.load([("a/x", 17, of_uid("2", "blue"))], START + 9)
    assert seen[1:] == [("a/x", first, changed), ("a/x", changed, None), ("a/x", None, cache.get("a/x"))]


def test_selection_by_name_of_a_cluster_scoped_resource() -> None:
    cache = ResourceCache(NODES)
    data = orjson.dumps({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1"}})
    cache.load([("n1", 5, data)], START)
    selection = Selection("", "n1", fields=FieldSelector.parse("metadata.name=n1"))
    assert [item.key for item in cache.page(selection).items] == ["n1"]
    watcher = cache.watch(selection, START)
    cache.apply("n2", START + 1, data.replace(b"n1", b"n2"))
    cache.apply("n1", START + 2, data)
    assert [(kind, item.key) for kind, item in watcher.drain()] == [("MODIFIED", "n1")]


def test_resource_version_is_taken_out_again() -> None:
    bare = b'{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"}}'
    cache = ResourceCache(PODS)
    cache.load([("a/x", 5, bare)], START)
    item = cache.get("a/x")
    assert item is not None
    assert b'"resourceVersion":"5"' in item.data
    assert without_resource_version(item.data) == bare
    assert without_resource_version(bare) == bare
