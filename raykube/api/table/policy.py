"""Rows of what bounds and places workloads: autoscalers, disruption budgets, priorities, runtimes, devices."""

from raykube.api.table.ages import object_age
from raykube.api.table.columns import (
    AGE,
    NAME,
    NONE,
    UNSET,
    Object,
    Printer,
    flag,
    name_of,
    named_and_aged,
    number,
    shortened,
    spec,
    status,
    text,
)

_UNKNOWN = "<unknown>"
_METRICS_SHOWN = 2
_SOURCES = {
    "Resource": "resource",
    "ContainerResource": "containerResource",
    "Pods": "pods",
    "Object": "object",
    "External": "external",
}


def _metric(kind: str, wanted: Object, current: Object) -> str:
    """One target of an autoscaler: `cpu: 5%/80%`, `100/200 (avg)`."""
    target = wanted.get("target") or {}
    now = current.get("current") or {}
    if kind in ("Resource", "ContainerResource"):
        if target.get("averageValue") is not None:
            return f"{wanted.get('name')}: {now.get('averageValue', _UNKNOWN)}/{target['averageValue']}"
        used = f"{now['averageUtilization']}%" if now.get("averageUtilization") is not None else _UNKNOWN
        limit = target.get("averageUtilization")
        return f"{wanted.get('name')}: {used}/{'<auto>' if limit is None else f'{limit}%'}"
    if target.get("averageValue") is not None:
        average = "" if kind == "Pods" else " (avg)"
        return f"{now.get('averageValue', _UNKNOWN)}/{target['averageValue']}{average}"
    return f"{now.get('value', _UNKNOWN)}/{target.get('value', UNSET)}"


def _targets(obj: Object) -> str:
    metrics, seen = spec(obj).get("metrics") or (), status(obj).get("currentMetrics") or ()
    shown = []
    percent = spec(obj).get("targetCPUUtilizationPercentage")  # autoscaling/v1
    if percent is not None:
        current = {"averageUtilization": status(obj).get("currentCPUUtilizationPercentage")}
        target = {"name": "cpu", "target": {"averageUtilization": percent}}
        shown.append(_metric("Resource", target, {"current": current}))
    for index, metric in enumerate(metrics):
        kind = metric.get("type", "")
        source = _SOURCES.get(kind)
        if source is None:
            shown.append("<unknown type>")
            continue
        current = seen[index].get(source) or {} if index < len(seen) else {}
        shown.append(_metric(kind, metric.get(source) or {}, current))
    return shortened(shown, _METRICS_SHOWN, separator=", ")


def _scaled(obj: Object) -> str:
    reference = spec(obj).get("scaleTargetRef") or {}
    return f"{reference.get('kind', '')}/{reference.get('name', '')}"


def _claim_state(obj: Object) -> str:
    words = ["deleted"] if obj.get("metadata", {}).get("deletionTimestamp") else []
    seen = status(obj)
    if seen.get("allocation") is None:
        words = words or ["pending"]
    else:
        words.append("allocated")
        words.append("reserved" if seen.get("reservedFor") else "")
    return ",".join(filter(None, words))


def _available(obj: Object) -> str:
    for condition in status(obj).get("conditions") or ():
        if condition.get("type") == "Available":
            state: str = condition.get("status", "")
            return state if state == "True" else f"{state} ({condition.get('reason', '')})"
    return "Unknown"


def _backend(obj: Object) -> str:
    service = spec(obj).get("service")
    return f"{service.get('namespace', '')}/{service.get('name', '')}" if service else "Local"


PRINTERS = {
    ("autoscaling", "horizontalpodautoscalers"): named_and_aged(
        (text("Reference", "autoscaling.v2.HorizontalPodAutoscalerSpec:scaleTargetRef"), _scaled),
        (text("Targets", "autoscaling.v2.HorizontalPodAutoscalerSpec:metrics"), _targets),
        (
            text("MinPods", "autoscaling.v2.HorizontalPodAutoscalerSpec:minReplicas"),
            lambda obj: str(spec(obj).get("minReplicas", UNSET)),
        ),
        (
            text("MaxPods", "autoscaling.v2.HorizontalPodAutoscalerSpec:maxReplicas"),
            lambda obj: str(spec(obj).get("maxReplicas", 0)),
        ),
        (
            number("Replicas", "autoscaling.v2.HorizontalPodAutoscalerStatus:currentReplicas"),
            lambda obj: status(obj).get("currentReplicas", 0),
        ),
    ),
    ("policy", "poddisruptionbudgets"): named_and_aged(
        (
            text("Min Available", "The minimum number of pods that must be available."),
            lambda obj: str(spec(obj).get("minAvailable", "N/A")),
        ),
        (
            text("Max Unavailable", "The maximum number of pods that may be unavailable."),
            lambda obj: str(spec(obj).get("maxUnavailable", "N/A")),
        ),
        (
            number("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
            lambda obj: status(obj).get("disruptionsAllowed", 0),
        ),
    ),
    ("scheduling.k8s.io", "priorityclasses"): Printer(
        (
            NAME,
            number("Value", "scheduling.v1.PriorityClass:value"),
            flag("Global-Default", "scheduling.v1.PriorityClass:globalDefault"),
            AGE,
            text("PreemptionPolicy", "scheduling.v1.PriorityClass:preemptionPolicy"),
        ),
        lambda obj, now: [
            name_of(obj),
            obj.get("value", 0),
            bool(obj.get("globalDefault")),
            object_age(obj, now),
            obj.get("preemptionPolicy", "PreemptLowerPriority"),
        ],
    ),
    ("scheduling.k8s.io", "podgroups"): Printer(
        (
            NAME,
            text("Policy", "The scheduling policy of the group: Gang or Basic."),
            text("Workload", "The Workload whose template the group was made of.", wide=True),
            text("Status", "What came of scheduling the group last."),
            AGE,
        ),
        lambda obj, now: [
            name_of(obj),
            "Gang" if "gang" in (spec(obj).get("schedulingPolicy") or {}) else "Basic",
            ((spec(obj).get("podGroupTemplateRef") or {}).get("workload") or {}).get("workloadName") or NONE,
            next(
                (one["reason"] for one in status(obj).get("conditions") or () if one["type"] == "PodGroupScheduled"),
                NONE,
            ),
            object_age(obj, now),
        ],
    ),
    ("scheduling.k8s.io", "workloads"): named_and_aged(),
    ("node.k8s.io", "runtimeclasses"): named_and_aged(
        (text("Handler", "node.v1.RuntimeClass:handler"), lambda obj: obj.get("handler", ""))
    ),
    ("resource.k8s.io", "deviceclasses"): named_and_aged(),
    ("resource.k8s.io", "resourceclaims"): named_and_aged(
        (
            text("State", "A summary of the current state (allocated, pending, reserved, etc.)."),
            _claim_state,
        )
    ),
    ("resource.k8s.io", "resourceclaimtemplates"): named_and_aged(),
    ("resource.k8s.io", "resourceslices"): named_and_aged(
        (text("Node", "resource.v1.ResourceSliceSpec:nodeName"), lambda obj: spec(obj).get("nodeName") or NONE),
        (text("Driver", "resource.v1.ResourceSliceSpec:driver"), lambda obj: spec(obj).get("driver", "")),
        (
            text("Pool", "resource.v1.ResourcePool:name"),
            lambda obj: (spec(obj).get("pool") or {}).get("name", ""),
        ),
    ),
    ("apiregistration.k8s.io", "apiservices"): named_and_aged(
        (text("Service", "The reference to the service that hosts this API endpoint."), _backend),
        (text("Available", "Whether this service is available."), _available),
    ),
    ("autoscaling", "scales"): named_and_aged(
        (number("Desired", "autoscaling.v1.ScaleSpec:replicas"), lambda obj: spec(obj).get("replicas", 0)),
        (number("Available", "autoscaling.v1.ScaleStatus:replicas"), lambda obj: status(obj).get("replicas", 0)),
    ),
}
