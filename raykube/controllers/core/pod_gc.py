"""pod-garbage-collector-controller: pods that nobody will ever end or look at.

- **orphans**: bound to a node that does not exist any more. They are marked Failed and deleted without grace,
  QUARANTINE_S after the node was missed first and after the API has confirmed that it is gone.
- pods being deleted that were never bound, or that are on a node taken out of service: nobody will confirm their end.
- ended pods beyond the threshold, oldest first.
"""

from collections.abc import Iterable

from raykube.controllers.core import aspects, conditions, kinds, pods, taints
from raykube.controllers.core.patches import delete_write, status_write
from raykube.controllers.core.plan import NOTHING, Obj, Plan, Read, View, key_of, split_key

QUARANTINE_S = 40.0
BURST = 500
TERMINATED = "terminated"  # the one key that is no pod's: all ended pods together
FORCE = {"gracePeriodSeconds": 0}


class PodGarbageCollector:
    """See the module's docstring. `threshold` 0 keeps all ended pods."""

    name = "pod-garbage-collector-controller"
    resources = (kinds.PODS, kinds.NODES)
    looks_at = aspects.PHASE | aspects.NODE | aspects.DELETION

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._terminated: set[str] = set()
        self._missed: dict[str, float] = {}  # node → since when it is missed

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """The pods of a node that went or was taken out of service; pods in one of the states above."""
        if resource == kinds.NODES:
            return self._observe_node(view, old, new, now)
        pod = new or old
        if pod is None:
            return ()
        key = key_of(pod)
        if new is None:
            self._terminated.discard(key)
            return ()
        keys = []
        if pods.is_terminal(new):
            self._terminated.add(key)
            if self._threshold and len(self._terminated) > self._threshold:
                keys.append(TERMINATED)
        name = pods.node_name(new)
        if (name and view.get(kinds.NODES, "", name) is None) or pods.is_terminating(new):
            keys.append(key)
        return keys

    def _observe_node(self, view: View, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        if new is not None:
            name = new["metadata"]["name"]
            self._missed.pop(name, None)
            if not _is_out_of_service(new) or _is_out_of_service(old):
                return ()
        elif old is not None:
            name = old["metadata"]["name"]
            self._missed.setdefault(name, now)
        else:
            return ()
        return [key_of(pod) for pod in view.by_index(kinds.PODS, "node", name)]

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """The next step for one pod, or for the ended ones."""
        if key == TERMINATED:
            return self._cut(view)
        pod = view.get(kinds.PODS, *split_key(key))
        if pod is None:
            return NOTHING
        name = pods.node_name(pod)
        if not name:
            if not pods.is_terminating(pod):
                return NOTHING
            return _end(pod, now)
        node = view.get(kinds.NODES, "", name)
        if node is not None:
            if pods.is_terminating(pod) and _is_out_of_service(node):
                return _end(pod, now)
            return NOTHING
        wait_s = self._missed.setdefault(name, now) + QUARANTINE_S - now
        if wait_s > 0:
            return Plan(requeue_after=wait_s)
        read = Read(kinds.NODES, "", name)
        answer = view.answer(read)
        if answer is None:
            return Plan(reads=[read])
        return NOTHING if answer else _end(pod, now, "PodGC: node no longer exists")

    def _cut(self, view: View) -> Plan:
        ended = view.by_index(kinds.PODS, "terminated", "")
        surplus = len(ended) - self._threshold
        if surplus <= 0 or not self._threshold:
            return NOTHING
        oldest = sorted(ended, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", key_of(pod)))
        writes = [delete_write(kinds.PODS, pod, FORCE) for pod in oldest[: min(surplus, BURST)]]
        return Plan(writes, requeue_after=0.0 if surplus > BURST else None)


def _is_out_of_service(node: Obj | None) -> bool:
    """Whether an administrator says that a node which does not report is down, and nothing runs on it."""
    if node is None or conditions.is_true((node.get("status") or {}).get("conditions"), "Ready"):
        return False
    return any(taint.get("key") == taints.OUT_OF_SERVICE for taint in taints.taints_of(node))


def _end(pod: Obj, now: float, disruption: str = "") -> Plan:
    """Failed first, so that whoever counts it sees how it ended; then gone. `disruption`: what befell it."""
    if pods.is_terminal(pod):
        already = pod["metadata"].get("deletionTimestamp") and not pod["metadata"].get("deletionGracePeriodSeconds")
        return (
            NOTHING if already and pod["metadata"].get("finalizers") else Plan([delete_write(kinds.PODS, pod, FORCE)])
        )
    status = {**(pod.get("status") or {}), "phase": "Failed"}
    if disruption:
        status["conditions"] = conditions.with_condition(
            status.get("conditions"), "DisruptionTarget", "True", "DeletionByPodGC", disruption, now
        )
    write = status_write(kinds.PODS, pod, status)
    return Plan([write], requeue_after=0.0) if write else NOTHING  # the deletion is the next step
