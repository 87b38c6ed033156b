"""The Engine API's JSON → CRI messages, and CRI's filters."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from raykube.cridocker.core import labels
from raykube.pb import cri_pb2

Object = dict[str, Any]

NS = 1_000_000_000


def nanoseconds(text: str) -> int:
    """RFC 3339 with up to nine digits behind the point → nanoseconds of the epoch; 0 for docker's year 1."""
    if not text or text.startswith("0001-"):
        return 0
    seconds, point, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    zone = rest[len(digits) :] if point else ""
    return int(datetime.fromisoformat(seconds + zone).timestamp()) * NS + int(digits[:9].ljust(9, "0") if digits else 0)


def _own(found: Mapping[str, str]) -> dict[str, str]:
    """The labels that CRI gave."""
    ours = {labels.TYPE, labels.SANDBOX, labels.LOG, labels.CONFIG}
    return {key: value for key, value in found.items() if key not in ours}


# -- sandboxes


def sandbox_state(running: bool, connected: bool) -> cri_pb2.PodSandboxState:
    """`connected`: its network is there, or it needs none of its own."""
    return cri_pb2.SANDBOX_READY if running and connected else cri_pb2.SANDBOX_NOTREADY


def sandbox_status(inspected: Object, addresses: list[str], connected: bool) -> cri_pb2.PodSandboxStatus:
    found = inspected["Config"].get("Labels") or {}
    config = labels.sandbox_config(found)
    state = sandbox_state(inspected["State"]["Running"], connected)
    status = cri_pb2.PodSandboxStatus(
        id=inspected["Id"],
        metadata=config.metadata,
        state=state,
        created_at=nanoseconds(inspected["Created"]),
        labels=_own(found),
        annotations=config.annotations,
        network=cri_pb2.PodSandboxNetworkStatus(),
    )
    if state == cri_pb2.SANDBOX_READY and addresses:
        status.network.ip = addresses[0]
        status.network.additional_ips.extend(cri_pb2.PodIP(ip=one) for one in addresses[1:])
    status.linux.namespaces.options.CopyFrom(config.linux.security_context.namespace_options)
    return status


def sandbox_item(row: Object, connected: bool) -> cri_pb2.PodSandbox:
    """Of a row of ContainerList, whose times are whole seconds."""
    found = row.get("Labels") or {}
    config = labels.sandbox_config(found)
    return cri_pb2.PodSandbox(
        id=row["Id"],
        metadata=config.metadata,
        state=sandbox_state(row["State"] == "running", connected),
        created_at=row["Created"] * NS,
        labels=_own(found),
        annotations=config.annotations,
    )


def is_on_host(config: cri_pb2.PodSandboxConfig) -> bool:
    return bool(config.linux.security_context.namespace_options.network == cri_pb2.NODE)


def bridge_addresses(inspected: Object) -> list[str]:
    """A container's addresses in Docker's own networks."""
    found = []
    for network in (inspected.get("NetworkSettings", {}).get("Networks") or {}).values():
        found += [network.get("IPAddress"), network.get("GlobalIPv6Address")]
    return [one for one in found if one]


# -- containers


def container_status(inspected: Object, image_ref: str) -> cri_pb2.ContainerStatus:
    """`image_ref`: the digest by which the image was pulled, or its id."""
    state = inspected["State"]
    found = inspected["Config"].get("Labels") or {}
    config = labels.container_config(found)
    created, started, finished = (
        nanoseconds(text) for text in (inspected["Created"], state["StartedAt"], state["FinishedAt"])
    )
    status = cri_pb2.ContainerStatus(
        id=inspected["Id"],
        metadata=config.metadata,
        state=cri_pb2.CONTAINER_CREATED,
        created_at=created,
        image=config.image,
        image_ref=image_ref,
        image_id=inspected["Image"],
        labels=_own(found),
        annotations=config.annotations,
        mounts=config.mounts,
        log_path=found.get(labels.LOG, ""),
        resources=_resources(inspected["HostConfig"]),
        stop_signal=config.stop_signal,
    )
    if state["Running"]:
        status.state, status.started_at = cri_pb2.CONTAINER_RUNNING, started
    elif finished:
        status.state, status.started_at, status.finished_at = cri_pb2.CONTAINER_EXITED, started, finished
        status.exit_code = state["ExitCode"]
        status.reason = "OOMKilled" if state["OOMKilled"] else "Error" if state["ExitCode"] else "Completed"
        status.message = state["Error"]
    elif state["ExitCode"] or state["Error"]:  # it could not be started, and Docker leaves it as created
        status.state, status.started_at, status.finished_at = cri_pb2.CONTAINER_EXITED, created, created
        status.exit_code, status.reason, status.message = state["ExitCode"], "ContainerCannotRun", state["Error"]
    return status


def _resources(settings: Object) -> cri_pb2.ContainerResources:
    return cri_pb2.ContainerResources(
        linux=cri_pb2.LinuxContainerResources(
            cpu_period=settings.get("CpuPeriod") or 0,
            cpu_quota=settings.get("CpuQuota") or 0,
            cpu_shares=settings.get("CpuShares") or 0,
            memory_limit_in_bytes=settings.get("Memory") or 0,
            memory_swap_limit_in_bytes=max(settings.get("MemorySwap") or 0, 0),
            oom_score_adj=settings.get("OomScoreAdj") or 0,
            cpuset_cpus=settings.get("CpusetCpus") or "",
            cpuset_mems=settings.get("CpusetMems") or "",
        )
    )


_STATES = {
    "created": cri_pb2.CONTAINER_CREATED,
    "running": cri_pb2.CONTAINER_RUNNING,
    "paused": cri_pb2.CONTAINER_RUNNING,
    "restarting": cri_pb2.CONTAINER_RUNNING,
    "removing": cri_pb2.CONTAINER_EXITED,
    "exited": cri_pb2.CONTAINER_EXITED,
    "dead": cri_pb2.CONTAINER_EXITED,
}


def container_item(row: Object, image_ref: str) -> cri_pb2.Container:
    """Of a row of ContainerList. One that could not be started is shown as created; its status tells more."""
    found = row.get("Labels") or {}
    config = labels.container_config(found)
    return cri_pb2.Container(
        id=row["Id"],
        pod_sandbox_id=found.get(labels.SANDBOX, ""),
        metadata=config.metadata,
        image=config.image,
        image_ref=image_ref,
        image_id=row["ImageID"],
        state=_STATES.get(row["State"], cri_pb2.CONTAINER_UNKNOWN),
        created_at=row["Created"] * NS,
        labels=_own(found),
        annotations=config.annotations,
    )


# -- images


def image(inspected: Object) -> cri_pb2.Image:
    """Of a row of ImageList or of ImageInspect, which alone tells the user."""
    found = cri_pb2.Image(
        id=inspected["Id"],
        repo_tags=[tag for tag in inspected.get("RepoTags") or () if tag != "<none>:<none>"],
        repo_digests=[one for one in inspected.get("RepoDigests") or () if one != "<none>@<none>"],
        size=inspected.get("Size") or 0,
        spec=cri_pb2.ImageSpec(image=inspected["Id"]),
    )
    user = ((inspected.get("Config") or {}).get("User") or "").partition(":")[0]
    if user.isdigit():
        found.uid.value = int(user)
    elif user:
        found.username = user
    return found


def split_reference(name: str) -> tuple[str, str]:
    """A reference's name, and its tag or digest, which is `latest` when it names none."""
    if "@" in name:
        base, _, digest = name.partition("@")
        folder, slash, last = base.rpartition("/")
        return folder + slash + last.partition(":")[0], digest
    folder, slash, last = name.rpartition("/")
    base, colon, tag = last.partition(":")
    return folder + slash + base, tag if colon else "latest"


# -- events and usage


_EVENTS = {
    "create": cri_pb2.CONTAINER_CREATED_EVENT,
    "start": cri_pb2.CONTAINER_STARTED_EVENT,
    "die": cri_pb2.CONTAINER_STOPPED_EVENT,
    "destroy": cri_pb2.CONTAINER_DELETED_EVENT,
}


def event(told: Object) -> cri_pb2.ContainerEventResponse | None:
    """A line of docker's events; None for one that CRI has no word for. The pod is known by its labels alone."""
    kind = _EVENTS.get(told.get("Action", ""))
    actor = told.get("Actor") or {}
    found = actor.get("Attributes") or {}
    if kind is None or labels.TYPE not in found:
        return None
    return cri_pb2.ContainerEventResponse(
        container_id=actor["ID"],
        container_event_type=kind,
        created_at=told.get("timeNano") or 0,
        pod_sandbox_status=cri_pb2.PodSandboxStatus(id=found.get(labels.SANDBOX, actor["ID"]), labels=_own({**found})),
    )


def _number(value: int) -> cri_pb2.UInt64Value:
    return cri_pb2.UInt64Value(value=max(value, 0))


def cpu(stats: Object, now_ns: int) -> cri_pb2.CpuUsage:
    used = (stats.get("cpu_stats") or {}).get("cpu_usage") or {}
    return cri_pb2.CpuUsage(timestamp=now_ns, usage_core_nano_seconds=_number(used.get("total_usage") or 0))


def memory(stats: Object, now_ns: int) -> cri_pb2.MemoryUsage:
    """The working set is what is used without file pages that nobody used lately (control groups v1 and v2)."""
    told = stats.get("memory_stats") or {}
    parts = told.get("stats") or {}
    used = told.get("usage") or 0
    limit = told.get("limit") or 0
    working = used - (parts.get("total_inactive_file") or parts.get("inactive_file") or 0)
    found = cri_pb2.MemoryUsage(
        timestamp=now_ns,
        working_set_bytes=_number(working),
        usage_bytes=_number(used),
        rss_bytes=_number(parts.get("total_rss") or parts.get("anon") or 0),
        page_faults=_number(parts.get("total_pgfault") or parts.get("pgfault") or 0),
        major_page_faults=_number(parts.get("total_pgmajfault") or parts.get("pgmajfault") or 0),
    )
    if limit > working:
        found.available_bytes.value = limit - working
    return found


def container_stats(row: Object, stats: Object, now_ns: int, mountpoint: str) -> cri_pb2.ContainerStats:
    """Of a row of ContainerList (with sizes) and ContainerStats."""
    found = row.get("Labels") or {}
    config = labels.container_config(found)
    return cri_pb2.ContainerStats(
        attributes=cri_pb2.ContainerAttributes(
            id=row["Id"], metadata=config.metadata, labels=_own(found), annotations=config.annotations
        ),
        cpu=cpu(stats, now_ns),
        memory=memory(stats, now_ns),
        writable_layer=cri_pb2.FilesystemUsage(
            timestamp=now_ns,
            fs_id=cri_pb2.FilesystemIdentifier(mountpoint=mountpoint),
            used_bytes=_number(row.get("SizeRw") or 0),
        ),
    )


def sandbox_stats(
    row: Object, stats: Object, containers: list[cri_pb2.ContainerStats], now_ns: int
) -> cri_pb2.PodSandboxStats:
    """Of the sandbox's row and ContainerStats, whose network is the pod's, and those of its containers."""
    found = row.get("Labels") or {}
    config = labels.sandbox_config(found)
    own_cpu, own_memory = cpu(stats, now_ns), memory(stats, now_ns)
    linux = cri_pb2.LinuxPodSandboxStats(
        cpu=cri_pb2.CpuUsage(
            timestamp=now_ns,
            usage_core_nano_seconds=_number(
                own_cpu.usage_core_nano_seconds.value + sum(one.cpu.usage_core_nano_seconds.value for one in containers)
            ),
        ),
        memory=cri_pb2.MemoryUsage(
            timestamp=now_ns,
            working_set_bytes=_number(
                own_memory.working_set_bytes.value + sum(one.memory.working_set_bytes.value for one in containers)
            ),
            usage_bytes=_number(own_memory.usage_bytes.value + sum(one.memory.usage_bytes.value for one in containers)),
            rss_bytes=_number(own_memory.rss_bytes.value + sum(one.memory.rss_bytes.value for one in containers)),
        ),
        containers=containers,
    )
    interfaces = [
        cri_pb2.NetworkInterfaceUsage(
            name=name,
            rx_bytes=_number(told.get("rx_bytes") or 0),
            rx_errors=_number(told.get("rx_errors") or 0),
            tx_bytes=_number(told.get("tx_bytes") or 0),
            tx_errors=_number(told.get("tx_errors") or 0),
        )
        for name, told in sorted((stats.get("networks") or {}).items())
    ]
    if interfaces:
        linux.network.timestamp = now_ns
        linux.network.default_interface.CopyFrom(interfaces[0])
        linux.network.interfaces.extend(interfaces[1:])
    return cri_pb2.PodSandboxStats(
        attributes=cri_pb2.PodSandboxAttributes(
            id=row["Id"], metadata=config.metadata, labels=_own(found), annotations=config.annotations
        ),
        linux=linux,
    )
