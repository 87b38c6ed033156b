"""Life-cycle events for whoever listens (GetContainerEvents)."""

import asyncio
from collections.abc import AsyncIterator

from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError

PENDING_MAX = 10_000


class Events:
    """Hands every event to every listener. One that falls `PENDING_MAX` behind is cut off: it must list again."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[cri_pb2.ContainerEventResponse | None]] = set()

    def publish(self, event: cri_pb2.ContainerEventResponse) -> None:
        for listener in list(self._listeners):
            if listener.qsize() >= PENDING_MAX:
                self._listeners.discard(listener)
                listener.put_nowait(None)
            else:
                listener.put_nowait(event)

    @property
    def wanted(self) -> bool:
        return bool(self._listeners)

    async def listen(self) -> AsyncIterator[cri_pb2.ContainerEventResponse]:
        queue: asyncio.Queue[cri_pb2.ContainerEventResponse | None] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._listeners.discard(queue)
        raise RpcError(Code.RESOURCE_EXHAUSTED, f"the listener is {PENDING_MAX} events behind: list again")

    def close(self) -> None:
        """Ends every stream."""
        for listener in self._listeners:
            listener.put_nowait(None)
