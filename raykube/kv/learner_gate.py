"""A learner answers what etcd's learners do: its own status, snapshots, and reads that need not be the newest."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from raykube.kv.member import Member
from raykube.pb import etcd_pb2
from raykube.rpc import Code, RpcError

ALWAYS = frozenset({"Status", "Snapshot"})
STREAMED = frozenset({"Watch", "LeaseKeepAlive", "Stream"})


class LearnerGate:
    """Stands before a handler; has the same methods."""

    def __init__(self, member: Member, handler: object) -> None:
        self._member = member
        self._handler = handler
        self._seen: object = None
        self._is_learner = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._handler, name)
        if name in ALWAYS:
            return method
        return self._guard_stream(method) if name in STREAMED else self._guard(method)

    def _check(self, request: Any) -> None:
        membership = self._member.replica.node.membership
        if membership is not self._seen:
            self._seen = membership
            own = membership.get(self._member.id)
            self._is_learner = own is not None and own.learner
        if self._is_learner and not (isinstance(request, etcd_pb2.RangeRequest) and request.serializable):
            raise RpcError(Code.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner")

    def _guard(self, method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def refuse(error: RpcError) -> Any:
            raise error

        def answer(request: Any, call: Any) -> Awaitable[Any]:
            try:
                self._check(request)
            except RpcError as error:
                return refuse(error)
            return method(request, call)

        return answer

    def _guard_stream(self, method: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], Any]:
        async def refuse(error: RpcError) -> AsyncIterator[Any]:
            raise error
            yield

        def answer(requests: Any, call: Any) -> AsyncIterator[Any]:
            try:
                self._check(None)
            except RpcError as error:
                return refuse(error)
            return method(requests, call)

        return answer
