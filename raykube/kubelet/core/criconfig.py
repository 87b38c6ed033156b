"""Pod → CRI configuration: labels by which a kubelet finds its own again, sandbox, containers."""

import hashlib
import json

from raykube.api import quantity
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.environment import expand
from raykube.kubelet.core.observed import ObservedContainer, ObservedSandbox, State
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.qos import qos_class
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

SHARES_PER_CPU = 1024
QUOTA_PERIOD_US = 100_000
QUOTA_MIN_US = 1000
MESSAGE_PATH_DEFAULT = "/dev/termination-log"
OOM_SCORES = {"Guaranteed": -997, "BestEffort": 1000}


def container_hash(spec: Object) -> str:
    """Changes when a change of the pod must restart the container: only its image may change in place."""
    key = json.dumps([spec["name"], spec.get("image", "")])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def pod_labels(pod: Object, node: str) -> dict[str, str]:
    own = {POD_NAME: pods.name(pod), POD_NAMESPACE: pods.namespace(pod), POD_UID: pods.uid(pod), NODE: node}
    return {**(pod["metadata"].get("labels") or {}), **own}


def hostname(pod: Object) -> str:
    """The pod's host name; empty on the machine's network, whose name it shares."""
    if pods.on_host_network(pod):
        return ""
    return str(pod["spec"].get("hostname") or pods.name(pod))[:63].rstrip("-.")


def dns_config(pod: Object, cluster_dns: list[str], cluster_domain: str) -> cri_pb2.DNSConfig | None:
    """None where the pod resolves names as the machine does."""
    policy = pod["spec"].get("dnsPolicy") or "ClusterFirst"
    own = pod["spec"].get("dnsConfig") or {}
    config = cri_pb2.DNSConfig()
    uses_cluster = policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not pods.on_host_network(pod))
    if uses_cluster and cluster_dns:
        config.servers.extend(cluster_dns)
        if cluster_domain:
            namespace = pods.namespace(pod)
            config.searches.extend([f"{namespace}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain])
        config.options.append("ndots:5")
    elif not own:
        return None
    config.servers.extend(own.get("nameservers") or ())
    config.searches.extend(own.get("searches") or ())
    for option in own.get("options") or ():
        config.options.append(f"{option['name']}:{option['value']}" if option.get("value") else option["name"])
    return config


def _namespaces(pod: Object) -> cri_pb2.NamespaceOption:
    spec = pod["spec"]
    pid = (
        cri_pb2.NODE if spec.get("hostPID") else cri_pb2.POD if spec.get("shareProcessNamespace") else cri_pb2.CONTAINER
    )
    return cri_pb2.NamespaceOption(
        network=cri_pb2.NODE if pods.on_host_network(pod) else cri_pb2.POD,
        pid=pid,
        ipc=cri_pb2.NODE if spec.get("hostIPC") else cri_pb2.POD,
    )


def sandbox_config(
    pod: Object,
    node: str,
    attempt: int,
    log_directory: str,
    dns: cri_pb2.DNSConfig | None,
    cgroup_root: str = "/",
) -> cri_pb2.PodSandboxConfig:
    config = cri_pb2.PodSandboxConfig(
        metadata=cri_pb2.PodSandboxMetadata(
            name=pods.name(pod), namespace=pods.namespace(pod), uid=pods.uid(pod), attempt=attempt
        ),
        hostname=hostname(pod),
        log_directory=log_directory,
        labels=pod_labels(pod, node),
        annotations={**(pod["metadata"].get("annotations") or {}), GRACE: str(pods.grace_s(pod))},
    )
    if dns is not None:
        config.dns_config.CopyFrom(dns)
    for spec in pods.all_containers(pod):
        for port in spec.get("ports") or ():
            if port.get("hostPort"):
                config.port_mappings.append(
                    cri_pb2.PortMapping(
                        protocol=port.get("protocol") or "TCP",
                        container_port=port["containerPort"],
                        host_port=port["hostPort"],
                        host_ip=port.get("hostIP") or "",
                    )
                )
    context = pod["spec"].get("securityContext") or {}
    security = config.linux.security_context
    security.namespace_options.CopyFrom(_namespaces(pod))
    security.privileged = any(
        (spec.get("securityContext") or {}).get("privileged") for spec in pods.all_containers(pod)
    )
    if context.get("runAsUser") is not None:
        security.run_as_user.value = context["runAsUser"]
    if context.get("runAsGroup") is not None:
        security.run_as_group.value = context["runAsGroup"]
    security.supplemental_groups.extend(_groups(context))
    config.linux.cgroup_parent = cgroup_parent(pod, cgroup_root)
    config.linux.sysctls.update({one["name"]: one["value"] for one in context.get("sysctls") or ()})
    return config


def cgroup_parent(pod: Object, root: str = "/") -> str:
    """The pod's control group, below that of its quality of service."""
    qos = qos_class(pod).lower()
    level = "" if qos == "guaranteed" else f"/{qos}"
    return f"{root.rstrip('/')}/kubepods{level}/pod{pods.uid(pod)}"


def _groups(context: Object) -> list[int]:
    groups = list(context.get("supplementalGroups") or ())
    if context.get("fsGroup") is not None:
        groups.append(context["fsGroup"])
    return groups


def resources(pod: Object, spec: Object, memory_capacity: int) -> cri_pb2.LinuxContainerResources:
    requests = (spec.get("resources") or {}).get("requests") or {}
    limits = (spec.get("resources") or {}).get("limits") or {}
    result = cri_pb2.LinuxContainerResources()
    cpu_request = requests.get("cpu", limits.get("cpu", "0"))
    result.cpu_shares = max(quantity.milli(cpu_request) * SHARES_PER_CPU // 1000, 2)
    if "cpu" in limits:
        result.cpu_period = QUOTA_PERIOD_US
        result.cpu_quota = max(quantity.milli(limits["cpu"]) * QUOTA_PERIOD_US // 1000, QUOTA_MIN_US)
    if "memory" in limits:
        result.memory_limit_in_bytes = quantity.value(limits["memory"])
    qos = qos_class(pod)
    if qos in OOM_SCORES:
        result.oom_score_adj = OOM_SCORES[qos]
    else:
        # The more of the machine's memory a pod asked for, the later it is killed.
        share = 1000 * quantity.value(requests.get("memory", "0")) // max(memory_capacity, 1)
        result.oom_score_adj = min(max(1000 - share, 3), 999)
    return result


def _security(pod: Object, spec: Object) -> cri_pb2.LinuxContainerSecurityContext:
    outer = pod["spec"].get("securityContext") or {}
    context = spec.get("securityContext") or {}
    security = cri_pb2.LinuxContainerSecurityContext(
        privileged=bool(context.get("privileged")),
        readonly_rootfs=bool(context.get("readOnlyRootFilesystem")),
        no_new_privs=context.get("allowPrivilegeEscalation") is False,
        namespace_options=_namespaces(pod),
        supplemental_groups=_groups(outer),
    )
    user = context.get("runAsUser", outer.get("runAsUser"))
    if user is not None:
        security.run_as_user.value = user
    group = context.get("runAsGroup", outer.get("runAsGroup"))
    if group is not None:
        security.run_as_group.value = group
    capabilities = context.get("capabilities") or {}
    security.capabilities.add_capabilities.extend(capabilities.get("add") or ())
    security.capabilities.drop_capabilities.extend(capabilities.get("drop") or ())
    profile = context.get("seccompProfile") or outer.get("seccompProfile")
    if profile:
        security.seccomp.CopyFrom(
            cri_pb2.SecurityProfile(profile_type=profile["type"], localhost_ref=profile.get("localhostProfile") or "")
        )
    return security


def container_config(
    pod: Object,
    spec: Object,
    node: str,
    attempt: int,
    environment: dict[str, str | bytes],
    mounts: list[cri_pb2.Mount],
    image: cri_pb2.ImageSpec,
    memory_capacity: int,
) -> cri_pb2.ContainerConfig:
    name = spec["name"]
    texts = {key: value for key, value in environment.items() if isinstance(value, str)}
    lifecycle = spec.get("lifecycle") or {}
    own_labels = {
        POD_NAME: pods.name(pod),
        POD_NAMESPACE: pods.namespace(pod),
        POD_UID: pods.uid(pod),
        CONTAINER_NAME: name,
        NODE: node,
    }
    config = cri_pb2.ContainerConfig(
        metadata=cri_pb2.ContainerMetadata(name=name, attempt=attempt),
        image=image,
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
    config.linux.resources.CopyFrom(resources(pod, spec, memory_capacity))
    config.linux.security_context.CopyFrom(_security(pod, spec))
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
