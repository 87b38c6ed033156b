"""Clients of the simulated group: they write, read and watch at any member, and check what they were told.

Revisions put all writes in one order, so linearizability is three comparisons: a write's revision is above everything
acknowledged before it was asked for; a linearizable read sees at least that; and what it sees is the history's.
"""

from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.core.mvcc.machine import Command
from raykube.kv.core.watchers import Watcher, pull
from raykube.pb import batch_pb2, etcd_pb2
from tests.sim.world import Host, World

KEYS = [b"/k/%d" % number for number in range(6)]
PAUSE_S = 0.12


class Clients:
    """Writers and readers, and a watcher that moves between members."""

    def __init__(self, world: World, count: int = 3) -> None:
        self._world = world
        self.values_sent: set[bytes] = set()
        self.acknowledged: list[tuple[int, bytes, bytes | None]] = []  # revision, key, value
        self.observed = 1  # the highest revision anybody was told of
        self._number = 0
        for _ in range(count):
            self._later()
        self._watcher = Watcher(1, b"/", b"0", 1)
        self.watched: list[tuple[int, int]] = []
        self._watched_at: Host | None = None
        world.at(0.3, self._watch)

    def _later(self) -> None:
        self._world.at(self._world.rng.random() * PAUSE_S * 2, self._act)

    def _act(self) -> None:
        world = self._world
        if world.is_healing:
            return
        self._later()
        hosts = world.up()
        if not hosts:
            return
        host = world.rng.choice(hosts)
        match world.rng.choice(["write", "write", "write", "read", "txn", "lease"]):
            case "write":
                self.write(host)
            case "read":
                # Whoever still thinks that it leads is where a stale read would come from.
                leaders = world.leaders()
                self._read(world.rng.choice(leaders) if leaders and world.rng.random() < 0.5 else host)
            case "txn":
                self._txn(host)
            case _:
                grant = etcd_pb2.LeaseGrantRequest(ID=world.rng.randrange(1, 1 << 40), TTL=2)
                world.propose(
                    host, Command.LEASE_GRANT, grant.SerializeToString(), lambda *_: self._attach(host, grant.ID)
                )

    def _attach(self, host: Host, lease: int) -> None:
        if host.replica is not None:
            write = batch_pb2.Write(
                key=b"/lease/%d" % (lease % 3), value=self._value(), expected_revision=-1, lease=lease
            )
            self._propose_writes(host, [write])

    def _value(self) -> bytes:
        self._number += 1
        value = b"v%d" % self._number
        self.values_sent.add(value)
        return value

    def write(self, host: Host) -> None:
        rng = self._world.rng
        assert host.replica is not None
        writes = []
        for _ in range(rng.randrange(1, 4)):
            key = rng.choice(KEYS)
            current = host.replica.machine.store.get(key)
            expected = rng.choice([-1, 0, current.mod if current else 0])
            write = batch_pb2.Write(key=key, expected_revision=expected)
            if rng.random() < 0.85:
                write.value = self._value()
            writes.append(write)
        self._propose_writes(host, writes)

    def _propose_writes(self, host: Host, writes: list[batch_pb2.Write]) -> None:
        world = self._world
        floor = self.observed
        body = batch_pb2.BatchRequest(writes=writes).SerializeToString()

        def answered(answer: object, place: tuple[int, int]) -> None:
            if isinstance(answer, StoreError):
                return
            assert isinstance(answer, batch_pb2.BatchResponse)
            for write, result in zip(writes, answer.results, strict=True):
                if result.applied and (write.HasField("value") or result.revision > floor):
                    assert result.revision > floor or not write.HasField("value"), "a write went back in time"
                    if write.HasField("value"):
                        self.acknowledged.append((result.revision, write.key, write.value))
            self._learn(answer.revision)
            world.checks.on_acknowledged(answer.revision, *place, *world.quorum_disks())

        world.propose(host, Command.BATCH, body, answered)

    def _txn(self, host: Host) -> None:
        world = self._world
        key, other = world.rng.sample(KEYS, 2)
        floor = self.observed
        value = self._value()
        request = etcd_pb2.TxnRequest(
            compare=[
                etcd_pb2.Compare(key=key, target=etcd_pb2.Compare.VERSION, result=etcd_pb2.Compare.GREATER, version=0)
            ],
            success=[
                etcd_pb2.RequestOp(request_put=etcd_pb2.PutRequest(key=key, value=value)),
                etcd_pb2.RequestOp(request_delete_range=etcd_pb2.DeleteRangeRequest(key=other)),
            ],
        )

        def answered(answer: object, place: tuple[int, int]) -> None:
            assert isinstance(answer, etcd_pb2.TxnResponse)
            if answer.succeeded:
                assert answer.header.revision > floor, "a transaction went back in time"
                self.acknowledged.append((answer.header.revision, key, value))
            self._learn(answer.header.revision)
            world.checks.on_acknowledged(answer.header.revision, *place, *world.quorum_disks())

        world.propose(host, Command.TXN, request.SerializeToString(), answered)

    def _learn(self, revision: int) -> None:
        self.observed = max(self.observed, revision)

    def _read(self, host: Host) -> None:
        world = self._world
        floor = self.observed
        key = world.rng.choice(KEYS)

        def ready() -> None:
            assert host.replica is not None
            store = host.replica.machine.store
            assert store.revision >= floor, f"a read at {store.revision} missed {floor}, which was acknowledged before"
            assert store.get(key) == world.checks.value_at(key, store.revision), "a read saw what never was"
            self._learn(store.revision)

        world.read(host, ready)

    def _watch(self) -> None:
        """Pulls at one member; when it is gone, goes on at another from where it stood."""
        world = self._world
        world.at(0.2, self._watch)
        host = self._watched_at
        if host is None or host.replica is None or world.rng.random() < 0.05:
            self._watched_at = host = world.rng.choice(world.up()) if world.up() else None
            self._watcher.is_dirty = True
        if host is None or host.replica is None:
            return
        store = host.replica.machine.store
        if self._watcher.next_revision > store.revision:
            return
        found = pull(store, self._watcher)
        if found.is_compacted:
            self._watcher.next_revision = store.compact_revision
            self.watched.append((-1, store.compact_revision))
            return
        self.watched += [(version.mod, version.sub) for version in found.events]

    def check_watched(self) -> None:
        """What was watched is the history, each event once and in order; gaps only where compaction was told."""
        history = [(version.mod, version.sub) for version in self._world.checks.history]
        position = 0
        for mod, sub in self.watched:
            if mod == -1:
                while position < len(history) and history[position][0] < sub:
                    position += 1
                continue
            assert history[position] == (mod, sub), f"watched {mod}.{sub}, the history has {history[position]}"
            position += 1
