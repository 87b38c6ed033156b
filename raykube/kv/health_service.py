# ruff: noqa: N802 - methods are named like the RPCs
"""gRPC's Health service: whether this member serves, for load balancers and probes.

As etcd's, it knows the server as a whole, and says SERVING from when the member first knew a leader until it stops.
That the leader is lost meanwhile is no reason to send clients away or to be restarted: serializable reads are answered,
and the other members have no leader either.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from raykube.kv.member import Member
from raykube.pb import health_pb2
from raykube.rpc import Code, RpcError

Response = health_pb2.HealthCheckResponse


class HealthService:
    """Answers about this member."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._has_joined = False
        self._is_closed = False
        self._changed = asyncio.Event()  # another one after each change
        member.on_worked.append(self._on_worked)
        member.failed.add_done_callback(lambda _: self._wake())

    def _on_worked(self) -> None:
        if not self._has_joined and self._member.replica.node.leader:
            self._has_joined = True
            self._wake()

    def close(self) -> None:
        """The member stops."""
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self) -> Response.ServingStatus:
        serves = self._has_joined and not self._is_closed and not self._member.failed.done()
        return Response.SERVING if serves else Response.NOT_SERVING

    async def Check(self, request: Any, _call: Any) -> Any:
        if request.service:
            raise RpcError(Code.NOT_FOUND, "unknown service")
        return Response(status=self._status())

    async def Watch(self, request: Any, _call: Any) -> AsyncIterator[Any]:
        told: Response.ServingStatus | None = None
        while True:
            changed = self._changed
            status = Response.SERVICE_UNKNOWN if request.service else self._status()
            if status != told:
                yield Response(status=status)
                told = status
            await changed.wait()
