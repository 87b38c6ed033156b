"""Resources in the kernel's units: CPU shares and quota, bytes of memory, and who is killed first when it runs out."""

from dataclasses import dataclass

from raykube.api import quantity
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.qos import pod_limits, pod_requests, qos_class
from raykube.pb import cri_pb2

SHARES_PER_CPU = 1024
SHARES_MIN, SHARES_MAX = 2, 262144
QUOTA_PERIOD_US = 100_000
QUOTA_MIN_US = 1000
OOM_SCORES = {"Guaranteed": -997, "BestEffort": 1000}
OOM_SCORE_CRITICAL = -997
SYSTEM_NODE_CRITICAL = 2_000_001_000


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """What a pod's control group is set to; 0: not limited."""

    cpu_shares: int
    cpu_quota_us: int
    memory_bytes: int


def shares(cpu_milli: int) -> int:
    return min(max(cpu_milli * SHARES_PER_CPU // 1000, SHARES_MIN), SHARES_MAX)


def quota_us(cpu_milli: int) -> int:
    return max(cpu_milli * QUOTA_PERIOD_US // 1000, QUOTA_MIN_US)


def group_limits(pod: Object) -> GroupLimits:
    """The sum over the pod; limited only in what all of its containers are limited in."""
    requests, limits = pod_requests(pod), pod_limits(pod)
    return GroupLimits(
        cpu_shares=shares(int(requests.get("cpu", 0) * 1000)),
        cpu_quota_us=quota_us(int(limits["cpu"] * 1000)) if limits.get("cpu") else 0,
        memory_bytes=int(limits.get("memory", 0)),
    )


def oom_score(pod: Object, spec: Object, memory_capacity_bytes: int) -> int:
    if (pod["spec"].get("priority") or 0) >= SYSTEM_NODE_CRITICAL:
        return OOM_SCORE_CRITICAL
    qos = qos_class(pod)
    if qos in OOM_SCORES:
        return OOM_SCORES[qos]

    def score(requests: Object) -> int:
        # The more of the machine's memory it asked for, the later it is killed.
        share = 1000 * quantity.value(requests.get("memory", "0")) // max(memory_capacity_bytes, 1)
        return min(max(1000 - share, 3), 999)

    own = score((spec.get("resources") or {}).get("requests") or {})
    if spec in pods.init_containers(pod) and pods.is_sidecar(spec):  # it does not go before whom it serves
        others = [score((one.get("resources") or {}).get("requests") or {}) for one in pods.containers(pod)]
        own = min([own, *others])
    return own


def resources(
    pod: Object, spec: Object, memory_capacity_bytes: int, unified_hierarchy: bool = False
) -> cri_pb2.LinuxContainerResources:
    requests = (spec.get("resources") or {}).get("requests") or {}
    limits = (spec.get("resources") or {}).get("limits") or {}
    result = cri_pb2.LinuxContainerResources(oom_score_adj=oom_score(pod, spec, memory_capacity_bytes))
    result.cpu_shares = shares(quantity.milli(requests.get("cpu", limits.get("cpu", "0"))))
    if quantity.parse(limits.get("cpu", "0")):
        result.cpu_period = QUOTA_PERIOD_US
        result.cpu_quota = quota_us(quantity.milli(limits["cpu"]))
    if "memory" in limits:
        result.memory_limit_in_bytes = quantity.value(limits["memory"])
    if unified_hierarchy:
        result.unified["memory.oom.group"] = "1"  # all of the container goes, never a part of it
    return result
