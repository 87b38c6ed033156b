"""The kubelet's parts, put together: those that need no runtime, and what workers work with once one answers."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any

from raykube.api import quantity
from raykube.api.resources import builtin
from raykube.api.version import KUBERNETES_VERSION
from raykube.client.api import ApiClient
from raykube.client.events import EventRecorder
from raykube.client.informer import Informer
from raykube.kubelet import machine
from raykube.kubelet.allocatable import NodeAllocatable
from raykube.kubelet.apipods import ApiPods
from raykube.kubelet.cgroups import PodCgroups, unified_hierarchy
from raykube.kubelet.cleanup import Cleanup
from raykube.kubelet.config import Config
from raykube.kubelet.containers import ContainerActions
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core import preemption, shutdown
from raykube.kubelet.core.admission import admit_apparmor
from raykube.kubelet.core.criconfig import NodeSettings
from raykube.kubelet.core.imagegc import largest
from raykube.kubelet.core.nodestatus import for_pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.ranking import admit_under_pressure
from raykube.kubelet.core.sizes import GroupLimits, shares
from raykube.kubelet.core.status import NodeFacts, Verdict
from raykube.kubelet.core.thresholds import Pressure
from raykube.kubelet.cri import Cri
from raykube.kubelet.devices import Devices
from raykube.kubelet.diskusage import DiskUsage
from raykube.kubelet.eviction import Eviction
from raykube.kubelet.handlers import Handlers
from raykube.kubelet.imagegc import ImageCollector
from raykube.kubelet.images import Images
from raykube.kubelet.lifecycle import Lifecycle
from raykube.kubelet.logind import Logind
from raykube.kubelet.measures import Measures
from raykube.kubelet.node import NodeAgent, reference
from raykube.kubelet.objects import Objects
from raykube.kubelet.reports import Reports
from raykube.kubelet.runtimefacts import PROCESS_RUNTIME, await_runtime
from raykube.kubelet.server import KubeletServer
from raykube.kubelet.settings import Settings
from raykube.kubelet.shutdown import Shutdown
from raykube.kubelet.slowdowns import SlowdownReader
from raykube.kubelet.staticpods import StaticPods
from raykube.kubelet.statuswriter import StatusWriter
from raykube.kubelet.streams import Streams
from raykube.kubelet.tools import Tools
from raykube.kubelet.usage import UsageReader
from raykube.kubelet.volumes import Volumes
from raykube.kubelet.workers import Workers

log = logging.getLogger(__name__)


class Parts:
    """`start` opens the server, `background` is what then runs, `follow_pods` waits for a runtime and starts pods."""

    def __init__(self, config: Config, settings: Settings, workers: Workers) -> None:
        name = settings.node.name
        self._config = config
        self._settings = settings
        self._workers = workers
        self._facts = machine.read(config.root_dir)
        self._lifecycle: Lifecycle | None = None
        measures = Measures(name)
        measures.registry.before_render(lambda: self._count_pods(measures))
        self.cri = cri = Cri(
            config.container_runtime_endpoint, name, config.runtime_request_timeout, measures.runtime_call
        )
        self.client = client = ApiClient(config.api_servers, settings.tls)
        self._events = events = EventRecorder(client, "kubelet", name)
        self.objects = Objects(client, workers.refresh)
        self.volumes = Volumes(config.root_dir, self.objects, lambda: self.node.node)
        self.devices = Devices(config.root_dir, client, name, workers.wake)
        self._statuses = StatusWriter(client, workers.wake)
        self._handlers = Handlers(cri, KUBERNETES_VERSION.split("+")[0].removeprefix("v"))
        self._services = Informer(client, builtin("v1", "Service"))
        disk = DiskUsage(self.volumes.pods_directory, self.volumes.logs_directory)
        usage = UsageReader(cri, config.root_dir, disk, workers.uids)
        self.server = KubeletServer(
            cri,
            self.volumes.log_directory,
            workers.pods,
            lambda: self.node.healthy,
            Reports(cri, usage, disk, measures, name, workers.uids),
            Streams(cri, workers.pods, config.streaming_connection_idle_timeout),
        )
        self._images = images = ImageCollector(
            cri,
            usage,
            events,
            reference(name),
            measures,
            config.image_gc_high_threshold,
            config.image_gc_low_threshold,
            config.minimum_image_ttl_duration,
            config.image_maximum_gc_age,
        )
        self._cgroups = PodCgroups(config.cgroup_root, config.cgroup_driver)
        self._cleanup = Cleanup(
            cri,
            self.volumes,
            lambda: set(workers.uids()),
            workers.finished,
            config.maximum_dead_containers_per_container,
            config.minimum_container_ttl_duration,
            quantity.value(config.container_log_max_size),
            config.container_log_max_files,
            config.container_log_monitor_interval,
            self._cgroups,
        )
        for_all = GroupLimits(
            cpu_shares=shares(int(for_pods(settings.node, self._facts, "cpu") * 1000)),
            cpu_quota_us=0,
            memory_bytes=int(for_pods(settings.node, self._facts, "memory")),
        )
        memo = config.root_dir / "node-allocatable.json"
        self._allocatable = NodeAllocatable(self._cgroups, for_all, memo, events, reference(name))
        self._eviction = Eviction(
            Pressure(settings.thresholds, config.eviction_pressure_transition_period),
            config.eviction_max_pod_grace_period,
            config.housekeeping_interval,
            usage,
            disk,
            events,
            reference(name),
            measures,
            lambda: list(workers),
            self._reclaim,
            self._wake_node,
        )
        self._slowdowns = SlowdownReader(cri)
        self.node = NodeAgent(
            client,
            cri,
            events,
            settings.node,
            self._facts,
            config.node_status_update_frequency,
            config.node_status_report_frequency,
            config.node_lease_duration_seconds,
            config.register_node,
            pressures=self._eviction.conditions,
            images=lambda: tuple(largest(images.images, config.node_status_max_images)),
            problems=self._problems,
            lease_notes=lambda: self._slowdowns.annotations,
        )
        self.shutdown = Shutdown(
            settings.shutdown_order, Logind(), events, reference(name), lambda: list(workers), self._wake_node
        )
        self._static = StaticPods(config, settings, workers, client, self._statuses, lambda: self.node.node)
        self._api_pods = ApiPods(client, name, workers, self._static.mirrors, self._services)

    # -- life

    async def start(self) -> None:
        """Raises OSError where the server's port is taken."""
        config = self._config
        if not (config.tls_cert_file and config.tls_private_key_file and config.client_ca_file):
            return
        try:
            await self.server.start(
                config.address, config.port, config.tls_cert_file, config.tls_private_key_file, config.client_ca_file
            )
        except OSError as error:
            raise OSError(
                f"cannot serve on {config.address}:{config.port}: {error.strerror or error}; "
                "is another kubelet running? choose another --port or --address"
            ) from None
        self.node.serves_on(self.server.port)

    def background(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What runs as long as the service does, whether a runtime answers or not."""
        return (
            self._events.run(),
            self._statuses.run(),
            self.node.run(),
            self._slowdowns.run(),
            self._services.run(),
            self._eviction.run(),
            self._images.run(),
            self.shutdown.run(),
            self.devices.drivers.run(),
        )

    async def follow_pods(self) -> None:
        """Runs the pods of all sources, once there is a runtime to run them."""
        self._workers.tools = await self._tools()
        self._workers.left = self._static.start
        self._lifecycle = Lifecycle(self.cri, self._workers.wake)
        works = [self._allocatable.run()] if self._config.enforce_node_allocatable == "pods" else []
        await asyncio.gather(
            *works, self._lifecycle.run(), self._cleanup.rotate_forever(), self._static.run(), self._follow_api()
        )

    async def _follow_api(self) -> None:
        await self.node.registered.wait()
        await asyncio.gather(self._api_pods.run(), self._tidy())

    async def _tidy(self) -> None:
        """Removes what belongs to no pod, once every source has told its pods."""
        await self._api_pods.known.wait()
        await self._static.seen()
        await asyncio.gather(
            self._cleanup.tidy_forever(),
            self._static.mirrors.run(),
            self.devices.tidy_forever(self._workers.uids, self._runs),
        )

    async def _runs(self, uid: str) -> bool:
        return bool((await self.cri.observe(uid)).running)

    async def close(self) -> None:
        await self.objects.close()
        await self.devices.close()
        await self.server.stop()
        await self.client.close()
        await self.cri.close()

    # -- what workers work with

    async def _tools(self) -> Tools:
        config = self._config
        runtime = await await_runtime(self.cri, config.container_runtime_endpoint, config.pod_cidr)
        self.volumes.recursive_read_only = runtime.recursive_read_only
        self.volumes.image_volumes = runtime.image_volumes
        driver = runtime.cgroup_driver or config.cgroup_driver
        if driver != config.cgroup_driver:
            log.info("the runtime's cgroup driver is %s", driver)
        self._cgroups.driver = driver
        if runtime.name == PROCESS_RUNTIME:
            self._cgroups.enabled = False  # it keeps control groups of its own
        address = self._settings.address
        return Tools(
            client=self.client,
            cri=self.cri,
            volumes=self.volumes,
            devices=self.devices,
            events=self._events,
            statuses=self._statuses,
            handlers=self._handlers,
            containers=self._container_actions(driver, runtime.user_namespaces),
            facts=NodeFacts((address,), runtime.name),
            sync_s=config.sync_frequency,
            node=lambda: self.node.node,
            fresh_node=self.node.refresh,
            refusal=self._refusal,
            active_pods=self._workers.active_pods,
            preempt=self._preempt,
            unsafe_sysctls=self._settings.unsafe_sysctls,
            freed=self._workers.wake_deferred,
        )

    def _container_actions(self, cgroup_driver: str, user_namespaces: bool) -> ContainerActions:
        config = self._config
        return ContainerActions(
            cri=self.cri,
            volumes=self.volumes,
            devices=self.devices,
            objects=self.objects,
            events=self._events,
            statuses=self._statuses,
            handlers=self._handlers,
            images=Images(
                self.cri,
                self.objects,
                self._events,
                config.serialize_image_pulls,
                config.max_parallel_image_pulls,
            ),
            cgroups=self._cgroups,
            settings=NodeSettings(
                node=self._settings.node.name,
                cluster_domain=config.cluster_domain,
                memory_bytes=self._facts.memory_bytes,
                cgroup_root=config.cgroup_root,
                cgroup_driver=cgroup_driver,
                unified_hierarchy=unified_hierarchy(),
                seccomp_root=str(config.root_dir.absolute() / "seccomp"),
                seccomp_default=config.seccomp_default,
                user_namespaces=user_namespaces,
            ),
            host_ips=(self._settings.address,),
            allocatable=self.node.allocatable,
            services=self._services.list,
            cluster_dns=tuple(config.cluster_dns),
            resolv_conf=config.resolv_conf,
        )

    # -- what they tell each other

    async def _reclaim(self) -> None:
        """Frees what no pod needs of the disks."""
        await self._cleanup.remove_finished()
        await self._images.remove_unused()

    async def _preempt(self, leaving: Iterable[Object]) -> None:
        """Ends pods for a critical one. Returns when nothing of them runs, whether an apiserver hears of it or not."""
        workers = [worker for pod in leaving if (worker := self._workers.get(pods.uid(pod))) is not None]
        for worker in workers:
            if worker.end(preemption.VERDICT):
                message = preemption.VERDICT.message
                self._events.record(worker.pod, "Warning", preemption.VERDICT.reason, message)
        await asyncio.gather(*(worker.stopped.wait() for worker in workers))

    def _wake_node(self) -> None:
        self.node.wake()

    def _refusal(self, pod: Object) -> Verdict | None:
        """Why the node takes no such pod now."""
        if self.shutdown.active:
            return shutdown.REFUSAL
        return admit_under_pressure(pod, self._eviction.conditions()) or admit_apparmor(pod, machine.has_apparmor())

    def _problems(self) -> list[str]:
        """Why pods cannot run here, beyond what the runtime says."""
        problems = [self._lifecycle.problem] if self._lifecycle is not None else []
        if self.shutdown.active:
            problems.append(shutdown.PROBLEM)
        return [problem for problem in problems if problem]

    def _count_pods(self, measures: Measures) -> None:
        static = sum(pods.is_static(pod) for pod in self._workers.pods())
        measures.desired_pods.set(("true",), static)
        measures.desired_pods.set(("",), len(self._workers) - static)
        measures.mirror_pods.set((), len(self._static.mirrors))
