"""Carries out what `core.pods` decides: one watch for the pods of all machines, and writes in bulk."""

import asyncio
import logging
from collections.abc import Callable

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.informer import Informer
from raykube.hollow.core.feed import Feed, undecoded
from raykube.hollow.core.pods import Pods, Write
from raykube.pb import api_pb2

log = logging.getLogger(__name__)

PODS = builtin("v1", "Pod")
BATCH_MAX = 1000
IN_FLIGHT_MAX = 4
UNAVAILABLE = 503
_WIRE = operations.wire(PODS)


class PodWorker:
    """Follows the pods of `nodes` and writes their statuses. `run` until cancelled; `wake` when there is to write."""

    def __init__(
        self, client: ApiClient, nodes: list[str], pods: Pods, now: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self._client = client
        self._pods = pods
        self._now = now
        self._changed = changed
        self._informer = Informer(client, PODS, nodes=nodes, decode=undecoded, machine=Feed(pods, now, changed))
        self._wake = asyncio.Event()
        self._room = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._requests: set[asyncio.Task[None]] = set()
        self.writes = 0

    @property
    def has_synced(self) -> bool:
        return self._informer.has_synced

    async def run(self) -> None:
        """Follows and writes."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run())
            group.create_task(self._write())

    async def close(self) -> None:
        """Ends requests under way."""
        for task in list(self._requests):
            task.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)

    def wake(self) -> None:
        """There may be something to write."""
        if self._pods.waiting:
            self._wake.set()

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            await self._room.acquire()
            self._wake.clear()
            batch = self._pods.take(BATCH_MAX, self._now())
            if not batch:
                self._room.release()
                continue
            task = loop.create_task(self._request(batch))
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)
            self.wake()

    async def _request(self, batch: list[Write]) -> None:
        try:
            results = await self._client.write([_operation(write) for write in batch])
            answers = [(write, each.code, each.resource_version) for write, each in zip(batch, results, strict=True)]
            self.writes += len(batch)
        except ApiError as error:
            log.warning("%d pod statuses wait: %s", len(batch), error)
            answers = [(write, UNAVAILABLE, 0) for write in batch]
        except Exception:
            # A bug here must not keep pods in flight for ever.
            log.exception("%d pod statuses wait", len(batch))
            answers = [(write, UNAVAILABLE, 0) for write in batch]
        finally:
            self._room.release()
        refused = self._pods.on_results(answers, self._now())
        if refused:
            bodies = {result.body.decode(errors="replace")[:300] for result in results if result.code >= 400}
            log.error("the status of %d pods is refused, such as %s: %s", len(refused), refused[0], bodies)
        self._changed()


def _operation(write: Write) -> api_pb2.Operation:
    namespace, name = write.pod.key
    if not write.body:
        return operations.delete(PODS, namespace, name, uid=write.pod.uid, grace_period_s=0)
    return api_pb2.Operation(
        verb=api_pb2.PATCH,
        resource=_WIRE,
        namespace=namespace,
        name=name,
        subresource="status",
        body=write.body,
        patch_type=api_pb2.STRATEGIC,
        uid=write.pod.uid,
    )
