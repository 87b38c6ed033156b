"""The Node object that this kubelet stands for."""

from dataclasses import dataclass, field

from raykube.api import quantity
from raykube.base.clock import rfc3339
from raykube.kubelet.core.pod import Object

HOSTNAME = "kubernetes.io/hostname"
CONDITIONS = (
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
)


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What was read from the machine."""

    cpus: int
    memory_bytes: int
    disk_bytes: int
    machine_id: str
    system_uuid: str
    boot_id: str
    kernel: str
    os_image: str
    architecture: str  # Go's name: amd64, arm64


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What was configured."""

    name: str
    addresses: tuple[str, ...]
    kubelet_version: str
    port: int
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[Object, ...] = ()
    capacity: dict[str, str] = field(default_factory=dict)
    reserved: dict[str, str] = field(default_factory=dict)
    max_pods: int = 110
    pod_cidr: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether pods can run now: the runtime's word."""

    runtime: str  # "name://version"; "" before it answered once
    problem: str = ""  # "" when all is well


def default_labels(config: NodeConfig, machine: MachineFacts) -> dict[str, str]:
    return {
        HOSTNAME: config.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": machine.architecture,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": machine.architecture,
    }


def capacity(config: NodeConfig, machine: MachineFacts) -> dict[str, str]:
    found = {
        "cpu": str(machine.cpus),
        "memory": f"{machine.memory_bytes // 1024}Ki",
        "ephemeral-storage": f"{machine.disk_bytes // 1024}Ki",
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
        "pods": str(config.max_pods),
    }
    return found | config.capacity


def allocatable(config: NodeConfig, machine: MachineFacts) -> dict[str, str]:
    """Capacity less what is reserved for the machine itself, never below zero."""
    result = capacity(config, machine)
    for name, text in config.reserved.items():
        if name in result:
            left = max(quantity.parse(result[name]) - quantity.parse(text), 0)
            result[name] = quantity.format_quantity(left, quantity.style_of(result[name]))
    return result


def _conditions(health: Health, old: list[Object], now: float) -> list[Object]:
    ready = ("Ready", "True", "KubeletReady", "kubelet is posting ready status")
    if health.problem:
        ready = ("Ready", "False", "KubeletNotReady", health.problem)
    before = {one["type"]: one for one in old}
    result = []
    for kind, status, reason, message in (*CONDITIONS, ready):
        previous = before.pop(kind, None)
        same = previous is not None and previous.get("status") == status
        result.append(
            {
                "type": kind,
                "status": status,
                "lastHeartbeatTime": rfc3339(now),
                "lastTransitionTime": previous["lastTransitionTime"] if same and previous else rfc3339(now),
                "reason": reason,
                "message": message,
            }
        )
    # Conditions that others keep on the node stay theirs.
    return result + list(before.values())


def node_status(config: NodeConfig, machine: MachineFacts, health: Health, old: Object, now: float) -> Object:
    return {
        **old,
        "addresses": [
            *({"type": "InternalIP", "address": address} for address in config.addresses),
            {"type": "Hostname", "address": config.name},
        ],
        "capacity": capacity(config, machine),
        "allocatable": allocatable(config, machine),
        "conditions": _conditions(health, old.get("conditions") or [], now),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.port}},
        "nodeInfo": {
            "machineID": machine.machine_id,
            "systemUUID": machine.system_uuid,
            "bootID": machine.boot_id,
            "kernelVersion": machine.kernel,
            "osImage": machine.os_image,
            "containerRuntimeVersion": health.runtime or "unknown://",
            "kubeletVersion": config.kubelet_version,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": machine.architecture,
        },
    }


def new_node(config: NodeConfig, machine: MachineFacts, health: Health, now: float) -> Object:
    spec: Object = {}
    if config.taints:
        spec["taints"] = list(config.taints)
    if config.pod_cidr:
        spec["podCIDR"] = config.pod_cidr
        spec["podCIDRs"] = [config.pod_cidr]
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": config.name,
            "labels": default_labels(config, machine) | config.labels,
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        },
        "spec": spec,
        "status": node_status(config, machine, health, {}, now),
    }


def significant(status: Object) -> Object:
    """A status without its heartbeats: what a change of is worth writing at once."""
    conditions = [
        {name: value for name, value in one.items() if name != "lastHeartbeatTime"}
        for one in status.get("conditions") or ()
    ]
    return {**status, "conditions": conditions}


def parse_taint(text: str) -> Object:
    """`key=value:Effect` or `key:Effect`. Raises ValueError."""
    rest, colon, effect = text.rpartition(":")
    if not colon or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
        raise ValueError(
            f"invalid taint {text!r}: want key=value:Effect, Effect being NoSchedule, PreferNoSchedule or NoExecute"
        )
    key, equals, value = rest.partition("=")
    taint = {"key": key, "effect": effect}
    if equals:
        taint["value"] = value
    return taint


def parse_pairs(text: str) -> dict[str, str]:
    """`a=b,c=d`. Raises ValueError."""
    pairs = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise ValueError(f"invalid pair {part!r}: want key=value")
        pairs[key] = value
    return pairs
