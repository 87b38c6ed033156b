"""The Node object that this kubelet stands for."""

from dataclasses import dataclass, field
from fractions import Fraction

from raykube.api import quantity
from raykube.base.clock import rfc3339
from raykube.kubelet.core.features import NOTHING_KNOWN, Features, labels
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.thresholds import Amount

HOSTNAME = "kubernetes.io/hostname"
# condition → (reason, message) while all is well, and under pressure
PRESSURES = {
    "MemoryPressure": (
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    ),
    "DiskPressure": (
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    ),
    "PIDPressure": (
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
    ),
}


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
    features: Features = NOTHING_KNOWN


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
    reserved: tuple[dict[str, str], ...] = ()  # for the system, and for Kubernetes' own
    kept_free: dict[str, Amount] = field(default_factory=dict)  # by hard eviction
    max_pods: int = 110
    pod_cidr: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether pods can run now, and with what."""

    runtime: str  # "name://version"; "" before it answered once
    problem: str = ""  # "" when all is well
    pressures: frozenset[str] = frozenset()  # conditions that are true
    images: tuple[Object, ...] = ()
    handlers: tuple[Object, ...] = ()  # of RuntimeClasses
    features: Object | None = None


def joined(problems: list[str]) -> str:
    """One problem as it is, several in brackets, as Go's aggregated errors."""
    return problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]" if problems else ""


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


def for_pods(config: NodeConfig, machine: MachineFacts, name: str) -> Fraction:
    """Capacity less what is reserved, of one resource: what pods may use together, eviction or not."""
    total = quantity.parse(capacity(config, machine)[name])
    return Fraction(max(total - sum(quantity.parse(reserved.get(name, "0")) for reserved in config.reserved), 0))


def allocatable(config: NodeConfig, machine: MachineFacts) -> dict[str, str]:
    """Capacity less what is reserved, and less what eviction keeps free; never below zero."""
    result = capacity(config, machine)
    for name, text in result.items():
        total = quantity.parse(text)
        left = total - sum(quantity.parse(reserved[name]) for reserved in config.reserved if name in reserved)
        if name in config.kept_free:
            left -= config.kept_free[name].of(int(total))
        if left != total:
            result[name] = quantity.format_quantity(max(left, 0), quantity.style_of(text))
    return result


def _conditions(health: Health, old: list[Object], now: float) -> list[Object]:
    found = []
    for kind, texts in PRESSURES.items():
        under = kind in health.pressures
        found.append((kind, str(under), *texts[under]))
    if health.problem:
        found.append(("Ready", "False", "KubeletNotReady", health.problem))
    else:
        found.append(("Ready", "True", "KubeletReady", "kubelet is posting ready status"))
    before = {one["type"]: one for one in old}
    result = []
    for kind, status, reason, message in found:
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


def transitions(before: Object, now: Object) -> list[str]:
    """Reasons of the events that tell what changed between two statuses: NodeReady, NodeHasDiskPressure...

    A condition about pressure that is new is told of as well, one about readiness is not.
    """
    was = {one["type"]: one["status"] for one in before.get("conditions") or ()}
    states = []
    for one in now["conditions"]:
        kind, status = one["type"], one["status"]
        if kind in PRESSURES and was.get(kind) != status:
            states.append(PRESSURES[kind][status == "True"][0].replace("Kubelet", "Node", 1))
        elif kind == "Ready" and was.get(kind, status) != status:
            states.append("NodeReady" if status == "True" else "NodeNotReady")
    return states


def without_pressures(status: Object) -> Object:
    return {**status, "conditions": [one for one in status.get("conditions") or () if one["type"] not in PRESSURES]}


def rebooted(before: Object, now: Object) -> bool:
    """Whether the machine began anew between two statuses."""
    known = (before.get("nodeInfo") or {}).get("bootID")
    return bool(known) and known != now["nodeInfo"]["bootID"]


def _extended(status: Object) -> dict[str, str]:
    """The resources that somebody else has stated for the node: those of a domain."""
    return {name: amount for name, amount in (status.get("capacity") or {}).items() if "/" in name}


def node_status(config: NodeConfig, machine: MachineFacts, health: Health, old: Object, now: float) -> Object:
    extended = _extended(old)
    status = {
        **old,
        "addresses": [
            *({"type": "InternalIP", "address": address} for address in config.addresses),
            {"type": "Hostname", "address": config.name},
        ],
        "capacity": extended | capacity(config, machine),
        "allocatable": extended | allocatable(config, machine),
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
        "images": list(health.images),
    }
    if health.handlers:
        status["runtimeHandlers"] = list(health.handlers)
    if health.features is not None:
        status["features"] = health.features
    return status


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
            "labels": default_labels(config, machine) | labels(machine.features, machine.kernel) | config.labels,
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        },
        "spec": spec,
        "status": node_status(config, machine, health, {}, now),
    }


def significant(status: Object) -> Object:
    """A status without its heartbeats, conditions by type: what a change of is worth writing at once."""
    conditions = {
        one["type"]: {name: value for name, value in one.items() if name != "lastHeartbeatTime"}
        for one in status.get("conditions") or ()
    }  # not in their order: a patch leaves each where it stands, and that may be another than ours
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


def parse_header(text: str) -> tuple[str, str]:
    """`name:value`. Raises ValueError."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"invalid header {text!r}: want name:value")
    return name.strip(), value.strip()


def parse_pairs(text: str) -> dict[str, str]:
    """`a=b,c=d`. Raises ValueError."""
    pairs = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise ValueError(f"invalid pair {part!r}: want key=value")
        pairs[key] = value
    return pairs
