"""Watches all pods of a measurement, and sees those that are not of it."""

import asyncio
import time
from collections.abc import Callable, Iterable

import orjson

from raykube.api import podtext
from raykube.bench.core.timeline import Timeline
from raykube.bench.core.workload import RUN_LABEL, STEP_LABEL
from raykube.bench.plane import PODS
from raykube.client.api import ApiClient
from raykube.client.core.listwatch import DELETED, Change, Key, Object, Request, WatchEvent
from raykube.client.informer import Informer


class Observer:
    """A `listwatch.Machine` that keeps a Timeline in place of a namespace's pods. `run` until cancelled.

    Pods of the measurement are those with its RUN_LABEL; without an id, those with none.
    """

    def __init__(self, client: ApiClient, run: str, namespace: str) -> None:
        self._run = run
        self.timeline = Timeline()
        self.objects: dict[Key, Object] = {}  # stays empty
        self.resource_version = 0
        self.synced = False
        self.names: dict[str, str] = {}  # by uid, of the pods that there are, oldest first
        self.strangers: set[str] = set()  # uids of pods of others
        self._informer = Informer(client, PODS, namespace, decode=_read, machine=self)
        self._changed = asyncio.Event()
        self._relist = True

    async def run(self) -> None:
        await self._informer.run()

    async def until_synced(self) -> None:
        await self._informer.synced()

    async def until(
        self,
        check: Callable[[], bool],
        timeout_s: float,
        tick: Callable[[], None],
        progress: Callable[[], object] = lambda: None,
    ) -> bool:
        """Waits until `check`; False when `progress` stayed the same for the time-out. `tick` is called often."""
        seen, deadline = progress(), time.monotonic() + timeout_s
        while not check():
            reached = progress()
            if reached != seen:
                seen, deadline = reached, time.monotonic() + timeout_s
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            self._changed.clear()
            try:
                async with asyncio.timeout(min(left_s, 0.5)):
                    await self._changed.wait()
            except TimeoutError:
                pass
            tick()
        return True

    # What an informer asks of its machine

    def request(self) -> Request:
        """The watch to open."""
        return Request(0 if self._relist else self.resource_version, send_initial_events=self._relist)

    def on_expired(self) -> None:
        """Too far behind: what was missed is missing from the figures."""
        self._relist = True

    def on_events(self, events: Iterable[WatchEvent]) -> list[Change]:
        """Notes when what was seen."""
        now = time.monotonic()
        for event in events:
            self.resource_version = max(self.resource_version, event.resource_version)
            if event.initial_events_end:
                self.synced, self._relist = True, False
            if event.object is None:
                continue
            uid, name, run, step, node, ready, leaving = event.object["pod"]
            if run != self._run:
                (self.strangers.discard if event.type == DELETED else self.strangers.add)(uid)
            elif event.type == DELETED:
                self.names.pop(uid, None)
                self.timeline.on_gone(uid, now)
            else:
                self.names[uid] = name
                self.timeline.on_pod(uid, step, node, ready, leaving, now)
        self._changed.set()
        return []


def _read(text: bytes) -> Object:
    pod = podtext.outline(text) or orjson.loads(text)
    metadata = pod["metadata"]
    conditions = (pod.get("status") or {}).get("conditions") or ()
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    labels = metadata.get("labels") or {}
    run, step = labels.get(RUN_LABEL, ""), labels.get(STEP_LABEL, "")
    node = pod["spec"].get("nodeName", "")
    return {"pod": (metadata["uid"], metadata["name"], run, step, node, ready, "deletionTimestamp" in metadata)}
