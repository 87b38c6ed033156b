"""The key space: puts, deletes, ranges at a revision, compaction, the event log, leases and their keys.

    revision      4        5        6         7
    /a        a1 create  a2                 a3 tombstone
    /b                             b1 create
    events    [a1,       a2,       b1,      a3]      histories {/a: [a1, a2, a3], /b: [b1]}
    compact(6) → a reader at 6 sees a2 and b1; events before 6 go, a1 goes

A mutation belongs to a transaction: all operations of one have the same main revision. `Store` numbers them when told
to (`begin`, then `put` and `delete`, then `commit`); a transaction that wrote nothing takes no revision.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple
from weakref import ref

from raykube.kv.core.mvcc import errors
from raykube.kv.core.mvcc.digest import checksum, lease_checksum
from raykube.kv.core.mvcc.key_index import UNBOUNDED, KeyIndex, at
from raykube.kv.core.mvcc.picture import Picture
from raykube.kv.core.mvcc.scrub import Scrub
from raykube.kv.core.mvcc.version import Version
from raykube.pb import batch_pb2

_mod = attrgetter("mod")
_place = attrgetter("mod", "sub")
_new = tuple.__new__  # of a Version, whose fields must stand in their order: nobody checks. Its own takes twice as long
CUTS_MAX = 16  # of the event log while a compaction is swept
VERSION_OVERHEAD_BYTES = 160  # what a version costs beside its key and value, for the quota


class Outcome(NamedTuple):
    """What became of one write of a batch; `current` is the state that failed the comparison."""

    applied: bool
    revision: int
    current: Version | None


def _groups(writes: Sequence[batch_pb2.Write]) -> Iterator[list[batch_pb2.Write]]:
    """Each write with those that are joined to it. The first of a batch has none to be joined to."""
    group: list[batch_pb2.Write] = []
    for write in writes:
        if group and not write.joined:
            yield group
            group = []
        group.append(write)
    if group:
        yield group


@dataclass(slots=True)
class Lease:
    """A replicated lease: its granted time to live and the keys attached to it. Its deadline is the leader's affair."""

    id: int
    ttl_s: int
    keys: set[bytes] = field(default_factory=set)


class Store:
    """The replicated state of the key space. All methods are synchronous and deterministic."""

    def __init__(self) -> None:
        self.revision = 1  # etcd's empty store is at revision 1
        self.compact_revision = 0
        self.index = KeyIndex()
        self.events: list[Version] = []  # every version since `events_from`, in order of (mod, sub)
        self.events_from = 0  # at most the compacted revision, and behind it until that is swept
        self.leases: dict[int, Lease] = {}
        self.bytes_stored = 0
        self.written = 0  # sums of checksums: see `digest`
        self.released = 0
        self.leases_sum = 0
        self.scrub: Scrub | None = None
        self._sub = 0
        self._swept = 0  # events at the front that were looked at, and wait to be cut off
        self._pictures: list[ref[Picture]] = []  # which may need the histories

    # ---- writing

    def begin(self) -> None:
        """Opens a transaction at the next revision."""
        self._sub = 0

    def commit(self) -> int:
        """Closes the transaction; returns the store's revision after it."""
        if self._sub:
            self.revision += 1
            self._sub = 0
        return self.revision

    def put(self, key: bytes, value: bytes, lease: int) -> Version | None:
        """Writes `key` in the open transaction; returns the version it replaced."""
        return self._write(key, value, lease, self.revision + 1, self.index.histories.get(key))

    def put_alone(self, key: bytes, value: bytes, lease: int) -> int:
        """A transaction that writes `key` and nothing else; returns the revision."""
        revision = self.revision + 1
        self._sub = 0
        self._write(key, value, lease, revision, self.index.histories.get(key))
        self._sub = 0
        self.revision = revision
        return revision

    def delete(self, key: bytes) -> Version | None:
        """Deletes `key` in the open transaction; returns what was there, None when nothing was."""
        history = self.index.histories.get(key)
        if history is None or history[-1].value is None:
            return None
        return self._write(key, None, 0, self.revision + 1, history)

    def _write(
        self, key: bytes, value: bytes | None, lease: int, mod: int, history: list[Version] | None
    ) -> Version | None:
        """`history` is what `index.histories` has for the key now. (`_apply_apart` does the same for most puts.)"""
        previous = None
        create, number = mod, 1
        if history is not None:
            last = history[-1]
            if last.value is not None:
                previous = last
                create, number = last.create, last.number + 1
            elif value is not None:
                self.index.dead.discard(key)
            if value is None:
                create = number = 0
                self.index.dead.add(key)
            if last.lease != lease and last.lease:
                self._detach(last.lease, key)
        version = _new(Version, (key, mod, self._sub, create, number, value, lease))
        if history is None:
            self.index.add(key, version)
        else:
            history.append(version)
        if lease:
            self.leases[lease].keys.add(key)
        self._sub += 1
        self.events.append(version)
        self.written += checksum(version)
        self.bytes_stored += len(key) + VERSION_OVERHEAD_BYTES
        if value is not None:
            self.bytes_stored += len(value)
        return previous

    def _detach(self, lease: int, key: bytes) -> None:
        if lease in self.leases:
            self.leases[lease].keys.discard(key)

    def apply_writes(self, writes: Sequence[batch_pb2.Write], is_awaited: bool = True) -> list[Outcome]:
        """The batch service's fast path: each write is a transaction of its own, whatever it says of being joined.

        A write whose comparison fails changes nothing and takes no revision; so does the deletion of nothing. The
        outcomes are left out when nobody waits for them. Raises StoreError, with nothing done, when a lease is missing.
        """
        writes = list(writes)  # each is looked at twice, and taken out of its message once
        self._check_leases(writes)
        outcomes: list[Outcome] = []
        self._apply_apart(writes, outcomes if is_awaited else None)
        return outcomes

    def apply_joined(self, writes: Sequence[batch_pb2.Write]) -> list[Outcome]:
        """As `apply_writes`, but each write is a transaction with those that are joined to it: all are done, or none.

        Each has a revision of its own all the same.
        """
        self._check_leases(writes)
        outcomes: list[Outcome] = []
        for group in _groups(writes):
            if len(group) == 1 or self._all_hold(group):
                self._apply_apart(group, outcomes)
            else:
                outcomes += [Outcome(False, 0, self._current(write.key)) for write in group]
        return outcomes

    def _check_leases(self, writes: Sequence[batch_pb2.Write]) -> None:
        for write in writes:
            lease = write.lease
            if lease and lease not in self.leases:
                raise errors.lease_missing()

    def _all_hold(self, group: Sequence[batch_pb2.Write]) -> bool:
        """Whether joined writes can be applied: all comparisons hold, and no two of them meet at one key."""
        if len({write.key for write in group}) < len(group):
            return False
        for write in group:
            current = self._current(write.key)
            if write.expected_revision >= 0 and (0 if current is None else current.mod) != write.expected_revision:
                return False
        return True

    def _current(self, key: bytes) -> Version | None:
        history = self.index.histories.get(key)
        return None if history is None or history[-1].value is None else history[-1]

    def _apply_apart(self, writes: Sequence[batch_pb2.Write], outcomes: list[Outcome] | None) -> None:
        """Carries out each write by itself, and appends what became of it to `outcomes`; None: nobody waits for that.

        No other loop costs a write as much: every member runs it. So a put that no lease is concerned with is done
        right here; the rest is `_write`'s, which must do the same.
        """
        histories = self.index.histories
        revision, written, stored = self.revision, 0, 0
        self._sub = 0
        for write in writes:
            key, expected = write.key, write.expected_revision
            history = histories.get(key)
            last = None if history is None else history[-1]
            current = None if last is None or last.value is None else last
            if expected >= 0 and (0 if current is None else current.mod) != expected:
                if outcomes is not None:
                    outcomes.append(Outcome(False, 0, current))
                continue
            value = write.value
            if not value and not write.HasField("value"):
                if current is not None:
                    self._write(key, None, 0, revision + 1, history)
                    self._sub = 0
                    revision += 1
            elif write.lease or (last is not None and last.lease):
                self._write(key, value, write.lease, revision + 1, history)
                self._sub = 0
                revision += 1
            else:
                revision += 1
                if current is None:
                    version = _new(Version, (key, revision, 0, revision, 1, value, 0))
                else:
                    version = _new(Version, (key, revision, 0, current.create, current.number + 1, value, 0))
                if history is None:
                    self.index.add(key, version)
                else:
                    if current is None:
                        self.index.dead.discard(key)
                    history.append(version)
                self.events.append(version)
                written += checksum(version)
                stored += len(key) + len(value) + VERSION_OVERHEAD_BYTES
            if outcomes is not None:
                outcomes.append(_new(Outcome, (True, revision, None)))
        self.revision = revision
        self.written += written
        self.bytes_stored += stored

    # ---- reading

    @property
    def present(self) -> int:
        """The revision that a reader is at who sees the writes of the open transaction."""
        return self.revision + 1 if self._sub else self.revision

    def get(self, key: bytes) -> Version | None:
        """The key as the open transaction, or the last one, left it."""
        history = self.index.histories.get(key)
        return None if history is None or history[-1].value is None else history[-1]

    def check_readable(self, revision: int) -> None:
        """Raises StoreError when `revision` cannot be read (0 and less, the present, always can)."""
        if revision > self.revision:
            raise errors.future_revision()
        if 0 < revision < self.compact_revision:
            raise errors.compacted()

    def range(
        self, key: bytes, range_end: bytes, revision: int = 0, limit: int = 0, count_only: bool = False
    ) -> tuple[list[Version], int]:
        """The versions that a reader at `revision` (0: now) sees in etcd's range, and how many there are without limit.

        At most `limit` versions are returned (0: all), in order of key.
        """
        self.check_readable(revision)
        is_now = revision <= 0 or revision == self.present
        if not range_end:
            single = self.get(key) if is_now else self._at(key, revision)
            return ([] if single is None or count_only else [single]), int(single is not None)
        end = None if range_end == UNBOUNDED else range_end
        if end is not None and end <= key:
            return [], 0
        histories = self.index.histories
        found: list[Version] = []
        if is_now:
            count = self.index.count_live(key, end)
            if count_only:
                return [], count
            for name in self.index.keys(key, end):
                version = histories[name][-1]
                if version.value is not None:
                    found.append(version)
                    if len(found) == limit:
                        break
            return found, count
        count = 0
        for name in self.index.keys(key, end):
            past = at(histories[name], revision)
            if past is not None:
                count += 1
                if not count_only and (not limit or len(found) < limit):
                    found.append(past)
        return found, count

    def _at(self, key: bytes, revision: int) -> Version | None:
        history = self.index.histories.get(key)
        return None if history is None else at(history, revision)

    def keys_in(self, key: bytes, range_end: bytes) -> list[bytes]:
        """The live keys of etcd's range, in order."""
        return [version.key for version in self.range(key, range_end)[0]]

    def previous(self, version: Version) -> Version | None:
        """What a watcher is shown beside `version`: the key as the revision before left it.

        None when the key did not exist, when `version` creates it, and when that revision is compacted.
        """
        is_new = version.value is not None and version.create == version.mod
        if is_new or version.mod <= self.compact_revision:
            return None
        return self._at(version.key, version.mod - 1)

    def position(self, revision: int) -> int:
        """Where in `events` the first event at or after `revision` is."""
        if self.events and revision > self.events[-1].mod:
            return len(self.events)
        return bisect_left(self.events, revision, key=_mod)

    # ---- compaction

    def compact(self, revision: int) -> None:
        """Forgets what only readers before `revision` could see. Raises StoreError."""
        if revision <= self.compact_revision:
            raise errors.compacted()
        if revision > self.revision:
            raise errors.future_revision()
        self.compact_revision = revision

    def sweep(self, events_max: int) -> bool:
        """Gives back the memory of at most `events_max` forgotten events; returns whether there is more to do.

        Not replicated: members may sweep at different times, as nothing forgotten can be read. Nothing goes while
        somebody is looking through the histories for a picture.
        """
        if self._is_pictured():
            return True
        horizon = self.compact_revision
        end = self.position(horizon)
        stop = min(end, self._swept + events_max)
        self._give_back(self.events[self._swept : stop], horizon)
        self._swept = stop
        # A cut moves all that is behind it: not at every slice.
        if stop == end or stop >= len(self.events) // CUTS_MAX:
            if stop:
                self.events_from = self.events[stop - 1].mod + 1
            del self.events[:stop]
            self._swept = 0
        return stop < end

    def _give_back(self, events: Sequence[Version], horizon: int) -> None:
        """Releases what is forgotten of the keys of `events`, all before `horizon`, as far as these events came.

        Not all of a key at its first event: it may have as many versions as a whole store. What the compacted revision
        itself wrote is no event of this sweep, and goes with what it replaced.
        """
        histories = self.index.histories
        gone: dict[bytes, int] = {}  # how many of a key's oldest. They are cut off together: a cut moves all behind it
        for event in events:
            key, reached = event.key, event.mod
            history = histories.get(key)
            if history is None:
                continue
            start = position = gone.get(key, 0)
            last = len(history) - 1
            while position < last and history[position + 1].mod <= horizon:
                if reached < history[position].mod < horizon:
                    break
                self._release(history[position])
                position += 1
            if position == last and history[last].value is None and history[last].mod <= horizon:
                self._release(history[last])
                self.index.remove(key)
                gone.pop(key, None)
            elif position > start:
                gone[key] = position
        for key, count in gone.items():
            del histories[key][:count]

    def _release(self, version: Version) -> None:
        value = checksum(version)
        self.released += value
        if self.scrub is not None:
            self.scrub.on_released(version, value)
        self.bytes_stored -= len(version.key) + len(version.value or b"") + VERSION_OVERHEAD_BYTES

    def versions(self) -> Iterator[Version]:
        """All that a reader or watcher may still ask for, in order of (mod, sub): the same on all members.

        It does not depend on how far `sweep` came.
        """
        picture = self.capture()
        yield from sorted(picture.base, key=_place)
        yield from picture.recent

    def capture(self) -> Picture:
        """What `versions` gives, as a picture that others may look at while the store goes on."""
        horizon = self.compact_revision
        histories = self.index.histories
        held = self.written - self.released
        recent = self.events[self.position(horizon) :]
        for event in recent:
            if event.mod > horizon:
                break
            # What the compacted revision itself deleted or replaced is an event still, and may be swept already.
            history = histories.get(event.key, [])
            first = bisect_left(history, event.mod, key=_mod)  # not from the beginning: it may be long
            if not any(version is event for version in history[first : bisect_right(history, event.mod, key=_mod)]):
                held += checksum(event)
        picture = Picture(list(histories.values()), horizon, recent, held)
        self._is_pictured()  # those that are done with go from the list, also where nothing is ever compacted
        self._pictures.append(ref(picture))
        return picture

    def _is_pictured(self) -> bool:
        """Whether somebody still has to look through the histories as they are."""
        self._pictures = [known for known in self._pictures if (there := known()) and there.needs_histories]
        return bool(self._pictures)

    def hash(self, revision: int = 0) -> int:
        """A checksum of all versions up to `revision` (0: now), equal on members that agree. Raises StoreError."""
        return self.capture().hash(self.hashed_revision(revision))

    def hashed_revision(self, revision: int) -> int:
        """The revision that is meant by `revision` (0: now). Raises StoreError when there is no hash for it: as in
        etcd, at the compacted revision too, which can be read."""
        if 0 < revision <= self.compact_revision:
            raise errors.compacted()
        self.check_readable(revision)
        return revision or self.revision

    # ---- leases

    def grant(self, lease: int, ttl_s: int) -> None:
        """Makes a lease. Raises StoreError when the id is taken."""
        if lease in self.leases:
            raise errors.lease_exists()
        self.leases[lease] = Lease(lease, ttl_s)
        self.leases_sum += lease_checksum(lease, ttl_s)

    def revoke(self, lease: int) -> None:
        """Deletes a lease and, in one transaction, its keys. Raises StoreError when there is none."""
        record = self.leases.get(lease)
        if record is None:
            raise errors.lease_missing()
        self.begin()
        for key in sorted(record.keys):
            self.delete(key)
        del self.leases[lease]
        self.leases_sum -= lease_checksum(lease, record.ttl_s)
        self.commit()
