"""Watchers of the simulated group, and the nine things that etcd's robustness suite demands of a watch.

*ordered* by revision · *unique*: no event twice · *atomic*: a revision's events come together · *reliable*: none is
missing · *resumable* from any revision that is not compacted · *bookmarkable*: progress at a revision means that all up
to it was told · *prev-kv* is what was there before · *is-create* says whether the key is new · *filter*: nothing
unwanted. A watcher moves from member to member and goes on behind what it has; where compaction was faster, it is told.
"""

from raykube.kv.core.mvcc.version import Version
from raykube.kv.core.watchers import Watcher, WatchTable, pull
from tests.sim.host import Host
from tests.sim.world import World

PULL_S_MAX = 0.4
MOVES = 0.04


class WatchClient:
    """One client with one watch: keys [key, range_end), perhaps without puts or deletions."""

    def __init__(self, world: World, key: bytes, range_end: bytes, without_puts: bool, without_deletes: bool) -> None:
        self._world = world
        self._key, self._range_end = key, range_end
        self._without_puts, self._without_deletes = without_puts, without_deletes
        self.next_revision = 1  # the first that it has not been told of
        self._last = (0, 0)  # mod, sub of the last event
        self._place = 0  # in the model's events: what was checked so far
        self._watcher: Watcher | None = None
        self._table: WatchTable | None = None
        self._host: Host | None = None
        self._life = 0
        world.at(0.3, self._turn)

    def _turn(self) -> None:
        world = self._world
        world.at(0.02 + world.rng.random() * PULL_S_MAX, self._turn)
        host = self._host
        is_astray = world.is_healing and host not in world.members()  # one that is no member any more stands still
        if host is None or host.life != self._life or is_astray or world.rng.random() < MOVES:
            self._connect()
        elif world.now >= host.stalled_until:
            self._pull()

    def _connect(self) -> None:
        up = [host for host in self._world.members() if host.replica is not None] or self._world.up()
        if not up:
            self._host = None
            return
        self._host = host = self._world.rng.choice(up)
        assert host.replica is not None
        self._life = host.life
        self._watcher = Watcher(
            1, self._key, self._range_end, self.next_revision, self._without_puts, self._without_deletes, prev_kv=True
        )
        self._table = table = WatchTable()
        # The table of a member that has run for a while has seen all that is applied.
        table.on_applied(host.replica.machine.store)
        table.add(self._watcher)

        def on_applied() -> None:
            assert host.replica is not None
            table.on_applied(host.replica.machine.store)

        host.on_applied.append(on_applied)

    def _pull(self) -> None:
        """What the member's stream does for a dirty watcher, one answer a turn."""
        host, watcher = self._host, self._watcher
        assert host is not None and host.replica is not None and watcher is not None
        store = host.replica.machine.store
        if not watcher.is_dirty:
            # Nothing to come: a progress notification may say how far this is.
            self._on_progress(store.revision)
            return
        found = pull(store, watcher)
        if found.is_compacted:
            self._world.counts["watches compacted"] += 1
            self._on_compacted(store.compact_revision)
            self._host = None
        else:
            self._on_events([(event, store.previous(event)) for event in found.events], store.compact_revision)

    # ---- judging

    def _on_events(self, events: list[tuple[Version, Version | None]], compacted: int) -> None:
        model = self._world.checks.model
        self._world.counts["events watched"] += len(events)
        for event, previous in events:
            place = (event.mod, event.sub)
            assert place > self._last or place[0] > self._last[0], f"watch: ordered, unique: {place} after {self._last}"
            assert event.mod >= self.next_revision, f"watch: atomic: {place} came apart from the rest of its revision"
            assert self._wants(event), f"watch: filter: {event}"
            wanted = self._next_wanted()
            assert wanted is not None and (wanted.mod, wanted.sub) == place, (
                f"watch: reliable, resumable: {place} came, the next was {wanted}"
            )
            assert event == wanted, f"watch: {event}, not {wanted}"
            before = model.before(event)
            assert (event.create == event.mod) == (event.value is not None and before is None), (
                f"watch: is-create: {event}"
            )
            if previous is not None or (before is not None and event.mod > compacted):
                assert previous == before, f"watch: prev-kv: {previous}, not {before}, before {event}"
            self._last = place
            self._place += 1
        if events:
            self.next_revision = self._last[0] + 1
            rest = self._next_wanted()
            assert rest is None or rest.mod > self._last[0], f"watch: atomic: {self._last} without {rest}"

    def _on_progress(self, revision: int) -> None:
        wanted = self._next_wanted()
        assert wanted is None or wanted.mod > revision, f"watch: bookmarkable: progress at {revision} without {wanted}"
        self.next_revision = max(self.next_revision, revision + 1)

    def _on_compacted(self, revision: int) -> None:
        assert revision > self.next_revision, f"watch: {self.next_revision} is not behind the compaction at {revision}"
        self.next_revision = revision
        self._place = max(self._place, self._world.checks.model.position(revision))

    def _wants(self, event: Version) -> bool:
        if self._without_puts if event.value is not None else self._without_deletes:
            return False
        return self._key <= event.key < self._range_end if self._range_end else event.key == self._key

    def _next_wanted(self) -> Version | None:
        """The next of the true history's events that this watch must show."""
        events = self._world.checks.model.events
        while self._place < len(events) and not self._wants(events[self._place]):
            self._place += 1
        return events[self._place] if self._place < len(events) else None

    def is_done(self) -> bool:
        """Whether all that happened was told."""
        return self._next_wanted() is None


def some(world: World) -> list[WatchClient]:
    """A watch of everything, one of a key, one of a range with a filter."""
    rng = world.rng
    return [
        WatchClient(world, b"/", b"0", False, False),
        WatchClient(world, b"/k/%d" % rng.randrange(6), b"", False, False),
        WatchClient(world, b"/k/2", b"/k/5", *rng.choice([(True, False), (False, True)])),
    ]
