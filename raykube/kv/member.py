"""A member at work: carries out what its `Replica` wants, on disk, network and clock, and wakes those who wait.

Everything that touches the replica happens in the event loop's thread and never awaits in between; only disk writes
leave it, one at a time, for a worker thread. A disk error or a broken invariant ends the member (`failed`).
"""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

from raykube.base.metrics import Histogram
from raykube.kv.collector import collector_paused
from raykube.kv.core import wal_codec
from raykube.kv.core.compactor import Compactor
from raykube.kv.core.member_changes import Change, Changed
from raykube.kv.core.mvcc import image
from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.core.mvcc.image import Image, Restored
from raykube.kv.core.mvcc.machine import Command, UnknownCommand
from raykube.kv.core.mvcc.scrub import Rotten
from raykube.kv.core.prover import Diverged
from raykube.kv.core.raft.gathering import hold_s
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Message, Snapshot, Write
from raykube.kv.core.raft.node import Limits
from raykube.kv.disk import open_disk, salted
from raykube.kv.disk_thread import DiskThread
from raykube.kv.recall import Removed, Replaced
from raykube.kv.room import Room
from raykube.kv.snapshotter import Snapshotter
from raykube.kv.waiters import Finish, Waiter, Waiters
from raykube.rpc import Code, RpcError
from raykube.rpc.pending import Pending

log = logging.getLogger(__name__)

SWEEP_EVENTS = 2000
REMOVED_GRACE_S = 1.0
CHANGE_RETRY_S = 0.02
NEWS_S = 0.002  # before followers are told of commits which nobody waits for there: the next entries mostly do it
# Whose message says all, and not where it was raised.
_PLAIN = (Removed, Replaced, Diverged, Rotten, UnknownCommand, OSError)


class Carrier(Protocol):
    """What takes messages to other members. It may lose them; it must not repeat a proposal."""

    def send(self, messages: list[Message]) -> None: ...


class Member:
    """Runs one replica. `carrier` must be set before `start`."""

    def __init__(
        self,
        meta: wal_codec.Meta,
        data_dir: Path,
        bootstrap: Membership | None,
        tick_s: float,
        election_ticks: int,
        snapshot_count: int,
        compactor: Compactor,
    ) -> None:
        self.id = meta.member_id
        self.cluster_id = meta.cluster_id
        self.tick_s = tick_s
        self.carrier: Carrier | None = None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_applied: list[Callable[[], None]] = []
        self.on_worked: list[Callable[[], None]] = []  # all answers of this turn are given
        self.stalls = 0
        self._ids = itertools.count(secrets.randbits(31) << 32)
        with collector_paused():
            self._wal, self.files, found = open_disk(data_dir, salted(meta), bootstrap)
            limits = Limits(election_ticks=election_ticks)
            try:
                self.replica = found.build(self.id, limits, secrets.randbelow, lambda: next(self._ids), compactor)
            except BaseException:
                self._wal.close()
                raise
        self._loop = asyncio.get_running_loop()
        self._disk = DiskThread("wal")
        self.waiters = Waiters(self.replica.forget, self.replica.forget_reader)
        self._is_scheduled = False
        self._reader = 0  # whom all who want to read in this turn of the loop share
        self._is_news_due = False
        self._news_timer: asyncio.TimerHandle | None = None  # while followers are to be told of commits
        self._is_closed = False
        self._is_leaving = False
        self._is_sweeping = False
        self.snapshotter = Snapshotter(self.replica, self.files, self._wal, snapshot_count, self.fail)
        self.room = Room(data_dir, lambda: self._wal.shortage, self._look_for_room)
        self._left_at = 0.0  # when this leader's last round began
        self._ticked_at = time.monotonic()
        self._tick_timer: asyncio.TimerHandle | None = None

    # ---- life

    def start(self) -> None:
        """Begins to tick. A member alone leads at once."""
        if self.replica.node.membership.voters == {self.id}:
            self.replica.node.campaign()
        self._ticked_at = time.monotonic()
        self._tick_timer = self._loop.call_later(self.tick_s, self._tick)
        self.wake()

    async def close(self) -> None:
        """Ends all work and closes the files; whoever waits is told that the member stopped."""
        self._is_closed = True
        self._wal.abandon()
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        await self.snapshotter.close()
        await self._disk.close()
        self._wal.close()
        error = self.failed.exception() if self.failed.done() else None
        if isinstance(error, Diverged | Rotten):
            self.files.set_aside(error.sound)
        self.waiters.close()

    def fail(self, error: BaseException) -> None:
        """Something that must not happen did, or the member was removed: nothing more is promised."""
        if self._is_closed:
            return
        log.critical("member %x stops: %s", self.id, error, exc_info=None if isinstance(error, _PLAIN) else error)
        self._is_closed = True
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        if not self.failed.done():
            self.failed.set_exception(error)
            self.failed.exception()
        self.waiters.close()

    def _tick(self) -> None:
        now = time.monotonic()
        elapsed = now - self._ticked_at
        self._ticked_at = now
        stalled_s = 0.0
        if elapsed > 2.5 * self.tick_s:
            # This loop slept. It did not listen either, so it gets one tick, not the ticks of the time it lost: what
            # arrived meanwhile is still in the sockets.
            stalled_s = elapsed - self.tick_s
            self.stalls += 1
        self._tick_timer = self._loop.call_later(self.tick_s, self._tick)
        self.waiters.give_up(now)
        self.replica.node.is_disk_full = self.room.is_full
        if self.room.problem is not None:
            self.fail(self.room.problem)  # its files may be gone, though what is open takes writes as before
            return
        if self.room.is_full and self.room.lacks_space:
            self._guard(lambda: self.snapshotter.make_room(self.room.snapshot_bytes_free))
        self._guard(lambda: self.replica.tick(now, stalled_s, int(stalled_s / self.tick_s)))

    def _is_late(self) -> bool:
        """Whether the next tick will find that this loop stood still for an election time-out."""
        late_s = time.monotonic() - self._ticked_at - self.tick_s
        return late_s >= self.replica.node.limits.election_ticks * self.tick_s

    def _look_for_room(self) -> None:
        if not self._is_closed:
            self._disk.submit(self._wal.prepare, self._on_prepared)

    def _on_prepared(self, _: None, error: BaseException | None) -> None:
        if error is not None:
            self.fail(error)

    # ---- the work

    def step(self, messages: list[Message]) -> None:
        """Takes messages from another member."""

        def run() -> None:
            for message in messages:
                self.replica.step(message)

        self._guard(run)

    def _guard(self, run: Callable[[], None]) -> None:
        if self._is_closed:
            return
        try:
            run()
        except Exception as error:
            self.fail(error)
            return
        self.wake()

    def wake(self) -> None:
        """Looks for work once the present callbacks are done: what arrives together is handled together."""
        if not self._is_scheduled and not self._is_closed:
            self._is_scheduled = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        self._is_scheduled = False
        if self._is_closed:
            return
        self._reader = 0  # a round may begin now, which is too early for who comes later: he asks anew
        try:
            may_have_more = self._carry_out()
            for callback in self.on_worked:
                callback()
        except Exception as error:
            self.fail(error)  # what `ready` gave is taken, and would be done by nobody
            return
        if may_have_more:
            self.wake()  # not at once: sockets get their turn between two pieces of what is committed

    def _carry_out(self) -> bool:
        """Does what there is to do now; returns whether there may be more."""
        output = self.replica.ready() if self._is_news_due else self.replica.ready_if_due()
        self._is_news_due = False
        self._time_news()
        if output is None:
            return False
        if output.messages and self.carrier is not None:
            self.carrier.send(output.messages)
        if output.hold:
            lasts_s = hold_s(output.hold_rounds, time.monotonic() - self._left_at)
            self._loop.call_later(lasts_s, self._let_go, output.hold)
        if output.has_left:
            self._left_at = time.monotonic()
        if output.write is not None:
            self._write(output.write)
        applied = self.replica.apply()
        for request, answer in applied.answers:
            self.waiters.answer(request, answer)
        for reader in applied.readers:
            self.waiters.release(reader)
        if applied.has_applied:
            self._applied()
        return applied.may_have_more

    def _time_news(self) -> None:
        if not self.replica.node.has_news:
            if self._news_timer is not None:
                self._news_timer.cancel()
                self._news_timer = None
        elif self._news_timer is None:
            self._news_timer = self._loop.call_later(NEWS_S, self._on_news_due)

    def _on_news_due(self) -> None:
        self._news_timer = None
        self._is_news_due = True
        self.wake()

    def _let_go(self, hold: int) -> None:
        if self.replica.let_go(hold):
            self.wake()

    def _write(self, write: Write) -> None:
        if not write.touches_disk:
            self._written(write)
            return

        def then(restored: Restored | None, error: BaseException | None) -> None:
            if error is not None:
                self.fail(error)
            elif not self._is_closed:
                self._written(write, restored)

        self._disk.submit(lambda: self._persist(write), then)

    def _persist(self, write: Write) -> Restored | None:
        """In the worker thread: snapshot first, then the log that refers to it. Returns what the snapshot says."""
        restored = None
        if write.snapshot is not None:
            self.files.adopt(write.snapshot)
            with collector_paused():
                restored = image.restore(write.snapshot.data)
        self._wal.append(write)
        return restored

    def _written(self, write: Write, restored: Restored | None = None) -> None:
        def run() -> None:
            self.replica.persisted(write, restored)
            if write.snapshot is not None:
                self.snapshotter.on_installed(write.snapshot)
                self._notify()
            if write.messages and self.carrier is not None:
                self.carrier.send(write.messages)

        self._guard(run)

    def _applied(self) -> None:
        if self.replica.is_removed:
            self.leave()
        self._notify()
        replica = self.replica
        if replica.machine.store.compact_revision and not self._is_sweeping:
            self._is_sweeping = True
            self._loop.call_soon(self._sweep)
        self.snapshotter.on_applied()

    def leave(self) -> None:
        """This member was removed. It stops, but not at once: what says so to who asked for it is on its way."""
        if not self._is_leaving:
            self._is_leaving = True
            self._loop.call_later(REMOVED_GRACE_S, self.fail, Removed(self.id))

    def _notify(self) -> None:
        for callback in self.on_applied:
            callback()

    def _sweep(self) -> None:
        self._is_sweeping = not self._is_closed and self.replica.machine.store.sweep(SWEEP_EVENTS)
        if self._is_sweeping:
            self._loop.call_later(0.001, self._sweep)

    async def picture(self) -> tuple[Snapshot, Image]:
        """All that is applied now, for a copy of it. Raises RpcError."""
        while self.replica.node.is_installing:
            self.require_alive()
            await asyncio.sleep(0.01)  # the log begins behind what is applied, until the leader's snapshot is in place
        self.require_alive()
        return self.replica.capture()

    # ---- requests

    @property
    def syncs(self) -> Histogram:
        """How long the log's syncs took."""
        return self._wal.syncs

    @property
    def store(self) -> Any:
        """The applied store; read it without awaiting in between."""
        return self.replica.machine.store

    def submit(self, command: Command, body: bytes, finish: Finish | None = None) -> Pending:
        """Replicates a command. What comes is what `finish` makes of the state machine's answer, or an RpcError:
        UNAVAILABLE when it surely did not and will not happen, DEADLINE_EXCEEDED when that is unknown."""
        pending = Pending()
        self._submit(command, body, pending, finish)
        return pending

    async def propose(self, command: Command, body: bytes) -> Any:
        """`submit`, and waits for the state machine's answer."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._submit(command, body, future)
        return await future

    def _submit(self, command: Command, body: bytes, waiter: Waiter, finish: Finish | None = None) -> None:
        if command is not Command.ATTRIBUTES:
            self.require_sound()
        self.require_alive()
        request = next(self._ids)
        self.waiters.add(request, waiter, finish)
        self.replica.propose(request, command, body)
        self.wake()

    def require_alive(self) -> None:
        """Raises RpcError when this member has stopped."""
        if self._is_closed:
            raise RpcError(Code.UNAVAILABLE, "etcdserver: server stopped")

    def require_cluster(self, cluster_id: int) -> None:
        """Raises RpcError when a caller is of another cluster."""
        if cluster_id != self.cluster_id:
            raise RpcError(
                Code.FAILED_PRECONDITION, f"this member is of cluster {self.cluster_id:x}, the caller of {cluster_id:x}"
            )

    def require_sound(self) -> None:
        """As `require_alive`, and raises RpcError while nobody can tell whose state is the right one."""
        self.require_alive()
        if self.replica.machine.vouching.disputed:
            raise RpcError(Code.DATA_LOSS, "etcdserver: corrupt cluster")

    def submit_read(self, finish: Finish) -> Pending:
        """`finish` reads as soon as the local store has all that was acknowledged before this call; what comes is what
        it returns, or an RpcError."""
        pending = Pending()
        self._submit_read(pending, finish)
        return pending

    async def read(self, finish: Finish | None = None) -> Any:
        """`submit_read`, and waits."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._submit_read(future, finish)
        return await future

    def _submit_read(self, waiter: Waiter, finish: Finish | None) -> None:
        self.require_alive()
        if not self._reader:
            self._reader = next(self._ids)
            self.replica.read(self._reader)
            self.wake()
        self.waiters.add_reader(self._reader, waiter, finish)

    async def change_members(self, change: Change, timeout_s: float) -> Changed:
        """As leader, changes the membership; returns when that is applied.

        Raises RpcError: the change's refusal; UNAVAILABLE, when nothing was done; DEADLINE_EXCEEDED, when that is not
        known.
        """
        self.require_alive()
        request = next(self._ids)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self.waiters.add(request, answer)
        is_proposed = False
        try:
            async with asyncio.timeout(timeout_s):
                while not (is_proposed := self.replica.change_members(request, change, self._is_late())):
                    if not self.replica.node.is_leader:
                        raise RpcError(Code.UNAVAILABLE, "etcdserver: not leader")
                    await asyncio.sleep(CHANGE_RETRY_S)
                    self.require_alive()
                self.wake()
                result = await answer
        except StoreError as error:
            raise RpcError(Code[error.code], error.message) from None
        except TimeoutError:
            code = Code.DEADLINE_EXCEEDED if is_proposed else Code.UNAVAILABLE
            raise RpcError(code, "etcdserver: request timed out") from None
        finally:
            answer.cancel()  # `Waiters` forgets it
        return cast(Changed, result)

    async def hand_over(self, timeout_s: float) -> None:
        """If this member leads others, makes the most advanced of them leader; returns when it is, or time is up."""
        node = self.replica.node
        heir = node.heir() if node.is_leader else 0
        if not heir:
            return
        node.transfer(heir)
        self.wake()
        await self.until(lambda: not node.is_leader, timeout_s)

    async def transfer(self, member: int, timeout_s: float) -> bool:
        """Makes `member` the leader; returns whether it is."""
        self.replica.node.transfer(member)
        self.wake()
        return await self.until(lambda: self.replica.node.leader == member, timeout_s)

    async def until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Returns True once `holds()`, False when time is up or the member stopped."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline or self._is_closed:
                return False
            await asyncio.sleep(0.01)
        return True
