"""The simulated world: members that run the shipped replica, a network and disks that fail, clients that remember.

    World(seed).run() → trace hash

One heap of events in simulated seconds; every choice is drawn from one generator. First faults for `FAULTS_S`, with the
invariants of `checks` at every step; then everything is healed, and the group must make progress and agree.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any
from zlib import crc32

from raykube.kv.core import snapshot_codec
from raykube.kv.core.compactor import Compactor
from raykube.kv.core.mvcc.machine import commands
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Kind, Message, Write
from raykube.kv.core.raft.node import Limits
from raykube.kv.core.replica import Output, Replica
from tests.sim.checks import Checks
from tests.sim.disk import SimDisk

FAULTS_S = 15.0
HEAL_S_MAX = 20.0
TICK_S = 0.1
EVENTS_MAX = 60_000
SNAPSHOT_ENTRIES = 60
ENTRIES_KEPT = 10
LIMITS = Limits(election_ticks=10, message_bytes_max=2000, window_messages_max=4, uncommitted_bytes_max=20_000)


@dataclass(eq=False)
class Host:
    """One member's machine: its disk, its clock, and its process, if it runs."""

    id: int
    disk: SimDisk
    clock_offset_s: float = 0.0
    clock_rate: float = 1.0
    replica: Replica | None = None
    life: int = 0  # grows with every start: what belongs to an earlier life is dropped
    stalled_until: float = 0.0
    ticked_at: float = 0.0
    snapshot_index: int = 0
    seen_revision: int = 1
    is_saving: bool = False
    waiting: deque[Callable[[], None]] = field(default_factory=deque)
    answers: dict[int, Callable[[Any, tuple[int, int]], None]] = field(default_factory=dict)
    readers: dict[int, Callable[[], None]] = field(default_factory=dict)
    applied_at: dict[int, tuple[int, int]] = field(default_factory=dict)  # request → index, term


class World:
    """Everything there is, from one seed."""

    def __init__(self, seed: int, members: int = 3) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.checks = Checks()
        self.trace = 0
        self.events_run = 0
        self.membership = Membership.of(*range(1, members + 1))
        self.hosts = {member: Host(member, SimDisk(member)) for member in self.membership.ids}
        self.blocked: set[tuple[int, int]] = set()
        self.loss = self.rng.choice([0.0, 0.01, 0.1])
        self.duplication = self.rng.choice([0.0, 0.05])
        self.delay_s_max = self.rng.choice([0.002, 0.02, 0.15])
        self.sync_s_max = self.rng.choice([0.001, 0.02, 0.2])
        self.compactor = self.rng.choice([(0.0, 0), (0.0, 40), (3.0, 0)])
        self.is_healing = False
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._ids = itertools.count(1)

    # ---- time

    def at(self, delay_s: float, run: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay_s, next(self._order), run))

    def note(self, *facts: object) -> None:
        """Adds to the trace, whose checksum is the same in every run of a seed."""
        self.trace = crc32(repr((round(self.now, 9), *facts)).encode(), self.trace)

    def run_until(self, end: float, done: Callable[[], bool] = lambda: False) -> bool:
        while self._events and self._events[0][0] <= end:
            self.now, _, run = heapq.heappop(self._events)
            self.events_run += 1
            assert self.events_run < EVENTS_MAX, "a storm of messages: two members go round in circles"
            run()
            if done():
                return True
        self.now = end
        return done()

    # ---- hosts

    def start(self, host: Host) -> None:
        host.life += 1
        self.note("start", host.id)
        self.checks.forget(host.id)
        retained_s, retained = self.compactor
        recovered = host.disk.recover(self.membership)
        host.replica = recovered.build(
            host.id, LIMITS, self.rng.randrange, lambda: next(self._ids), Compactor(retained_s, retained)
        )
        host.snapshot_index = host.replica.applied
        host.seen_revision = host.replica.machine.store.revision
        host.ticked_at = self.now
        host.stalled_until = 0.0
        life = host.life
        self.at(self.rng.random() * TICK_S, lambda: self._tick(host, life))
        self._pump(host)

    def crash(self, host: Host) -> None:
        if host.replica is None:
            return
        self.note("crash", host.id)
        host.replica = None
        host.life += 1
        host.is_saving = False
        host.waiting.clear()
        host.answers.clear()
        host.readers.clear()
        host.applied_at.clear()
        host.disk.crash(self.rng)
        # A closed connection is seen at once, where the network works.
        for other in self.hosts.values():
            if other.replica is not None and (host.id, other.id) not in self.blocked and self.rng.random() < 0.7:
                self._deliver(other, lambda other=other: self._step_lost(other, host.id))

    def _step_lost(self, host: Host, lost: int) -> None:
        assert host.replica is not None
        host.replica.node.on_peer_lost(lost)

    def _deliver(self, host: Host, run: Callable[[], None]) -> None:
        """Lets `run` happen in the member's process, now or when it wakes up."""
        if host.replica is None:
            return
        if self.now < host.stalled_until:
            host.waiting.append(run)
            return
        run()
        self._pump(host)

    def stall(self, host: Host, seconds: float) -> None:
        """The process stands still: SIGSTOP, a collector's pause, a suspended machine."""
        self.note("stall", host.id)
        host.stalled_until = max(host.stalled_until, self.now + seconds)
        life = host.life

        def wake() -> None:
            if host.life != life or self.now < host.stalled_until:
                return
            while host.waiting and host.replica is not None:
                host.waiting.popleft()()
                self._pump(host)

        self.at(seconds, wake)

    def _tick(self, host: Host, life: int) -> None:
        if host.life != life or host.replica is None:
            return
        self.at(TICK_S, lambda: self._tick(host, life))
        if self.now < host.stalled_until:
            return
        elapsed = self.now - host.ticked_at
        host.ticked_at = self.now
        stalled_s = elapsed - TICK_S if elapsed > 2.5 * TICK_S else 0.0
        host.replica.tick(self.now * host.clock_rate + host.clock_offset_s, stalled_s)
        self._pump(host)

    def _pump(self, host: Host) -> None:
        replica = host.replica
        assert replica is not None
        before = replica.applied
        output = replica.ready()
        self._after_apply(host, before)
        self.checks.on_member(replica)
        for message in output.messages:
            self._send(host, message)
        if output.write is not None:
            self._write(host, output.write)
        self._answer(host, output)

    def _after_apply(self, host: Host, before: int) -> None:
        replica = host.replica
        assert replica is not None
        store, log = replica.machine.store, replica.node.log
        if replica.applied > before:
            self.note("applied", host.id, replica.applied, store.revision)
            for index in range(max(before, log.base) + 1, replica.applied + 1):
                entry = log.entries[index - log.base - 1]
                if entry.kind == 0 and entry.data:
                    for request, _, _ in commands(entry.data):
                        host.applied_at[request] = (index, entry.term)
            fresh = store.events[store.position(host.seen_revision + 1) :]
            host.seen_revision = store.revision
            self.checks.on_applied(replica.applied, store, fresh, host.id)
            store.sweep(20)
        # Only right after it applied, as a member does: see Replica.capture.
        is_due = replica.applied > before and replica.applied - host.snapshot_index >= SNAPSHOT_ENTRIES
        if is_due and not host.is_saving:
            snapshot, image = replica.capture()
            previous, host.snapshot_index = host.snapshot_index, snapshot.index
            host.is_saving = True
            life = host.life

            def saved() -> None:
                if host.life != life or host.replica is None:
                    return
                host.is_saving = False
                host.disk.save(snapshot, list(image.chunks()))
                host.disk.purge(previous)
                host.replica.node.on_snapshot_saved(snapshot, ENTRIES_KEPT)

            self.at(self.rng.random() * self.sync_s_max * 3, saved)

    def _answer(self, host: Host, output: Output) -> None:
        for request, answer in output.answers:
            callback = host.answers.pop(request, None)
            if callback is not None:
                callback(answer, host.applied_at[request])
        for reader in output.readers:
            waiting = host.readers.pop(reader, None)
            if waiting is not None:
                waiting()

    def _write(self, host: Host, write: Write) -> None:
        if not write.touches_disk:
            self._written(host, write)
            return
        host.disk.write(write)
        life = host.life

        def synced() -> None:
            if host.life == life:
                host.disk.sync(write)
                self._deliver(host, lambda: self._written(host, write))

        self.at(self.rng.random() * self.sync_s_max, synced)

    def _written(self, host: Host, write: Write) -> None:
        replica = host.replica
        assert replica is not None
        replica.persisted(write)
        if write.snapshot is not None:
            self.note("installed", host.id, write.snapshot.index)
            host.snapshot_index = write.snapshot.index
            host.seen_revision = replica.machine.store.revision
            host.applied_at.clear()
        for message in write.messages:
            self._send(host, message)
        if not write.touches_disk:
            self._pump(host)

    # ---- the network

    def _send(self, host: Host, message: Message) -> None:
        if message.kind is Kind.SNAPSHOT:
            self._send_snapshot(host, message)
            return
        # A proposal goes at most once: the transport is a stream.
        copies = 2 if message.kind is not Kind.PROPOSE and self.rng.random() < self.duplication else 1
        for _ in range(copies):
            if self.rng.random() >= self.loss:
                self.at(self._delay_s(), lambda: self._arrive(message))

    def _delay_s(self) -> float:
        return 0.0001 + self.rng.random() * self.delay_s_max

    def _arrive(self, message: Message) -> None:
        host = self.hosts[message.to]
        if (message.sender, message.to) in self.blocked or host.replica is None:
            return
        self.note("message", message.kind, message.sender, message.to, message.term, message.index)
        self._deliver(host, lambda: self._step(host, message))

    def _step(self, host: Host, message: Message) -> None:
        assert host.replica is not None
        host.replica.step(message)

    def _send_snapshot(self, host: Host, message: Message) -> None:
        assert message.snapshot is not None
        data = host.disk.snapshots[message.snapshot.index, message.snapshot.term]
        message.snapshot = snapshot_codec.decode(data)[1]
        life = host.life
        arrives = self.rng.random() >= self.loss and (host.id, message.to) not in self.blocked

        def arrive() -> None:
            if arrives:
                self._arrive(message)
            if host.life == life and host.replica is not None:
                host.replica.node.on_snapshot_sent(message.to, arrives)

        self.at(self._delay_s() * 10, arrive)

    # ---- requests

    def propose(self, host: Host, command: Any, body: bytes, answered: Callable[[Any, tuple[int, int]], None]) -> None:
        assert host.replica is not None
        number = next(self._ids)
        host.answers[number] = answered
        life = host.life

        def give_up() -> None:
            if host.life == life and host.replica is not None and host.answers.pop(number, None) is not None:
                host.replica.forget(number)

        self.at(5.0, give_up)
        self._deliver(host, lambda: host.replica.propose(number, command, body) if host.replica else None)

    def read(self, host: Host, ready: Callable[[], None]) -> None:
        assert host.replica is not None
        number = next(self._ids)
        host.readers[number] = ready
        self._deliver(host, lambda: host.replica.read(number) if host.replica else None)

    def transfer(self, host: Host, member: int) -> None:
        """The leader hands over, as it does before it stops."""
        self.note("transfer", host.id, member)
        self._deliver(host, lambda: host.replica.node.transfer(member) if host.replica else None)

    def quorum_disks(self) -> tuple[list[SimDisk], int]:
        return [host.disk for host in self.hosts.values()], self.membership.quorum

    def leaders(self) -> list[Host]:
        """Those who think that they lead."""
        return [host for host in self.up() if host.replica is not None and host.replica.node.is_leader]

    def up(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.replica is not None]
