"""What is measured of one store: puts, reads, the batch stream, watchers, the loss of the leader, memory."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from benchmarks.kv.groups import Group
from benchmarks.kv.wire import Calls, connect
from raykube.client.kv import KvClient
from raykube.pb import batch_pb2, etcd_pb2
from raykube.rpc import RpcError

PUT, RANGE = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range"
CONNECTIONS_MAX = 50
WARM_UP_S = 0.5
KEYS = 10_000


@dataclass
class Rate:
    """One measurement: answers and their latencies in seconds, over `elapsed_s`."""

    elapsed_s: float = 0.0
    cpu_s: float = 0.0  # of all members
    latencies: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        return len(self.latencies) / self.elapsed_s if self.elapsed_s else 0.0

    def quantile(self, share: float) -> float:
        found = sorted(self.latencies)
        return found[min(len(found) - 1, int(len(found) * share))] if found else 0.0

    @property
    def cpu_us(self) -> float:
        """CPU microseconds of all members per answer."""
        return self.cpu_s / max(1, len(self.latencies)) * 1e6


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


async def calls(group: Group, path: str, body: Callable[[], bytes], clients: int, seconds: float) -> Rate:
    """Keeps `clients` calls under way at the leader for `seconds`, after a warm-up. Raises RuntimeError."""
    rate = Rate()
    is_counting = False

    def on_answer(latency: float, _answer: bytes) -> None:
        if is_counting:
            rate.latencies.append(latency)

    address = group.address(await group.leader())
    count = min(clients, CONNECTIONS_MAX)
    found: list[Calls] = [await connect(address, path, body, on_answer) for _ in range(count)]
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


async def batch_stream(group: Group, writers: int, size: int, seconds: float) -> Rate:
    """Writers over raykube's batch stream, each with one write of `size` bytes under way."""
    rate = Rate()
    value = b"v" * size
    numbers = itertools.count()
    client = KvClient([group.address(await group.leader())])
    is_done = is_counting = False

    async def write() -> None:
        while not is_done:
            key = b"/bench/%06d" % (next(numbers) % KEYS)
            began = time.perf_counter()
            await client.write([batch_pb2.Write(key=key, value=value, expected_revision=-1)])
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


def spread(values: list[float]) -> str:
    """`median (least … most)`."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} … {max(values):,.0f})"
