"""Clients with leases: they attach keys, keep the lease alive or let it end, and judge when it ended.

A lease must outlive its time to live after the last thing that its owner was told (the grant, a renewal), measured by
clocks that are wrong by `CLOCK_ERROR`; and once nobody renews it and the group is well, it must end in bounded time.
"""

from dataclasses import dataclass
from typing import Any

from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.core.mvcc.machine import Command
from raykube.pb import batch_pb2, etcd_pb2
from tests.sim.clients import Clients
from tests.sim.host import Host
from tests.sim.world import World

CLOCK_ERROR = 1.1
TTL_S = 2
PAUSE_S = 0.6
END_S_MAX = TTL_S * CLOCK_ERROR + 6.0


@dataclass(slots=True)
class Held:
    """A lease as its owner knows it."""

    id: int
    told_at: float  # when the question was asked whose answer was "it lives"
    is_kept: bool
    is_revoked: bool = False  # its owner asked for its end


class Lessees:
    """Owners of leases."""

    def __init__(self, world: World, clients: Clients) -> None:
        self._world = world
        self._clients = clients
        self._held: dict[int, Held] = {}
        self._seen: set[int] = set()
        world.at(0.5, self._act)
        world.at(0.2, self._look)

    def _act(self) -> None:
        world = self._world
        if world.is_healing:
            return
        world.at(world.rng.random() * PAUSE_S * 2, self._act)
        hosts = world.up()
        if hosts:
            self._grant(world.rng.choice(hosts))

    def _grant(self, host: Host) -> None:
        world = self._world
        grant = etcd_pb2.LeaseGrantRequest(ID=world.rng.randrange(1, 1 << 40), TTL=TTL_S)
        asked_at = world.now

        def granted(answer: Any) -> None:
            if isinstance(answer, StoreError):
                return
            held = Held(grant.ID, asked_at, world.rng.random() < 0.5)
            self._held[grant.ID] = held
            self._attach(host, grant.ID)
            if held.is_kept:
                world.at(TTL_S / 3, lambda: self._keep(held))
            elif world.rng.random() < 0.3:
                world.at(world.rng.random() * TTL_S, lambda: self._revoke(held))

        world.propose(host, Command.LEASE_GRANT, grant.SerializeToString(), granted)

    def _attach(self, host: Host, lease: int) -> None:
        if host.replica is not None:
            key = b"/lease/%d" % (lease % 3)
            write = batch_pb2.Write(key=key, value=self._clients.value(), expected_revision=-1, lease=lease)
            body = batch_pb2.BatchRequest(writes=[write]).SerializeToString()
            self._world.propose(host, Command.BATCH, body, lambda _: None)

    def _revoke(self, held: Held) -> None:
        world = self._world
        hosts = world.up()
        if hosts:
            held.is_revoked = True
            body = etcd_pb2.LeaseRevokeRequest(ID=held.id).SerializeToString()
            world.propose(world.rng.choice(hosts), Command.LEASE_REVOKE, body, lambda _: None)

    def _keep(self, held: Held) -> None:
        world = self._world
        if world.is_healing or held.id not in self._held:
            return
        world.at(TTL_S / 3, lambda: self._keep(held))
        leaders = world.leaders()
        if leaders and world.rng.random() < 0.8:
            self._renew(world.rng.choice(leaders), held)

    def _renew(self, host: Host, held: Held) -> None:
        """As `AtLeader.renew_here`: the time first, then proof that this is the leader and that the lease is there."""
        world = self._world
        asked_at = world.now

        def renew() -> None:
            replica = host.replica
            assert replica is not None
            if not replica.lease_clock.is_over(held.id) and replica.renew(held.id):
                world.read(host, told)

        def told() -> None:
            assert host.replica is not None
            is_there = held.id in host.replica.machine.store.leases and host.replica.node.is_leader
            if is_there and held.id in self._held:
                held.told_at = asked_at
                world.counts["leases renewed"] += 1

        host.deliver(renew, is_client=True)

    # ---- judging

    def _look(self) -> None:
        world = self._world
        world.at(0.05, self._look)
        model = world.checks.model
        for held in list(self._held.values()):
            if held.id in model.leases:
                continue
            del self._held[held.id]
            world.counts["leases ended"] += 1
            lived_s = world.now - held.told_at
            assert held.is_revoked or lived_s * CLOCK_ERROR >= TTL_S, (
                f"lease {held.id} ended {lived_s:.2f} s after its owner was told of {TTL_S}"
            )

    def all_ended(self) -> bool:
        return not self._world.checks.model.leases
