"""A pod's status, from what the runtime shows: phase, conditions, container statuses.

Pure: the same inputs give the same status, so that a status is written only when something changed. Times of
transitions come from the status before.
"""

from dataclasses import dataclass, field

from raykube.base.clock import rfc3339
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.observed import ObservedContainer, ObservedPod, State
from raykube.kubelet.core.plan import Waiting
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.probes import ProbeResults
from raykube.kubelet.core.qos import qos_class
from raykube.kubelet.core.restartrules import is_old, restarts_all_at, should_restart

RESTARTING = "AllContainersRestarting"
POD_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
RESIZE_CONDITIONS = ("PodResizePending", "PodResizeInProgress")
LOST_MESSAGE = "The container could not be located when the pod was terminated"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What of a status is the node's."""

    host_ips: tuple[str, ...]
    runtime_name: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision about the pod as a whole: rejected, past its deadline, evicted."""

    phase: str
    reason: str
    message: str
    disruption: str = ""  # reason of the DisruptionTarget condition, for a pod that is ended and not by its own doing
    grace_s: int | None = None  # at most so long to end
    disruption_message: str = ""  # of that condition, where it is another


@dataclass(slots=True)
class Inputs:
    pod: Object
    observed: ObservedPod
    probes: ProbeResults
    waiting: dict[str, Waiting] = field(default_factory=dict)  # by container: why it is not started
    messages: dict[str, str] = field(default_factory=dict)  # by container id: its termination message
    verdict: Verdict | None = None
    stopped: bool = False  # everything was stopped for good: what did not end did so unseen
    started_at: float = 0.0
    allocated: dict[str, Object] = field(default_factory=dict)  # by container: the resources that it was promised
    applied: dict[str, Object] = field(default_factory=dict)  # by container id: the resources that it has
    resize: list[Object] = field(default_factory=list)  # conditions of a resize under way


def _time(seconds: float) -> str:
    """Of a container that never started, the beginning of time: an absent one is shown as the year 1."""
    return rfc3339(max(seconds, 0))


def _terminated(inputs: Inputs, run: ObservedContainer, node: NodeFacts) -> Object:
    code = run.exit_code
    state: Object = {
        "exitCode": code,
        "reason": run.reason or ("Completed" if code == 0 else "Error"),
        "startedAt": _time(run.started_at),
        "containerID": f"{node.runtime_name}://{run.id}",
    }
    if run.finished_at:  # nobody knows when a lost one did; a Job would reckon with any time that stood here
        state["finishedAt"] = _time(run.finished_at)
    message = run.message or inputs.messages.get(run.id, "")
    if message:
        state["message"] = message
    return state


def _lost() -> Object:
    return {
        "exitCode": 137,
        "reason": "ContainerStatusUnknown",
        "message": LOST_MESSAGE,
        "startedAt": None,
        "finishedAt": None,
    }


def _container_status(inputs: Inputs, spec: Object, default_reason: str, init: bool, node: NodeFacts) -> Object:
    name = spec["name"]
    history = inputs.observed.history(name)
    latest = history[0] if history else None
    waiting = inputs.waiting.get(name)
    status: Object = {
        "name": name,
        "state": {},
        "lastState": {},
        "ready": False,
        "restartCount": latest.attempt if latest else 0,
        "image": latest.image if latest else spec.get("image", ""),
        "imageID": latest.image_id if latest else "",
        "started": False,
    }
    requests = inputs.allocated.get(name, {}).get("requests")
    if requests:
        status["allocatedResources"] = requests
    if latest is not None:
        status["containerID"] = f"{node.runtime_name}://{latest.id}"
    if len(history) > 1 and history[1].state is State.EXITED:
        status["lastState"] = {"terminated": _terminated(inputs, history[1], node)}
    if latest is not None and latest.state is State.RUNNING:
        status["state"] = {"running": {"startedAt": _time(latest.started_at)}}
        status["started"] = inputs.probes.started(spec, latest.id)
        status["ready"] = inputs.probes.ready(spec, latest.id) and (not init or pods.is_sidecar(spec))
        if latest.id in inputs.applied:
            status["resources"] = inputs.applied[latest.id]
    elif latest is not None and latest.state is State.EXITED:
        terminated = {"terminated": _terminated(inputs, latest, node)}
        restarts = should_restart(inputs.pod, spec, latest.exit_code) and not inputs.stopped
        if waiting is not None and restarts and inputs.verdict is None:
            status["state"] = {"waiting": {"reason": waiting.reason, "message": waiting.message}}
            status["lastState"] = terminated
        else:
            status["state"] = terminated
            status["ready"] = init and not pods.is_sidecar(spec) and latest.exit_code == 0
    elif inputs.stopped and latest is not None:
        status["state"] = {"terminated": _lost()}
    elif waiting is not None:
        status["state"] = {"waiting": {"reason": waiting.reason, "message": waiting.message}}
    else:
        status["state"] = {"waiting": {"reason": default_reason}}
    if init and not pods.is_sidecar(spec):
        status.pop("started")
        if "running" in status["state"] or "terminated" in status["state"]:
            status["started"] = "running" in status["state"]
    return status


def _ephemeral_status(inputs: Inputs, spec: Object, node: NodeFacts) -> Object:
    """It runs once, and is never waited for."""
    status = _container_status(inputs, spec, "ContainerCreating", False, node)
    if status["lastState"]:  # a start that failed is its end
        status["state"], status["lastState"] = status["lastState"], {}
    return status | {"ready": False}


def _initialized(inputs: Inputs) -> bool:
    """Whether every init container has done its part."""
    for spec in pods.containers(inputs.pod):
        if inputs.observed.latest(spec["name"]) is not None:
            return True
    for spec in pods.init_containers(inputs.pod):
        latest = inputs.observed.latest(spec["name"])
        if latest is None:
            return False
        if pods.is_sidecar(spec):
            if latest.state is not State.RUNNING or not inputs.probes.started(spec, latest.id):
                return False
        elif latest.state is not State.EXITED or latest.exit_code != 0:
            return False
    return True


def _phase(inputs: Inputs, init_statuses: list[Object], statuses: list[Object], initialized: bool) -> str:
    if inputs.verdict is not None:
        # Nobody may take a pod for ended, and its place for free, while anything of it runs.
        return pods.phase(inputs.pod) if inputs.observed.running else inputs.verdict.phase
    if pods.is_terminal(inputs.pod):
        return pods.phase(inputs.pod)  # a phase that is final stays
    running = waiting = stopped = succeeded = 0
    goes_on = _restarting(inputs) == "True"
    for spec, status in zip(pods.containers(inputs.pod), statuses, strict=True):
        state = status["state"]
        ended = state.get("terminated") or status["lastState"].get("terminated")
        if "running" in state:
            running += 1
        elif ended:
            stopped += 1
            succeeded += "terminated" in state and ended["exitCode"] == 0
            goes_on = goes_on or should_restart(inputs.pod, spec, ended["exitCode"])
        else:
            waiting += 1
    any_running = running or any("running" in status["state"] for status in init_statuses)
    if not initialized:
        codes = (
            (spec, status["state"].get("terminated", {}).get("exitCode", 0))
            for spec, status in zip(pods.init_containers(inputs.pod), init_statuses, strict=True)
        )
        failed = any(code != 0 and not should_restart(inputs.pod, spec, code) for spec, code in codes)
        if failed and not any_running:
            return "Failed"
        return "Failed" if inputs.stopped else "Pending"
    if waiting:
        return "Failed" if inputs.stopped else "Pending"
    if any_running or (goes_on and not inputs.stopped):
        return "Running"
    return "Succeeded" if stopped == succeeded else "Failed"


def _restarting(inputs: Inputs) -> str:
    """Whether all containers restart ("True"), or did so and run again ("False"); "" where that never was."""
    at = restarts_all_at(inputs.pod, inputs.observed)
    if not at:
        return ""
    return str(any(is_old(inputs.observed.latest(spec["name"]), at) for spec in pods.all_containers(inputs.pod)))


def _unready(statuses: list[Object]) -> str:
    names = [status["name"] for status in statuses if not status["ready"]]
    return f"containers with unready status: [{' '.join(names)}]" if names else ""


def _conditions(
    inputs: Inputs, phase: str, init_statuses: list[Object], statuses: list[Object], initialized: bool
) -> list[Object]:
    specs = zip(pods.init_containers(inputs.pod), init_statuses, strict=True)
    sidecars = [status for spec, status in specs if pods.is_sidecar(spec)]
    found: dict[str, tuple[str, str, str]] = {}

    sandbox = inputs.observed.ready_sandbox
    has_network = sandbox is not None and (bool(sandbox.ip) or pods.on_host_network(inputs.pod))
    found["PodReadyToStartContainers"] = ("True" if has_network else "False", "", "")

    if phase == "Succeeded":
        found["Initialized"] = ("True", "PodCompleted", "")
    elif initialized:
        found["Initialized"] = ("True", "", "")
    else:
        names = [status["name"] for status in init_statuses if not status["ready"]]
        message = f"containers with incomplete status: [{' '.join(names)}]"
        found["Initialized"] = ("False", "ContainersNotInitialized", message)

    if phase == "Succeeded":
        found["ContainersReady"] = ("False", "PodCompleted", "")
    elif phase == "Failed":
        found["ContainersReady"] = ("False", "PodFailed", "")
    else:
        message = _unready(sidecars + statuses)
        found["ContainersReady"] = ("False", "ContainersNotReady", message) if message else ("True", "", "")

    found["Ready"] = found["ContainersReady"]
    if found["Ready"][0] == "True":
        missing = _missing_gates(inputs.pod)
        if missing:
            found["Ready"] = ("False", "ReadinessGatesNotReady", ", ".join(missing))
    found["PodScheduled"] = ("True", "", "")
    kinds: tuple[str, ...] = POD_CONDITIONS
    restarting = _restarting(inputs)
    if restarting:
        found[RESTARTING] = (restarting, "", "")
        kinds = (*kinds, RESTARTING)
    if inputs.verdict is not None and inputs.verdict.disruption:
        found["DisruptionTarget"] = (
            "True",
            inputs.verdict.disruption,
            inputs.verdict.disruption_message or inputs.verdict.message,
        )
        kinds = (*kinds, "DisruptionTarget")
    return [condition(kind, *found[kind]) for kind in kinds]


def _missing_gates(pod: Object) -> list[str]:
    conditions = {one["type"]: one for one in (pod.get("status") or {}).get("conditions") or ()}
    missing = []
    for gate in pod["spec"].get("readinessGates") or ():
        kind = gate["conditionType"]
        if kind not in conditions:
            missing.append(f'corresponding condition of pod readiness gate "{kind}" does not exist.')
        elif conditions[kind].get("status") != "True":
            missing.append(f'the status of pod readiness gate "{kind}" is not "True", but {conditions[kind]["status"]}')
    return missing


def condition(kind: str, status: str, reason: str, message: str) -> Object:
    """One condition, without its times."""
    found: Object = {"type": kind, "status": status, "lastProbeTime": None}
    if reason:
        found["reason"] = reason
    if message:
        found["message"] = message
    return found


def _merge_conditions(old: list[Object], new: list[Object], now: float) -> list[Object]:
    """New conditions with the times of old ones where the status is the same; those of others stay."""
    before = {one["type"]: one for one in old}
    merged = []
    for one in new:
        previous = before.pop(one["type"], None)
        same = previous is not None and previous.get("status") == one["status"]
        since = previous.get("lastTransitionTime") if same and previous is not None else None
        merged.append(one | {"lastTransitionTime": since or rfc3339(now)})
    return merged + [one for kind, one in before.items() if kind not in RESIZE_CONDITIONS]


def pod_status(inputs: Inputs, node: NodeFacts, now: float) -> Object:
    """The whole status of a pod."""
    pod = inputs.pod
    old = pod.get("status") or {}
    initialized = _initialized(inputs)
    waiting_for = "ContainerCreating" if initialized or not pods.init_containers(pod) else "PodInitializing"
    init_statuses = [
        _container_status(inputs, spec, "PodInitializing", True, node) for spec in pods.init_containers(pod)
    ]
    statuses = [_container_status(inputs, spec, waiting_for, False, node) for spec in pods.containers(pod)]
    phase = _phase(inputs, init_statuses, statuses, initialized)
    generation = pod["metadata"].get("generation")
    seen = {"observedGeneration": generation} if generation else {}
    conditions = _conditions(inputs, phase, init_statuses, statuses, initialized) + inputs.resize
    status: Object = seen | {
        "phase": phase,
        "conditions": _merge_conditions(old.get("conditions") or [], [seen | one for one in conditions], now),
        "qosClass": old.get("qosClass") or qos_class(pod),
        "startTime": old.get("startTime") or rfc3339(inputs.started_at or now),
        "hostIP": node.host_ips[0],
        "hostIPs": [{"ip": ip} for ip in node.host_ips],
    }
    if statuses:
        status["containerStatuses"] = statuses
    if init_statuses:
        status["initContainerStatuses"] = init_statuses
    ephemeral = [_ephemeral_status(inputs, spec, node) for spec in pods.ephemeral_containers(pod)]
    if ephemeral:
        status["ephemeralContainerStatuses"] = ephemeral
    address = pod_address(inputs.observed, pod, node) or old.get("podIP", "")
    if address:
        status["podIP"] = address
        status["podIPs"] = [{"ip": address}]
    if inputs.verdict is not None and phase == inputs.verdict.phase:
        status["reason"] = inputs.verdict.reason
        status["message"] = inputs.verdict.message
    else:
        for name in ("reason", "message"):
            if old.get(name):
                status[name] = old[name]
    for name in ("nominatedNodeName", "resourceClaimStatuses"):
        if old.get(name):
            status[name] = old[name]
    return status


def held_back(status: Object, old: Object) -> Object:
    """A status whose phase is final, with the phase of before: others must not take for free what the pod still has."""
    told = {name: value for name in ("reason", "message") if (value := old.get(name))}
    rest = {name: value for name, value in status.items() if name not in ("phase", "reason", "message")}
    return rest | {"phase": old.get("phase") or "Pending"} | told


def pod_address(observed: ObservedPod, pod: Object, node: NodeFacts) -> str:
    sandbox = observed.sandbox
    if sandbox is None:
        return ""
    return node.host_ips[0] if pods.on_host_network(pod) else sandbox.ip
