"""The pods of a Job: which of them count as what, when they ended, and how a new one looks."""

from collections.abc import Sequence
from typing import Any

from raykube.api import deadlines
from raykube.base.clock import parse_rfc3339
from raykube.controllers.core import claims, completions, pods
from raykube.controllers.core.patches import uid_of
from raykube.controllers.core.plan import Obj
from raykube.controllers.core.pods import JOB_FINALIZER

PREFIX = "batch.kubernetes.io/"
FINALIZER = JOB_FINALIZER
INDEX = PREFIX + "job-completion-index"
INDEX_ENV = "JOB_COMPLETION_INDEX"
BACKOFF_INITIAL_S = 10.0
BACKOFF_MAX_S = 600.0


def is_indexed(job: Obj) -> bool:
    """Whether every completion has an index of its own."""
    return bool(job["spec"].get("completionMode") == "Indexed")


def completions_of(job: Obj) -> int | None:
    """`spec.completions`; None when any success completes the Job."""
    value = job["spec"].get("completions")
    return None if value is None else int(value)


def index_of(pod: Obj) -> int | None:
    """The completion index of a pod of an Indexed Job."""
    meta = pod["metadata"]
    text = (meta.get("annotations") or {}).get(INDEX) or (meta.get("labels") or {}).get(INDEX) or ""
    return completions.index_of(text)


def is_tracked(pod: Obj) -> bool:
    """Whether the pod still waits to be counted."""
    return FINALIZER in (pod["metadata"].get("finalizers") or ())


def restarts(pod: Obj) -> int:
    """How often the kubelet has started containers of a pod again that runs or will."""
    if pods.phase(pod) not in ("Running", "Pending"):
        return 0
    status = pod.get("status") or {}
    entries = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return sum(int(entry.get("restartCount", 0)) for entry in entries)


def replaces_only_failed(job: Obj) -> bool:
    """Whether a pod that is being deleted is replaced only when it has really ended."""
    policy = job["spec"].get("podReplacementPolicy")
    return bool(policy == "Failed" or (policy is None and job["spec"].get("podFailurePolicy")))


def counts_as_failed(pod: Obj, job: Obj) -> bool:
    """Failed, or (unless only failed pods are replaced) being deleted before it succeeded."""
    if pods.phase(pod) == "Failed":
        return True
    return not replaces_only_failed(job) and pods.is_terminating(pod) and pods.phase(pod) != "Succeeded"


def ended_at(pod: Obj, now: float) -> float:
    """When the last container ended; the deletion, or the creation, where nothing says so."""
    times = []
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        terminated = (status.get("state") or {}).get("terminated") or {}
        if terminated.get("finishedAt"):
            times.append(parse_rfc3339(terminated["finishedAt"]))
    if times:
        return max(times)
    meta = pod["metadata"]
    for moment in (meta.get("deletionTimestamp"), meta.get("creationTimestamp")):
        if moment:
            return parse_rfc3339(moment)
    return now


def backoff_left_s(job: Obj, owned: Sequence[Obj], succeeded_at: float, now: float) -> float:
    """Seconds until the next pod may be created: 10 s, doubled with every failure since the last success."""
    last_success = max([succeeded_at, *(ended_at(pod, now) for pod in owned if pods.phase(pod) == "Succeeded")])
    failures = [
        moment
        for moment in (ended_at(pod, now) for pod in owned if counts_as_failed(pod, job))
        if moment > last_success
    ]
    if not failures:
        return 0.0
    delay_s = min(BACKOFF_INITIAL_S * 2.0 ** min(len(failures) - 1, 32), BACKOFF_MAX_S)
    return max(0.0, max(failures) + delay_s - now)


def labels_for(job: Obj) -> dict[str, str]:
    """The labels that tie a pod to its Job."""
    uid, name = uid_of(job), job["metadata"]["name"]
    return {"controller-uid": uid, "job-name": name, PREFIX + "controller-uid": uid, PREFIX + "job-name": name}


def selector_of(job: Obj) -> Obj:
    """`spec.selector`, or the one that the apiserver generates."""
    selector: Obj = job["spec"].get("selector") or {}
    return selector if not claims.is_empty(selector) else {"matchLabels": {PREFIX + "controller-uid": uid_of(job)}}


def new_pod(job: Obj, reference: Obj, name: str, index: int | None) -> Obj:
    """A pod of the Job's template, with the finalizer that keeps it until it is counted."""
    pod = pods.from_template(job["spec"].get("template") or {}, reference, job["metadata"].get("namespace", ""), name)
    meta = pod["metadata"]
    meta["labels"] = {**meta.get("labels", {})}
    if not job["spec"].get("manualSelector"):
        meta["labels"] = {**labels_for(job), **meta["labels"]}
    meta["finalizers"] = [*(finalizer for finalizer in meta.get("finalizers", ()) if finalizer != FINALIZER), FINALIZER]
    inherited = deadlines.of_job(job["metadata"].get("annotations") or {})
    if inherited:
        meta["annotations"] = inherited | meta.get("annotations", {})
    if index is not None:
        meta["labels"][INDEX] = str(index)
        meta["annotations"] = {**meta.get("annotations", {}), INDEX: str(index)}
        spec = dict(pod["spec"])
        spec["hostname"] = f"{job['metadata']['name']}-{index}"  # whatever the template says: no two have the same
        for field in ("containers", "initContainers"):
            if spec.get(field):
                spec[field] = [_with_index_env(container) for container in spec[field]]
        pod["spec"] = spec
    return pod


def _with_index_env(container: dict[str, Any]) -> dict[str, Any]:
    env = list(container.get("env") or ())
    if any(variable.get("name") == INDEX_ENV for variable in env):
        return container
    source = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
    return {**container, "env": [*env, {"name": INDEX_ENV, "valueFrom": source}]}
