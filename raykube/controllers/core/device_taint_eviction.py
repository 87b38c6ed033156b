"""device-taint-eviction-controller: deletes pods from devices with NoExecute taints when their tolerations run out.

Keys are claims. A deadline is the time the taint came (`timeAdded`, or when it was first seen) plus
`tolerationSeconds`, as for nodes' taints (taint_eviction.py); what is tolerated was copied into the allocation.
"""

from collections.abc import Iterable

from raykube.api import resource_claims
from raykube.base.clock import parse_rfc3339
from raykube.controllers.core import aspects, conditions, kinds, pods, taints
from raykube.controllers.core.indexes import pool_value
from raykube.controllers.core.patches import delete_write, status_write, uid_of
from raykube.controllers.core.plan import NOTHING, Draft, Event, Obj, Plan, View, key_of, split_key

DISRUPTION = "DisruptionTarget"
REASON, MESSAGE = "DeletionByDeviceTaintManager", "Device Taint manager: deleting due to NoExecute taint"

Identity = tuple[str, str, str, str, str]  # driver, pool, device, and the taint's key and value


class DeviceTaintEvictionController:
    """See the module's docstring."""

    name = "device-taint-eviction-controller"
    resources = (kinds.RESOURCE_SLICES, kinds.RESOURCE_CLAIMS, kinds.PODS)
    looks_at = aspects.NODE

    def __init__(self) -> None:
        # pool → slices → taints → when first seen
        self._seen: dict[str, dict[str, dict[Identity, float]]] = {}

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """The claims of a pool whose taints changed; one that got devices or users; those of a pod that has a node."""
        if resource == kinds.RESOURCE_SLICES:
            if old is None or new is None or pool_value(old["spec"]) == pool_value(new["spec"]):
                return self._observe_slice(view, old, new, now)
            return {*self._observe_slice(view, old, None, now), *self._observe_slice(view, None, new, now)}
        if new is None:
            return ()
        if resource == kinds.PODS:
            return self._of_pod(view, new)
        if not resource_claims.reserved_for(new):
            return ()
        same = old is not None and (old.get("status") or {}) == (new.get("status") or {})
        return () if same or not self._tainted(view, new) else (key_of(new),)

    def _of_pod(self, view: View, pod: Obj) -> Iterable[str]:
        """Claims are reserved for a pod before it has its node, and may be seen before the pod is."""
        if not pod["spec"].get("resourceClaims") or not self._seen or not pods.node_name(pod):
            return ()
        namespace = pod["metadata"].get("namespace", "")
        named = {f"{namespace}/{one.claim}" for one in resource_claims.of_pod(pod) if not one.owned}
        return named.union(map(key_of, view.by_index(kinds.RESOURCE_CLAIMS, "controller", uid_of(pod))))

    def _observe_slice(self, view: View, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        changed = new or old
        assert changed is not None
        pool, name = pool_value(changed["spec"]), changed["metadata"]["name"]
        tainted = self._seen.setdefault(pool, {})
        before = tainted.pop(name, {})
        present = [] if new is None else [_identity(new, device, taint) for device, taint in _taints(new)]
        if present:
            tainted[name] = {one: before.get(one, now) for one in present}
        if not tainted:
            del self._seen[pool]
            return ()
        if old is not None and new is not None and _offer(old) == _offer(new):
            return ()
        return [key_of(claim) for claim in view.by_index(kinds.RESOURCE_CLAIMS, "pool", pool)]

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """Marks and deletes the pods of a claim when they have to leave; else waits for their time."""
        claim = view.get(kinds.RESOURCE_CLAIMS, *split_key(key))
        if claim is None:
            return NOTHING
        moments = [
            moment
            for moment in (self._leaves_at(*one, now) for one in self._tainted(view, claim))
            if moment is not None
        ]
        if not moments:
            return NOTHING
        if min(moments) > now:
            return Plan(requeue_after=min(moments) - now)
        draft = Draft()
        for entry in resource_claims.reserved_for(claim):
            pod = view.get(kinds.PODS, claim["metadata"].get("namespace", ""), entry.get("name", ""))
            if pod is not None and uid_of(pod) == entry.get("uid"):
                _evict(pod, draft, now)
        return draft.plan()

    def _leaves_at(self, offered: Obj, name: str, result: Obj, found: list[Obj], now: float) -> float | None:
        seen = self._seen.get(pool_value(offered["spec"]), {}).get(offered["metadata"]["name"], {})

        def since(taint: Obj) -> float:
            if taint.get("timeAdded"):
                return parse_rfc3339(taint["timeAdded"])
            return seen.get(_identity(offered, name, taint), now)

        return taints.leaves_at({"spec": {"tolerations": result.get("tolerations") or []}}, found, since)

    def _tainted(self, view: View, claim: Obj) -> list[tuple[Obj, str, Obj, list[Obj]]]:
        """The claim's devices that have such taints, as (slice, name, allocation result, taints)."""
        found = []
        allocation = resource_claims.allocation(claim) or {}
        for result in (allocation.get("devices") or {}).get("results") or ():
            pool = f"{result['driver']}/{result['pool']}"
            if pool not in self._seen:
                continue
            slices = view.by_index(kinds.RESOURCE_SLICES, "pool", pool)
            newest = max((_generation(one) for one in slices), default=0)
            for one in slices:
                if _generation(one) == newest and one["metadata"]["name"] in self._seen[pool]:
                    mine = [taint for device, taint in _taints(one) if device == result["device"]]
                    if mine:
                        found.append((one, result["device"], result, mine))
        return found


def _evict(pod: Obj, draft: Draft, now: float) -> None:
    """The next step towards its deletion: the condition, then the deletion itself."""
    if pods.is_terminating(pod) or pods.is_terminal(pod) or not pods.node_name(pod):
        return
    status = dict(pod.get("status") or {})
    if conditions.find(status.get("conditions"), DISRUPTION) is None:
        status["conditions"] = conditions.with_condition(
            status.get("conditions"), DISRUPTION, "True", REASON, MESSAGE, now
        )
        write = status_write(kinds.PODS, pod, status)
        if write is not None:
            draft.writes.append(write)
            draft.requeue_after = 0.0
        return
    done = Event(pod, "Normal", "DeviceTaintManagerEviction", "Marking for deletion")
    draft.writes.append(delete_write(kinds.PODS, pod, done=done))


def _generation(offered: Obj) -> int:
    return int(offered["spec"]["pool"].get("generation") or 0)


def _offer(offered: Obj) -> tuple[int, list[tuple[str, Obj]]]:
    """What a slice says of taints: where its generation is not the newest of its pool, it says nothing."""
    return _generation(offered), _taints(offered)


def _taints(offered: Obj) -> list[tuple[str, Obj]]:
    """The NoExecute taints of a slice's devices, each with the device's name."""
    return [
        (device["name"], taint)
        for device in offered["spec"].get("devices") or ()
        for taint in device.get("taints") or ()
        if taint.get("effect") == taints.NO_EXECUTE
    ]


def _identity(offered: Obj, device: str, taint: Obj) -> Identity:
    spec = offered["spec"]
    return spec["driver"], spec["pool"]["name"], device, taint.get("key", ""), taint.get("value") or ""
