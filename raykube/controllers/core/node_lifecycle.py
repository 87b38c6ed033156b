"""node-lifecycle-controller: notices that a node no longer answers, says so, and lets its pods go.

A node answers by renewing its Lease or by reporting its status. What counts is when *we* saw it change, so clocks of
machines need not agree, and the time in which we were looking (attention.py): a key of its own, which comes every
monitor period, tells that we were. Nothing is scanned: each node has one deadline in the queue, and a renewal only
notes the time; the deadline, when it comes, looks at the note and moves on. Deadlines fall on whole monitor periods, so
that nodes lost together are declared lost in one batch.

    last answer ──grace──► Ready = Unknown, taint unreachable:NoSchedule, its pods are marked not ready
                              └─ in its zone's turn (zones.py) ──► taint unreachable:NoExecute
                                                                     └─ taint-eviction-controller, by tolerationSeconds
"""

import math
from collections.abc import Iterable
from typing import Any

from raykube.base.clock import rfc3339
from raykube.controllers.core import aspects, claims, conditions, kinds, pods, taints
from raykube.controllers.core.attention import Attention
from raykube.controllers.core.patches import patch_write, status_write
from raykube.controllers.core.plan import Draft, Event, Obj, Plan, View
from raykube.controllers.core.zones import Zones

READY = "Ready"
ATTENTION = ""  # the one key that is no node's
GAP_MAX = 3  # monitor periods between two looks: after a longer pause nobody has been silent
REPORTED = (READY, "MemoryPressure", "DiskPressure", "PIDPressure")
# condition → (status, taint key): taints that keep new pods away, and say why.
BY_CONDITION = {
    "MemoryPressure": ("True", "node.kubernetes.io/memory-pressure"),
    "DiskPressure": ("True", "node.kubernetes.io/disk-pressure"),
    "PIDPressure": ("True", "node.kubernetes.io/pid-pressure"),
    "NetworkUnavailable": ("True", "node.kubernetes.io/network-unavailable"),
}
OURS = {(taints.NOT_READY, effect) for effect in (taints.NO_SCHEDULE, taints.NO_EXECUTE)}
OURS |= {(taints.UNREACHABLE, effect) for effect in (taints.NO_SCHEDULE, taints.NO_EXECUTE)}
OURS |= {(key, taints.NO_SCHEDULE) for _, key in BY_CONDITION.values()}
OURS |= {(taints.UNSCHEDULABLE, taints.NO_SCHEDULE)}


class NodeLifecycleController:
    """See the module's docstring. Times in seconds."""

    name = "node-lifecycle-controller"
    resources = (kinds.NODES, kinds.LEASES, kinds.PODS)
    looks_at = aspects.READY

    def __init__(
        self,
        grace_s: float = 50.0,
        startup_grace_s: float = 60.0,
        zones: Zones | None = None,
        *,
        period_s: float = 5.0,
    ) -> None:
        self._grace_s, self._startup_grace_s, self._period_s = grace_s, startup_grace_s, period_s
        self._zones = zones or Zones()
        self._attention = Attention(GAP_MAX * period_s)
        self._answered_at: dict[str, float] = {}
        self._answers: dict[str, dict[str, Any]] = {}  # what the last answers said, to tell a new one
        self._registered: set[str] = set()  # nodes of which an event told that they came
        self._removed: dict[str, Obj] = {}  # nodes that went, of which one is to tell

    # -- what is seen

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """Notes answers; the node's name when something about it, or about a lost zone, is to be decided."""
        now = self._attention.at(now)
        if resource == kinds.LEASES:
            if new is not None and new["metadata"].get("namespace") == kinds.NODE_LEASE_NAMESPACE:
                self._note(new["metadata"]["name"], "lease", (new.get("spec") or {}).get("renewTime"), now)
            return ()
        if resource == kinds.NODES:
            return self._observe_node(old, new, now)
        # A pod that says it is ready on a node that does not answer: it came, or was marked, after the node was lost.
        if new is None or not pods.is_ready(new) or (old is not None and pods.is_ready(old)):
            return ()
        node = view.get(kinds.NODES, "", pods.node_name(new)) if pods.node_name(new) else None
        return (node["metadata"]["name"],) if node is not None and _ready_status(node) == "Unknown" else ()

    def _observe_node(self, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        if new is None:
            if old is None:
                return ()
            name = old["metadata"]["name"]
            self._answered_at.pop(name, None)
            self._answers.pop(name, None)
            self._registered.discard(name)
            self._removed[name] = old
            return (name, *(self._zones.lost() if self._zones.remove(name) else ()))
        name = new["metadata"]["name"]
        self._removed.pop(name, None)
        self._answered_at.setdefault(name, now)
        ready = conditions.find((new.get("status") or {}).get("conditions"), READY)
        self._note(name, "status", (ready or {}).get("lastHeartbeatTime"), now)
        keys = {name} if old is None or _decisive(old) != _decisive(new) else set()
        if old is None:
            keys.add(ATTENTION)
        if self._zones.put(name, _zone(new), _ready_status(new) == "True"):
            keys |= set(self._zones.lost())
        return keys

    def _note(self, name: str, source: str, answer: Any, now: float) -> None:
        if answer is None:
            return
        answers = self._answers.setdefault(name, {})
        if answers.get(source) != answer:
            answers[source] = answer
            self._answered_at[name] = now

    # -- what is decided

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """Conditions first, then taints, then the pods: one write of the node at a time."""
        attended = self._attention.at(now)
        if key == ATTENTION:
            return Plan(requeue_after=self._period_s if self._answered_at else None)
        node = view.get(kinds.NODES, "", key)
        draft = Draft()
        self._tell(key, node, draft)
        if node is None or node["metadata"].get("deletionTimestamp"):
            return draft.plan()
        never = conditions.find((node.get("status") or {}).get("conditions"), READY) is None
        silent_s = attended - self._answered_at.setdefault(key, attended)
        left_s = (self._startup_grace_s if never else self._grace_s) - silent_s
        if left_s > 0:
            draft.wake_after(math.ceil((now + left_s) / self._period_s) * self._period_s - now)
        elif _ready_status(node) != "Unknown" or never:
            self._declare_lost(node, draft, now)
            return draft.plan()
        self._taint(node, draft, now, attended)
        if _ready_status(node) == "Unknown":
            _mark_pods(view, node, draft, now)
        return draft.plan()

    def _tell(self, name: str, node: Obj | None, draft: Draft) -> None:
        """Events of nodes that came, and that went: once each, and for those that there are, at the beginning."""
        gone = self._removed.pop(name, None)
        if node is None and gone is not None:
            message = f"Node {name} event: Removing Node {name} from Controller"
            draft.events.append(Event(gone, "Normal", "RemovingNode", message))
        elif node is not None and name not in self._registered:
            self._registered.add(name)
            message = f"Node {name} event: Registered Node {name} in Controller"
            draft.events.append(Event(node, "Normal", "RegisteredNode", message))

    def _declare_lost(self, node: Obj, draft: Draft, now: float) -> None:
        status = dict(node.get("status") or {})
        known = {condition["type"] for condition in status.get("conditions") or ()}
        found = list(status.get("conditions") or ())
        for kind in REPORTED:
            if kind in known:
                verdict = ("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
            else:
                verdict = ("Unknown", "NodeStatusNeverUpdated", "Kubelet never posted node status.")
            before = conditions.find(found, kind)
            found = conditions.with_condition(found, kind, *verdict, now)
            if before is None:
                created = node["metadata"].get("creationTimestamp")
                after = conditions.find(found, kind)
                assert after is not None  # just set
                after["lastHeartbeatTime"] = created or rfc3339(now)
            elif before.get("lastHeartbeatTime"):
                found = [
                    {**each, "lastHeartbeatTime": before["lastHeartbeatTime"]} if each["type"] == kind else each
                    for each in found
                ]
        status["conditions"] = found
        write = status_write(kinds.NODES, node, status)
        if write is not None:
            draft.writes.append(write)
        if _ready_status(node) == "True":
            name = node["metadata"]["name"]
            draft.events.append(Event(node, "Normal", "NodeNotReady", f"Node {name} status is now: NodeNotReady"))

    def _taint(self, node: Obj, draft: Draft, now: float, attended: float) -> None:
        present = taints.taints_of(node)
        wanted = _wanted(node)
        executes = [taint for taint in present if taint.get("effect") == taints.NO_EXECUTE]
        keep = [taint for taint in present if (taint["key"], taint.get("effect")) not in OURS]
        known = {(taint["key"], taint.get("effect")): taint for taint in present}
        result = keep + [
            known.get((key, effect)) or {"key": key, "effect": effect, "timeAdded": rfc3339(now)}
            for key, effect in wanted
            if effect == taints.NO_SCHEDULE
        ]
        evict_key = next((key for key, effect in wanted if effect == taints.NO_EXECUTE), None)
        # Once no node answers at all, those that were lost first keep their pods too.
        if evict_key is not None and not self._zones.all_lost():
            evicting = next((taint for taint in executes if taint["key"] == evict_key), None)
            other = next((taint for taint in executes if taint["key"] in (taints.NOT_READY, taints.UNREACHABLE)), None)
            if evicting is not None:
                result.append(evicting)
            elif other is not None:  # from not ready to unreachable or back: pods are leaving already
                result.append({**other, "key": evict_key})
            else:
                wait_s = self._zones.wait_s(node["metadata"]["name"], attended)
                if wait_s == 0:
                    result.append({"key": evict_key, "effect": taints.NO_EXECUTE, "timeAdded": rfc3339(now)})
                elif wait_s is not None:
                    draft.wake_after(wait_s)
        if sorted(map(_identity, result)) != sorted(map(_identity, present)):
            draft.writes.append(patch_write(kinds.NODES, node, {"spec": {"taints": result or None}}))


def _identity(taint: Obj) -> tuple[str, str, str]:
    return taint["key"], taint.get("value", ""), taint.get("effect", "")


def _wanted(node: Obj) -> list[tuple[str, str]]:
    """The (key, effect) of the taints that the node's state asks for."""
    wanted = []
    found = (node.get("status") or {}).get("conditions")
    ready = _ready_status(node)
    if ready != "True":
        key = taints.UNREACHABLE if ready == "Unknown" else taints.NOT_READY
        wanted += [(key, taints.NO_SCHEDULE), (key, taints.NO_EXECUTE)]
        if conditions.find(found, READY) is None:
            wanted.pop()  # a node that is only starting loses no pods
    for kind, (status, key) in BY_CONDITION.items():
        condition = conditions.find(found, kind)
        if condition is not None and condition.get("status") == status:
            wanted.append((key, taints.NO_SCHEDULE))
    if (node.get("spec") or {}).get("unschedulable"):
        wanted.append((taints.UNSCHEDULABLE, taints.NO_SCHEDULE))
    return wanted


def _ready_status(node: Obj) -> str:
    """ "True", "False" or "Unknown"; "False" before the first report."""
    condition = conditions.find((node.get("status") or {}).get("conditions"), READY)
    return str(condition.get("status")) if condition is not None else "False"


def _zone(node: Obj) -> str:
    labels = claims.labels_of(node)
    return f"{labels.get('topology.kubernetes.io/region', '')}:{labels.get('topology.kubernetes.io/zone', '')}"


def _decisive(node: Obj) -> tuple[Any, ...]:
    """All of a node that decisions depend on; heartbeats are not."""
    found = (node.get("status") or {}).get("conditions") or ()
    spec = node.get("spec") or {}
    states = tuple((condition["type"], condition.get("status")) for condition in found)
    return states, spec.get("taints"), spec.get("unschedulable"), _zone(node)


def _mark_pods(view: View, node: Obj, draft: Draft, now: float) -> None:
    """Pods of a node that does not answer are not ready: Services stop sending to them."""
    for pod in view.by_index(kinds.PODS, "node", node["metadata"]["name"]):
        if not pods.is_ready(pod) or pods.is_terminal(pod):
            continue
        status = dict(pod["status"])
        status["conditions"] = [
            {**condition, "status": "False", "lastTransitionTime": rfc3339(now)}
            if condition.get("type") == READY
            else condition
            for condition in status["conditions"]
        ]
        write = status_write(kinds.PODS, pod, status)
        if write is not None:
            draft.writes.append(write)
            draft.events.append(Event(pod, "Warning", "NodeNotReady", "Node is not ready"))
