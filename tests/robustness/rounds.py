"""A run: members, clients that never stop, faults one after the other, and audits of everything that was seen.

A round: fresh objects and workers; some writes; a fault; writes again, so the store is whole; the workers end; the
objects' histories must be linearizable. Every few rounds an audit asks all members for the whole history since the last
one and holds against it what was acknowledged, read and watched; then the store is compacted up to there.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from raykube.client.kv import KvClient
from raykube.pb import mvcc_pb2
from tests.robustness.clocks import Clocks
from tests.robustness.faults import Fault, Scene
from tests.robustness.history import History
from tests.robustness.leases import GONE_TIMEOUT_S, KeeperWork, LockWork, check_locks, gone
from tests.robustness.members import Members
from tests.robustness.network import Loopback, Namespaces
from tests.robustness.report import Report
from tests.robustness.truth import read_truth
from tests.robustness.watching import Watcher
from tests.robustness.workloads import Access, Crew, works_on_objects

AUDIT_ROUNDS = 10
WARM_UP_WRITES = 30
WATCHERS = 4
LOCKERS = 3
KEEPERS = 2
PREFIX, PREFIX_END = b"/", b"0"


class Run:
    """Rounds on one group of members. Raises AssertionError as soon as anything is wrong."""

    def __init__(
        self, network: Loopback | Namespaces, folder: Path, names: Sequence[str], seed: int, say: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self.report = Report(len(names))
        self.rng = random.Random(seed)
        self.members = Members(network, folder, names, seed, "--snapshot-count=500")
        self.history = History()
        self.scene = Scene(self.members, self.history, self.rng)
        self._say = say
        self._everywhere = KvClient(self.members.endpoints)
        self._access = Access(self.members, self._everywhere, self.history, self.rng)
        self._watchers: list[Watcher] = []
        self._lease_numbers = itertools.count(1000)
        self._keepers: Crew | None = None  # from one audit to the next
        self._state: Sequence[mvcc_pb2.KeyValue] = ()  # at the last audit
        self._first = 2  # the first revision of the next audit; an empty store is at 1
        self._number = 0

    def make_clocks(self) -> None:
        """Gives the members clocks that can be moved, before the first start. Raises Impossible."""
        self.members.clocks = Clocks(self._folder, self.rng)

    async def start(self) -> None:
        for name in self.members.names:
            await self.members.start(name)
        await self.members.leader()
        for number in range(WATCHERS):
            first, end = (PREFIX, PREFIX_END) if number % 2 else (b"/r", b"/s")
            self._watchers.append(Watcher(self.members, self.rng, first, end, self._first))

    async def rounds(self, faults: Sequence[tuple[str, Fault]]) -> None:
        for name, fault in faults:
            self._number += 1
            await self._round(name, fault)
            if self._number % AUDIT_ROUNDS == 0:
                await self.audit()
        if self._number % AUDIT_ROUNDS:
            await self.audit()

    def _kept(self, number: int) -> bytes:
        return b"/kept/%d/%d" % (self._first, number)

    async def _round(self, name: str, fault: Fault) -> None:
        since = self.history.now()
        prefix = b"/r%d" % self._number
        if self._keepers is None:
            keepers = (KeeperWork(self._access, self._kept(each), self._lease_numbers) for each in range(KEEPERS))
            self._keepers = Crew(self._access, keepers)
        lockers = [
            LockWork(self._access, f"locker{each}", prefix + b"/lock", self._lease_numbers) for each in range(LOCKERS)
        ]
        works = works_on_objects(self._access, prefix)
        crew = Crew(self._access, [*works, *lockers])
        try:
            await self.scene.progress(WARM_UP_WRITES)
            await fault(self.scene)
            healed = self.history.now()
            await self.members.leader()
            await self.scene.progress()
            crew.check()
            self._keepers.check()
        finally:
            await crew.end()
        await self.members.caught_up()
        whole_s = self.history.now() - healed
        self.members.check_alive()
        for work in works:
            await work.read()  # what was acknowledged is there, now that the store is whole
        check_locks([held for locker in lockers for held in locker.held])
        for watcher in self._watchers:
            watcher.check_alive()
        operations = self.history.check_objects()
        waits_s = [
            back - lost
            for lost in self.scene.leader_lost_at
            if (back := self.history.first_acknowledged(lost)) is not None
        ]
        self.scene.leader_lost_at.clear()
        self.report.on_round(name, operations, sum(len(locker.held) for locker in lockers), waits_s, whole_s)
        self._say(
            f"{self._number:4} {name:16} {self.history.now() - since:5.1f} s, whole after {whole_s:4.1f} s, "
            f"{operations} operations" + (f", no leader for {max(waits_s) * 1000:.0f} ms" if waits_s else "")
        )

    async def audit(self) -> None:
        """Holds everything since the last audit against the store's own history."""
        if self._keepers is not None:
            await self._keepers.end()
            self._keepers = None
            async with asyncio.timeout(GONE_TIMEOUT_S):
                for number in range(KEEPERS):
                    await gone(self._everywhere, self._kept(number))
        self.members.check_logs()
        truth = await read_truth(self.members, self._state, self._first)
        history = self.history
        lost = truth.check_written(history.written)
        self.report.lost += len(lost)
        assert not lost, f"{len(lost)} acknowledged writes are lost: {lost[:5]}"
        truth.check_sightings(history.sightings)
        async with asyncio.timeout(30):
            for watcher in self._watchers:
                await watcher.reach(truth.last)
        watched = 0
        for watcher in self._watchers:
            watched += watcher.check(truth)
            watcher.forget(truth.last)
        self.report.on_audit(len(history.written), len(history.sightings), len(truth.events), watched)
        self.report.on_history(history)
        self._say(f"     audit: {len(truth.events)} events, {len(history.written)} writes, {watched} watched")
        history.forget()
        self._state = (await self._everywhere.range(b"\0", b"\0", truth.last)).kvs
        self._first = truth.last + 1
        await self._everywhere.compact(truth.last)

    async def close(self) -> None:
        for watcher in self._watchers:
            await watcher.end()
        await self._everywhere.close()
        await self.members.close()
