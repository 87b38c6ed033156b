"""Watches, revisions, reads, leases and clocks, and Python's own pauses: cases 31–34, 36, 40."""

from typing import Any

import pytest

from raykube.kv.core import watchers
from raykube.kv.core.lease_clock import LeaseClock
from raykube.kv.core.mvcc import image
from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.mvcc.version import Version
from raykube.kv.core.replica import Replica
from raykube.kv.core.watchers import Pull, Watcher, WatchTable
from tests.sim import scenarios, watching
from tests.sim.host import TICK_S
from tests.sim.mutants.planted import members_themselves, mutant, scenario, simulator

REAL_PULL = watchers.pull


@mutant(31, simulator)
def watch_passes_over_a_compaction(patch: pytest.MonkeyPatch) -> None:
    """A watcher that compaction overtook goes on with what is left, and is not told."""

    def pull(store: Store, watcher: Watcher) -> Pull:
        watcher.next_revision = max(watcher.next_revision, store.compact_revision)
        return REAL_PULL(store, watcher)

    patch.setattr(watching, "pull", pull)


@mutant(31, simulator)
def watch_repeats(patch: pytest.MonkeyPatch) -> None:
    """A watcher gets the last revision of an answer once more in the next."""

    def pull(store: Store, watcher: Watcher) -> Pull:
        found = REAL_PULL(store, watcher)
        if found.events and watcher.is_dirty:
            watcher.next_revision = found.events[-1].mod
        return found

    patch.setattr(watching, "pull", pull)


@mutant(31, simulator)
def watch_goes_back_in_time(patch: pytest.MonkeyPatch) -> None:
    """A watcher that reconnects to a member behind gets what that one does next, whether it has had it or not."""
    original = WatchTable.add

    def add(self: WatchTable, watcher: Watcher) -> None:
        watcher.next_revision = min(watcher.next_revision, self._seen_revision + 1)
        original(self, watcher)

    patch.setattr(WatchTable, "add", add)


@mutant(31, simulator)
def progress_ahead_of_events(patch: pytest.MonkeyPatch) -> None:
    """A watcher with events to come counts as one that has seen everything."""

    def pull(store: Store, watcher: Watcher) -> Pull:
        found = REAL_PULL(store, watcher)
        watcher.is_dirty = False
        return found

    patch.setattr(watching, "pull", pull)


@mutant(31, simulator)
def slow_watcher_starves(patch: pytest.MonkeyPatch) -> None:
    """Who is behind is not woken any more."""
    original = WatchTable.on_applied

    def on_applied(self: WatchTable, store: Store) -> Any:
        dirty = original(self, store)
        for watcher in dirty:
            if watcher.next_revision < store.revision - 10:
                watcher.is_dirty = False
        return dirty

    patch.setattr(WatchTable, "on_applied", on_applied)


@mutant(31, simulator)
def revisions_torn_apart(patch: pytest.MonkeyPatch) -> None:
    """An answer ends in the middle of a revision, and the next one begins behind it."""

    def pull(store: Store, watcher: Watcher) -> Pull:
        found = REAL_PULL(store, watcher)
        if len(found.events) > 1 and found.events[-1].mod == found.events[-2].mod:
            found.events.pop()
        return found

    patch.setattr(watching, "pull", pull)


@mutant(31, simulator)
def filters_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A watch without puts, or without deletions, gets them all the same."""
    patch.setattr(Watcher, "wants", lambda self, version: True)


@mutant(31, simulator)
def previous_of_another_time(patch: pytest.MonkeyPatch) -> None:
    """What was there before an event is looked up as of now."""

    def previous(self: Store, version: Version) -> Version | None:
        history = [each for each in self.index.histories.get(version.key, []) if each is not version]
        return history[-1] if history and history[-1].value is not None else None

    patch.setattr(Store, "previous", previous)


@mutant(31, simulator)
def watch_begins_late(patch: pytest.MonkeyPatch) -> None:
    """A watch from a revision begins behind it."""
    original = WatchTable.add

    def add(self: WatchTable, watcher: Watcher) -> None:
        watcher.next_revision += 1
        original(self, watcher)

    patch.setattr(WatchTable, "add", add)


@mutant(32, simulator)
def revision_from_what_is_left(patch: pytest.MonkeyPatch) -> None:
    """A restart takes the newest version that compaction has left for the newest that was."""
    original = image.restore

    def restore(data: bytes) -> Any:
        found = original(data)
        store = found[0]
        live = [history[-1].mod for history in store.index.histories.values() if history[-1].value is not None]
        store.revision = max(live, default=1)
        return found

    patch.setattr(image, "restore", restore)


@mutant(33, simulator)
def reads_what_is_compacted(patch: pytest.MonkeyPatch) -> None:
    """A read, in a transaction too, looks at a compacted revision and sees what is left of it."""
    patch.setattr(Store, "check_readable", lambda self, revision: None)


@mutant(34, simulator)
def leases_missing_from_the_image(patch: pytest.MonkeyPatch) -> None:
    """A part of the state is not in the snapshot."""
    original = image.restore

    def restore(data: bytes) -> Any:
        found = original(data)
        found[0].leases.clear()
        return found

    patch.setattr(image, "restore", restore)


@mutant(39, members_themselves)
def memory_rots(patch: pytest.MonkeyPatch) -> None:
    """A value changes in a member's memory, long after it was written."""
    original = Store.apply_writes
    calls = [0]

    def apply(self: Store, writes: Any, is_awaited: bool = True) -> Any:
        calls[0] += 1
        if calls[0] % 50 == 0:
            for history in self.index.histories.values():
                if history[0].value is not None:
                    history[0] = history[0]._replace(value=b"rotten")
                    break
        return original(self, writes, is_awaited)

    patch.setattr(Store, "apply_writes", apply)


@mutant(36, simulator)
def jumps_end_leases(patch: pytest.MonkeyPatch) -> None:
    """A clock that jumped an hour, or a suspended machine, takes its hour from the leases."""
    patch.setattr(LeaseClock, "delay", lambda self, seconds: None)


@mutant(40, scenario(scenarios.pause_of_all))
def ticks_are_made_up_for(patch: pytest.MonkeyPatch) -> None:
    """A process that stood still counts all the ticks that it missed, as if it had listened."""
    original = Replica.tick

    def tick(self: Replica, now: float, stalled_s: float = 0.0, missed_ticks: int = 0) -> None:
        for _ in range(int(stalled_s / TICK_S)):
            self.node.tick()
        original(self, now, stalled_s, missed_ticks)

    patch.setattr(Replica, "tick", tick)


@mutant(17, simulator)
def reads_before_applied(patch: pytest.MonkeyPatch) -> None:
    """A reader does not wait until its member has applied the index."""

    def release(self: Replica) -> list[int]:
        released = [reader for _, readers in self._at_index for reader in readers]
        self._at_index = []
        return released

    patch.setattr(Replica, "_release_readers", release)
