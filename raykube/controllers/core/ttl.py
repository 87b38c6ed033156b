"""ttl-after-finished-controller: deletes finished Jobs `ttlSecondsAfterFinished` after they ended."""

from collections.abc import Iterable

from raykube.base.clock import parse_rfc3339
from raykube.controllers.core import conditions, kinds
from raykube.controllers.core.job import COMPLETE, FAILED
from raykube.controllers.core.patches import delete_write
from raykube.controllers.core.plan import NOTHING, Obj, Plan, View, key_of, split_key


class TtlController:
    """See the module's docstring."""

    name = "ttl-after-finished-controller"
    resources = (kinds.JOBS,)

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """Jobs that ended and are to be deleted some time."""
        return (key_of(new),) if new is not None and expires_at(new) is not None else ()

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """Deletes the Job when its time has come."""
        job = view.get(kinds.JOBS, *split_key(key))
        moment = expires_at(job) if job is not None else None
        if job is None or moment is None:
            return NOTHING
        if moment > now:
            return Plan(requeue_after=moment - now)
        # Of exactly this state: the time to live may just have been made longer.
        return Plan([delete_write(kinds.JOBS, job, {"propagationPolicy": "Foreground"}, versioned=True)])


def expires_at(job: Obj) -> float | None:
    """When the Job is to be deleted; None while it runs, without a limit, and when it is being deleted."""
    seconds = job["spec"].get("ttlSecondsAfterFinished")
    if seconds is None or job["metadata"].get("deletionTimestamp"):
        return None
    present = (job.get("status") or {}).get("conditions")
    for kind in (COMPLETE, FAILED):
        condition = conditions.find(present, kind)
        if condition is not None and condition.get("status") == "True":
            return parse_rfc3339(condition["lastTransitionTime"]) + int(seconds)
    return None
