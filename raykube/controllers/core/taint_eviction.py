"""taint-eviction-controller: deletes pods from nodes with NoExecute taints when their tolerations run out.

A deadline is the time the taint came (`timeAdded`, or when it was first seen), or the pod to the node where that was
later, plus `tolerationSeconds`; the queue's heap of delayed keys holds the deadlines, so that nothing is scanned while
nothing happens.
"""

from collections.abc import Iterable

from raykube.base.clock import parse_rfc3339
from raykube.controllers.core import aspects, conditions, kinds, pods, taints
from raykube.controllers.core.patches import delete_write, status_write
from raykube.controllers.core.plan import NOTHING, Event, Obj, Plan, View, key_of, split_key

DISRUPTION = "DisruptionTarget"


class TaintEvictionController:
    """See the module's docstring."""

    name = "taint-eviction-controller"
    resources = (kinds.NODES, kinds.PODS)
    looks_at = aspects.NODE | aspects.SPEC | aspects.DELETION

    def __init__(self) -> None:
        self._seen: dict[str, dict[tuple[str, str], float]] = {}  # node → (key, value) of a taint → when first seen

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """The pods on a node whose NoExecute taints changed; a pod that came to a tainted node."""
        if resource == kinds.NODES:
            return self._observe_node(view, old, new, now)
        if new is None or not pods.node_name(new) or pods.is_terminating(new):
            return ()
        if old is not None and _stay(old) == _stay(new):
            return ()
        node = view.get(kinds.NODES, "", pods.node_name(new))
        return (key_of(new),) if taints.taints_of(node, taints.NO_EXECUTE) else ()

    def _observe_node(self, view: View, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        if new is None:
            if old is not None:
                self._seen.pop(old["metadata"]["name"], None)
            return ()
        name = new["metadata"]["name"]
        present = taints.taints_of(new, taints.NO_EXECUTE)
        before = self._seen.get(name, {})
        if not present and not before:
            return ()
        seen = {_identity(taint): before.get(_identity(taint), now) for taint in present}
        if seen:
            self._seen[name] = seen
        else:
            self._seen.pop(name, None)
        if old is not None and taints.taints_of(old, taints.NO_EXECUTE) == present:
            return ()
        return [key_of(pod) for pod in view.by_index(kinds.PODS, "node", name)]

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """Marks and deletes the pod when it has to leave; else waits for its time."""
        pod = view.get(kinds.PODS, *split_key(key))
        if pod is None or pods.is_terminating(pod) or not pods.node_name(pod):
            return NOTHING
        name = pods.node_name(pod)
        present = taints.taints_of(view.get(kinds.NODES, "", name), taints.NO_EXECUTE)
        came = _bound_at(pod)
        moment = taints.leaves_at(pod, present, lambda taint: max(self._since(name, taint, now), came))
        if moment is None:
            return NOTHING
        if moment > now:
            return Plan(requeue_after=moment - now)
        status = dict(pod.get("status") or {})
        if not pods.is_terminal(pod) and conditions.find(status.get("conditions"), DISRUPTION) is None:
            message = "Taint manager: deleting due to NoExecute taint"
            status["conditions"] = conditions.with_condition(
                status.get("conditions"), DISRUPTION, "True", "DeletionByTaintManager", message, now
            )
            write = status_write(kinds.PODS, pod, status)
            return Plan([write], requeue_after=0.0) if write else NOTHING  # the deletion is the next step
        done = Event(pod, "Normal", "TaintManagerEviction", f"Marking for deletion Pod {key}")
        return Plan([delete_write(kinds.PODS, pod, done=done)])

    def _since(self, node: str, taint: Obj, now: float) -> float:
        if taint.get("timeAdded"):
            return parse_rfc3339(taint["timeAdded"])
        return self._seen.get(node, {}).get(_identity(taint), now)


def _stay(pod: Obj) -> tuple[str, object]:
    """What a pod's stay on a node depends on."""
    return pods.node_name(pod), pod["spec"].get("tolerations") or []


def _bound_at(pod: Obj) -> float:
    """When the pod came to its node; what is not known of it was long ago."""
    scheduled = conditions.find((pod.get("status") or {}).get("conditions"), "PodScheduled") or {}
    moment = scheduled.get("lastTransitionTime") or pod["metadata"].get("creationTimestamp")
    return parse_rfc3339(moment) if moment else float("-inf")


def _identity(taint: Obj) -> tuple[str, str]:
    return taint.get("key", ""), taint.get("value", "")
