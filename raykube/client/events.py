"""Writes Events in bulk, from what components report; never blocks the reporter (rules: `core.eventlog`)."""

import asyncio
import logging
from contextlib import suppress

import orjson

from raykube.api.errors import ApiError
from raykube.api.resources import by_kind
from raykube.base.clock import Clock
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.core.eventlog import EventLog, Object, Reference
from raykube.pb import api_pb2
from raykube.rpc.clock import SystemClock

log = logging.getLogger(__name__)

PAUSE_S = 0.1  # between two flushes of a busy recorder: happenings merge, and events never crowd out the real writes


class EventRecorder:
    """`record` from anywhere in the event loop; `run` writes until cancelled."""

    def __init__(
        self, client: ApiClient, component: str, host: str = "", *, pending_max: int = 5000, clock: Clock | None = None
    ) -> None:
        self._client = client
        self._log = EventLog(component, host, pending_max)
        self._clock = clock or SystemClock()
        self._wake = asyncio.Event()
        resource = by_kind("", "v1", "Event")
        assert resource is not None
        self._resource = operations.wire(resource)

    @property
    def dropped(self) -> int:
        """Happenings lost because too many waited."""
        return self._log.dropped

    def record(self, obj: Object | Reference, event_type: str, reason: str, message: str, field_path: str = "") -> None:
        """Reports something about an object: `event_type` is "Normal" or "Warning"."""
        reference = obj if isinstance(obj, Reference) else Reference.of(obj, field_path)
        self._log.note(reference, event_type, reason, message, self._clock.now())
        self._wake.set()

    async def run(self) -> None:
        """Writes what is reported until cancelled; then makes one short attempt to write the rest."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while len(self._log):
                    await self._flush()
                    await asyncio.sleep(PAUSE_S)
        finally:
            with suppress(TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(1):
                    while len(self._log):
                        await self._flush()

    async def _flush(self) -> None:
        writes = self._log.flush()
        # Not by `operations`: that names the resource anew for each, which is two fifths of an operation's CPU time.
        batch = [
            api_pb2.Operation(
                verb=api_pb2.PATCH if write.patch else api_pb2.CREATE,
                resource=self._resource,
                namespace=write.namespace,
                name=write.name,
                body=orjson.dumps(write.body),
                patch_type=api_pb2.MERGE,
            )
            for write in writes
        ]
        try:
            results = await self._client.write(batch)
        except ApiError as error:
            log.debug("%d events not written: %s", len(batch), error)
            self._log.dropped += len(writes)
            for write in writes:
                self._log.forget(write.key)
            return
        for write, result in zip(writes, results, strict=True):
            if result.code >= 400:
                # An Event that expired cannot be patched: the next happening makes a new one.
                self._log.forget(write.key)
