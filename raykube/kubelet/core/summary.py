"""The Summary API: `/stats/summary` out of a sample. Fields and their names are upstream's stats/v1alpha1."""

from raykube.base.clock import rfc3339
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.usage import ContainerUsage, Cpu, Filesystem, Memory, Network, PodUsage, Sample


def _known(**fields: object) -> Object:
    return {name: value for name, value in fields.items() if value is not None}


def _cpu(cpu: Cpu | None) -> Object | None:
    if cpu is None:
        return None
    return _known(time=rfc3339(cpu.at), usageNanoCores=cpu.nano_cores, usageCoreNanoSeconds=cpu.total_ns)


def _memory(memory: Memory | None) -> Object | None:
    if memory is None:
        return None
    return _known(
        time=rfc3339(memory.at),
        availableBytes=memory.available,
        usageBytes=memory.usage,
        workingSetBytes=memory.working_set,
        rssBytes=memory.rss,
        pageFaults=memory.page_faults,
        majorPageFaults=memory.major_page_faults,
    )


def _swap(memory: Memory | None) -> Object | None:
    if memory is None or memory.swap is None:
        return None
    return {"time": rfc3339(memory.at), "swapUsageBytes": memory.swap}


def _filesystem(usage: Filesystem | None, below: Filesystem) -> Object | None:
    """`below` is the file system that a directory lies on."""
    if usage is None:
        return None
    return {
        "time": rfc3339(usage.at),
        "availableBytes": below.available,
        "capacityBytes": below.capacity,
        "usedBytes": usage.used,
        "inodesFree": below.inodes_free,
        "inodes": below.inodes,
        "inodesUsed": usage.inodes_used,
    }


def _network(network: Network | None) -> Object | None:
    if network is None or not network.interfaces:
        return None
    shown = [
        {
            "name": one.name,
            "rxBytes": one.rx_bytes,
            "rxErrors": one.rx_errors,
            "txBytes": one.tx_bytes,
            "txErrors": one.tx_errors,
        }
        for one in network.interfaces
    ]
    return {"time": rfc3339(network.at), **shown[0], "interfaces": shown}


def _container(one: ContainerUsage, sample: Sample) -> Object:
    node = sample.node
    return _known(
        name=one.name,
        startTime=rfc3339(one.started_at),
        cpu=_cpu(one.cpu),
        memory=_memory(one.memory),
        rootfs=_filesystem(one.rootfs, node.image_filesystem),
        logs=_filesystem(one.logs, node.filesystem),
        swap=_swap(one.memory),
    )


def _pod(pod: PodUsage, sample: Sample) -> Object:
    below = sample.node.filesystem
    shown = _known(
        podRef={"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        startTime=rfc3339(pod.started_at),
        containers=[_container(one, sample) for one in pod.containers],
        cpu=_cpu(pod.cpu),
        memory=_memory(pod.memory),
        network=_network(pod.network),
        process_stats=None if pod.processes is None else {"process_count": pod.processes},
    )
    if pod.volumes:
        shown["volume"] = [{**(_filesystem(one, below) or {}), "name": name} for name, one in pod.volumes.items()]
    disk = _filesystem(pod.disk, below)
    if disk is not None:
        shown["ephemeral-storage"] = disk
    return shown


def summary(sample: Sample, node_name: str, only_cpu_and_memory: bool = False) -> Object:
    """`only_cpu_and_memory` as the query of upstream's: nothing of file systems, networks and processes."""
    node = sample.node
    shown: Object = {
        "node": _known(
            nodeName=node_name,
            startTime=rfc3339(node.started_at),
            cpu=_cpu(node.cpu),
            memory=_memory(node.memory),
            network=_network(node.network),
            fs=_filesystem(node.filesystem, node.filesystem),
            runtime={
                "imageFs": _filesystem(node.image_filesystem, node.image_filesystem),
                "containerFs": _filesystem(node.image_filesystem, node.image_filesystem),
            },
            rlimit={"time": rfc3339(node.cpu.at), "maxpid": node.processes_max, "curproc": node.processes},
        ),
        "pods": [_pod(pod, sample) for pod in sample.pods],
    }
    if only_cpu_and_memory:
        shown = {
            "node": _kept(shown["node"]),
            "pods": [
                {**_kept(pod), "podRef": pod["podRef"], "containers": [_kept(one) for one in pod["containers"]]}
                for pod in shown["pods"]
            ],
        }
    return shown


def _kept(shown: Object) -> Object:
    return {key: value for key, value in shown.items() if key in ("nodeName", "name", "startTime", "cpu", "memory")}
