"""The store's own history, as its members tell it, and everything that clients saw held against it.

Between two audits nothing is compacted, so that every member can be asked for all events. They must tell the same; then
each answer that carried a revision must be what the history says of that revision, wherever it came from.
"""

import asyncio
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence

from raykube.client.kv import KvClient
from raykube.pb import etcd_pb2, mvcc_pb2
from tests.robustness.history import Sighting, Written, event_place
from tests.robustness.members import Members

READ_TIMEOUT_S = 60.0


class Truth:
    """All events from one revision to another, in order, and the state before them."""

    def __init__(
        self, before: Sequence[mvcc_pb2.KeyValue], first: int, last: int, events: list[mvcc_pb2.Event]
    ) -> None:
        self.first = first
        self.last = last
        self.events = events
        self._places = [event.kv.mod_revision for event in events]
        # Of each key: revisions in order, and the version since then (None: deleted).
        self._versions: dict[bytes, tuple[list[int], list[mvcc_pb2.KeyValue | None]]] = defaultdict(lambda: ([], []))
        for kv in before:
            self._add(kv.key, kv.mod_revision, kv)
        for event in events:
            is_put = event.type == mvcc_pb2.Event.PUT
            self._check_counts(event)
            self._add(event.kv.key, event.kv.mod_revision, event.kv if is_put else None)

    def _add(self, key: bytes, revision: int, version: mvcc_pb2.KeyValue | None) -> None:
        revisions, versions = self._versions[key]
        revisions.append(revision)
        versions.append(version)

    def _check_counts(self, event: mvcc_pb2.Event) -> None:
        """An event's counts follow from the one before it on its key."""
        previous = self.at(event.kv.key, event.kv.mod_revision - 1)
        if event.type == mvcc_pb2.Event.DELETE:
            assert previous is not None, f"deleted, but it was not there: {event}"
            return
        version, created = (
            (1, event.kv.mod_revision) if previous is None else (previous.version + 1, previous.create_revision)
        )
        assert (event.kv.version, event.kv.create_revision) == (version, created), f"{event} after {previous}"

    def at(self, key: bytes, revision: int) -> mvcc_pb2.KeyValue | None:
        """The key as it was at a revision."""
        if key not in self._versions:
            return None
        revisions, versions = self._versions[key]
        place = bisect_right(revisions, revision)
        return versions[place - 1] if place else None

    def between(self, first: int, last: int) -> list[mvcc_pb2.Event]:
        """The events of revisions `first` to `last`."""
        return self.events[bisect_left(self._places, first) : bisect_right(self._places, last)]

    # ---- what clients saw

    def check_written(self, written: Sequence[Written]) -> list[Written]:
        """The acknowledged writes that are not in the history: what was lost."""
        lost = []
        for write in written:
            version = self.at(write.key, write.revision)
            if version is None or (version.mod_revision, version.value) != (write.revision, write.value):
                lost.append(write)
        return lost

    def check_sightings(self, sightings: Sequence[Sighting]) -> None:
        """Each read is the state at its revision; revisions follow the order of time."""
        keys = sorted(self._versions)
        for sighting in sightings:
            if sighting.found is None:
                continue
            end = sighting.end or sighting.first + b"\0"
            inside = keys[bisect_left(keys, sighting.first) : bisect_left(keys, end)]
            versions = (self.at(key, sighting.revision) for key in inside)
            expected = tuple((kv.key, kv.mod_revision, kv.value) for kv in versions if kv is not None)
            assert sighting.found == expected, f"{sighting.member} answered {sighting}, the history has {expected}"
        check_order(sightings)


def check_order(sightings: Sequence[Sighting]) -> None:
    """A linearizable answer has at least the revision of all that was answered before it was asked for; a write more.

    Serializable reads are exempt, and bind nobody: they may be old.
    """
    by_end = sorted((sighting for sighting in sightings if sighting.is_linearizable), key=lambda each: each.ended)
    ends = [sighting.ended for sighting in by_end]
    highest: list[Sighting] = []
    for sighting in by_end:
        highest.append(sighting if not highest or sighting.revision > highest[-1].revision else highest[-1])
    for sighting in by_end:
        place = bisect_left(ends, sighting.started)
        if place:
            earlier = highest[place - 1]
            is_write = sighting.found is None
            assert sighting.revision >= earlier.revision + is_write, f"went back in time: {sighting} after {earlier}"


async def read_truth(members: Members, before: Sequence[mvcc_pb2.KeyValue], first: int) -> Truth:
    """The history from revision `first` on, which all members must tell alike; and so must their hashes."""
    last = max(await asyncio.gather(*(members.client(name).current_revision(READ_TIMEOUT_S) for name in members.names)))
    told = await asyncio.gather(*(_events(members.client(name), first, last) for name in members.names))
    for name, events in zip(members.names, told, strict=True):
        for one, other in zip(told[0], events, strict=False):
            assert one == other, f"{members.names[0]} and {name} differ: {one}, {other}"
        assert len(events) == len(told[0]), f"{members.names[0]} has {len(told[0])} events, {name} has {len(events)}"
    hashes = await asyncio.gather(
        *(
            members.client(name).call("Maintenance", "HashKV", etcd_pb2.HashKVRequest(revision=last), READ_TIMEOUT_S)
            for name in members.names
        )
    )
    assert len({answer.hash for answer in hashes}) == 1, f"hashes at revision {last}: {hashes}"
    return Truth(before, first, last, told[0])


async def _events(client: KvClient, first: int, last: int) -> list[mvcc_pb2.Event]:
    """All events of revisions first to last, by a watch from the past."""
    events: list[mvcc_pb2.Event] = []
    if last < first:
        return events
    # Applied up to there: a watch at a member that lags would have to wait.
    await client.range(b"nothing", timeout_s=READ_TIMEOUT_S)
    async with asyncio.timeout(READ_TIMEOUT_S):
        async for batch in client.watch(b"\0", b"\0", start_revision=first):
            events += [event for event in batch.events if event.kv.mod_revision <= last]
            if batch.revision >= last:
                break
    places = [event_place(event) for event in events]
    assert len(set(places)) == len(places), "an event came twice"
    assert [revision for revision, _ in places] == sorted(revision for revision, _ in places), "events out of order"
    return events
