"""The scheduler as a service: informers feed the core, the loop takes decisions, the binder writes them.

    pods, nodes ──informers──► Cluster + PodQueue ──pop, schedule──► Binder ──bulk bind──► apiservers

Everything runs in one event loop, and the core is only touched between awaits. A standby keeps its copy of the cluster
and of the queue current, so that it schedules the moment it holds the lease.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import orjson

from raykube.api import slowdowns
from raykube.api.resources import Resource, builtin, by_path
from raykube.base.backoff import Backoff
from raykube.client.api import ApiClient
from raykube.client.core.listwatch import Change, ListWatch, Object, identity
from raykube.client.events import EventRecorder
from raykube.client.informer import Informer
from raykube.client.leader import LeaderElector
from raykube.rpc.clock import SystemClock
from raykube.rpc.health import HealthServer
from raykube.rpc.lifetime import until_ended
from raykube.rpc.listen import join_address
from raykube.scheduler.binder import Binder, Decision, Rejection
from raykube.scheduler.config import Config
from raykube.scheduler.configfile import load
from raykube.scheduler.core import outline
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.diagnosis import Diagnosis
from raykube.scheduler.core.events import NOTHING, Event
from raykube.scheduler.core.gangs import PLUGIN, TOGETHER_MAX, Condition, Gang
from raykube.scheduler.core.intake import DEVICES, LIVING, STORAGE, Intake, Take, TakeDevices
from raykube.scheduler.core.queue import Pending, PodQueue
from raykube.scheduler.metrics import Metrics

log = logging.getLogger(__name__)

BATCH_MAX = 256  # decisions between two turns of the event loop: a few milliseconds
TICK_S = 30.0


def _resource(plural: str) -> Resource:
    found = by_path("", "v1", plural)
    assert found is not None
    return found


@contextmanager
def _alone(change: Change) -> Iterator[None]:
    """What goes wrong with one object is logged, and the others of its batch go on."""
    try:
        yield
    except Exception:
        _log_skipped(change)


def _log_skipped(change: Change) -> None:
    """In an exception that a change raised."""
    metadata = change.object.get("metadata") or {}
    kind, name = change.object.get("kind") or "object", metadata.get("name")
    log.exception("%s %s/%s cannot be taken in", kind, metadata.get("namespace", ""), name)


class Service:
    """One scheduler."""

    def __init__(self, config: Config) -> None:
        """Raises ValueError for a `--config` that does not parse."""
        config, settings = load(config)
        self._config = config
        self._clock = SystemClock()
        self._profiles = {profile.name: profile for profile in settings.profiles}
        self._cluster = Cluster(settings.profiles, config.gang_patience)
        self._queue = PodQueue(Backoff(settings.backoff_initial_s, settings.backoff_max_s))
        self._intake = Intake(self._cluster, self._queue, self._profiles)
        self._metrics = Metrics(self._profiles)
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
        recorders = {name: EventRecorder(client, name) for name in self._profiles}
        pods, nodes, namespaces = _resource("pods"), _resource("nodes"), _resource("namespaces")
        self._binder = Binder(
            client,
            pods,
            self._cluster,
            self._queue,
            recorders,
            self._metrics,
            self._clock,
            self._wake.set,
            lambda: self._leading,
        )
        # The core keeps what it needs of pods: here they are told apart, no more.
        machine = ListWatch(kept=identity)
        # Until all are read every pod is new.
        pod_informer = Informer(
            client,
            pods,
            field_selector=LIVING,
            decode=lambda text: outline.read(text) if machine.synced else orjson.loads(text),
            machine=machine,
        )
        node_informer = Informer(client, nodes)
        namespace_informer = Informer(client, namespaces)
        pod_informer.add_batch_handler(self._on_pods)
        node_informer.add_batch_handler(partial(self._on_objects, self._intake.on_node))
        namespace_informer.add_batch_handler(partial(self._on_objects, self._intake.on_namespace))
        group_informer = Informer(client, builtin("scheduling.k8s.io/v1alpha2", "PodGroup"))
        group_informer.add_batch_handler(self._on_groups)
        budget_informer = Informer(client, builtin("policy/v1", "PodDisruptionBudget"))
        budget_informer.add_batch_handler(self._on_budgets)
        self._informers = [node_informer, namespace_informer, pod_informer, budget_informer, group_informer]
        leases = Informer(client, builtin("coordination.k8s.io/v1", "Lease"), "kube-node-lease")
        leases.add_batch_handler(self._on_leases)  # no decision waits for it
        for resource, take in STORAGE.items():
            informer = Informer(client, resource)
            informer.add_batch_handler(partial(self._on_storage, take))
            self._informers.append(informer)
        for resource, take_devices in DEVICES.items():
            informer = Informer(client, resource)
            informer.add_batch_handler(partial(self._on_devices, take_devices))
            self._informers.append(informer)
        work = [informer.run() for informer in (*self._informers, leases)]
        work += [self._schedule(), self._tick()]
        work += [recorder.run() for recorder in recorders.values()]
        if config.leader_elect:
            self._elector = LeaderElector.of(config, client, lambda: self._lead(True), lambda: self._lead(False))
            work.append(self._elector.run())
        else:
            self._lead(True)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(item) for item in work]

    async def wait(self) -> None:
        """Returns after `stop`; raises what ended one of the tasks, which is a fault in the program."""
        await until_ended(self._tasks)

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

    def _on_event(self, event: Event) -> None:
        """It may help pods that fit nowhere."""
        if event and self._queue.on_event(event, self._clock.monotonic()):
            self._wake.set()

    def _on_objects(self, take_in: Callable[[Object, Object | None], Event], changes: list[Change]) -> None:
        """Of a kind that `take_in` is for: (metadata, object as it is now)."""
        events = NOTHING
        for change in changes:
            with _alone(change):
                events |= take_in(change.object["metadata"], change.new)
        self._on_event(events)

    def _on_storage(self, take: Take, changes: list[Change]) -> None:
        assert self._binder is not None
        self._on_objects(partial(self._intake.on_storage, take), changes)
        for change in changes:
            metadata = change.object["metadata"]
            if metadata.get("namespace"):  # only claims are in one
                self._binder.reserving.on_claim((metadata["namespace"], metadata["name"]))

    def _on_devices(self, take: TakeDevices, changes: list[Change]) -> None:
        now = self._clock.monotonic()
        self._on_objects(lambda metadata, new: self._intake.on_devices(take, metadata, new, now), changes)
        self._wake.set()

    def _on_leases(self, changes: list[Change]) -> None:
        """What kubelets tell with their heartbeats. A Lease that was there before may tell of anything."""
        for change in changes:
            with _alone(change):
                found = slowdowns.read(change.new) if change.new is not None and change.old is not None else None
                if found:
                    self._cluster.on_slowdowns(change.object["metadata"]["name"], found, self._clock.monotonic())

    def _on_budgets(self, changes: list[Change]) -> None:
        for change in changes:
            with _alone(change):
                self._intake.on_budget(change.object["metadata"], change.new)

    def _on_groups(self, changes: list[Change]) -> None:
        now = self._clock.monotonic()
        for change in changes:
            with _alone(change):
                self._intake.on_group(change.object["metadata"], change.new, now)
        self._wake.set()

    def _on_pods(self, changes: list[Change]) -> None:
        now, wall = self._clock.monotonic(), self._clock.now()
        events = NOTHING
        for change in changes:
            # As `_alone`, and no sum of flags for nothing: of all objects pods change most.
            try:
                if change.new is None:
                    found = self._intake.on_pod_gone(change.object["metadata"]["uid"])
                else:
                    found = self._intake.on_pod(change.new, now, wall)
            except Exception:
                _log_skipped(change)
                continue
            if found is not NOTHING:
                events |= found
        self._on_event(events | self._intake.device_news(now))
        self._intake.wake_decided(now)
        self._wake.set()

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
        now = self._clock.monotonic()
        batch = PodQueue.by_class(self._queue.pop(BATCH_MAX, now))
        left = {pending.pod.uid: pending for pending in batch}
        self._cluster.deadlines.now = self._clock.now()
        decisions: list[Decision] = []
        rejections: list[Rejection] = []
        counted = False
        for pending in batch:
            if left.pop(pending.pod.uid, None) is None:
                continue  # it went with its gang
            if self._queue.get(pending.pod.uid) is not pending:
                continue  # gone while a gang was written
            member = pending.pod.gang
            gang = None if member is None else self._cluster.gangs.gang(member)
            if isinstance(gang, Gang):
                counted |= await self._place_gang(gang, pending, left)
            elif isinstance(gang, str):
                rejections.append(Rejection(pending, Diagnosis(gang, frozenset((PLUGIN,)), NOTHING), tried=False))
            else:
                try:
                    if pending.due <= now:
                        self._cluster.deadlines.age(pending.pod)
                    found = self._cluster.schedule(pending.pod)
                    verdict = self._cluster.deadlines.news(pending.pod) if isinstance(found, Placement) else None
                except Exception:
                    self._failed([pending])
                    continue
                if isinstance(found, Placement):
                    counted |= found.counted
                    decisions.append(Decision(pending, found.node, found.reservations, verdict))
                else:
                    rejections.append(Rejection(pending, found))
        if decisions:
            await self._binder.bind(decisions)
        if rejections:
            await self._binder.reject(rejections)
            await self._tell_deadlines(rejections)
        # Last, so that pods which were rejected before another one of the batch was placed are tried again.
        if counted and self._queue.on_event(Event.POD_CHANGED, self._clock.monotonic()):
            self._wake.set()
        return bool(batch)

    def _failed(self, pods: list[Pending]) -> None:
        """In an exception that deciding on the pods raised: they are tried again later, and the others go on."""
        for pending in pods:
            log.exception("no decision on pod %s/%s", pending.pod.namespace, pending.pod.name)
            self._metrics.on_attempt(pending.pod.needs.profile, "error")
            self._cluster.refused(pending.pod.uid)
            self._queue.on_error(pending, self._clock.monotonic())
        self._on_event(self._intake.device_news(self._clock.monotonic()))

    async def _tell_deadlines(self, rejections: list[Rejection]) -> None:
        """Says at once which deadlines cannot be met."""
        assert self._binder is not None
        news = []
        for pending, _, _ in rejections:
            if self._cluster.deadlines.hopeless(pending.pod):
                self._queue.without_deadline(pending)
            verdict = self._cluster.deadlines.news(pending.pod)
            if verdict is not None:
                news.append((pending.pod, verdict))
        if news:
            await self._binder.tell_deadlines(news)

    async def _place_gang(self, gang: Gang, first: Pending, left: dict[str, Pending]) -> bool:
        """Decides on all pods of a gang that wait; whether the placements matter to others."""
        assert self._binder is not None
        members = self._queue.gather(first, self._cluster.gangs.waiting(gang.key), left)
        now = self._clock.monotonic()
        since = min(one.added_at for one in members)
        try:
            found = self._cluster.gang_placing.place(gang, [one.pod for one in members], now, since)
        except Exception:
            self._failed(members)
            return False
        self._on_event(self._intake.freed())
        decisions, rejections = [], []
        for pending, one in zip(members, found, strict=True):
            if isinstance(one, Placement):
                decisions.append(Decision(pending, one.node, one.reservations))
            else:
                rejections.append(Rejection(pending, one))
        if decisions:
            # Those beyond what the gang needs may come later, where all are too many for one step.
            first_ones = len(decisions) if len(decisions) <= TOGETHER_MAX else gang.minimum - gang.there
            await self._binder.bind_together(decisions[:first_ones], decisions[first_ones:])
        if rejections:
            await self._binder.reject(rejections)
        group = self._cluster.gangs.group(gang.key)
        if group is not None:
            failed = not decisions and rejections[0].found.message
            verdict = Condition("False", "Unschedulable", failed) if failed else Condition("True", "Scheduled", "")
            if verdict != group.condition:
                await self._binder.tell_group(gang.key, group, verdict)
        return any(isinstance(one, Placement) and one.counted for one in found)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._on_event(self._intake.on_tick(self._clock.monotonic()))
            if self._queue.on_tick(self._clock.monotonic()):
                self._wake.set()
