"""The batcher's bound and its end."""

import asyncio

from raykube.client.batcher import Batcher
from raykube.pb import api_pb2


async def test_closing_ends_those_who_wait_for_room() -> None:
    async def never(_operations: list[api_pb2.Operation]) -> list[api_pb2.Result]:
        await asyncio.Event().wait()
        return []

    batcher = Batcher(never, operations_max=1, in_flight_max=1, waiting_max=1)
    writers = [asyncio.create_task(batcher.write([api_pb2.Operation()])) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await batcher.close()
    done, pending = await asyncio.wait(writers, timeout=5)
    assert not pending
    assert all(writer.cancelled() for writer in done)
