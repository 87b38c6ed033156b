"""disruption-controller: says in the status of each PodDisruptionBudget how many of its pods may be evicted now.

The apiserver spends that number: an eviction takes one off `disruptionsAllowed` and notes the pod in `disruptedPods`
before the pod is deleted. A noted pod is not healthy here, so both count the same; the note goes with the pod, or after
DELETION_TIMEOUT_S if nobody deleted it. Status writes carry the version that they were decided on: a decision that has
not seen an eviction never undoes it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from raykube.api.resources import builtin
from raykube.api.selectors import LabelSelector
from raykube.base.clock import parse_rfc3339, rfc3339
from raykube.controllers.core import aspects, claims, conditions, intstr, kinds, pods
from raykube.controllers.core.guarded import Guarded
from raykube.controllers.core.indexes import controller_uid
from raykube.controllers.core.patches import merge_diff, patch_write, uid_of
from raykube.controllers.core.plan import NOTHING, Draft, Event, Obj, Plan, View, key_of, split_key

DELETION_TIMEOUT_S = 120.0
CONDITION = "DisruptionAllowed"
UNMANAGED = (
    "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the "
    "status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these "
    'pods please set ".spec.minAvailable" field of the PDB to an integer value.'
)

SCALED: dict[tuple[str, str], str] = {  # (group, kind) of a pod's controller → where its replicas are
    ("apps", "ReplicaSet"): kinds.REPLICA_SETS,
    ("apps", "StatefulSet"): kinds.STATEFUL_SETS,
    ("", "ReplicationController"): kinds.REPLICATION_CONTROLLERS,
}


class DisruptionController:
    """See the module's docstring."""

    name = "disruption-controller"
    resources = (kinds.POD_DISRUPTION_BUDGETS, kinds.PODS, kinds.DEPLOYMENTS, *SCALED.values())
    looks_at = aspects.LABELS | aspects.OWNERS | aspects.DELETION | aspects.READY

    def __init__(self) -> None:
        self._guarded: dict[str, Guarded] = {}  # by key

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """The budget; those that select a pod, before or after; those that depend on the scale of a workload."""
        changed = new or old
        if changed is None:
            return ()
        if resource == kinds.POD_DISRUPTION_BUDGETS:
            return (key_of(changed),)
        budgets = view.by_index(kinds.POD_DISRUPTION_BUDGETS, "namespace", changed["metadata"].get("namespace", ""))
        fact = _fact_of_pod if resource == kinds.PODS else _fact_of_workload
        if not budgets or (old is not None and new is not None and fact(old) == fact(new)):
            return ()
        if resource != kinds.PODS:
            return [key_of(budget) for budget in budgets if _by_scale(budget)]
        states = [pod for pod in (old, new) if pod is not None]
        return [key_of(budget) for budget in budgets if self._is_concerned(view, budget, states)]

    def _is_concerned(self, view: View, budget: Obj, states: Sequence[Obj]) -> bool:
        guarded = self._of(view, budget)
        found = any(map(guarded.selects, states))
        if found:
            guarded.mark(states[0]["metadata"]["name"])
        return found

    def _of(self, view: View, budget: Obj) -> Guarded:
        key = key_of(budget)
        guarded = self._guarded.get(key)
        if guarded is None or not guarded.is_for(budget):
            guarded = self._guarded[key] = Guarded(view, budget)
        return guarded

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """The status of one budget."""
        budget = view.get(kinds.POD_DISRUPTION_BUDGETS, *split_key(key))
        if budget is None:
            self._guarded.pop(key, None)
            return NOTHING
        draft = Draft()
        guarded = self._of(view, budget)
        guarded.refresh(view)
        note: Event | None = None
        if not guarded.members:
            note = Event(budget, "Normal", "NoPods", "No matching pods found")
        try:
            expected, desired, unmanaged = _expectation(view, budget, guarded)
        except ValueError as error:
            message = f"Failed to calculate the number of expected pods: {error}"
            note = Event(budget, "Warning", "CalculateExpectedPodCountFailed", message)
            _write(draft, budget, _failed(budget, str(error), now), note)
            return draft.plan()
        if unmanaged:
            note = Event(budget, "Warning", "UnmanagedPods", UNMANAGED.format(selector=_selector(budget)))
        disrupted = _disrupted(view, draft, budget, guarded, now)
        healthy = guarded.healthy - sum(guarded.members[name].healthy for name in disrupted)
        allowed = max(healthy - desired, 0) if expected > 0 else 0
        status: Obj = {
            **{name: value for name, value in (budget.get("status") or {}).items() if name != "disruptedPods"},
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "expectedPods": expected,
            "disruptionsAllowed": allowed,
            "observedGeneration": budget["metadata"].get("generation", 0),
        }
        if disrupted:
            status["disruptedPods"] = disrupted
        _set_condition(status, "SufficientPods" if allowed else "InsufficientPods", "", now)
        _write(draft, budget, status, note)
        return draft.plan()


def _fact_of_pod(pod: Obj) -> tuple[Any, ...]:
    """All that a budget's status says about a pod."""
    return uid_of(pod), claims.labels_of(pod), pods.is_ready(pod), pods.is_terminating(pod), controller_uid(pod)


def _fact_of_workload(workload: Obj) -> tuple[Any, ...]:
    return uid_of(workload), _replicas(workload), controller_uid(workload)


def _selector(budget: Obj) -> LabelSelector:
    return LabelSelector.from_object((budget.get("spec") or {}).get("selector"))


def _by_scale(budget: Obj) -> bool:
    """Whether the pods expected are those that their workloads ask for, rather than those that there are."""
    spec = budget.get("spec") or {}
    return spec.get("maxUnavailable") is not None or isinstance(spec.get("minAvailable"), str)


def _replicas(workload: Obj) -> int:
    replicas = (workload.get("spec") or {}).get("replicas")
    return 1 if replicas is None else int(replicas)


def _expectation(view: View, budget: Obj, guarded: Guarded) -> tuple[int, int, bool]:
    """(pods expected, pods wanted healthy, whether pods without a controller were left out). Raises ValueError."""
    spec = budget.get("spec") or {}
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if not _by_scale(budget):
        return (len(guarded.members), int(least), False) if least is not None else (0, 0, False)
    scales: dict[str, int] = {}
    examples = guarded.examples()
    for uid, name in examples.items():
        pod = view.get(kinds.PODS, budget["metadata"].get("namespace", ""), name)
        if uid and pod is not None:
            scales.update(_scale(view, pod))
    # ReplicaSets of one Deployment share its scale, so what is summed up is filed under the Deployment's uid.
    expected = sum(scales.values())
    unmanaged = "" in examples
    if most is not None:
        return expected, max(expected - intstr.resolve(most, expected, round_up=True), 0), unmanaged
    return expected, intstr.resolve(least, expected, round_up=True), unmanaged


def _scale(view: View, pod: Obj) -> dict[str, int]:
    """{uid of what scales the pod: its replicas}. Raises ValueError when nothing does."""
    reference = claims.controller_reference(pod) or {}
    group = str(reference.get("apiVersion", "")).rpartition("/")[0]
    resource = SCALED.get((group, reference.get("kind", "")))
    if resource is None:
        raise ValueError(f"{_qualified(reference)} does not implement the scale subresource")
    namespace = pod["metadata"].get("namespace", "")
    owner = view.get(resource, namespace, reference["name"])
    if owner is None or uid_of(owner) != reference.get("uid"):
        raise ValueError(f'found no controllers for pod "{pod["metadata"]["name"]}"')
    above = claims.controller_reference(owner) or {}
    if resource == kinds.REPLICA_SETS and above.get("kind") == "Deployment":
        deployment = view.get(kinds.DEPLOYMENTS, namespace, above["name"])
        if deployment is not None and uid_of(deployment) == above.get("uid"):
            return {uid_of(deployment): _replicas(deployment)}
    return {uid_of(owner): _replicas(owner)}


def _qualified(reference: Obj) -> str:
    """ "jobs.batch"; of kinds that are not served what the reference says."""
    version, kind = str(reference.get("apiVersion", "")), str(reference.get("kind", ""))
    try:
        return builtin(version, kind).qualified
    except LookupError:
        return f"{kind}.{version.rpartition('/')[0]}"


def _disrupted(view: View, draft: Draft, budget: Obj, guarded: Guarded, now: float) -> dict[str, str]:
    """The evictions on the way: pods that were to be deleted and are not being deleted yet."""
    noted = (budget.get("status") or {}).get("disruptedPods") or {}
    kept: dict[str, str] = {}
    for name, moment in noted.items():
        pod = view.get(kinds.PODS, budget["metadata"].get("namespace", ""), name) if name in guarded.members else None
        if pod is None or pods.is_terminating(pod):
            continue
        left_s = parse_rfc3339(moment) + DELETION_TIMEOUT_S - now
        if left_s > 0:
            kept[name] = moment
            draft.wake_after(left_s)
        else:
            message = f"Pod was expected by PDB {key_of(budget)} to be deleted but it wasn't"
            draft.events.append(Event(pod, "Warning", "NotDeleted", message))
    return kept


def _failed(budget: Obj, message: str, now: float) -> Obj:
    """The status when nobody can say what to expect: nothing may be evicted, and the generation is not observed."""
    status = {**(budget.get("status") or {}), "disruptionsAllowed": 0}
    for name in ("currentHealthy", "desiredHealthy", "expectedPods"):
        status.setdefault(name, 0)
    _set_condition(status, "SyncFailed", message, now)
    return status


def _set_condition(status: Obj, reason: str, message: str, now: float) -> None:
    current = conditions.find(status.get("conditions"), CONDITION) or {}
    value = "True" if reason == "SufficientPods" else "False"
    new: Obj = {
        "type": CONDITION,
        "status": value,
        "reason": reason,
        "message": message,
        "lastTransitionTime": current["lastTransitionTime"] if current.get("status") == value else rfc3339(now),
    }
    if status.get("observedGeneration"):
        new["observedGeneration"] = status["observedGeneration"]
    status["conditions"] = [*conditions.without(status.get("conditions"), CONDITION), new]


def _write(draft: Draft, budget: Obj, status: Obj, note: Event | None) -> None:
    """Writes what differs; `note` is recorded with it, so that an unchanged budget says nothing twice."""
    patch = merge_diff(budget.get("status") or {}, status)
    if patch:
        write = patch_write(kinds.POD_DISRUPTION_BUDGETS, budget, {"status": patch}, subresource="status", done=note)
        draft.writes.append(write)
