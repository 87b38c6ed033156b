"""What the machine and the pods of this kubelet use, as values: what statistics, metrics and eviction are made from.

A *point* is one reading with its time. CPU is counted in nanoseconds of a core since the start; a rate needs
two points. Times are seconds since the epoch, sizes bytes; None is what nobody measured.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from raykube.kubelet.core import criconfig
from raykube.pb import cri_pb2


@dataclass(frozen=True, slots=True)
class Cpu:
    at: float
    total_ns: int
    nano_cores: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    at: float
    working_set: int
    usage: int | None = None
    rss: int | None = None
    available: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    swap: int | None = None


@dataclass(frozen=True, slots=True)
class Filesystem:
    """Of a directory only `used` and `inodes_used` are its own; the rest is the file system's below it."""

    at: float
    used: int
    inodes_used: int = 0
    capacity: int = 0
    available: int = 0
    inodes: int = 0
    inodes_free: int = 0


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_errors: int


@dataclass(frozen=True, slots=True)
class Network:
    """The first interface is the default one."""

    at: float
    interfaces: tuple[Interface, ...]


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    id: str
    name: str
    attempt: int
    image: str = ""
    started_at: float = 0.0
    cpu: Cpu | None = None
    memory: Memory | None = None
    rootfs: Filesystem | None = None
    logs: Filesystem | None = None


@dataclass(frozen=True, slots=True)
class PodUsage:
    uid: str
    name: str
    namespace: str
    sandbox_id: str = ""
    started_at: float = 0.0
    cpu: Cpu | None = None
    memory: Memory | None = None
    network: Network | None = None
    processes: int | None = None
    containers: tuple[ContainerUsage, ...] = ()
    volumes: dict[str, Filesystem] = field(default_factory=dict)  # those that are on the machine's disk

    @property
    def disk(self) -> Filesystem | None:
        """All that the pod has on the machine's disk: writable layers, logs, volumes."""
        parts = [part for one in self.containers for part in (one.rootfs, one.logs) if part is not None]
        parts += self.volumes.values()
        if not parts:
            return None
        newest = max(parts, key=lambda part: part.at)
        return replace(
            newest, used=sum(part.used for part in parts), inodes_used=sum(part.inodes_used for part in parts)
        )


@dataclass(frozen=True, slots=True)
class NodeUsage:
    started_at: float
    cpu: Cpu
    memory: Memory
    memory_capacity: int
    filesystem: Filesystem
    image_filesystem: Filesystem
    processes: int
    processes_max: int
    network: Network | None = None
    image_filesystem_is_own: bool = False  # another file system than the one of volumes and logs


@dataclass(frozen=True, slots=True)
class Sample:
    node: NodeUsage
    pods: tuple[PodUsage, ...] = ()

    def pod(self, uid: str) -> PodUsage | None:
        return next((one for one in self.pods if one.uid == uid), None)


# -- out of CRI's messages


def _cpu(message: cri_pb2.CpuUsage) -> Cpu:
    rate = message.usage_nano_cores.value if message.HasField("usage_nano_cores") else None
    return Cpu(message.timestamp / 1e9, message.usage_core_nano_seconds.value, rate or None)


def _memory(message: cri_pb2.MemoryUsage, swap: cri_pb2.SwapUsage | None = None) -> Memory:
    return Memory(
        at=message.timestamp / 1e9,
        working_set=message.working_set_bytes.value,
        usage=message.usage_bytes.value if message.HasField("usage_bytes") else None,
        rss=message.rss_bytes.value if message.HasField("rss_bytes") else None,
        available=message.available_bytes.value if message.HasField("available_bytes") else None,
        page_faults=message.page_faults.value if message.HasField("page_faults") else None,
        major_page_faults=message.major_page_faults.value if message.HasField("major_page_faults") else None,
        swap=swap.swap_usage_bytes.value if swap is not None else None,
    )


def _filesystem(message: cri_pb2.FilesystemUsage) -> Filesystem:
    return Filesystem(message.timestamp / 1e9, message.used_bytes.value, message.inodes_used.value)


def _network(message: cri_pb2.NetworkUsage) -> Network:
    shown = [message.default_interface, *message.interfaces]
    return Network(
        message.timestamp / 1e9,
        tuple(
            Interface(one.name, one.rx_bytes.value, one.rx_errors.value, one.tx_bytes.value, one.tx_errors.value)
            for one in shown
            if one.name
        ),
    )


def container_usage(message: cri_pb2.ContainerStats) -> ContainerUsage:
    swap = message.swap if message.HasField("swap") else None
    return ContainerUsage(
        id=message.attributes.id,
        name=message.attributes.metadata.name,
        attempt=message.attributes.metadata.attempt,
        cpu=_cpu(message.cpu) if message.HasField("cpu") else None,
        memory=_memory(message.memory, swap) if message.HasField("memory") else None,
        rootfs=_filesystem(message.writable_layer) if message.HasField("writable_layer") else None,
    )


def _newest(containers: Iterable[ContainerUsage]) -> tuple[ContainerUsage, ...]:
    """The last run of each container."""
    found: dict[str, ContainerUsage] = {}
    for one in containers:
        known = found.get(one.name)
        if known is None or known.attempt < one.attempt:
            found[one.name] = one
    return tuple(found[name] for name in sorted(found))


def _sum_cpu(containers: Iterable[ContainerUsage]) -> Cpu | None:
    points = [one.cpu for one in containers if one.cpu is not None]
    if not points:
        return None
    return Cpu(max(point.at for point in points), sum(point.total_ns for point in points))


def _sum_memory(containers: Iterable[ContainerUsage]) -> Memory | None:
    points = [one.memory for one in containers if one.memory is not None]
    if not points:
        return None
    return Memory(
        at=max(point.at for point in points),
        working_set=sum(point.working_set for point in points),
        usage=sum(point.usage or 0 for point in points),
        rss=sum(point.rss or 0 for point in points),
        page_faults=sum(point.page_faults or 0 for point in points),
        major_page_faults=sum(point.major_page_faults or 0 for point in points),
    )


def pod_usage(message: cri_pb2.PodSandboxStats) -> PodUsage:
    labels, linux = message.attributes.labels, message.linux
    containers = _newest(map(container_usage, linux.containers))
    return PodUsage(
        uid=labels.get(criconfig.POD_UID, ""),
        name=labels.get(criconfig.POD_NAME, ""),
        namespace=labels.get(criconfig.POD_NAMESPACE, ""),
        sandbox_id=message.attributes.id,
        cpu=_cpu(linux.cpu) if linux.HasField("cpu") else _sum_cpu(containers),
        memory=_memory(linux.memory) if linux.HasField("memory") else _sum_memory(containers),
        network=_network(linux.network) if linux.HasField("network") else None,
        processes=linux.process.process_count.value if linux.HasField("process") else None,
        containers=containers,
    )


def pods_of_containers(messages: Iterable[cri_pb2.ContainerStats]) -> list[PodUsage]:
    """Of a runtime that has no statistics of sandboxes: a pod uses what its containers use."""
    labels: dict[str, dict[str, str]] = {}
    grouped: dict[str, list[ContainerUsage]] = {}
    for message in messages:
        own = message.attributes.labels
        uid = own.get(criconfig.POD_UID, "")
        labels[uid] = dict(own)
        grouped.setdefault(uid, []).append(container_usage(message))
    return [
        PodUsage(
            uid=uid,
            name=labels[uid].get(criconfig.POD_NAME, ""),
            namespace=labels[uid].get(criconfig.POD_NAMESPACE, ""),
            cpu=_sum_cpu(containers := _newest(members)),
            memory=_sum_memory(containers),
            containers=containers,
        )
        for uid, members in grouped.items()
    ]


# -- rates


def _rated(now: Cpu | None, before: Cpu | None) -> Cpu | None:
    if now is None or before is None or now.nano_cores is not None:
        return now
    passed_s = now.at - before.at
    if passed_s <= 0:
        return replace(now, nano_cores=before.nano_cores)
    if now.total_ns < before.total_ns:
        return now  # another run of the container
    return replace(now, nano_cores=int((now.total_ns - before.total_ns) / passed_s))


def with_rates(sample: Sample, before: Sample | None) -> Sample:
    """Fills in the CPU rates that the runtime does not tell, from the sample before."""
    if before is None:
        return sample
    old_pods = {pod.uid: pod for pod in before.pods}
    pods = []
    for pod in sample.pods:
        old = old_pods.get(pod.uid)
        if old is None:
            pods.append(pod)
            continue
        old_containers = {one.id: one.cpu for one in old.containers}
        containers = tuple(replace(one, cpu=_rated(one.cpu, old_containers.get(one.id))) for one in pod.containers)
        pods.append(replace(pod, cpu=_rated(pod.cpu, old.cpu), containers=containers))
    node_cpu = _rated(sample.node.cpu, before.node.cpu)
    assert node_cpu is not None
    return Sample(replace(sample.node, cpu=node_cpu), tuple(pods))
