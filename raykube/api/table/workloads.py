"""Rows of what makes pods: Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs, their revisions."""

from typing import Any

from raykube.api.label_selectors import LabelSelector
from raykube.api.table.ages import age, human_duration, object_age
from raykube.api.table.columns import (
    AGE,
    CONTAINERS,
    IMAGES,
    NAME,
    NONE,
    UNSET,
    Object,
    Printer,
    condition_is_true,
    container_cells,
    flag,
    labels_text,
    name_of,
    named_and_aged,
    number,
    spec,
    status,
    template_spec,
    text,
)
from raykube.base.clock import parse_rfc3339


def selector_text(selector: Object | None) -> str:
    """A label selector object as text; `<none>` where it selects everything or nothing."""
    try:
        return str(LabelSelector.from_object(selector)) or NONE
    except ValueError:
        return "<error>"


def _selector(about: str) -> Any:
    return text("Selector", about, wide=True)


def _wide(obj: Object) -> list[str]:
    return [*container_cells(template_spec(obj)), selector_text(spec(obj).get("selector"))]


def _deployment(obj: Object, now: float) -> list[Any]:
    seen = status(obj)
    return [
        name_of(obj),
        f"{seen.get('readyReplicas', 0)}/{spec(obj).get('replicas', 1)}",
        seen.get("updatedReplicas", 0),
        seen.get("availableReplicas", 0),
        object_age(obj, now),
        *_wide(obj),
    ]


def _replica_set(obj: Object, now: float) -> list[Any]:
    seen = status(obj)
    counts = [spec(obj).get("replicas", 1), seen.get("replicas", 0), seen.get("readyReplicas", 0)]
    return [name_of(obj), *counts, object_age(obj, now), *_wide(obj)]


def _replication_controller(obj: Object, now: float) -> list[Any]:
    row = _replica_set({**obj, "spec": {**spec(obj), "selector": None}}, now)
    return [*row[:-1], labels_text(spec(obj).get("selector"))]


def _stateful_set(obj: Object, now: float) -> list[Any]:
    ready = f"{status(obj).get('readyReplicas', 0)}/{spec(obj).get('replicas', 1)}"
    return [name_of(obj), ready, object_age(obj, now), *container_cells(template_spec(obj))]


def _daemon_set(obj: Object, now: float) -> list[Any]:
    seen = status(obj)
    counts = (
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    )
    return [
        name_of(obj),
        *(seen.get(count, 0) for count in counts),
        labels_text(template_spec(obj).get("nodeSelector")),
        object_age(obj, now),
        *_wide(obj),
    ]  # fmt: skip


_JOB_STATES = (("Complete", "Complete"), ("Failed", "Failed"))
_JOB_SOFT_STATES = ("Suspended", "FailureTarget", "SuccessCriteriaMet")


def job_state(job: Object) -> str:
    """One word for a job: Complete, Failed, Terminating, Suspended, FailureTarget, SuccessCriteriaMet or Running."""
    for type_, word in _JOB_STATES:
        if condition_is_true(job, type_):
            return word
    if job.get("metadata", {}).get("deletionTimestamp"):
        return "Terminating"
    return next((type_ for type_ in _JOB_SOFT_STATES if condition_is_true(job, type_)), "Running")


def _job(obj: Object, now: float) -> list[Any]:
    wanted, seen = spec(obj), status(obj)
    succeeded, parallelism = seen.get("succeeded", 0), wanted.get("parallelism") or 0
    if wanted.get("completions") is not None:
        completions = f"{succeeded}/{wanted['completions']}"
    else:
        completions = f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"
    took = ""
    if seen.get("startTime"):
        end = parse_rfc3339(seen["completionTime"]) if seen.get("completionTime") else now
        took = human_duration(end - parse_rfc3339(seen["startTime"]))
    return [name_of(obj), job_state(obj), completions, took, object_age(obj, now), *_wide(obj)]


def _cron_job(obj: Object, now: float) -> list[Any]:
    wanted, seen = spec(obj), status(obj)
    last = seen.get("lastScheduleTime")
    suspend = wanted.get("suspend")
    template = {"spec": (wanted.get("jobTemplate") or {}).get("spec") or {}}
    return [
        name_of(obj),
        wanted.get("schedule", ""),
        wanted.get("timeZone") or NONE,
        UNSET if suspend is None else str(suspend),
        len(seen.get("active") or ()),
        age(last, now) if last else NONE,
        object_age(obj, now),
        *_wide(template),
    ]


def _owner(obj: Object) -> str:
    for reference in obj.get("metadata", {}).get("ownerReferences") or ():
        if reference.get("controller"):
            group = reference.get("apiVersion", "").rpartition("/")[0]
            kind = reference.get("kind", "").lower()
            return f"{kind}.{group}/{reference.get('name', '')}" if group else f"{kind}/{reference.get('name', '')}"
    return NONE


PRINTERS = {
    ("apps", "deployments"): Printer(
        (
            NAME,
            text("Ready", "Number of the pod with ready state"),
            number("Up-to-date", "apps.v1.DeploymentStatus:updatedReplicas"),
            number("Available", "apps.v1.DeploymentStatus:availableReplicas"),
            AGE,
            CONTAINERS,
            IMAGES,
            _selector("apps.v1.DeploymentSpec:selector"),
        ),
        _deployment,
    ),
    ("apps", "replicasets"): Printer(
        (
            NAME,
            number("Desired", "apps.v1.ReplicaSetSpec:replicas"),
            number("Current", "apps.v1.ReplicaSetStatus:replicas"),
            number("Ready", "apps.v1.ReplicaSetStatus:readyReplicas"),
            AGE,
            CONTAINERS,
            IMAGES,
            _selector("apps.v1.ReplicaSetSpec:selector"),
        ),
        _replica_set,
    ),
    ("", "replicationcontrollers"): Printer(
        (
            NAME,
            number("Desired", "core.v1.ReplicationControllerSpec:replicas"),
            number("Current", "core.v1.ReplicationControllerStatus:replicas"),
            number("Ready", "core.v1.ReplicationControllerStatus:readyReplicas"),
            AGE,
            CONTAINERS,
            IMAGES,
            _selector("core.v1.ReplicationControllerSpec:selector"),
        ),
        _replication_controller,
    ),
    ("apps", "statefulsets"): Printer(
        (NAME, text("Ready", "Number of the pod with ready state"), AGE, CONTAINERS, IMAGES), _stateful_set
    ),
    ("apps", "daemonsets"): Printer(
        (
            NAME,
            number("Desired", "apps.v1.DaemonSetStatus:desiredNumberScheduled"),
            number("Current", "apps.v1.DaemonSetStatus:currentNumberScheduled"),
            number("Ready", "apps.v1.DaemonSetStatus:numberReady"),
            number("Up-to-date", "apps.v1.DaemonSetStatus:updatedNumberScheduled"),
            number("Available", "apps.v1.DaemonSetStatus:numberAvailable"),
            text("Node Selector", "core.v1.PodSpec:nodeSelector"),
            AGE,
            CONTAINERS,
            IMAGES,
            _selector("apps.v1.DaemonSetSpec:selector"),
        ),
        _daemon_set,
    ),
    ("batch", "jobs"): Printer(
        (
            NAME,
            text("Status", "Status of the job."),
            text("Completions", "batch.v1.JobStatus:succeeded"),
            text("Duration", "Time required to complete the job."),
            AGE,
            CONTAINERS,
            IMAGES,
            _selector("batch.v1.JobSpec:selector"),
        ),
        _job,
    ),
    ("batch", "cronjobs"): Printer(
        (
            NAME,
            text("Schedule", "batch.v1.CronJobSpec:schedule"),
            text("Timezone", "batch.v1.CronJobSpec:timeZone"),
            flag("Suspend", "batch.v1.CronJobSpec:suspend"),
            number("Active", "batch.v1.CronJobStatus:active"),
            text("Last Schedule", "batch.v1.CronJobStatus:lastScheduleTime"),
            AGE,
            CONTAINERS,
            IMAGES,
            _selector("batch.v1.JobSpec:selector"),
        ),
        _cron_job,
    ),
    ("apps", "controllerrevisions"): named_and_aged(
        (text("Controller", "Controller of the object"), _owner),
        (number("Revision", "apps.v1.ControllerRevision:revision"), lambda obj: obj.get("revision", 0)),
    ),
}
