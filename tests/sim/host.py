"""One member's machine: its disk, its clock and, when it runs, the process with the shipped replica."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from raykube.kv.core.compactor import Compactor
from raykube.kv.core.mvcc.image import Restored
from raykube.kv.core.mvcc.machine import Command
from raykube.kv.core.mvcc.scrub import Scrub
from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.raft.gathering import hold_s
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Snapshot, Write
from raykube.kv.core.raft.node import Limits
from raykube.kv.core.replica import Applied, Output, Replica
from raykube.kv.member import NEWS_S
from raykube.kv.wal import PASSING
from raykube.pb import raft_pb2
from tests.sim.disk import SimDisk

if TYPE_CHECKING:
    from tests.sim.world import World

TICK_S = 0.1
SNAPSHOT_ENTRIES = 60
ENTRIES_KEPT = 10
SWEEP_EVENTS = 20
SCRUBS, SCRUB_VERSIONS = 0.1, 30  # of ticks, and how much in one
LIMITS = Limits(
    election_ticks=10,
    message_bytes_max=2000,
    apply_bytes_max=3000,
    window_messages_max=4,
    gathered_bytes_max=500,
    uncommitted_bytes_max=20_000,
)


class Host:
    """Drives its replica as `Member` does, event by event. What belongs to an earlier `life` is dropped."""

    def __init__(self, world: "World", member: int, founders: Membership | None) -> None:
        self.world = world
        self.id = member
        self._founders = founders
        self.is_gone = False  # removed from the group, for good
        self.is_lost = False  # its machine burned down
        self.disk = SimDisk(member, world.rng)
        self.replica: Replica | None = None
        self.membership = founders or Membership()  # the newest in its log, committed or not, also while it is down
        self.life = 0
        self.clock_rate = 1.0
        self._clock_base = (0.0, 0.0)  # world's time, this clock's time then
        self.stalled_until = 0.0
        self._ticked_at = self._left_at = 0.0
        self._is_telling = self._is_news_due = False  # of commits that may wait; soon, now
        self._snapshot_index = 0
        self._purge_index = 0
        self._seen_revision = 1
        self._was_leader = False
        self._flipped_in = 0
        self._work: Write | None = None  # what the disk is busy with
        self._saving: tuple[Snapshot, Iterator[bytes]] | None = None  # a snapshot of its own, on its way to the disk
        self._scrub: Scrub | None = None
        self._waiting: deque[Callable[[], None]] = deque()
        self.answers: dict[int, Callable[[Any], None]] = {}
        self.readers: dict[int, Callable[[], None]] = {}
        self.on_applied: list[Callable[[], None]] = []

    @property
    def is_whole(self) -> bool:
        """Whether it has all that it promised to keep, as far as anybody can tell."""
        replica = self.replica
        # Once it has read its files, what it lacks comes from a leader.
        if replica is not None and self.life > self._flipped_in and not replica.node.log.is_lacking:
            self.disk.damage.clear()
        return not self.disk.damage

    def flip(self, where: str = "") -> None:
        """A bit rots on the disk, in a file whose path begins so."""
        self._flipped_in = self.life
        self.disk.flip(where)

    # ---- the clock

    @property
    def clock(self) -> float:
        """This machine's monotonic clock, in seconds."""
        since, base = self._clock_base
        return base + (self.world.now - since) * self.clock_rate

    def set_clock(self, jump_s: float, rate: float) -> None:
        """The clock jumps, and goes on at another rate."""
        self._clock_base = (self.world.now, self.clock + jump_s)
        self.clock_rate = rate

    # ---- life

    def start(self) -> None:
        """Starts the process, if the disk lets it."""
        world = self.world
        if self.is_gone or self.is_lost:
            return
        self.life += 1
        world.note("start", self.id)
        world.checks.forget(self.id)
        try:
            recovered = self.disk.open(self._founders)
        except OSError as error:
            self._fail(error)
            return
        except ValueError as error:
            assert self.disk.flips, f"member {self.id} refuses to start on a disk that nobody damaged: {error}"
            world.counts["refused a damaged disk"] += 1
            self._fail(error)
            return
        retained_s, retained = world.compactor
        self.replica = replica = recovered.build(
            self.id, LIMITS, world.rng.randrange, world.new_id, Compactor(retained_s, retained)
        )
        if replica.node.log.is_lacking:
            assert self.disk.flips, f"member {self.id} lacks what it had, on a disk that nobody damaged"
            world.counts["started lacking"] += 1
        self._snapshot_index = self._purge_index = replica.applied
        self._seen_revision = replica.machine.store.revision
        self._was_leader = False
        self._ticked_at = self.clock
        self.stalled_until = 0.0
        self._is_telling = self._is_news_due = False
        if replica.applied:
            world.checks.check_whole(replica.applied, replica.machine.store, self.id)
        life = self.life
        if replica.node.membership.voters == {self.id}:
            replica.node.campaign()
        world.at(world.rng.random() * TICK_S, lambda: self._tick(life))
        world.at(0.2, lambda: self._publish(life))
        self.pump()

    def _publish(self, life: int) -> None:
        """Tells the group the member's name, as the service does when it starts, until it is in the log."""
        replica = self.replica
        if self.life != life or replica is None:
            return
        own = raft_pb2.Attributes(member_id=self.id, name=f"m{self.id}", level=max(Command))
        if replica.machine.attributes.get(self.id) != own:
            self.world.at(1.0, lambda: self._publish(life))
            number, body = self.world.new_id(), own.SerializeToString()
            self.deliver(lambda: replica.propose(number, Command.ATTRIBUTES, body))
            self.world.at(5.0, lambda: replica.forget(number) and None)

    def leave(self) -> None:
        """The member is none any more: it stops for good."""
        if self.is_gone:
            return
        self.is_gone = True
        self.world.note("left", self.id)
        if self.replica is not None:
            self._end()

    def lose(self) -> None:
        """The machine is gone, with its disk. (What was on it stays known to the checks.)"""
        self.is_lost = True
        self.crash(has_lost_power=True)

    def crash(self, has_lost_power: bool) -> None:
        """The process dies, perhaps with the whole machine, whatever it was doing."""
        if self.replica is None:
            return
        work, saving = self._work, self._saving
        self._end()
        self.disk.crash(work, saving, has_lost_power)

    def crash_in_start(self) -> None:
        """The machine dies while the member starts."""
        self.disk.crash_in_open(self._founders)

    def _end(self) -> None:
        self.replica = None
        self.life += 1
        self._work = self._saving = self._scrub = None
        self._waiting.clear()
        self.answers.clear()
        self.readers.clear()
        self.on_applied.clear()
        self.world.network.on_down(self)

    def _fail(self, error: Exception) -> None:
        """The member stops by itself; somebody starts it again later."""
        self.world.note("failed", self.id, type(error).__name__)
        self.world.counts[f"stopped by {type(error).__name__}"] += 1
        work, saving = self._work, self._saving
        self._end()
        self.disk.crash(work, saving, has_lost_power=False)
        self.world.restart(self)

    def deliver(self, run: Callable[[], None], is_client: bool = False) -> None:
        """Lets `run` happen in the process, now or when it wakes up: a client's socket then before or behind others."""
        if self.replica is None:
            return
        if self.world.now < self.stalled_until:
            if is_client:
                place = self.world.rng.choice([0, self.world.rng.randrange(len(self._waiting) + 1)])
                self._waiting.insert(place, run)
            else:
                self._waiting.append(run)
            return
        run()
        self.pump()

    def stall(self, seconds: float) -> None:
        """The process stands still: SIGSTOP, a collector's pause, a suspended machine."""
        self.stalled_until = max(self.stalled_until, self.world.now + seconds)
        life = self.life

        def wake() -> None:
            if self.life != life or self.world.now < self.stalled_until:
                return
            while self._waiting and self.replica is not None:
                self._waiting.popleft()()
                self.pump()

        self.world.at(seconds, wake)

    @property
    def is_late(self) -> bool:
        """Whether the next tick will find that the process stood still for an election time-out: as `Member` has it."""
        late_s = self.clock - self._ticked_at - TICK_S
        return self.replica is not None and late_s >= self.replica.node.limits.election_ticks * TICK_S

    def wake(self) -> None:
        """Ends a stall."""
        self.stalled_until = min(self.stalled_until, self.world.now)
        if self._waiting:
            self.stall(0.0)

    def _tick(self, life: int) -> None:
        if self.life != life or self.replica is None:
            return
        self.world.at(TICK_S, lambda: self._tick(life))
        if self.world.now < self.stalled_until:
            return
        now = self.clock
        elapsed, self._ticked_at = now - self._ticked_at, now
        stalled_s = elapsed - TICK_S if elapsed > 2.5 * TICK_S else 0.0
        self.replica.tick(now, stalled_s, int(stalled_s / TICK_S))
        self._look_after_memory(self.replica.machine.store)
        self.pump()

    def _look_after_memory(self, store: Store) -> None:
        """As the member's scrubber: now and then a little of what the store holds. Raises Rotten."""
        if self.world.rng.random() > SCRUBS:
            return
        if self._scrub is None or self._scrub.store is not store:
            self._scrub = Scrub(store)
        if self._scrub.step(SCRUB_VERSIONS):
            self._scrub = None

    # ---- what the replica wants done

    def pump(self) -> None:
        """As a member does in one go, whatever there is."""
        while self._step():
            pass

    def _step(self) -> bool:
        replica, world = self.replica, self.world
        if replica is None:
            return False
        before = replica.applied
        output = replica.ready() if self._is_news_due else replica.ready_if_due()
        is_due = output is not None
        self._is_news_due = False
        if output is None:
            output = self._nothing_due(replica)
        self._time_news(replica)
        self.membership = replica.node.membership
        for message in output.messages:
            world.network.send(self, message)
        if output.hold:
            life = self.life
            lasts_s = hold_s(output.hold_rounds, world.now - self._left_at)
            world.at(lasts_s, lambda: self._let_go(output.hold, life))
        if output.has_left:
            self._left_at = world.now
        if output.write is not None:
            self.write(output.write)
        applied = replica.apply()
        if not is_due:
            world.checks.on_nothing_applied(applied)
        world.checks.on_member(replica)
        if replica.is_removed:
            world.counts["learned that it was removed"] += 1
            self.leave()
            return False
        is_leader = replica.node.is_leader
        if is_leader and not self._was_leader:
            world.note("leads", self.id, replica.node.term)
            world.counts["elections"] += 1
            world.checks.on_new_leader(replica)
        self._was_leader = is_leader
        if replica.applied > before:
            self._after_apply(replica)
        self._answer(applied)
        return applied.may_have_more or (output.write is not None and not output.write.touches_disk)

    def _nothing_due(self, replica: Replica) -> Output:
        """What a member would wait with: nothing, or what is checked to be news."""
        if self.world.tells_late:
            return Output([], None, 0, 0.0, False)
        self.world.checks.on_nothing_due(replica.ready(with_news=False))
        has_news = replica.node.has_news
        output = replica.ready()
        self.world.checks.on_news(output, has_news=has_news)
        return output

    def _time_news(self, replica: Replica) -> None:
        if replica.node.has_news and not self._is_telling:
            self._is_telling = True
            life = self.life
            self.world.at(NEWS_S, lambda: self._on_news_due(life))

    def _on_news_due(self, life: int) -> None:
        if self.life != life:
            return
        self._is_telling = False

        def tell() -> None:
            self._is_news_due = True

        self.deliver(tell)

    def _let_go(self, hold: int, life: int) -> None:
        if self.life != life:
            return
        if self.world.now < self.stalled_until:
            self._waiting.append(lambda: self._let_go(hold, life))
        elif self.replica is not None and self.replica.let_go(hold):
            self.pump()

    def _after_apply(self, replica: Replica) -> None:
        world, store = self.world, replica.machine.store
        world.note("applied", self.id, replica.applied, store.revision)
        world.checks.on_applied(replica.applied, replica.machine, self._seen_revision, self.id)
        self._seen_revision = store.revision
        for callback in self.on_applied:
            callback()
        store.sweep(SWEEP_EVENTS)
        # Only right after it applied, as a member does: see Replica.capture.
        if replica.applied - self._snapshot_index >= SNAPSHOT_ENTRIES:
            self._begin_snapshot(replica)

    def _begin_snapshot(self, replica: Replica) -> None:
        if self._saving is not None:
            return
        snapshot, image = replica.capture()
        self._snapshot_index = snapshot.index
        self._saving = snapshot, image.chunks()  # as a thread does: while the store goes on
        life = self.life
        self.world.at(self.world.rng.random() * self.world.sync_s_max * 3, lambda: self._saved(life))

    def renew_snapshot(self) -> None:
        """The file of the newest snapshot cannot be used: another takes its place, soon."""
        if self.replica is not None and not self.replica.node.is_installing:
            self.world.counts["snapshots renewed"] += 1
            self._begin_snapshot(self.replica)

    def _saved(self, life: int) -> None:
        if self.life != life or self.replica is None or self._saving is None:
            return
        (snapshot, body), self._saving = self._saving, None
        self.world.counts["snapshots"] += 1
        try:
            try:
                self.disk.save(snapshot, body)
            except OSError as error:
                if error.errno not in PASSING:
                    raise
                self._snapshot_index -= SNAPSHOT_ENTRIES  # no room now: tried again when something is applied
                return
            self.replica.node.on_snapshot_saved(snapshot, ENTRIES_KEPT)
            purge, self._purge_index = self._purge_index, snapshot.index
            self.disk.purge(purge)
        except OSError as error:
            self._fail(error)

    def _answer(self, applied: Applied) -> None:
        for request, answer in applied.answers:
            callback = self.answers.pop(request, None)
            if callback is not None:
                callback(answer)
        for reader in applied.readers:
            waiting = self.readers.pop(reader, None)
            if waiting is not None:
                waiting()

    def write(self, write: Write) -> None:
        """Gives a write to the disk, which takes its time."""
        if not write.touches_disk:
            self.written(write)
            return
        self._work = write
        life = self.life

        def persist() -> None:
            if self.life != life:
                return
            self._work = None
            try:
                restored = self.disk.persist(write)
            except (OSError, ValueError) as error:
                assert isinstance(error, OSError) or self.disk.flips, error
                self._fail(error)
                return
            self.deliver(lambda: self.written(write, restored))

        self.world.at(self.world.rng.random() * self.world.sync_s_max, persist)

    def written(self, write: Write, restored: Restored | None = None) -> None:
        """The write is done: its promises may leave."""
        replica = self.replica
        assert replica is not None
        replica.persisted(write, restored)
        if write.snapshot is not None:
            self.world.note("installed", self.id, write.snapshot.index)
            self.world.counts["snapshots installed"] += 1
            self._snapshot_index = self._purge_index = write.snapshot.index
            self._seen_revision = replica.machine.store.revision
            self.world.checks.check_whole(write.snapshot.index, replica.machine.store, self.id)
            for callback in self.on_applied:
                callback()
        for message in write.messages:
            self.world.network.send(self, message)
