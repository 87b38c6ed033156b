"""The scheduler as a service: informers feed the core, the loop takes decisions, the binder writes them.

    pods, nodes ──informers──► Cluster + PodQueue ──pop, schedule──► Binder ──bulk bind──► apiservers

Everything runs in one event loop, and the core is only touched between awaits. A standby keeps its copy of the cluster
and of the queue current, so that it schedules the moment it holds the lease.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from raykube.api.resources import Resource, builtin, by_path
from raykube.client.api import ApiClient
from raykube.client.core.listwatch import Change, Object
from raykube.client.events import EventRecorder
from raykube.client.informer import Informer
from raykube.client.leader import LeaderElector
from raykube.rpc.clock import SystemClock
from raykube.rpc.health import HealthServer
from raykube.rpc.listen import join_address
from raykube.scheduler.binder import Binder, Decision, Rejection
from raykube.scheduler.config import Config
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.queue import NOTHING, Event, PodQueue
from raykube.scheduler.core.volumes import VolumeTable
from raykube.scheduler.metrics import Metrics

log = logging.getLogger(__name__)

BATCH_MAX = 256  # decisions between two turns of the event loop: a few milliseconds
TICK_S = 30.0
# Pods that ended use nothing and need nothing: they leave the copy as if deleted.
LIVING = "status.phase!=Succeeded,status.phase!=Failed"


def _resource(plural: str) -> Resource:
    found = by_path("", "v1", plural)
    assert found is not None
    return found


Take = Callable[[VolumeTable, Object, Object | None], bool]
STORAGE: dict[Resource, Take] = {
    builtin("v1", "PersistentVolumeClaim"): lambda table, meta, obj: table.set_claim(
        (meta["namespace"], meta["name"]), obj
    ),
    builtin("v1", "PersistentVolume"): lambda table, meta, obj: table.set_volume(meta["name"], obj),
    builtin("storage.k8s.io/v1", "StorageClass"): lambda table, meta, obj: table.set_class(meta["name"], obj),
}


class Service:
    """One scheduler."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._clock = SystemClock()
        self._cluster = Cluster()
        self._queue = PodQueue()
        self._metrics = Metrics()
        self._wake = asyncio.Event()
        self._leading = False
        self._client: ApiClient | None = None
        self._elector: LeaderElector | None = None
        self._health: HealthServer | None = None
        self._binder: Binder | None = None
        self._informers: list[Informer] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._port = 0

    async def start(self) -> None:
        """Serves health, follows the apiservers and campaigns; they need not be up yet."""
        config = self._config
        self._health = HealthServer(self._problem, self._render_metrics, config.tls)
        self._port = await self._health.start(config.bind_address, config.secure_port)
        client = self._client = ApiClient(config.api_servers, config.tls)
        recorder = EventRecorder(client, config.scheduler_name)
        pods, nodes, namespaces = _resource("pods"), _resource("nodes"), _resource("namespaces")
        self._binder = Binder(
            client, pods, self._cluster, self._queue, recorder, self._metrics, self._clock, self._wake.set
        )
        pod_informer = Informer(client, pods, field_selector=LIVING)
        node_informer = Informer(client, nodes)
        namespace_informer = Informer(client, namespaces)
        pod_informer.add_batch_handler(self._on_pods)
        node_informer.add_batch_handler(self._on_nodes)
        namespace_informer.add_batch_handler(self._on_namespaces)
        self._informers = [node_informer, namespace_informer, pod_informer]
        for resource, take in STORAGE.items():
            informer = Informer(client, resource)
            informer.add_batch_handler(partial(self._on_storage, take))
            self._informers.append(informer)
        work = [informer.run() for informer in self._informers] + [recorder.run(), self._schedule(), self._tick()]
        if config.leader_elect:
            self._elector = LeaderElector.of(config, client, lambda: self._lead(True), lambda: self._lead(False))
            work.append(self._elector.run())
        else:
            self._lead(True)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(item) for item in work]

    async def wait(self) -> None:
        """Returns after `stop`; raises what ended one of the tasks, which is a fault in the program."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not task.cancelled():
                task.result()

    async def stop(self) -> None:
        """Gives the lease up, so that a standby takes over at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._binder is not None:
            await self._binder.close()
        if self._client is not None:
            await self._client.close()
            self._client = None
        if self._health is not None:
            await self._health.stop()

    def status(self) -> dict[str, object]:
        problem = self._problem()
        role = "active" if self._elector is None else "leader" if self._leading else "standby"
        holder = "" if self._elector is None or self._leading else f"; the leader is {self._elector.holder or 'nobody'}"
        return {
            "role": role,
            "healthy": problem is None,
            "detail": problem or f"{self._cluster.nodes.count} nodes, {len(self._queue)} pods pending{holder}",
            "addresses": {"health": join_address(self._config.bind_address, self._port)},
        }

    def _problem(self) -> str | None:
        if any(task.done() for task in self._tasks):
            return "a task of the scheduler ended"
        if not all(informer.has_synced for informer in self._informers):
            return "waiting for the apiservers: nodes, pods, claims and the rest are not read yet"
        return None

    def _render_metrics(self) -> str:
        counts = {name: count for name, count in self._queue.counts.items() if name}
        return self._metrics.render(counts, self._leading, self._config.leader_elect_resource_name)

    def _lead(self, leading: bool) -> None:
        self._leading = leading
        self._wake.set()

    # What comes in

    def _on_nodes(self, changes: list[Change]) -> None:
        changed = False
        for change in changes:
            if change.new is None:
                self._cluster.on_node_gone(change.object["metadata"]["name"])
            else:
                changed |= self._cluster.on_node(change.new)
        if changed and self._queue.on_event(Event.NODE, self._clock.monotonic()):
            self._wake.set()

    def _on_storage(self, take: Take, changes: list[Change]) -> None:
        changed = False
        for change in changes:
            changed |= take(self._cluster.volumes, change.object["metadata"], change.new)
        assert self._binder is not None
        for change in changes:
            metadata = change.object["metadata"]
            if metadata.get("namespace"):  # only claims are in one
                self._binder.on_claim((metadata["namespace"], metadata["name"]))
        if changed and self._queue.on_event(Event.STORAGE, self._clock.monotonic()):
            self._wake.set()

    def _on_namespaces(self, changes: list[Change]) -> None:
        changed = False
        for change in changes:
            labels = None if change.new is None else change.new["metadata"].get("labels") or {}
            changed |= self._cluster.on_namespace(change.object["metadata"]["name"], labels)
        if changed and self._queue.on_event(Event.POD_CHANGED, self._clock.monotonic()):
            self._wake.set()

    def _on_pods(self, changes: list[Change]) -> None:
        now = self._clock.monotonic()
        events = NOTHING
        for change in changes:
            if change.new is None:
                events |= self._pod_gone(change.object["metadata"]["uid"])
                continue
            pod = self._cluster.read_pod(change.new)
            if pod.node or pod.ended:
                self._queue.remove(pod.uid)
                if self._cluster.on_pod(pod):
                    events |= Event.POD_GONE if pod.ended or pod.terminating else Event.POD_CHANGED
            elif self._is_ours(change.new) and not pod.terminating:
                # A late event of a pod whose binding has succeeded: the next ones will show its node.
                if self._queue.get(pod.uid) is not None or not self._cluster.assumed(pod.uid):
                    self._queue.add(pod, now)
            else:
                self._queue.remove(pod.uid)
        if events:
            self._queue.on_event(events, now)
        self._wake.set()

    def _pod_gone(self, uid: str) -> Event:
        self._queue.remove(uid)
        return Event.POD_GONE if self._cluster.on_pod_gone(uid) else NOTHING

    def _is_ours(self, obj: Object) -> bool:
        spec = obj["spec"]
        name = spec.get("schedulerName", "default-scheduler")
        return name == self._config.scheduler_name and not spec.get("schedulingGates")

    # What goes out

    async def _schedule(self) -> None:
        # A decision on half a cluster could be any.
        for informer in self._informers:
            await informer.synced()
        while True:
            if self._leading and await self._round():
                await asyncio.sleep(0)  # informers and results come in between batches
                continue
            self._wake.clear()
            due = self._queue.next_ready_at() if self._leading else None
            if due is None:
                await self._wake.wait()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - self._clock.monotonic())):
                    await self._wake.wait()

    async def _round(self) -> bool:
        """Decides on one batch; False when there was none."""
        assert self._binder is not None
        batch = PodQueue.by_class(self._queue.pop(BATCH_MAX, self._clock.monotonic()))
        decisions: list[Decision] = []
        rejections: list[Rejection] = []
        counted = False
        for pending in batch:
            found = self._cluster.schedule(pending.pod)
            if isinstance(found, Placement):
                counted |= found.counted
                decisions.append(Decision(pending, found.node, found.reservations))
            else:
                rejections.append(Rejection(pending, found))
        if decisions:
            await self._binder.bind(decisions)
        if rejections:
            await self._binder.reject(rejections)
        # Last, so that pods which were rejected before another one of the batch was placed are tried again.
        if counted and self._queue.on_event(Event.POD_CHANGED, self._clock.monotonic()):
            self._wake.set()
        return bool(batch)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self._queue.on_tick(self._clock.monotonic()):
                self._wake.set()
