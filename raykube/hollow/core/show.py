"""What the status of a hollow pod says, as a patch with holes: made once for all pods of a shape in one stage.

    Sight   what is to be shown, and what of it is shown already: conditions that are as they were keep their times

The patch is a strategic one: conditions that others keep on the pod stay theirs.
"""

from hashlib import sha256
from typing import Any, NamedTuple

from raykube.hollow.core.shape import Container, Shape
from raykube.hollow.core.template import Template, hole, number

Object = dict[str, Any]
WAITING, RUNNING, TERMINATED = "waiting", "running", "terminated"
RUNTIME = "containerd"  # what a real machine would say


class Sight(NamedTuple):
    """One look of a pod. `was_*`: as the apiserver shows it now."""

    state: str  # of its containers: WAITING, RUNNING or TERMINATED
    phase: str
    ready: bool = False
    reason: str = ""
    message: str = ""
    exit_code: int = 0
    has_last: bool = False  # containers ended before, and were started again
    was_started: bool = False
    was_ready: bool = False

    @property
    def is_final(self) -> bool:
        """Whether the pod has ended."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def has_started(self) -> bool:
        """Whether its containers run or ran."""
        return self.state != WAITING or self.has_last


def _reason(sight: Sight) -> str:
    if sight.reason:
        return sight.reason
    if sight.state == WAITING:
        return "ContainerCreating"
    return "Completed" if sight.exit_code == 0 else "Error"


def _container_id(index: int) -> str:
    return f"{RUNTIME}://{hole('id')}{index:02x}"


def _image_id(image: str) -> str:
    name = image.partition("@")[0]
    at, colon, tag = name.rpartition(":")
    name = at if colon and "/" not in tag else name
    return f"{name}@sha256:{sha256(image.encode()).hexdigest()}"


def _ended(reason: str, code: int | str, message: str, since: str, end: str, container: str) -> Object:
    ended = {"exitCode": code, "reason": reason, "startedAt": hole(since), "finishedAt": hole(end)}
    if message:
        ended["message"] = message
    return {"terminated": ended | {"containerID": container}}


def _state(sight: Sight, index: int) -> Object:
    if sight.state == WAITING:
        return {WAITING: {"reason": _reason(sight), **({"message": sight.message} if sight.message else {})}}
    if sight.state == RUNNING:
        return {RUNNING: {"startedAt": hole("run")}}
    return _ended(_reason(sight), sight.exit_code, sight.message, "run", "end", _container_id(index))


def _container(spec: Container, index: int, sight: Sight) -> Object:
    status: Object = {
        "name": spec.name,
        "state": _state(sight, index),
        "lastState": {},
        "ready": sight.state == RUNNING and sight.ready,
        "restartCount": number("restarts"),
        "image": spec.image,
        "imageID": _image_id(spec.image) if sight.has_started else "",
        "started": sight.state == RUNNING,
    }
    if sight.has_last:
        last = f"{RUNTIME}://{hole('last_id')}{index:02x}"
        status["lastState"] = _ended(hole("last_reason"), number("last_code"), "", "last_run", "last_end", last)
    if sight.state == WAITING and sight.has_last:
        status["containerID"] = f"{RUNTIME}://{hole('last_id')}{index:02x}"
    elif sight.has_started:
        status["containerID"] = _container_id(index)
    return status


def _init_container(spec: Container, index: int, sight: Sight) -> Object:
    """Init containers end at once when a pod starts; sidecars run as long as its containers."""
    if spec.sidecar:
        return _container(spec, index, sight._replace(has_last=False))
    if not sight.has_started:
        return _container(spec, index, sight._replace(reason="PodInitializing")) | {"started": False}
    done = sight._replace(state=TERMINATED, reason="Completed", exit_code=0, message="", has_last=False)
    ended = _ended("Completed", 0, "", "start", "start", f"{RUNTIME}://{hole('first_id')}{index:02x}")
    status = _container(spec, index, done) | {"state": ended, "ready": True, "restartCount": 0}
    return status | {"containerID": ended["terminated"]["containerID"]}


def _conditions(shape: Shape, sight: Sight) -> list[Object]:
    """The conditions whose status differs from what is shown."""
    found: list[Object] = []

    def say(kind: str, status: bool, reason: str = "", message: str = "") -> None:
        said: Object = {"type": kind, "status": str(status), "lastTransitionTime": hole("now")}
        if shape.generation:
            said["observedGeneration"] = shape.generation
        # null takes away what an earlier status gave as reason.
        found.append(said | {"reason": reason or None, "message": message or None})

    has_network = sight.has_started and not sight.is_final
    if has_network != sight.was_started or not sight.was_started:
        say("PodReadyToStartContainers", has_network)
    if not sight.was_started or sight.is_final:
        names = "" if sight.has_started else " ".join(each.name for each in shape.init)
        if names:
            say("Initialized", False, "ContainersNotInitialized", f"containers with incomplete status: [{names}]")
        else:
            say("Initialized", True, "PodCompleted" if sight.phase == "Succeeded" else "")
    if sight.ready != sight.was_ready or not sight.was_started or sight.is_final:
        reason = message = ""
        if sight.is_final:
            reason = "PodCompleted" if sight.phase == "Succeeded" else "PodFailed"
        elif not sight.ready:
            reason = "ContainersNotReady"
            message = f"containers with unready status: [{' '.join(each.name for each in shape.containers)}]"
        say("ContainersReady", sight.ready, reason, message)
        say("Ready", sight.ready, reason, message)
    if shape.generation and not sight.was_started:
        # Who bound the pod says the rest of it.
        found.append({"type": "PodScheduled", "status": "True", "observedGeneration": shape.generation})
    return found


def patch(shape: Shape, sight: Sight) -> Template:
    """The patch of a pod's status to what `sight` shows.

    Holes: start (of the pod), run, end (of its containers), now, restarts, host, ip; id, first_id, last_id (62
    hexadecimal digits); last_code, last_reason, last_run, last_end.
    """
    status: Object = {
        "phase": sight.phase,
        "conditions": _conditions(shape, sight),
        "hostIP": hole("host"),
        "hostIPs": [{"ip": hole("host")}],
        "startTime": hole("start"),
        "containerStatuses": [_container(spec, index, sight) for index, spec in enumerate(shape.containers)],
    }
    if shape.init:
        first = len(shape.containers)
        status["initContainerStatuses"] = [
            _init_container(spec, first + index, sight) for index, spec in enumerate(shape.init)
        ]
    if sight.has_started:
        status |= {"podIP": hole("ip"), "podIPs": [{"ip": hole("ip")}]}
    if shape.generation:
        status["observedGeneration"] = shape.generation
    return Template({"status": status})
