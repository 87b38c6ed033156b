"""What failures of a Job's pods mean: podFailurePolicy, limits per index, and back-off before the next pod."""

from collections.abc import Iterable, Sequence

from raykube.controllers.core import job_pods, pods
from raykube.controllers.core.plan import Obj

INDEX_FAILURES = job_pods.PREFIX + "job-index-failure-count"


def action(job: Obj, pod: Obj) -> tuple[str, str]:
    """(what to do about a failed pod: "FailJob", "FailIndex", "Ignore" or "Count"; the message for FailJob)."""
    rules = (job["spec"].get("podFailurePolicy") or {}).get("rules") or ()
    if pods.phase(pod) != "Failed":
        return "Count", ""
    where = f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"
    for number, rule in enumerate(rules):
        verdict = rule.get("action", "Count")
        codes = rule.get("onExitCodes")
        if codes:
            for name, code in _exit_codes(pod):
                if codes.get("containerName") not in (None, name):
                    continue
                if (code in (codes.get("values") or ())) == (codes.get("operator") == "In"):
                    found = f"Container {name} for pod {where} failed with exit code {code}"
                    return verdict, f"{found} matching {verdict} rule at index {number}"
        for pattern in rule.get("onPodConditions") or ():
            for condition in (pod.get("status") or {}).get("conditions") or ():
                if condition.get("type") == pattern.get("type") and condition.get("status") == pattern.get(
                    "status", "True"
                ):
                    found = f"Pod {where} has condition {condition['type']}"
                    return verdict, f"{found} matching {verdict} rule at index {number}"
    return "Count", ""


def _exit_codes(pod: Obj) -> Iterable[tuple[str, int]]:
    for field in ("containerStatuses", "initContainerStatuses"):
        for status in (pod.get("status") or {}).get(field) or ():
            terminated = (status.get("state") or {}).get("terminated")
            if terminated and terminated.get("exitCode"):
                yield status["name"], int(terminated["exitCode"])


def failure(job: Obj, owned: Sequence[Obj]) -> tuple[str, str] | None:
    """(reason, message) when a pod failed in a way that fails the Job at once."""
    if not job["spec"].get("podFailurePolicy"):
        return None
    for pod in owned:
        if job_pods.is_tracked(pod):
            verdict, message = action(job, pod)
            if verdict == "FailJob":
                return "PodFailurePolicy", message
    return None


def index_limit(job: Obj) -> int | None:
    """`backoffLimitPerIndex`; None when failures count for the whole Job."""
    limit = job["spec"].get("backoffLimitPerIndex")
    return None if limit is None or not job_pods.is_indexed(job) else int(limit)


def failures_before(pod: Obj) -> int:
    """How many pods of the same index had failed when this one was created."""
    text = (pod["metadata"].get("annotations") or {}).get(INDEX_FAILURES, "")
    return int(text) if text.isdigit() else 0


def fails_index(job: Obj, pod: Obj) -> bool:
    """Whether the failure of this pod is the last that its index may have."""
    limit = index_limit(job)
    if limit is None:
        return False
    return failures_before(pod) >= limit or action(job, pod)[0] == "FailIndex"


def index_failures(job: Obj, owned: Sequence[Obj], index: int) -> int:
    """How many pods of `index` have failed."""
    return max(
        (
            failures_before(pod) + (action(job, pod)[0] != "Ignore")
            for pod in owned
            if job_pods.index_of(pod) == index and job_pods.counts_as_failed(pod, job)
        ),
        default=0,
    )


def index_failure(job: Obj, completed: int, failed: int) -> tuple[str, str] | None:
    """(reason, message) when failed indexes end the Job."""
    if index_limit(job) is None or not failed:
        return None
    most = job["spec"].get("maxFailedIndexes")
    if most is not None and failed > int(most):
        return "MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes"
    if completed + failed >= (job_pods.completions_of(job) or 0):
        return "FailedIndexes", "Job has failed indexes"
    return None


def backoff_left_s(job: Obj, owned: Sequence[Obj], succeeded_at: float, now: float) -> float:
    """Seconds until the next pod of the Job may be created. `succeeded_at`: when a pod last did, 0 for never."""
    if index_limit(job) is not None:
        return 0.0
    counted = [pod for pod in owned if action(job, pod)[0] != "Ignore"]
    return job_pods.backoff_left_s(job, counted, succeeded_at, now)


def index_backoff_left_s(job: Obj, owned: Sequence[Obj], index: int, now: float) -> float:
    """Seconds until the next pod of `index` may be created."""
    if index_limit(job) is None:
        return 0.0
    return job_pods.backoff_left_s(job, [pod for pod in owned if job_pods.index_of(pod) == index], 0.0, now)
