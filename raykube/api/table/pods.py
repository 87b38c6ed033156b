"""Rows of pods: the STATUS column is the one people debug by, so every case of upstream's is here.

STATUS starts as the pod's phase (or status.reason) and is overruled by, in this order: a scheduling gate, the first
init container that is not done, the last container that waits or has ended, deletion."""

from typing import Any

from raykube.api.table.ages import age, object_age
from raykube.api.table.columns import (
    AGE,
    IMAGES,
    NAME,
    NONE,
    Object,
    Printer,
    condition_is_true,
    container_cells,
    labels_text,
    name_of,
    spec,
    status,
    text,
)

_COLUMNS = (
    NAME,
    text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    text("Status", "The aggregate status of the containers in this pod."),
    text(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod "
        "has restarted.",
    ),
    AGE,
    text("IP", "core.v1.PodStatus:podIP", wide=True),
    text("Node", "core.v1.PodSpec:nodeName", wide=True),
    text("Nominated Node", "core.v1.PodStatus:nominatedNodeName", wide=True),
    text("Readiness Gates", "core.v1.PodSpec:readinessGates", wide=True),
)

_ENDED = {
    "Succeeded": [
        {
            "type": "Completed",
            "status": "True",
            "reason": "Succeeded",
            "message": "The pod has completed successfully.",
        }
    ],
    "Failed": [{"type": "Completed", "status": "True", "reason": "Failed", "message": "The pod failed."}],
}


def row_conditions(pod: Object) -> list[dict[str, str]]:
    """The conditions of a pod's row: clients grey out what has ended."""
    return _ENDED.get(status(pod).get("phase", ""), [])


class _Restarts:
    """How often, and when last. Times are RFC 3339 of one form, so the later is the greater text."""

    def __init__(self) -> None:
        self.count = 0
        self.last = ""

    def add(self, container: Object) -> None:
        self.count += container.get("restartCount") or 0
        ended = (container.get("lastState") or {}).get("terminated") or {}
        self.last = max(self.last, ended.get("finishedAt") or "")

    def cell(self, now: float) -> str:
        return f"{self.count} ({age(self.last, now)} ago)" if self.count and self.last else str(self.count)


def _ending(terminated: Object) -> str:
    """Why a container ended, in one word."""
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def summary(pod: Object, now: float) -> tuple[str, str, str]:
    """READY, STATUS and RESTARTS of a pod."""
    wanted, seen = spec(pod), status(pod)
    reason = seen.get("reason") or seen.get("phase") or ""
    for condition in seen.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "SchedulingGated":
            reason = "SchedulingGated"
    inits = wanted.get("initContainers") or ()
    sidecars = {each.get("name") for each in inits if each.get("restartPolicy") == "Always"}
    total = len(wanted.get("containers") or ()) + len(sidecars)

    restarts, sidecar_restarts = _Restarts(), _Restarts()
    ready = 0
    initializing = False
    for position, container in enumerate(seen.get("initContainerStatuses") or ()):
        sidecar = container.get("name") in sidecars
        restarts.add(container)
        if sidecar:
            sidecar_restarts.add(container)
        state = container.get("state") or {}
        terminated, waiting = state.get("terminated"), state.get("waiting") or {}
        if terminated is not None and not terminated.get("exitCode"):
            continue
        if sidecar and container.get("started"):
            ready += bool(container.get("ready"))
            continue
        if terminated is not None:
            reason = "Init:" + _ending(terminated)
        elif waiting.get("reason") and waiting["reason"] != "PodInitializing":
            reason = "Init:" + waiting["reason"]
        else:
            reason = f"Init:{position}/{len(inits)}"
        initializing = True
        break

    if not initializing or condition_is_true(pod, "Initialized"):
        restarts = sidecar_restarts
        running = False
        for container in reversed(seen.get("containerStatuses") or ()):
            restarts.add(container)
            state = container.get("state") or {}
            waiting, terminated = state.get("waiting") or {}, state.get("terminated")
            if waiting.get("reason"):
                reason = waiting["reason"]
            elif terminated is not None:
                reason = _ending(terminated)
            elif container.get("ready") and state.get("running") is not None:
                running = True
                ready += 1
        if reason == "Completed" and running:
            reason = "Running" if condition_is_true(pod, "Ready") else "NotReady"

    if pod.get("metadata", {}).get("deletionTimestamp"):
        if seen.get("reason") == "NodeLost":
            reason = "Unknown"
        elif seen.get("phase") not in _ENDED:
            reason = "Terminating"
    return f"{ready}/{total}", reason, restarts.cell(now)


def _gates(pod: Object) -> str:
    gates = spec(pod).get("readinessGates") or ()
    if not gates:
        return NONE
    return f"{sum(condition_is_true(pod, each.get('conditionType', '')) for each in gates)}/{len(gates)}"


def _cells(pod: Object, now: float) -> list[Any]:
    seen = status(pod)
    addresses = seen.get("podIPs") or ()
    address = addresses[0].get("ip") if addresses else seen.get("podIP")
    return [
        name_of(pod),
        *summary(pod, now),
        object_age(pod, now),
        address or NONE,
        spec(pod).get("nodeName") or NONE,
        seen.get("nominatedNodeName") or NONE,
        _gates(pod),
    ]


_TEMPLATE_COLUMNS = (
    NAME,
    text("Containers", "Names of each container in the template."),
    text("Images", IMAGES.about),
    text("Pod Labels", "The labels for the pod template."),
)


def _template_cells(obj: Object, now: float) -> list[Any]:
    template = obj.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels")
    return [name_of(obj), *container_cells(template.get("spec") or {}), labels_text(labels)]


PRINTERS = {
    ("", "pods"): Printer(_COLUMNS, _cells),
    ("", "podtemplates"): Printer(_TEMPLATE_COLUMNS, _template_cells),
}
