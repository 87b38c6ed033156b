"""What a member refuses before a service sees it, as etcd does.

A learner cannot answer most requests. And some callers would rather hear that there is no leader than wait (`hasleader`
in their metadata): etcd's locks and elections watch so, or a member cut off from the others would keep them for ever.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from raykube.kv.member import Member
from raykube.pb import etcd_pb2
from raykube.rpc import Code, RpcError

FOR_LEARNERS = frozenset({"Status", "Snapshot"})
STREAMED = frozenset({"Watch", "LeaseKeepAlive", "Stream", "Snapshot"})
LEADERLESS_TIMEOUTS = 3  # election time-outs without a leader that an open stream stands


def _no_leader() -> RpcError:
    return RpcError(Code.UNAVAILABLE, "etcdserver: no leader")


class Gate:
    """Stands before a handler; has the same methods. `election_s` is the election time-out."""

    def __init__(self, member: Member, handler: object, election_s: float) -> None:
        self._member = member
        self._handler = handler
        self._election_s = election_s
        self._seen: object = None
        self._is_learner = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._handler, name)
        is_for_learners = name in FOR_LEARNERS
        return self._stream(method, is_for_learners) if name in STREAMED else self._unary(method, is_for_learners)

    def _refusal(self, request: Any, call: Any, is_for_learners: bool) -> RpcError | None:
        node = self._member.replica.node
        membership = node.membership
        if membership is not self._seen:
            self._seen = membership
            own = membership.get(self._member.id)
            self._is_learner = own is not None and own.learner
        if self._is_learner and not (
            is_for_learners or (isinstance(request, etcd_pb2.RangeRequest) and request.serializable)
        ):
            # The code of etcd 3.5: its clients, and those of 3.4, try another member for this one alone.
            return RpcError(Code.UNAVAILABLE, "etcdserver: rpc not supported for learner")
        if not node.leader and self._wants_leader(call):
            return _no_leader()
        return None

    @staticmethod
    def _wants_leader(call: Any) -> bool:
        return bool(call.metadata.get("hasleader") == "true")

    def _unary(self, method: Callable[[Any, Any], Any], is_for_learners: bool) -> Any:
        async def refuse(error: RpcError) -> Any:
            raise error

        def answer(request: Any, call: Any) -> Any:
            refusal = self._refusal(request, call, is_for_learners)
            return method(request, call) if refusal is None else refuse(refusal)

        return answer

    def _stream(self, method: Callable[[Any, Any], AsyncIterator[Any]], is_for_learners: bool) -> Any:
        async def refuse(error: RpcError) -> AsyncIterator[Any]:
            raise error
            yield

        def answer(requests: Any, call: Any) -> AsyncIterator[Any]:
            refusal = self._refusal(None, call, is_for_learners)
            if refusal is not None:
                return refuse(refusal)
            responses = method(requests, call)
            return self._while_led(responses) if self._wants_leader(call) else responses

        return answer

    async def _while_led(self, responses: Any) -> AsyncIterator[Any]:
        """The same responses, until there has been no leader for too long."""
        node = self._member.replica.node
        looks_left = LEADERLESS_TIMEOUTS
        coming: asyncio.Future[Any] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(responses))
                await asyncio.wait({coming}, timeout=self._election_s)
                if coming.done():
                    response, coming = coming.result(), None
                    yield response
                    continue
                looks_left = LEADERLESS_TIMEOUTS if node.leader else looks_left - 1
                if not looks_left:
                    raise _no_leader()
        except StopAsyncIteration:
            return
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.wait({coming})
            await responses.aclose()
