"""Clients of the simulated group: they write, read and compare at any member. `Checks` judges what they are told."""

from typing import Any

from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.core.mvcc.machine import Command
from raykube.pb import batch_pb2, etcd_pb2
from tests.sim.host import Host
from tests.sim.world import World

KEYS = [b"/k/%d" % number for number in range(6)]
PAUSE_S = 0.12
ACTIONS = ["write"] * 4 + ["joined"] * 2 + ["read", "read", "serializable", "txn", "txn", "compact"]
Compare = etcd_pb2.Compare
RequestOp = etcd_pb2.RequestOp


class Clients:
    """Some clients that do one thing after the other, without waiting for answers."""

    def __init__(self, world: World, count: int = 3) -> None:
        self._world = world
        self.acknowledged = 0
        self._number = 0
        for _ in range(count):
            self._later()

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
        match world.rng.choice(ACTIONS):
            case "write":
                self.write(host)
            case "joined":
                self.write(host, Command.JOINED_BATCH)
            case "read":
                # Whoever still thinks that it leads is where a stale read would come from.
                leaders = world.leaders()
                self._read(world.rng.choice(leaders) if leaders and world.rng.random() < 0.5 else host)
            case "serializable":
                self._read_state(host)
            case "txn":
                self._txn(host)
            case _:
                self._compact(host)

    def value(self) -> bytes:
        """A value that nobody ever wrote."""
        self._number += 1
        return b"v%d" % self._number

    def write(self, host: Host, command: Command = Command.BATCH) -> None:
        """A batch of writes, each with a comparison that may fail, and maybe joined: the command may heed it."""
        rng = self._world.rng
        assert host.replica is not None
        writes = []
        for _ in range(rng.randrange(1, 4)):
            key = rng.choice(KEYS)
            current = host.replica.machine.store.get(key)
            expected = rng.choice([-1, 0, current.mod if current else 0])
            write = batch_pb2.Write(key=key, expected_revision=expected, joined=rng.random() < 0.5)
            if rng.random() < 0.85:
                write.value = self.value()
            writes.append(write)
        body = batch_pb2.BatchRequest(writes=writes).SerializeToString()
        self._world.propose(host, command, body, self._answered)

    def _answered(self, answer: Any) -> None:
        if not isinstance(answer, StoreError):
            self.acknowledged += 1

    def _txn(self, host: Host) -> None:
        rng = self._world.rng
        assert host.replica is not None
        key, other = rng.sample(KEYS, 2)
        current = host.replica.machine.store.get(key)
        mod, value = (current.mod, current.value or b"") if current else (0, b"none")
        compare = rng.choice(
            [
                Compare(key=key, target=Compare.VERSION, result=Compare.GREATER, version=0),
                Compare(key=key, target=Compare.MOD, result=Compare.EQUAL, mod_revision=mod),
                Compare(key=key, target=Compare.VALUE, result=Compare.EQUAL, value=value),
            ]
        )
        request = etcd_pb2.TxnRequest(
            compare=[compare],
            success=[
                RequestOp(request_put=etcd_pb2.PutRequest(key=key, value=self.value())),
                RequestOp(request_range=etcd_pb2.RangeRequest(key=b"/k/", range_end=b"/k0")),
                RequestOp(request_delete_range=etcd_pb2.DeleteRangeRequest(key=other, range_end=other + b"0")),
            ],
            failure=[RequestOp(request_range=etcd_pb2.RangeRequest(key=key))],
        )
        if rng.random() < 0.3:
            # Maybe compacted: then the whole transaction is refused.
            past = rng.randrange(
                max(1, host.replica.machine.store.revision - 60), host.replica.machine.store.revision + 1
            )
            request.success.add(request_range=etcd_pb2.RangeRequest(key=key, revision=past))
        self._world.propose(host, Command.TXN, request.SerializeToString(), self._answered)

    def _compact(self, host: Host) -> None:
        assert host.replica is not None
        store = host.replica.machine.store
        revision = self._world.rng.randrange(max(1, store.revision - 60), store.revision + 2)
        body = etcd_pb2.CompactionRequest(revision=revision).SerializeToString()
        self._world.propose(host, Command.COMPACT, body, self._answered)

    def _read(self, host: Host) -> None:
        self._world.read(host, lambda: self._read_state(host))

    def _read_state(self, host: Host) -> None:
        """Of what the member has applied: now, or at some revision."""
        world = self._world
        assert host.replica is not None
        store = host.replica.machine.store
        revision = world.rng.choice([0, world.rng.randrange(max(1, store.revision - 80), store.revision + 2)])
        world.checks.on_state_read(store, world.rng.choice(KEYS), revision)
