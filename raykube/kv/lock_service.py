# ruff: noqa: N802 - methods are named like the RPCs
"""etcd's Lock service: a lock is held by who contends for its name and was first."""

from typing import Any

from raykube.kv.contenders import Contenders, Place
from raykube.pb import lock_pb2
from raykube.rpc import Code, RpcError


class LockService:
    """Answers Lock and Unlock."""

    def __init__(self, contenders: Contenders) -> None:
        self._contenders = contenders

    async def Lock(self, request: Any, _call: Any) -> Any:
        place = await self._contenders.enter(request.name, request.lease, b"")
        # What he holds already he is not to lose because he gave up asking for it again.
        is_his = not place.is_new and await self._is_first(request.name, place)
        header = place.header if is_his else await self._contenders.or_leave(place, self._held(request.name, place))
        return lock_pb2.LockResponse(header=header, key=place.key)

    async def _is_first(self, name: bytes, place: Place) -> bool:
        first = await self._contenders.first(name)
        return bool(first.kvs) and first.kvs[0].create_revision == place.revision

    async def _held(self, name: bytes, place: Place) -> Any:
        if await self._is_first(name, place):
            return place.header
        await self._contenders.wait(name, place)
        found = await self._contenders.standing(place)
        if not found.kvs or found.kvs[0].create_revision != place.revision:
            raise RpcError(Code.UNKNOWN, "mutex: session is expired")
        return found.header

    async def Unlock(self, request: Any, _call: Any) -> Any:
        return lock_pb2.UnlockResponse(header=(await self._contenders.remove(request.key)).header)
