"""What is measured of one store: puts, reads, the batch stream, watchers, the loss of the leader, memory."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from benchmarks.kv.groups import Group
from benchmarks.kv.wire import Calls, Stream, connect, open_stream
from raykube.client.kv import KvClient
from raykube.pb import batch_pb2, etcd_pb2
from raykube.rpc import Code, RpcError

PUT, RANGE, WATCH = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range", "/etcdserverpb.Watch/Watch"
CONNECTIONS_MAX = 50
WARM_UP_S = 0.5
KEYS = 10_000


@dataclass
class Rate:
    """One measurement: answers and their latencies in seconds, over `elapsed_s`."""

    elapsed_s: float = 0.0
    cpu_s: float = 0.0  # of all members
    latencies: list[float] = field(default_factory=list)
    writes: int = 1  # that an answer stands for: they are what `per_s` and `cpu_us` count

    @property
    def per_s(self) -> float:
        return self.writes * len(self.latencies) / self.elapsed_s if self.elapsed_s else 0.0

    def quantile(self, share: float) -> float:
        found = sorted(self.latencies)
        return found[min(len(found) - 1, int(len(found) * share))] if found else 0.0

    @property
    def cpu_us(self) -> float:
        """CPU microseconds of all members per write or answer."""
        return self.cpu_s / max(1, self.writes * len(self.latencies)) * 1e6


def put_bodies(size: int) -> Callable[[], bytes]:
    """Put requests of `size` bytes of value over `KEYS` keys, encoded."""
    numbers = itertools.count()
    value = etcd_pb2.PutRequest(value=b"v" * size).SerializeToString()

    def body() -> bytes:
        key = b"/bench/%06d" % (next(numbers) % KEYS)
        return b"\x0a" + bytes((len(key),)) + key + value

    return body


def range_bodies() -> Callable[[], bytes]:
    """Linearizable reads of one key, encoded."""
    request = etcd_pb2.RangeRequest(key=b"/bench/000001").SerializeToString()
    return lambda: request


async def calls(
    group: Group, path: str, body: Callable[[], bytes], clients: int, seconds: float, *, at_leader: bool = False
) -> Rate:
    """Keeps `clients` calls under way for `seconds`, after a warm-up: spread over all members, as etcd's own benchmark
    does when it is given all endpoints, or all at the leader. Raises RuntimeError."""
    rate = Rate()
    is_counting = False

    def on_answer(latency: float, _answer: bytes) -> None:
        if is_counting:
            rate.latencies.append(latency)

    leader = group.address(await group.leader())
    others = [] if at_leader else [address for address in group.addresses if address != leader]
    addresses = itertools.cycle([leader, *others])
    count = min(clients, CONNECTIONS_MAX)
    found: list[Calls] = [await connect(next(addresses), path, body, on_answer) for _ in range(count)]
    try:
        for number, connection in enumerate(found):
            connection.begin(clients // count + (number < clients % count))
        await asyncio.sleep(WARM_UP_S)
        began, cpu = time.perf_counter(), group.cpu_s()
        is_counting = True
        await asyncio.sleep(seconds)
        is_counting = False
        rate.elapsed_s, rate.cpu_s = time.perf_counter() - began, group.cpu_s() - cpu
        for connection in found:
            if connection.problem or connection.lost.done():
                raise RuntimeError(f"{group.name}: {connection.problem or 'the connection was lost'}")
            connection.stop()
        for _ in range(500):
            if not any(connection.under_way for connection in found):
                break
            await asyncio.sleep(0.01)
    finally:
        for connection in found:
            connection.close()
    return rate


async def batch_stream(group: Group, writers: int, size: int, seconds: float, together: int = 1) -> Rate:
    """Writers over raykube's batch stream, each with `together` writes of `size` bytes under way, in one call."""
    rate = Rate(writes=together)
    value = b"v" * size
    numbers = itertools.count()
    client = KvClient([group.address(await group.leader())])
    is_done = is_counting = False

    async def write() -> None:
        while not is_done:
            began = time.perf_counter()
            await client.write(
                [
                    batch_pb2.Write(key=b"/bench/%06d" % (next(numbers) % KEYS), value=value, expected_revision=-1)
                    for _ in range(together)
                ]
            )
            if is_counting:
                rate.latencies.append(time.perf_counter() - began)

    tasks = [asyncio.create_task(write()) for _ in range(writers)]
    try:
        await asyncio.sleep(WARM_UP_S)
        began, cpu = time.perf_counter(), group.cpu_s()
        is_counting = True
        await asyncio.sleep(seconds)
        is_counting = False
        rate.elapsed_s, rate.cpu_s = time.perf_counter() - began, group.cpu_s() - cpu
        is_done = True
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
    return rate


async def leader_loss(group: Group, end: Callable[[str], Awaitable[None]], size: int = 100) -> float:
    """Seconds from the loss of the leader, by `end(name)`, to the first write that the others acknowledge after it."""
    leader = await group.leader()
    others = [group.address(name) for name in group.processes if name != leader]
    acknowledged: list[tuple[float, float]] = []

    async def write(address: str) -> None:
        client = KvClient([address])
        request = etcd_pb2.PutRequest(key=b"/loss", value=b"v" * size)
        try:
            while True:
                began = time.perf_counter()
                try:
                    await client.call("KV", "Put", request, 5.0, retry=False)
                    acknowledged.append((began, time.perf_counter()))
                except RpcError:
                    await asyncio.sleep(0.01)
        finally:
            await client.close()

    tasks = [asyncio.create_task(write(address)) for address in others]
    try:
        await asyncio.sleep(0.5)
        await end(leader)
        lost_at = time.perf_counter()
        deadline = lost_at + 30
        while time.perf_counter() < deadline:
            # Begun before the loss, it may have been acknowledged by the old leader: only what came after counts.
            after = [ended for began, ended in acknowledged if ended > lost_at and began > lost_at]
            held = [ended for began, ended in acknowledged if began <= lost_at and ended > lost_at + 0.02]
            if after or held:
                return min(after + held) - lost_at
            await asyncio.sleep(0.001)
        raise RuntimeError(f"{group.name}: no write in 30 s after the leader was lost")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def fan_out(group: Group, watchers: int, puts: int, streams: int = 10) -> Rate:
    """Events delivered to `watchers` of one prefix, on a few streams, while `puts` keys are written by 16 clients.

    A latency is the time from the first put to an event's arrival.
    """
    rate = Rate()
    began = 0.0
    created = 0
    done = asyncio.Event()

    def on_message(body: bytes) -> None:
        nonlocal created
        response = etcd_pb2.WatchResponse.FromString(body)
        created += response.created
        if created == watchers and not began:
            done.set()
        rate.latencies += [time.perf_counter() - began] * len(response.events)
        if len(rate.latencies) >= watchers * puts:
            done.set()

    address = group.address(await group.leader())
    create = etcd_pb2.WatchCreateRequest(key=b"/fan/", range_end=b"/fan0")
    request = etcd_pb2.WatchRequest(create_request=create).SerializeToString()
    opened: list[Stream] = []
    client = KvClient([address])
    numbers = iter(range(puts))

    async def write() -> None:
        for number in numbers:
            put = etcd_pb2.PutRequest(key=b"/fan/%d" % (number % 100), value=b"v" * 256)
            await client.call("KV", "Put", put, retry=False)

    try:
        requests = [request] * (watchers // streams)
        opened += [await open_stream(address, WATCH, requests, on_message) for _ in range(streams)]
        async with asyncio.timeout(30):
            await done.wait()
        done.clear()
        began, cpu = time.perf_counter(), group.cpu_s()
        await asyncio.gather(*(write() for _ in range(16)))
        async with asyncio.timeout(120):
            await done.wait()
        rate.elapsed_s, rate.cpu_s = time.perf_counter() - began, group.cpu_s() - cpu
    finally:
        for stream in opened:
            stream.close()
        await client.close()
    return rate


async def fill(group: Group, keys: int, revisions: int, size: int) -> None:
    """Writes each of `keys` keys `revisions` times."""
    address = group.address(await group.leader())
    value = etcd_pb2.PutRequest(value=b"v" * size).SerializeToString()
    total, answered = keys * revisions, 0
    numbers = itertools.count()
    done = asyncio.Event()

    def body() -> bytes:
        key = b"/fill/%07d" % (next(numbers) % keys)
        return b"\x0a" + bytes((len(key),)) + key + value

    def on_answer(_latency: float, _answer: bytes) -> None:
        nonlocal answered
        answered += 1
        if answered >= total:
            done.set()

    connections = [await connect(address, PUT, body, on_answer) for _ in range(10)]
    for connection in connections:
        connection.begin(20)
    while not done.is_set():
        await asyncio.wait([asyncio.ensure_future(done.wait()), *(c.lost for c in connections)],
                           return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
        problem = next((c.problem or "lost" for c in connections if c.problem or c.lost.done()), "")
        if problem:
            raise RuntimeError(f"{group.name}: {problem}")
    for connection in connections:
        connection.stop()
        connection.close()


@dataclass
class Memory:
    """MiB of all members: after the start, with all revisions, and when all but the newest are forgotten."""

    empty_mib: float
    full_mib: float
    compacted_mib: float


async def compact(group: Group) -> None:
    """Forgets all history; returns when its members have done so. Raises RpcError."""
    client = KvClient([group.address(await group.leader())])
    try:
        response = await client.range(b"/bench/000000")
        request = etcd_pb2.CompactionRequest(revision=response.header.revision, physical=True)
        await client.call("KV", "Compact", request, 60.0)
    except RpcError as error:
        if error.code is not Code.OUT_OF_RANGE:  # nothing was written since the last time
            raise
    finally:
        await client.close()


async def memory(group: Group, keys: int, revisions: int, size: int) -> Memory:
    """What `keys` keys with `revisions` revisions cost, before and after compaction (and etcd's defragmentation)."""
    empty = group.pss_mib()
    await fill(group, keys, revisions, size)
    full = group.pss_mib()
    await compact(group)
    await asyncio.sleep(3.0)
    for address in group.addresses:
        alone = KvClient([address])
        await alone.call("Maintenance", "Defragment", etcd_pb2.DefragmentRequest(), 60.0, retry=False)
        await alone.close()
    await asyncio.sleep(3.0)
    return Memory(empty, full, group.pss_mib())


async def restart(group: Group) -> float:
    """Seconds from starting all members, which were killed, to a leader that all know."""
    for name in list(group.processes):
        group.kill(name)
    began = time.perf_counter()
    group.start()
    await group.leader()
    return time.perf_counter() - began


async def term(group: Group) -> int:
    """The present Raft term."""
    client = KvClient([group.address(await group.leader())])
    try:
        status = await client.call("Maintenance", "Status", etcd_pb2.StatusRequest(), 5.0, retry=False)
        return int(status.raftTerm)
    finally:
        await client.close()


def spread(values: list[float]) -> str:
    """`median (least … most)`."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} … {max(values):,.0f})"
