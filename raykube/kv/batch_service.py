# ruff: noqa: N802 - methods are named like the RPCs
"""The Batch service: apiservers' writes, pipelined on one stream. Any member takes them; Raft forwards them."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from operator import attrgetter
from typing import Any

from raykube.base.encoded import Encoded
from raykube.kv.core.mvcc.machine import Command
from raykube.kv.limits import Admission
from raykube.kv.member import Member
from raykube.pb import batch_pb2
from raykube.rpc import Code, RpcError
from raykube.rpc.served_call import Requests

log = logging.getLogger(__name__)

# Requests of one stream that are under way or whose answers wait to be sent; at the bound the stream is not read, and
# gRPC holds the client back.
IN_FLIGHT_MAX = 256
BATCH_BYTES_MAX = 32 << 20
_KEY = attrgetter("key")
_JOINED = attrgetter("joined")


class BatchService:
    """Answers Batch streams."""

    def __init__(self, member: Member, admission: Admission) -> None:
        self._member = member
        self._admission = admission

    async def Stream(self, requests: Requests, _call: Any) -> AsyncIterator[Any]:
        answers: asyncio.Queue[Any] = asyncio.Queue()
        tasks: set[asyncio.Task[None]] = set()
        slots = asyncio.Semaphore(IN_FLIGHT_MAX)

        async def serve(request: Any, body: bytes) -> None:
            head = batch_pb2.BatchResponse(id=request.id).SerializeToString()
            answers.put_nowait(Encoded(head + await self._answer(request, body)))

        async def read() -> None:
            try:
                with contextlib.suppress(StopAsyncIteration):
                    while True:
                        request, body = await requests.next()
                        await slots.acquire()
                        task = asyncio.create_task(serve(request, body))
                        tasks.add(task)
                        task.add_done_callback(tasks.discard)
                if tasks:
                    await asyncio.wait(set(tasks))
            finally:
                answers.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (response := await answers.get()) is not None:
                yield response
                slots.release()  # not before: answers that the client does not read must not pile up
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reader

    async def _answer(self, request: Any, body: bytes) -> bytes:
        """The response but its id. `body`: the request's bytes."""
        try:
            writes = list(request.writes)  # taken out of the request once
            if request.read_index or not writes:
                await self._member.read()
                self._member.require_sound()
                response = batch_pb2.BatchResponse(revision=self._member.store.revision)
            else:
                if not all(map(_KEY, writes)):
                    raise RpcError(Code.INVALID_ARGUMENT, "etcdserver: key is not provided")
                command = Command.JOINED_BATCH if any(map(_JOINED, writes)) else Command.BATCH
                if command is Command.JOINED_BATCH:
                    self._require_known(command)
                if request.ByteSize() != len(body):
                    body = request.SerializeToString()  # what others encode strangely is not for the log
                self._admission.check_write(
                    len(body), BATCH_BYTES_MAX, lambda: any(write.HasField("value") for write in writes)
                )
                done: bytes = await self._member.propose(command, body)
                return done
        except RpcError as error:
            response = batch_pb2.BatchResponse(error=f"{error.code.name}: {error.message}")
        except Exception as error:
            log.exception("batch failed")
            response = batch_pb2.BatchResponse(error=f"INTERNAL: {type(error).__name__}: {error}")
        encoded: bytes = response.SerializeToString()
        return encoded

    def _require_known(self, command: Command) -> None:
        """Raises RpcError while some member is too old for `command`.

        Not UNAVAILABLE: that is what a client tries again at the next member, with all that shares its message.
        """
        replica = self._member.replica
        if not replica.machine.is_known(command, (record.id for record in replica.membership.members)):
            message = "etcdserver: not all members can apply joined writes yet: update those of an older version"
            raise RpcError(Code.FAILED_PRECONDITION, message)
