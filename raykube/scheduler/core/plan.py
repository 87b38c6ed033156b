"""What the scheduler would do: where pods would go on a cluster that nobody touches, and why not elsewhere.

The cluster is a copy that was read for the question. Pods are placed one after another as the real queue would take
them, by priority, by deadline and then in their order, and each counts for those after it. A gang goes as a whole, or
not at all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raykube.api.selectors import LabelSelector
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.diagnosis import Diagnosis, histogram
from raykube.scheduler.core.explanation import Elsewhere
from raykube.scheduler.core.gangs import Gang, GroupKey
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.queue import DUE_S

Object = dict[str, Any]

MIRROR = "kubernetes.io/config.mirror"
LESS = "scored less"
GATED = "Scheduling is blocked due to non-empty scheduling gates"


@dataclass(slots=True)
class Planned:
    """One pod's place. `node` is "" when it fits nowhere: `why` is the scheduler's message then."""

    namespace: str
    name: str
    workload: str
    node: str = ""
    score: float = 0.0
    why: str = ""  # not elsewhere
    evicts: list[str] = field(default_factory=list)  # namespace/name of pods of lower priority that leave for it
    refused: bool = False  # no pods can be made of the object: `why` says what is wrong


@dataclass(slots=True)
class Moved:
    """What happens to one pod of a node that is drained."""

    planned: Planned
    evicted: bool
    comes_back: bool = False  # a controller makes it anew
    note: str = ""


def place(cluster: Cluster, pods: Iterable[tuple[str, Object]]) -> list[Planned]:
    """Places the pods (workload's title, pod), and says so in the order in which they were given."""
    given = [(title, obj, cluster.read_pod(obj)) for title, obj in pods]
    found: dict[str, Planned] = {}
    together: dict[GroupKey, list[tuple[str, Pod]]] = {}
    for title, obj, pod in given:
        if pod.gang is not None and not obj["spec"].get("schedulingGates"):
            cluster.on_waiting(pod)
            together.setdefault(pod.gang.group, []).append((title, pod))
    for title, obj, pod in sorted(given, key=lambda one: (-one[2].priority, _due(cluster, one[2]))):
        if pod.uid in found:
            continue  # it went with its gang
        gang = None if pod.gang is None else cluster.gangs.gang(pod.gang)
        if obj["spec"].get("schedulingGates"):
            found[pod.uid] = Planned(pod.namespace, pod.name, title, why=GATED)
        elif isinstance(gang, Gang):
            found |= _place_gang(cluster, gang, together[gang.key])
        elif gang is not None:
            found[pod.uid] = Planned(pod.namespace, pod.name, title, why=gang)
        else:
            found[pod.uid] = _place(cluster, title, pod)
    return [found[pod.uid] for _, _, pod in given]


def _due(cluster: Cluster, pod: Pod) -> float:
    """By when the pod has its turn, as in the queue: all those without a deadline have come now."""
    at = cluster.deadlines.urgency(pod)
    return cluster.deadlines.now + DUE_S if at is None else at


def _place_gang(cluster: Cluster, gang: Gang, members: list[tuple[str, Pod]]) -> dict[str, Planned]:
    planned = {pod.uid: Planned(pod.namespace, pod.name, title) for title, pod in members}
    pods = [pod for _, pod in members]
    verdicts = cluster.gang_placing.place(gang, pods, 0.0, 0.0)
    leaving = [(pod, one.eviction) for pod, one in zip(pods, verdicts, strict=True) if isinstance(one, Diagnosis)]
    evictions = [(pod, eviction) for pod, eviction in leaving if eviction is not None]
    for pod, eviction in evictions:
        for victim in eviction.victims:
            planned[pod.uid].evicts.append(f"{victim.namespace}/{victim.name}")
            cluster.on_pod_gone(victim.uid)
    if evictions:
        verdicts = cluster.gang_placing.place(gang, pods, 0.0, 0.0)
    for pod, verdict in zip(pods, verdicts, strict=True):
        if isinstance(verdict, Diagnosis):
            planned[pod.uid].why = verdict.message
        else:
            planned[pod.uid].node = verdict.node
    return planned


def _place(cluster: Cluster, title: str, pod: Pod) -> Planned:
    planned = Planned(pod.namespace, pod.name, title)
    elsewhere = cluster.elsewhere(pod)
    decision = cluster.schedule(pod)
    if isinstance(decision, Diagnosis) and decision.eviction is not None:
        for victim in decision.eviction.victims:
            planned.evicts.append(f"{victim.namespace}/{victim.name}")
            cluster.on_pod_gone(victim.uid)
        elsewhere = cluster.elsewhere(pod)
        decision = cluster.schedule(pod, preempts=False)
    if isinstance(decision, Placement):
        planned.node = decision.node
        if elsewhere is not None:
            row = cluster.nodes.rows[decision.node]
            planned.score = float(elsewhere.totals[row])
            planned.why = _why(cluster, elsewhere, row)
    else:
        planned.why = decision.message
    verdict = cluster.deadlines.news(pod)
    if verdict is not None and not verdict.reachable:
        planned.why = "; ".join(filter(None, (verdict.message, planned.why)))
    return planned


def _why(cluster: Cluster, elsewhere: Elsewhere, chosen: int) -> str:
    """The rejections of other nodes, and the best of those that were only liked less."""
    totals = elsewhere.totals
    words = [histogram(elsewhere.reasons)] if elsewhere.reasons.total() else []
    others: Mask = totals > -np.inf
    others[chosen] = False
    count = int(np.count_nonzero(others))
    if count:
        best = int(np.where(others, totals, -np.inf).argmax())
        margin = totals[chosen] - totals[best]
        less = LESS if margin > 0.005 else "scored as much"
        words.append(f"{count} {less} (next: {cluster.nodes.names[best]}, {totals[best]:.1f})")
    return ", ".join(words)


def drain(
    cluster: Cluster, node: str, pods: list[Object], budgets: list[Object], waiting: Sequence[tuple[str, Object]] = ()
) -> list[Moved]:
    """Where the pods of a node would go if it were drained now, as `kubectl drain` does it.

    `pods` are those on the node, `waiting` those that had no node before, as `place` takes them. The node takes no new
    ones; all that are evicted leave before the first comes back.
    """
    cluster.nodes.cordon(node)
    moved: dict[str, Moved] = {}
    anew: list[tuple[str, Object]] = []
    allowed = {budget["metadata"]["uid"]: _disruptions_allowed(budget) for budget in budgets}
    for obj in pods:
        metadata = obj["metadata"]
        if (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            continue
        owner = next((one for one in metadata.get("ownerReferences") or () if one.get("controller")), None)
        title = f"{owner['kind'].lower()}/{owner['name']}" if owner else "pod"
        planned = Planned(metadata.get("namespace", ""), metadata["name"], title)
        one = moved[metadata["uid"]] = Moved(planned, evicted=False)
        if MIRROR in (metadata.get("annotations") or {}):
            one.note = "stays: a static pod"
        elif owner is not None and owner["kind"] == "DaemonSet":
            one.note = "stays: of a DaemonSet"
        elif "deletionTimestamp" in metadata:
            one.note = "is being deleted already"
        else:
            one.evicted = True
            one.note = _note(obj, owner, budgets, allowed)
            cluster.on_pod_gone(metadata["uid"])
            if owner is not None:
                one.comes_back = True
                anew.append((title, _replacement(obj)))
    placed = place(cluster, [*waiting, *anew])[len(waiting) :]
    for planned, (_, obj) in zip(placed, anew, strict=True):
        one = moved[obj["metadata"]["uid"].removeprefix("plan/")]
        one.planned.node, one.planned.score, one.planned.why = planned.node, planned.score, planned.why
    return list(moved.values())


def _note(obj: Object, owner: Object | None, budgets: list[Object], allowed: dict[str, int]) -> str:
    notes = []
    if owner is None:
        notes.append("gone for good: no controller makes it anew")
    for budget in budgets:
        metadata = budget["metadata"]
        if metadata.get("namespace") != obj["metadata"].get("namespace") or not _covers(budget, obj):
            continue
        if allowed[metadata["uid"]] <= 0:
            notes.append(f"waits for PodDisruptionBudget {metadata['name']}")
        allowed[metadata["uid"]] -= 1
    if any("emptyDir" in volume for volume in obj["spec"].get("volumes") or ()):
        notes.append("loses its emptyDir")
    return ", ".join(notes)


def _covers(budget: Object, obj: Object) -> bool:
    return LabelSelector.from_object(budget["spec"].get("selector")).matches(obj["metadata"].get("labels") or {})


def _disruptions_allowed(budget: Object) -> int:
    return int((budget.get("status") or {}).get("disruptionsAllowed") or 0)


def _replacement(obj: Object) -> Object:
    """The pod that a controller makes in place of an evicted one."""
    metadata = obj["metadata"] | {"uid": f"plan/{obj['metadata']['uid']}", "resourceVersion": "0"}
    spec = {key: value for key, value in obj["spec"].items() if key != "nodeName"}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}
