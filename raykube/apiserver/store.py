"""The store as the apiserver sees it: batched compare-and-swap writes, reads from watch caches that one watch feeds.

Linearizable reads: one round to the store's leader tells the current revision (readers of one tick share it), then the
caches are waited for. Nothing older than what was asked for is ever served: a cache that can't catch up in time is an
error that clients retry.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Sequence

from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.apiserver.core.feed import PREFIX, Feed, Loading
from raykube.apiserver.core.watchcache import ResourceCache
from raykube.client.kv import Compacted, KvClient, UnknownOutcome
from raykube.client.kv_stream import TOO_LARGE
from raykube.client.residents import residents
from raykube.pb import batch_pb2, mvcc_pb2
from raykube.rpc.errors import RpcError

log = logging.getLogger(__name__)

# The whole key space: a revision that some other client of the store made must move the caches on too.
_ALL_KEYS = b"\0"
_LOAD_CHUNK = 1_000  # at the store, and here, a few milliseconds
TOO_LARGE_WAIT_S = 3.0
FRESH_WAIT_S = 10.0
LEASES_KNOWN_MAX = 16
LEASE_MISSING = "requested lease not found"


class Store:
    """Writes, revisions and caches."""

    def __init__(self, kv: KvClient, feed: Feed) -> None:
        self.kv = kv
        self.feed = feed
        self.loaded = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._leases: dict[int, tuple[int, float]] = {}
        self._ttls: dict[int, int] = {}  # of leases that writes under way may have
        self._granting: dict[int, asyncio.Future[int]] = {}

    async def start(self, timeout_s: float = 60.0) -> None:
        """Loads the caches and follows the store from there. Raises OSError when the store stays away."""
        self._following = asyncio.create_task(self._follow())
        try:
            async with asyncio.timeout(timeout_s):
                await self.loaded.wait()
        except TimeoutError:
            await self.stop()
            raise OSError(f"the store does not answer after {timeout_s:.0f} s: check --etcd-servers") from None

    async def stop(self) -> None:
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
            self._following = None

    async def _follow(self) -> None:
        """Load, then watch; after any break go on from the last revision, or load again when that is compacted."""
        delay_s = 0.05
        while True:
            try:
                if not self.loaded.is_set():
                    await self._load()
                    self.loaded.set()
                async for batch in self.kv.watch(_ALL_KEYS, _ALL_KEYS, self.feed.revision + 1):
                    delay_s = 0.05
                    self._apply(batch.events, batch.revision)
            except Compacted:
                log.warning("the store compacted what this apiserver had not seen: loading everything again")
                self.loaded.clear()
            except RpcError as error:
                log.warning("the watch on the store broke: %s", error)
            except Exception:
                log.exception("the watch on the store failed")
            await asyncio.sleep(delay_s * (0.5 + random.random()))
            delay_s = min(delay_s * 2, 2.0)

    def _apply(self, events: Sequence[mvcc_pb2.Event], revision: int) -> None:
        feed = self.feed
        deleted = mvcc_pb2.Event.DELETE
        with residents.arrival(len(events)):
            for event in events:
                kv = event.kv
                if kv.mod_revision <= feed.revision:
                    continue  # a resumed watch may repeat what was applied
                try:
                    feed.apply(kv.key.decode(), kv.mod_revision, None if event.type == deleted else kv.value)
                except Exception:
                    # Somebody wrote what is no object past the apiservers: nothing else is to suffer from it.
                    log.exception("passed over revision %d of %r", kv.mod_revision, kv.key)
        feed.advance(max(revision, events[-1].kv.mod_revision if events else 0))

    async def _load(self) -> None:
        loading = Loading(self.feed)
        start, end, revision = PREFIX.encode(), _after(PREFIX.encode()), 0
        while True:
            answer = await self.kv.range(start, end, revision=revision, limit=_LOAD_CHUNK)
            revision = revision or answer.header.revision
            loading.add((kv.key.decode(), kv.mod_revision, kv.value) for kv in answer.kvs if _is_object(kv.value))
            if not answer.more:
                break
            start = answer.kvs[-1].key + b"\0"
        loading.finish(revision)
        residents.settle()

    # -- reading

    def cache(self, resource: Resource) -> ResourceCache:
        return self.feed.cache(resource)

    async def fresh(self, timeout_s: float = FRESH_WAIT_S) -> int:
        """Waits until the caches hold everything written before this call; returns their revision."""
        try:
            async with asyncio.timeout(timeout_s):
                revision = await self.kv.current_revision()
                await self._reach(revision)
        except TimeoutError:
            raise ApiError.timeout("the store did not answer in time", 1) from None
        except (RpcError, OSError) as error:
            raise _unavailable(error) from None
        return self.feed.revision

    async def not_older_than(self, revision: int) -> int:
        """Waits for a revision that a client has seen. Raises 504 when it is larger than any there is."""
        if revision > self.feed.revision:
            try:
                async with asyncio.timeout(TOO_LARGE_WAIT_S):
                    await self._reach(revision)
            except TimeoutError:
                raise ApiError.revision_too_large(revision, self.feed.revision) from None
        return self.feed.revision

    async def _reach(self, revision: int) -> None:
        if revision <= self.feed.revision:
            return
        reached = asyncio.get_running_loop().create_future()
        self.feed.when(revision, lambda: None if reached.done() else reached.set_result(None))
        await reached

    # -- writing

    async def write(self, writes: list[batch_pb2.Write]) -> list[batch_pb2.WriteResult]:
        """All writes in one batch, each with its own comparison. Raises ApiError when the store is away, or when they
        are more than it takes at once."""
        try:
            try:
                return await self.kv.write(writes)
            except RpcError as error:
                if LEASE_MISSING not in error.message:
                    raise
                # The store refused the whole batch, perhaps for a write of somebody else that shared it.
                return await self.kv.write(await self._with_living_leases(writes))
        except UnknownOutcome as error:
            raise ApiError.timeout(f"the request may or may not have been carried out: {error}", 1) from None
        except (RpcError, OSError) as error:
            if isinstance(error, RpcError) and error.message == TOO_LARGE:
                raise ApiError.too_large(f"{error.message}, all that is to be written together counts") from None
            raise _unavailable(error) from None

    async def _with_living_leases(self, writes: list[batch_pb2.Write]) -> list[batch_pb2.Write]:
        """The same writes, with a new lease in place of each that the store may have lost."""
        renewed: dict[int, int] = {}
        for write in writes:
            if write.lease and write.lease not in renewed:
                ttl_s = self._ttls.get(write.lease)
                if ttl_s is not None:
                    known = self._leases.get(ttl_s)
                    if known is not None and known[0] == write.lease:  # else others found out before
                        del self._leases[ttl_s]
                    renewed[write.lease] = await self.lease(ttl_s, time.time())
            write.lease = renewed.get(write.lease, write.lease)
        return writes

    async def lease(self, ttl_s: int, now: float) -> int:
        """A store lease that lives for `ttl_s` at least; callers of one minute share it."""
        known = self._leases.get(ttl_s)
        if known is not None and now < known[1]:
            return known[0]
        granting = self._granting.get(ttl_s)
        if granting is None:
            granting = self._granting[ttl_s] = asyncio.ensure_future(self._grant(ttl_s, now))
        try:
            return await asyncio.shield(granting)
        except (RpcError, OSError) as error:
            raise _unavailable(error) from None

    async def _grant(self, ttl_s: int, now: float) -> int:
        try:
            spread_s = max(1, min(60, ttl_s // 10))
            lease = await self.kv.grant(ttl_s + spread_s)
            self._leases[ttl_s] = (lease, now + spread_s)
            self._ttls[lease] = ttl_s
            if len(self._ttls) > LEASES_KNOWN_MAX:
                del self._ttls[next(iter(self._ttls))]
            return lease
        finally:
            self._granting.pop(ttl_s, None)


def _after(prefix: bytes) -> bytes:
    """The first key behind all keys with `prefix`."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _is_object(value: bytes) -> bool:
    return b'"metadata":{' in value


def _unavailable(error: Exception) -> ApiError:
    message = error.message if isinstance(error, RpcError) else str(error)
    return ApiError.unavailable(f"the store is unavailable: {message}")
