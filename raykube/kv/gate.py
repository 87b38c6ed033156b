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
STREAMED = frozenset({"Watch", "LeaseKeepAlive", "Stream", "Snapshot", "Observe"})
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
        led = _Led(self._member, self._election_s)
        try:
            while True:
                try:
                    response = await led.wait_for(responses)
                except StopAsyncIteration:
                    return
                yield response
        finally:
            led.close()
            await responses.aclose()


class _Led:
    """Interrupts who waits for the next response of a stream, once there has been no leader for too long.

    By a timer beside it: a task for each response would make each of them late.
    """

    def __init__(self, member: Member, election_s: float) -> None:
        self._node = member.replica.node
        self._election_s = election_s
        self._looks_left = LEADERLESS_TIMEOUTS
        self._waiting: asyncio.Task[Any] | None = None
        self._is_interrupted = False
        self._timer = asyncio.get_running_loop().call_later(election_s, self._look)

    async def wait_for(self, responses: Any) -> Any:
        """The next response. Raises RpcError, StopAsyncIteration."""
        if not self._looks_left:
            raise _no_leader()
        task = self._waiting = asyncio.current_task()
        try:
            return await anext(responses)
        except asyncio.CancelledError:
            if self._is_interrupted and task is not None and task.uncancel() == 0:
                raise _no_leader() from None
            raise
        finally:
            self._waiting = None

    def _look(self) -> None:
        self._looks_left = LEADERLESS_TIMEOUTS if self._node.leader else self._looks_left - 1
        if self._looks_left:
            self._timer = asyncio.get_running_loop().call_later(self._election_s, self._look)
        elif self._waiting is not None:
            self._is_interrupted = True
            self._waiting.cancel()

    def close(self) -> None:
        """It looks no more."""
        self._timer.cancel()
