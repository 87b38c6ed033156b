"""The kubelet as a service: puts its parts together, follows the pods of its node, a worker for each."""

import asyncio
import fcntl
import functools
import logging
import os
import socket
import time
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from raykube.api import quantity
from raykube.api.resources import builtin
from raykube.api.version import KUBERNETES_VERSION
from raykube.base.clock import rfc3339
from raykube.client.api import ApiClient
from raykube.client.events import EventRecorder
from raykube.client.informer import Informer
from raykube.kubelet import configfile, machine
from raykube.kubelet.cgroups import PodCgroups, unified_hierarchy
from raykube.kubelet.cleanup import Cleanup
from raykube.kubelet.config import Config
from raykube.kubelet.containers import ContainerActions
from raykube.kubelet.core import criconfig, shutdown
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.criconfig import NodeSettings
from raykube.kubelet.core.imagegc import largest
from raykube.kubelet.core.nodestatus import MachineFacts, NodeConfig, parse_header, parse_pairs, parse_taint
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.ranking import admit_under_pressure
from raykube.kubelet.core.staticpods import full_name
from raykube.kubelet.core.status import NodeFacts, Verdict
from raykube.kubelet.core.sysctls import check_allowed
from raykube.kubelet.core.thresholds import Pressure, Threshold, hard_amounts, parse_thresholds
from raykube.kubelet.core.volumespec import image_refusal, makes_recursive_read_only
from raykube.kubelet.cri import Cri
from raykube.kubelet.diskusage import DiskUsage
from raykube.kubelet.eviction import Eviction
from raykube.kubelet.handlers import Handlers
from raykube.kubelet.imagegc import ImageCollector
from raykube.kubelet.images import Images
from raykube.kubelet.lifecycle import Lifecycle
from raykube.kubelet.logind import Logind
from raykube.kubelet.manifests import ManifestFiles, ManifestUrl
from raykube.kubelet.measures import Measures
from raykube.kubelet.mirrors import Mirrors
from raykube.kubelet.node import NodeAgent, reference
from raykube.kubelet.objects import Objects
from raykube.kubelet.reports import Reports
from raykube.kubelet.server import KubeletServer
from raykube.kubelet.shutdown import Shutdown
from raykube.kubelet.statuswriter import StatusWriter
from raykube.kubelet.streams import Streams
from raykube.kubelet.usage import UsageReader
from raykube.kubelet.volumes import Volumes, mounts
from raykube.kubelet.worker import PodWorker, Tools
from raykube.pb import cri_pb2
from raykube.rpc import RpcError, Tls

log = logging.getLogger(__name__)

RUNTIME_RETRY_S_MAX = 5.0
CLEAR_GRACE_S = 5  # for pods of a node that goes
PROCESS_RUNTIME = "raykube-process"


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is there before a runtime answers."""

    client: ApiClient
    cri: Cri
    volumes: Volumes
    objects: Objects
    events: EventRecorder
    statuses: StatusWriter
    handlers: Handlers
    cgroups: PodCgroups
    node: NodeAgent
    services: Informer
    eviction: Eviction
    facts: MachineFacts


class Service:
    """Pods run on while it is stopped; a new one on the same directory and runtime takes them over."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._name = (config.hostname_override or socket.gethostname()).lower()
        self._workers: dict[str, PodWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] | None = None
        self._server: KubeletServer | None = None
        self._node: NodeAgent | None = None
        self._client: ApiClient | None = None
        self._cri: Cri | None = None
        self._address = ""
        self._thresholds: tuple[Threshold, ...] = ()
        self._static: dict[str, Object] = {}  # pods of manifests, by uid
        self._sources: list[ManifestFiles | ManifestUrl] = []
        self._mirrors: Mirrors | None = None
        self._lifecycle: Lifecycle | None = None
        self._stopping = False
        self._shutdown: Shutdown | None = None
        self._shutdown_order: tuple[shutdown.Group, ...] = ()
        self._lock = -1
        self._tools: Tools | None = None
        self._objects: Objects | None = None

    # -- life

    async def start(self) -> None:
        config = self._config = configfile.merged(self._config)
        if not config.api_servers:
            raise ValueError("--api-servers is empty: name at least one apiserver's gRPC address, host:port")
        self._thresholds = parse_thresholds(
            config.eviction_hard,
            config.eviction_soft,
            config.eviction_soft_grace_period,
            config.eviction_minimum_reclaim,
        )
        if config.image_gc_low_threshold >= config.image_gc_high_threshold:
            raise ValueError("--image-gc-low-threshold must be less than --image-gc-high-threshold")
        self._shutdown_order = shutdown.groups(
            config.shutdown_grace_period,
            config.shutdown_grace_period_critical_pods,
            config.shutdown_grace_period_by_pod_priority,
        )
        self._sources = self._manifest_sources()
        node_config = self._node_config()
        check_allowed(config.allowed_unsafe_sysctls)
        self._failed = asyncio.get_running_loop().create_future()
        self._take_directory()
        try:
            await self._start(node_config)
        except BaseException:
            await self.stop()
            raise

    def _node_config(self) -> NodeConfig:
        """Raises ValueError for a flag that makes no sense."""
        config = self._config
        self._address = config.node_ip or machine.own_address(config.api_servers[0])
        capacity = parse_pairs(config.capacity)
        reserved, own = parse_pairs(config.system_reserved), parse_pairs(config.kube_reserved)
        for flag, amounts in (
            ("--capacity", capacity),
            ("--system-reserved", reserved),
            ("--kube-reserved", own),
        ):
            for name, text in amounts.items():
                try:
                    quantity.parse(text)
                except ValueError as error:
                    raise ValueError(f"{flag}: {name}={text}: {error}") from None
        return NodeConfig(
            name=self._name,
            addresses=(self._address,),
            kubelet_version=KUBERNETES_VERSION,
            port=config.port,
            labels=parse_pairs(config.node_labels),
            taints=tuple(parse_taint(text) for text in config.register_with_taints),
            capacity=capacity,
            reserved=(reserved, own),
            kept_free=hard_amounts(self._thresholds),
            max_pods=config.max_pods,
            pod_cidr=config.pod_cidr,
        )

    def _take_directory(self) -> None:
        root = self._config.root_dir
        try:
            root.mkdir(mode=0o755, parents=True, exist_ok=True)
            pods_directory = root / "pods"
            pods_directory.mkdir(exist_ok=True)
            pods_directory.chmod(0o750)  # pods' Secrets lie below, readable for whatever user a container has
        except OSError as error:
            raise OSError(f"cannot make {root}: {error.strerror}; choose another --root-dir") from None
        self._lock = os.open(root / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = -1
            raise OSError(f"another kubelet uses {root}: stop it, or choose another --root-dir") from None

    async def _start(self, node_config: NodeConfig) -> None:
        config = self._config
        facts = machine.read(config.root_dir)
        measures = Measures(self._name)
        self._cri = cri = Cri(
            config.container_runtime_endpoint, self._name, config.runtime_request_timeout, measures.runtime_call
        )
        self._client = client = ApiClient(config.api_servers, self._client_tls())
        events = EventRecorder(client, "kubelet", self._name)
        self._objects = objects = Objects(client, self._refresh_worker)
        volumes = Volumes(config.root_dir, objects, lambda: self._node.node if self._node is not None else {})
        statuses = StatusWriter(client, self._wake_worker)
        handlers = Handlers(cri, KUBERNETES_VERSION.split("+")[0].removeprefix("v"))
        informer = Informer(client, builtin("v1", "Pod"), field_selector=f"spec.nodeName={self._name}")
        services = Informer(client, builtin("v1", "Service"))

        measures.registry.before_render(lambda: self._count_pods(measures))
        disk = DiskUsage(volumes.pods_directory, volumes.logs_directory)
        usage = UsageReader(cri, config.root_dir, disk, self._living)
        reports = Reports(cri, usage, disk, measures, self._name, self._living)
        self._server = KubeletServer(
            cri,
            volumes.log_directory,
            self._pods,
            lambda: self._node is None or self._node.healthy,
            reports,
            Streams(cri, self._pods, config.streaming_connection_idle_timeout),
        )
        node_reference = reference(self._name)
        images = ImageCollector(
            cri,
            usage,
            events,
            node_reference,
            measures,
            config.image_gc_high_threshold,
            config.image_gc_low_threshold,
            config.minimum_image_ttl_duration,
            config.image_maximum_gc_age,
        )
        cgroups = PodCgroups(config.cgroup_root, config.cgroup_driver)
        cleanup = Cleanup(
            cri,
            volumes,
            lambda: set(self._workers),
            lambda: {uid for uid, worker in self._workers.items() if worker.finished},
            config.maximum_dead_containers_per_container,
            config.minimum_container_ttl_duration,
            quantity.value(config.container_log_max_size),
            config.container_log_max_files,
            config.container_log_monitor_interval,
            cgroups,
        )

        async def reclaim() -> None:
            await cleanup.remove_finished()
            await images.remove_unused()

        eviction = Eviction(
            Pressure(self._thresholds, config.eviction_pressure_transition_period),
            config.eviction_max_pod_grace_period,
            config.housekeeping_interval,
            usage,
            disk,
            events,
            node_reference,
            measures,
            lambda: list(self._workers.values()),
            reclaim,
            self._wake_node,
        )
        port = config.port
        if config.tls_cert_file and config.tls_private_key_file and config.client_ca_file:
            try:
                await self._server.start(
                    config.address, port, config.tls_cert_file, config.tls_private_key_file, config.client_ca_file
                )
            except OSError as error:
                raise OSError(
                    f"cannot serve on {config.address}:{port}: {error.strerror or error}; "
                    "is another kubelet running? choose another --port or --address"
                ) from None
            port = self._server.port
        self._node = node = NodeAgent(
            client,
            cri,
            events,
            replace(node_config, port=port),
            facts,
            config.node_status_update_frequency,
            config.node_status_report_frequency,
            config.node_lease_duration_seconds,
            config.register_node,
            pressures=eviction.conditions,
            images=lambda: tuple(largest(images.images, config.node_status_max_images)),
            problems=self._problems,
        )
        parts = _Parts(
            client, cri, volumes, objects, events, statuses, handlers, cgroups, node, services, eviction, facts
        )
        stopping = self._shutdown = Shutdown(
            self._shutdown_order,
            Logind(),
            events,
            node_reference,
            lambda: list(self._workers.values()),
            self._wake_node,
        )
        for work in (
            events.run(),
            statuses.run(),
            node.run(),
            services.run(),
            eviction.run(),
            images.run(),
            stopping.run(),
        ):
            self._spawn(work)
        self._spawn(self._follow_pods(informer, parts, cleanup))

    async def _make_tools(self, parts: "_Parts") -> Tools:
        """What workers work with, once a runtime answers."""
        config = self._config
        runtime_name, driver = await self._await_runtime(parts.cri, parts.volumes)
        driver = driver or config.cgroup_driver
        if driver != config.cgroup_driver:
            log.info("the runtime's cgroup driver is %s", driver)
        parts.cgroups.driver = driver
        if runtime_name == PROCESS_RUNTIME:
            parts.cgroups.enabled = False  # it keeps control groups of its own
        settings = NodeSettings(
            node=self._name,
            cluster_domain=config.cluster_domain,
            memory_bytes=parts.facts.memory_bytes,
            cgroup_root=config.cgroup_root,
            cgroup_driver=driver,
            unified_hierarchy=unified_hierarchy(),
            seccomp_root=str(config.root_dir.absolute() / "seccomp"),
            seccomp_default=config.seccomp_default,
        )
        node = parts.node
        actions = ContainerActions(
            cri=parts.cri,
            volumes=parts.volumes,
            objects=parts.objects,
            events=parts.events,
            statuses=parts.statuses,
            handlers=parts.handlers,
            images=Images(
                parts.cri,
                parts.objects,
                parts.events,
                config.serialize_image_pulls,
                config.max_parallel_image_pulls,
            ),
            cgroups=parts.cgroups,
            settings=settings,
            host_ips=(self._address,),
            allocatable=node.allocatable,
            services=parts.services.list,
            cluster_dns=tuple(config.cluster_dns),
            resolv_conf=config.resolv_conf,
        )
        return Tools(
            client=parts.client,
            cri=parts.cri,
            volumes=parts.volumes,
            events=parts.events,
            statuses=parts.statuses,
            handlers=parts.handlers,
            containers=actions,
            facts=NodeFacts((self._address,), runtime_name),
            sync_s=config.sync_frequency,
            node=lambda: node.node,
            fresh_node=node.refresh,
            refusal=functools.partial(self._refusal, parts.eviction),
            active_pods=self._active_pods,
            unsafe_sysctls=check_allowed(config.allowed_unsafe_sysctls),
            freed=self._wake_deferred,
        )

    async def _await_runtime(self, cri: Cri, volumes: Volumes) -> tuple[str, str]:
        """The runtime's name and the driver of its control groups, however long it takes until one answers.

        Volumes learn what it can mount.
        """
        delay_s = 0.1
        while True:
            try:
                version = await cri.version()
                name = version.runtime_name
                volumes.recursive_read_only = makes_recursive_read_only(await cri.status())
                volumes.image_volumes = image_refusal(name, version.runtime_version)
                driver = await cri.cgroup_driver()
                break
            except RpcError as error:
                if delay_s > RUNTIME_RETRY_S_MAX / 2:
                    log.warning(
                        "no container runtime answers on %s: %s; start it (raykube runtime, or containerd), or set "
                        "--container-runtime-endpoint",
                        self._config.container_runtime_endpoint,
                        error.message,
                    )
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RUNTIME_RETRY_S_MAX)
        if self._config.pod_cidr:
            with suppress(RpcError):  # a runtime with networks of its own need not know
                await cri.set_pod_cidr(self._config.pod_cidr)
        return name, driver

    def _client_tls(self) -> Tls | None:
        config = self._config
        files = (config.kube_cert_file, config.kube_key_file, config.kube_ca_file)
        if not any(files):
            return None
        if not all(files):
            raise ValueError("--kube-cert-file, --kube-key-file and --kube-ca-file go together")
        for path in files:
            if path is not None and not path.is_file():
                raise OSError(f"cannot read {path}: no such file")
        assert config.kube_cert_file is not None
        assert config.kube_key_file is not None
        assert config.kube_ca_file is not None
        return Tls(config.kube_cert_file, config.kube_key_file, config.kube_ca_file)

    async def wait(self) -> None:
        assert self._failed is not None, "start first"
        await asyncio.shield(self._failed)

    async def stop(self) -> None:
        if self._shutdown is not None and self._shutdown_order and await self._shutdown.machine_stops():
            await self._shutdown.end_pods()
        self._shutdown = None
        self._stopping = True
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._workers.clear()
        if self._objects is not None:
            await self._objects.close()
            self._objects = None
        if self._server is not None:
            await self._server.stop()
            self._server = None
        if self._client is not None:
            await self._client.close()
            self._client = None
        if self._cri is not None:
            await self._cri.close()
            self._cri = None
        self._node = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(None)

    async def clear(self) -> None:
        """Ends all pods of this node and takes its volumes off: the machine is no node any more. Needs no start.

        Raises RuntimeError when some may still run; those keep their volumes.
        """
        config = self._config
        cri = Cri(config.container_runtime_endpoint, self._name, config.runtime_request_timeout)
        try:
            sandboxes, containers = await asyncio.gather(cri.sandboxes(), cri.containers())
            results = await asyncio.gather(
                *(_end_sandbox(cri, item.id, containers) for item in sandboxes), return_exceptions=True
            )
        except RpcError as error:
            if self._tools is None or self._tools.facts.runtime_name != PROCESS_RUNTIME:
                raise RuntimeError(f"the runtime does not tell which pods run: {error.message}") from error
            sandboxes, results = [], []  # it is stopped already, and who stopped it ends its processes
        finally:
            await cri.close()
        failed = {item.id: result for item, result in zip(sandboxes, results, strict=True) if result is not None}
        stay = {item.labels.get(criconfig.POD_UID, "") for item in sandboxes if item.id in failed}
        if len(sandboxes) > len(failed):
            log.info("%d pods ended", len(sandboxes) - len(failed))
        await asyncio.to_thread(mounts.detach_pods, config.root_dir, stay)
        if failed:
            reasons = "; ".join(f"{item.metadata.name}: {failed[item.id]}" for item in sandboxes if item.id in failed)
            raise RuntimeError(f"{len(failed)} pods may still run: {reasons}")

    def status(self) -> dict[str, object]:
        node = self._node
        port = self._server.port if self._server is not None else 0
        return {
            "role": "",
            "healthy": node is not None and node.healthy and node.registered.is_set(),
            "detail": f"node {self._name}, {len(self._workers)} pods",
            "addresses": {"https": f"{self._address}:{port}"} if port else {},
        }

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_end)

    def _on_task_end(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        log.critical("the kubelet failed", exc_info=task.exception())
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(task.exception() or RuntimeError("unknown"))

    # -- pods

    async def _follow_pods(self, informer: Informer, parts: "_Parts", cleanup: Cleanup) -> None:
        self._tools = await self._make_tools(parts)
        mirrors = self._mirrors = Mirrors(parts.client, parts.statuses, self._shown_static, lambda: parts.node.node)
        lifecycle = self._lifecycle = Lifecycle(parts.cri, self._wake_worker)
        await asyncio.gather(
            lifecycle.run(),
            cleanup.rotate_forever(),
            *(source.run() for source in self._sources),
            self._follow_api(informer, parts, cleanup, mirrors),
        )

    async def _follow_api(self, informer: Informer, parts: "_Parts", cleanup: Cleanup, mirrors: Mirrors) -> None:
        await parts.node.registered.wait()
        informer_task = asyncio.ensure_future(informer.run())
        try:
            # Pods see the services that exist when they start.
            await asyncio.gather(informer.synced(), parts.services.synced())
            informer.add_handler(self._on_pod)
            await asyncio.gather(informer_task, self._tidy(cleanup, mirrors))
        finally:
            informer_task.cancel()

    async def _tidy(self, cleanup: Cleanup, mirrors: Mirrors) -> None:
        """Removes what belongs to no pod, once every source has told its pods."""
        await asyncio.gather(*(source.seen.wait() for source in self._sources))
        await asyncio.gather(cleanup.tidy_forever(), mirrors.run())

    # -- static pods

    def _manifest_sources(self) -> list[ManifestFiles | ManifestUrl]:
        config = self._config
        found: list[ManifestFiles | ManifestUrl] = []
        if config.pod_manifest_path is not None:
            show = functools.partial(self._on_static, "file")
            found.append(ManifestFiles(config.pod_manifest_path, self._name, config.file_check_frequency, show))
        if config.manifest_url:
            headers = dict(parse_header(text) for text in config.manifest_url_header)
            show = functools.partial(self._on_static, "http")
            found.append(ManifestUrl(config.manifest_url, headers, self._name, config.http_check_frequency, show))
        return found

    def _on_static(self, source: str, found: list[Object]) -> None:
        """A source tells all of its pods."""
        wanted = {pods.uid(pod): pod for pod in found}
        for uid, pod in list(self._static.items()):
            if pod["metadata"]["annotations"][pods.SOURCE] == source and uid not in wanted:
                del self._static[uid]
                self._end_static(uid)
        self._static |= {uid: pod for uid, pod in wanted.items() if uid not in self._static}
        self._start_static()

    def _shown_static(self) -> list[Object]:
        """Those that the API is to show: what runs, until it has ended, and what only waits for its name."""
        running = [worker.pod for worker in self._workers.values() if pods.is_static(worker.pod)]
        names = {full_name(pod) for pod in running}
        return running + [pod for pod in self._static.values() if full_name(pod) not in names]

    def _end_static(self, uid: str) -> None:
        worker = self._workers.get(uid)
        if worker is not None:
            stamp = {"deletionTimestamp": rfc3339(time.time()), "deletionGracePeriodSeconds": pods.grace_s(worker.pod)}
            worker.update(worker.pod | {"metadata": worker.pod["metadata"] | stamp})

    def _start_static(self) -> None:
        """Starts those that do not run, unless another of the same name still does."""
        names = {full_name(worker.pod) for worker in self._workers.values()}
        for uid, pod in self._static.items():
            if uid not in self._workers and full_name(pod) not in names:
                names.add(full_name(pod))
                self._add_worker(pod)
        if self._mirrors is not None:
            self._mirrors.wake()

    # -- pods of the API

    def _on_pod(self, kind: str, old: Object | None, new: Object | None) -> None:
        shown = new if new is not None else old
        if shown is not None and pods.is_mirror(shown):
            assert self._mirrors is not None
            self._mirrors.observe(kind, shown)
            return
        if kind == "DELETED":
            gone = self._workers.get(pods.uid(old)) if old is not None else None
            if gone is not None:
                gone.remove()
            return
        assert new is not None
        if old is not None and pods.uid(old) != pods.uid(new):
            # Deleted and made anew under the same name between two looks.
            self._on_pod("DELETED", old, None)
        worker = self._workers.get(pods.uid(new))
        if worker is not None:
            worker.update(new)
            return
        self._add_worker(new)

    def _add_worker(self, pod: Object) -> None:
        assert self._tools is not None
        worker = self._workers[pods.uid(pod)] = PodWorker(pod, self._tools)
        self._spawn(self._run_worker(worker))

    async def _run_worker(self, worker: PodWorker) -> None:
        try:
            while True:
                try:
                    await worker.run()
                    return
                except Exception:
                    # A bug in one pod's handling must not take the machine's other pods with it.
                    log.exception("pod %s: the worker failed; again in 10 s", pods.full_name(worker.pod))
                    await asyncio.sleep(10)
        finally:
            self._workers.pop(worker.uid, None)
            if not self._stopping:
                self._start_static()
            self._wake_deferred()

    def _wake_deferred(self) -> None:
        """Pods that wait for room to grow look again."""
        for worker in self._workers.values():
            if worker.deferred:
                worker.wake()

    def _wake_worker(self, uid: str) -> None:
        worker = self._workers.get(uid)
        if worker is not None:
            worker.wake()

    def _refresh_worker(self, uid: str) -> None:
        worker = self._workers.get(uid)
        if worker is not None:
            worker.refresh()

    def _pods(self) -> list[Object]:
        return [worker.pod for worker in self._workers.values()]

    def _living(self) -> list[str]:
        return list(self._workers)

    def _refusal(self, eviction: Eviction, pod: Object) -> Verdict | None:
        """Why the node takes no such pod now."""
        if self._shutdown is not None and self._shutdown.active:
            return shutdown.REFUSAL
        return admit_under_pressure(pod, eviction.conditions())

    def _problems(self) -> list[str]:
        """Why pods cannot run here, beyond what the runtime says."""
        problems = [self._lifecycle.problem] if self._lifecycle is not None else []
        if self._shutdown is not None and self._shutdown.active:
            problems.append(shutdown.PROBLEM)
        return [problem for problem in problems if problem]

    def _wake_node(self) -> None:
        if self._node is not None:
            self._node.wake()

    def _count_pods(self, measures: Measures) -> None:
        static = sum(pods.is_static(worker.pod) for worker in self._workers.values())
        measures.desired_pods.set(("true",), static)
        measures.desired_pods.set(("",), len(self._workers) - static)
        measures.mirror_pods.set((), len(self._mirrors) if self._mirrors is not None else 0)

    def _active_pods(self) -> Iterable[Object]:
        return [worker.sized_pod for worker in self._workers.values() if worker.admitted and not worker.finished]


async def _end_sandbox(cri: Cri, sandbox_id: str, containers: Iterable[cri_pb2.Container]) -> None:
    """Raises RpcError. A container that does not stop in time is killed with its sandbox."""
    running = [item for item in containers if item.pod_sandbox_id == sandbox_id]
    stops = (cri.stop_container(item.id, CLEAR_GRACE_S) for item in running if item.state == cri_pb2.CONTAINER_RUNNING)
    for result in await asyncio.gather(*stops, return_exceptions=True):
        if isinstance(result, BaseException):
            log.warning("a container of the sandbox %s does not stop: %s", sandbox_id, result)
    await cri.stop_sandbox(sandbox_id)
    await cri.remove_sandbox(sandbox_id)
