"""Locks that leases guard, and leases kept alive: never two holders, no lease that ends early, none that stays.

A client knows by its own clock how long it may count on a lease: from the moment it asked for it, or for its renewal,
as long as the answer said. The store's clock started later, so the store must not take it away before.
"""

import asyncio
import itertools
from typing import NamedTuple

from raykube.client.kv import KvClient
from raykube.pb import etcd_pb2
from raykube.pb.batch_pb2 import Write as BatchWrite
from tests.robustness.workloads import CALL_TIMEOUT_S, Access, equals

TTL_S = 2
GONE_TIMEOUT_S = 30.0  # an election starts a lease's time anew; and the machine may be busy


class Held(NamedTuple):
    """Somebody held the lock, from when it was told so to when it gave it back or could count on it no more."""

    client: str
    since: float
    until: float


class Lease:
    """A lease as its owner knows it."""

    def __init__(self, access: Access, number: int) -> None:
        self.id = number
        self.safe_until = 0.0  # by the clock of the history
        self._access = access

    async def grant(self) -> bool:
        request = etcd_pb2.LeaseGrantRequest(ID=self.id, TTL=TTL_S)
        _, client = self._access.pick()
        started = self._access.history.now()
        outcome = await self._access.history.call(
            lambda: client.call("Lease", "LeaseGrant", request, CALL_TIMEOUT_S, retry=False), is_write=True
        )
        if outcome.is_known:
            self.safe_until = started + outcome.answer.TTL
        return outcome.is_known

    async def renew(self) -> bool:
        """False when nobody could be asked. Fails when the lease is gone although its time was not over."""
        _, client = self._access.pick()
        started = self._access.history.now()
        outcome = await self._access.history.call(lambda: client.keep_alive(self.id, CALL_TIMEOUT_S), is_write=False)
        if not outcome.is_known:
            return False
        ended = self._access.history.now()
        assert outcome.answer or ended >= self.safe_until, (
            f"lease {self.id:x} was gone at {ended:.3f}, it was promised until {self.safe_until:.3f}"
        )
        if outcome.answer:
            self.safe_until = started + outcome.answer
        return bool(outcome.answer)

    async def revoke(self) -> None:
        _, client = self._access.pick()
        request = etcd_pb2.LeaseRevokeRequest(ID=self.id)
        await self._access.history.call(
            lambda: client.call("Lease", "LeaseRevoke", request, CALL_TIMEOUT_S, retry=False), is_write=True
        )


class LockWork:
    """Takes the lock, holds it for a while, gives it back or walks away; one of several who want it."""

    def __init__(self, access: Access, client: str, key: bytes, numbers: "itertools.count[int]") -> None:
        self.held: list[Held] = []
        self._access = access
        self._client = client
        self._key = key
        self._numbers = numbers

    async def act(self) -> None:
        access = self._access
        lease = Lease(access, next(self._numbers))
        if not await lease.grant():
            return
        put = etcd_pb2.PutRequest(key=self._key, value=self._client.encode(), lease=lease.id)
        request = etcd_pb2.TxnRequest(
            compare=[equals(self._key, version=0)], success=[etcd_pb2.RequestOp(request_put=put)]
        )
        for _ in range(20):
            _, client = access.pick()
            outcome = await access.history.call(lambda: client.txn(request, CALL_TIMEOUT_S), is_write=True)  # noqa: B023
            if outcome.is_known and outcome.answer.succeeded:
                await self._hold(lease, access.history.now())
                return
            if outcome.is_unknown:
                # Perhaps it is ours: revoking the lease, or its end, gives it back.
                break
            await asyncio.sleep(access.rng.uniform(0, 0.1))
            if not await lease.renew():
                break
        await lease.revoke()

    async def _hold(self, lease: Lease, since: float) -> None:
        access = self._access
        for _ in range(access.rng.randrange(4)):
            await asyncio.sleep(access.rng.uniform(0, 0.2))
            if access.history.now() >= lease.safe_until or not await lease.renew():
                break
        self.held.append(Held(self._client, since, min(access.history.now(), lease.safe_until)))
        if access.rng.random() < 0.9:
            await lease.revoke()


def check_locks(held: list[Held]) -> None:
    """Never two holders."""
    for one, other in itertools.pairwise(
        sorted((each for each in held if each.until > each.since), key=lambda each: each.since)
    ):
        assert one.until <= other.since, f"two holders: {one} and {other}"


class KeeperWork:
    """Keeps a lease alive with a key on it, which must be there as long; makes a new one when it was lost by time."""

    def __init__(self, access: Access, key: bytes, numbers: "itertools.count[int]") -> None:
        self.lease: Lease | None = None
        self._access = access
        self._key = key
        self._numbers = numbers

    async def act(self) -> None:
        access = self._access
        if self.lease is None:
            lease = Lease(access, next(self._numbers))
            if await lease.grant():
                write = BatchWrite(key=self._key, value=access.fresh(), expected_revision=-1, lease=lease.id)
                outcome = await access.history.call(
                    lambda: access.everywhere.write([write], CALL_TIMEOUT_S), is_write=True
                )
                if outcome.is_known and access.history.now() < lease.safe_until:
                    self.lease = lease
            return
        # Renewed late, so that a lease that ends early is missed.
        if self.lease.safe_until - access.history.now() > TTL_S / 2:
            outcome = await access.get(self._key)
            if outcome.is_known and access.history.now() < self.lease.safe_until:
                found = [kv.lease for kv in outcome.answer.kvs]
                assert found == [self.lease.id], f"the key of lease {self.lease.id:x} is gone before its time: {found}"
        elif not await self.lease.renew() and access.history.now() >= self.lease.safe_until:
            # Nobody could be asked in time.
            self.lease = None


async def gone(client: KvClient, key: bytes) -> None:
    """Returns when the key of a lease that nobody renews is gone."""
    while (await client.range(key)).kvs:  # noqa: ASYNC110 - the condition is in another process
        await asyncio.sleep(0.1)
