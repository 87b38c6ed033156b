"""Pod → CRI configuration: labels by which a kubelet finds its own again, sandbox, containers."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.controlgroups import cgroup_parent
from raykube.kubelet.core.dns import Dns
from raykube.kubelet.core.environment import expand
from raykube.kubelet.core.observed import ObservedContainer, ObservedSandbox, State
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.qos import pod_overhead
from raykube.kubelet.core.security import ImageFacts, container_security, sandbox_security
from raykube.kubelet.core.sizes import QUOTA_PERIOD_US, group_limits, quota_us, resources, shares
from raykube.pb import cri_pb2

POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"
NODE = "io.raykube.node"  # only what carries our own node's name is ours to touch
HASH = "io.kubernetes.container.hash"
RESTARTS = "io.kubernetes.container.restartCount"
MESSAGE_PATH = "io.kubernetes.container.terminationMessagePath"
MESSAGE_POLICY = "io.kubernetes.container.terminationMessagePolicy"
GRACE = "io.kubernetes.pod.terminationGracePeriod"

MESSAGE_PATH_DEFAULT = "/dev/termination-log"
HOSTNAME_CHARACTERS_MAX = 63
FULL_NAME_CHARACTERS_MAX = 64


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What of a configuration is the node's."""

    node: str
    cluster_domain: str = "cluster.local"
    memory_bytes: int = 0
    cgroup_root: str = "/"
    cgroup_driver: str = "cgroupfs"
    unified_hierarchy: bool = False  # control groups version 2
    seccomp_root: str = "/var/lib/kubelet/seccomp"
    seccomp_default: bool = False
    user_namespaces: bool = False  # whether the runtime could make them


def container_hash(spec: Object) -> str:
    """Changes when a change of the pod must restart the container: only its image may change in place."""
    key = json.dumps([spec["name"], spec.get("image", "")])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def pod_labels(pod: Object, node: str) -> dict[str, str]:
    own = {POD_NAME: pods.name(pod), POD_NAMESPACE: pods.namespace(pod), POD_UID: pods.uid(pod), NODE: node}
    return {**(pod["metadata"].get("labels") or {}), **own}


def short_hostname(pod: Object) -> str:
    spec = pod["spec"]
    name = spec.get("hostnameOverride") or spec.get("hostname") or pods.name(pod)
    return str(name)[:HOSTNAME_CHARACTERS_MAX].rstrip("-.")


def fully_qualified(pod: Object, cluster_domain: str) -> str:
    """The pod's name with its subdomain; "" for a pod without one."""
    subdomain = pod["spec"].get("subdomain")
    if not subdomain or pod["spec"].get("hostnameOverride"):
        return ""
    domain = f".{cluster_domain}" if cluster_domain else ""
    return f"{short_hostname(pod)}.{subdomain}.{pods.namespace(pod)}.svc{domain}"


def hostname(pod: Object, cluster_domain: str) -> str:
    """The pod's host name; empty on the machine's network, whose name it shares. Raises ValueError for a long one."""
    if pods.on_host_network(pod) and not pod["spec"].get("hostnameOverride"):
        return ""
    full = fully_qualified(pod, cluster_domain)
    if not (pod["spec"].get("setHostnameAsFQDN") and full):
        return short_hostname(pod)
    if len(full) > FULL_NAME_CHARACTERS_MAX:
        raise ValueError(
            f"failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long "
            f"({FULL_NAME_CHARACTERS_MAX} characters is the max, {len(full)} characters requested)"
        )
    return full


def sandbox_config(
    pod: Object, attempt: int, log_directory: str, dns: Dns, settings: NodeSettings
) -> cri_pb2.PodSandboxConfig:
    """Raises ValueError for a host name that cannot be, and for a pod that wants users of its own."""
    if pod["spec"].get("hostUsers") is False:
        who = "this kubelet" if settings.user_namespaces else "runtime"
        raise ValueError(f"can't set `spec.hostUsers: false`, {who} does not support user namespaces")
    config = cri_pb2.PodSandboxConfig(
        metadata=cri_pb2.PodSandboxMetadata(
            name=pods.name(pod), namespace=pods.namespace(pod), uid=pods.uid(pod), attempt=attempt
        ),
        hostname=hostname(pod, settings.cluster_domain),
        log_directory=log_directory,
        labels=pod_labels(pod, settings.node),
        annotations={**(pod["metadata"].get("annotations") or {}), GRACE: str(pods.grace_s(pod))},
        dns_config=cri_pb2.DNSConfig(servers=dns.servers, searches=dns.searches, options=dns.options),
    )
    if not pods.on_host_network(pod):
        config.port_mappings.extend(_port_mappings(pod))
    config.linux.security_context.CopyFrom(sandbox_security(pod))
    config.linux.cgroup_parent = cgroup_parent(pod, settings.cgroup_root, settings.cgroup_driver)
    sysctls = (pod["spec"].get("securityContext") or {}).get("sysctls") or ()
    config.linux.sysctls.update({one["name"]: one["value"] for one in sysctls})
    limits = group_limits(pod)
    config.linux.resources.CopyFrom(
        cri_pb2.LinuxContainerResources(
            cpu_shares=limits.cpu_shares,
            cpu_period=QUOTA_PERIOD_US if limits.cpu_quota_us else 0,
            cpu_quota=limits.cpu_quota_us,
            memory_limit_in_bytes=limits.memory_bytes,
        )
    )
    overhead = pod_overhead(pod)
    if overhead:
        cpu_milli = int(overhead.get("cpu", 0) * 1000)
        config.linux.overhead.CopyFrom(
            cri_pb2.LinuxContainerResources(
                cpu_shares=shares(cpu_milli),
                cpu_period=QUOTA_PERIOD_US if cpu_milli else 0,
                cpu_quota=quota_us(cpu_milli) if cpu_milli else 0,
                memory_limit_in_bytes=int(overhead.get("memory", 0)),
            )
        )
    return config


def _port_mappings(pod: Object) -> list[cri_pb2.PortMapping]:
    lasting = [spec for spec in pods.init_containers(pod) if pods.is_sidecar(spec)] + pods.containers(pod)
    return [
        cri_pb2.PortMapping(
            protocol=port.get("protocol") or "TCP",
            container_port=port["containerPort"],
            host_port=port["hostPort"],
            host_ip=port.get("hostIP") or "",
        )
        for spec in lasting
        for port in spec.get("ports") or ()
        if port.get("hostPort")
    ]


def container_config(
    pod: Object,
    spec: Object,
    attempt: int,
    environment: dict[str, str | bytes],
    mounts: list[cri_pb2.Mount],
    image: ImageFacts,
    settings: NodeSettings,
    target_id: str = "",
) -> cri_pb2.ContainerConfig:
    """`target_id`: the container that an ephemeral one is to look into."""
    name = spec["name"]
    texts = {key: value for key, value in environment.items() if isinstance(value, str)}
    lifecycle = spec.get("lifecycle") or {}
    own_labels = {
        POD_NAME: pods.name(pod),
        POD_NAMESPACE: pods.namespace(pod),
        POD_UID: pods.uid(pod),
        CONTAINER_NAME: name,
        NODE: settings.node,
    }
    config = cri_pb2.ContainerConfig(
        metadata=cri_pb2.ContainerMetadata(name=name, attempt=attempt),
        image=cri_pb2.ImageSpec(image=image.reference, user_specified_image=image.name),
        command=[expand(text, texts) for text in spec.get("command") or ()],
        args=[expand(text, texts) for text in spec.get("args") or ()],
        working_dir=spec.get("workingDir") or "",
        envs=[
            cri_pb2.KeyValue(key=key, value=value.encode() if isinstance(value, str) else value)
            for key, value in environment.items()
        ],
        mounts=mounts,
        labels=own_labels,
        annotations={
            HASH: container_hash(spec),
            RESTARTS: str(attempt),
            MESSAGE_PATH: spec.get("terminationMessagePath") or MESSAGE_PATH_DEFAULT,
            MESSAGE_POLICY: spec.get("terminationMessagePolicy") or "File",
        },
        log_path=f"{name}/{attempt}.log",
        stdin=bool(spec.get("stdin")),
        stdin_once=bool(spec.get("stdinOnce")),
        tty=bool(spec.get("tty")),
    )
    if lifecycle.get("stopSignal"):
        name_on_wire = lifecycle["stopSignal"].replace("+", "PLUS").replace("-", "MINUS")
        config.MergeFrom(cri_pb2.ContainerConfig(stop_signal=name_on_wire))
    config.linux.resources.CopyFrom(resources(pod, spec, settings.memory_bytes, settings.unified_hierarchy))
    config.linux.security_context.CopyFrom(
        container_security(pod, spec, image, settings.seccomp_root, settings.seccomp_default, target_id)
    )
    return config


_STATES = {
    cri_pb2.CONTAINER_CREATED: State.CREATED,
    cri_pb2.CONTAINER_RUNNING: State.RUNNING,
    cri_pb2.CONTAINER_EXITED: State.EXITED,
    cri_pb2.CONTAINER_UNKNOWN: State.UNKNOWN,
}


def observed_container(status: cri_pb2.ContainerStatus, sandbox_id: str) -> ObservedContainer:
    attempt = status.annotations.get(RESTARTS, "")
    return ObservedContainer(
        id=status.id,
        name=status.metadata.name,
        sandbox_id=sandbox_id,
        attempt=int(attempt) if attempt.isdigit() else status.metadata.attempt,
        state=_STATES[status.state],
        created_at=status.created_at / 1e9,
        started_at=status.started_at / 1e9,
        finished_at=status.finished_at / 1e9,
        exit_code=status.exit_code,
        reason=status.reason,
        message=status.message,
        image=status.image.user_specified_image or status.image.image,
        image_id=status.image_ref or status.image_id,
        spec_hash=status.annotations.get(HASH, ""),
    )


def first_process(info: Mapping[str, str]) -> int:
    """Out of a verbose ContainerStatus: `pid`, or what containerd and CRI-O put into the JSON of `info`; 0: neither."""
    try:
        return int(info["pid"]) if "pid" in info else int(json.loads(info["info"])["pid"])
    except (KeyError, TypeError, ValueError):
        return 0


def observed_sandbox(status: cri_pb2.PodSandboxStatus) -> ObservedSandbox:
    return ObservedSandbox(
        id=status.id,
        attempt=status.metadata.attempt,
        ready=status.state == cri_pb2.SANDBOX_READY,
        ip=status.network.ip,
        created_at=status.created_at / 1e9,
    )


def runtime_handlers(status: cri_pb2.StatusResponse) -> tuple[tuple[Object, ...], Object | None]:
    """(runtimeHandlers, features) of a node's status; nothing of a runtime that does not tell."""
    handlers = tuple(
        {
            "name": one.name,
            "features": {
                "recursiveReadOnlyMounts": one.features.recursive_read_only_mounts,
                "userNamespaces": one.features.user_namespaces,
            },
        }
        for one in sorted(status.runtime_handlers, key=lambda each: each.name)
    )
    if not status.HasField("features"):
        return handlers, None
    return handlers, {"supplementalGroupsPolicy": status.features.supplemental_groups_policy}
