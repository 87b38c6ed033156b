"""Many kubelets as one service: one watch, one heap of timers, writes in bulk.

Nodes ◄─ register, report, renew ─ Machines ─┐
                                             ├─ timers (one heap) ─ one alarm of the event loop
pods ─ one watch ─► Feed ─► core.Pods ───────┘
                              └─► PodWorker ─ status patches, deletions ─► apiservers
"""

import asyncio
import logging
from collections.abc import Callable

from raykube.base.metrics import Registry
from raykube.client.api import ApiClient
from raykube.client.core.eventlog import Reference
from raykube.client.events import EventRecorder
from raykube.hollow.config import Config
from raykube.hollow.core.addresses import AddressPool
from raykube.hollow.core.beats import Beat, Beats
from raykube.hollow.core.pods import Happening, Pods, Retry
from raykube.hollow.core.slot import Pod
from raykube.hollow.core.timers import Timers
from raykube.hollow.machines import Machines
from raykube.hollow.pods import PodWorker
from raykube.rpc.clock import SystemClock
from raykube.rpc.health import HealthServer
from raykube.rpc.lifetime import until_ended
from raykube.rpc.listen import join_address

log = logging.getLogger(__name__)

EVENTS_PENDING_MAX = 5000


class Service:
    """The hollow machines of one process."""

    def __init__(self, config: Config) -> None:
        self._config = config
        clock = SystemClock()
        # Timers and statuses go by one time that never goes back.
        began, began_monotonic = clock.now(), clock.monotonic()
        self._now: Callable[[], float] = lambda: began + clock.monotonic() - began_monotonic
        self._fleet = config.fleet
        self._timers = Timers()
        self._client: ApiClient | None = None
        self._recorder: EventRecorder | None = None
        self._pods: Pods | None = None
        self._machines: Machines | None = None
        self._worker: PodWorker | None = None
        self._health: HealthServer | None = None
        self._alarm: asyncio.Handle | None = None
        self._alarm_at = 0.0  # when it is due
        self._tasks: list[asyncio.Task[None]] = []
        self._port = 0
        self._registry = registry = Registry()
        registry.before_render(self._set_metrics)
        self._metrics = (
            registry.gauge("raykube_hollow_nodes", "Hollow machines that have a Node."),
            registry.gauge("raykube_hollow_pods", "Pods on hollow machines."),
            registry.gauge("raykube_hollow_pods_ready", "Pods that are ready."),
            registry.gauge("raykube_hollow_timers", "Timers that are set."),
            registry.counter("raykube_hollow_writes_total", "Statuses and deletions of pods that were written."),
            registry.counter("raykube_hollow_events_dropped_total", "Events not written, as too many waited."),
        )

    async def start(self) -> None:
        """Serves health and begins to register; the apiservers need not be up yet."""
        config, fleet = self._config, self._fleet
        lifecycles = config.lifecycles()
        self._health = HealthServer(self._problem, self._registry.render, config.tls)
        self._port = await self._health.start(config.bind_address, config.secure_port)
        client = self._client = ApiClient(config.api_servers, config.tls)
        hosts = {fleet.name(number): fleet.address(number).encode() for number in range(fleet.first, fleet.end)}
        tell = None
        work = []
        if config.pod_events:
            self._recorder = EventRecorder(client, "kubelet", pending_max=EVENTS_PENDING_MAX)
            work.append(self._recorder.run())
            tell = self._tell
        pods = self._pods = Pods(
            lifecycles, config.seed, AddressPool(config.pod_cidr), self._timers, hosts.__getitem__, tell
        )
        # Renewed after a quarter of its duration, as the kubelet does.
        beats = Beats(fleet.lease_s / 4, config.node_status_report_frequency, self._timers)
        self._machines = Machines(client, fleet, beats, self._now, self._wake)
        self._worker = PodWorker(client, fleet.names, pods, self._now, self._wake)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(item) for item in (*work, self._machines.run(), self._worker.run())]

    async def wait(self) -> None:
        """Returns after `stop`; raises what ended one of the tasks, which is a fault in the program."""
        await until_ended(self._tasks)

    async def stop(self) -> None:
        """Ends as a machine does that loses its power: Nodes and pods stay, and are picked up by the next start."""
        if self._alarm is not None:
            self._alarm.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for part in (self._machines, self._worker):
            if part is not None:
                await part.close()
        if self._client is not None:
            await self._client.close()
            self._client = None
        if self._health is not None:
            await self._health.stop()

    def status(self) -> dict[str, object]:
        problem = self._problem()
        ready = self._machines.well if self._machines is not None else 0
        pods = self._pods
        detail = (
            f"{ready} of {self._fleet.count} nodes ready, {len(pods)} pods, {pods.running} ready"
            if pods is not None
            else ""
        )
        return {
            "role": f"{self._fleet.first}-{self._fleet.end - 1}",
            "healthy": problem is None,
            "detail": problem or detail,
            "addresses": {"health": join_address(self._config.bind_address, self._port)},
        }

    def _problem(self) -> str | None:
        if any(task.done() for task in self._tasks):
            return "a task of the hollow machines ended"
        if self._machines is None or self._worker is None or not self._worker.has_synced:
            return "waiting for the apiservers: nodes and pods are not read yet"
        if self._machines.registered < self._fleet.count:
            return f"{self._machines.registered} of {self._fleet.count} nodes are registered"
        return None

    def _set_metrics(self) -> None:
        machines, pods, worker = self._machines, self._pods, self._worker
        if machines is None or pods is None or worker is None:
            return
        dropped = self._recorder.dropped if self._recorder is not None else 0
        values = (machines.registered, len(pods), pods.running, len(self._timers), worker.writes, dropped)
        for metric, value in zip(self._metrics, values, strict=True):
            metric.set((), value)

    def _tell(self, happening: Happening) -> None:
        assert self._recorder is not None
        pod = happening.pod
        place = f"spec.containers{{{happening.container}}}" if happening.container else ""
        reference = Reference("v1", "Pod", *pod.key, pod.uid, field_path=place)
        self._recorder.record(reference, happening.kind, happening.reason, happening.message)

    # Timers

    def _wake(self) -> None:
        """Something changed: there may be writes, and another timer may be the next."""
        assert self._worker is not None
        self._worker.wake()
        due = self._timers.next()
        if due is None:
            return
        if self._alarm is not None:
            if self._alarm_at <= due:
                return
            self._alarm.cancel()
        self._alarm_at = due
        self._alarm = asyncio.get_running_loop().call_later(max(0.0, due - self._now()), self._ring)

    def _ring(self) -> None:
        assert self._pods is not None and self._machines is not None
        self._alarm = None
        now = self._now()
        for item in self._timers.due(now):
            if isinstance(item, Beat):
                self._machines.on_timer(item, now)
            elif isinstance(item, Pod | Retry):
                self._pods.on_timer(item, now)
        self._wake()
