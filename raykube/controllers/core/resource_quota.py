"""resourcequota-controller: counts what the objects of a namespace use of its ResourceQuotas.

Apiservers charge what is created, in one transaction with it; what is given up (deleted objects, pods that ended,
claims that became smaller) is found here, by counting again. A count is written only over the state of the quota that
it is known to be of: caches that may lack something charged there are not counted, the API is asked instead, in a large
namespace if they do not catch up in a second. So a quota never shows less than is used, and what is charged while
counting wins over the count. Only what has changed is counted (quota_count.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raykube.api import quantity, quotas
from raykube.api.pod_resources import Amounts
from raykube.api.resources import Resource
from raykube.controllers.core import aspects, kinds
from raykube.controllers.core.patches import status_write, version_of
from raykube.controllers.core.plan import NOTHING, Draft, Obj, Plan, Read, View, key_of, split_key
from raykube.controllers.core.quota_count import Count

READ_MAX = 200  # so many objects are read at once where the caches lack some; more are given a moment to come
LAG_S, LAG_MAX_S = 0.02, 1.0


class ResourceQuotaController:
    """See the module's docstring. `resources_of_api` are the resources there are, by qualified plural."""

    name = "resourcequota-controller"
    looks_at = aspects.PHASE | aspects.SPEC | aspects.DELETION

    def __init__(self, resources_of_api: Mapping[str, Resource]) -> None:
        self._kinds: dict[str, quotas.Kind] = {
            name: (each.group, each.plural)
            for name, each in resources_of_api.items()
            if each.namespaced and {"create", "list", "watch"} <= set(each.verbs)
        }
        for name in [name for name, kind in self._kinds.items() if kind in quotas.IGNORED]:
            del self._kinds[name]
        self.resources: Sequence[str] = list(self._kinds)
        self._counts: dict[str, dict[str, Count]] = {}  # key → resource → what is used
        self._behind: dict[str, float] = {}  # key → since when the caches have not caught up with it
        self._asked: dict[str, int] = {}  # key → version of the quota for which objects were read

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """The quotas that limit objects of this kind, when one came, went, or uses something else."""
        changed = new or old
        if changed is None:
            return ()
        found = view.by_index(kinds.RESOURCE_QUOTAS, "namespace", changed["metadata"].get("namespace", ""))
        kind = self._kinds[resource]
        keys = []
        if resource == kinds.RESOURCE_QUOTAS:
            keys.append(key_of(changed))
            if old is None or new is None or old.get("spec") != new.get("spec"):
                self._counts.pop(key_of(changed), None)  # what it does not limit for a while is not marked meanwhile
        if found and (old is None or new is None or _uses(kind, old) != _uses(kind, new)):
            for key in [key_of(quota) for quota in found if quotas.tracked(_names(quota), kind)]:
                keys.append(key)
                if (count := self._counts.get(key, {}).get(resource)) is not None:
                    count.mark(changed["metadata"]["name"])
        return keys

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """The status of one quota."""
        quota = view.get(kinds.RESOURCE_QUOTAS, *split_key(key))
        if quota is None:
            self._counts.pop(key, None)
            self._behind.pop(key, None)
            self._asked.pop(key, None)
            return NOTHING
        hard: dict[str, Any] = (quota.get("spec") or {}).get("hard") or {}
        status, draft = quota.get("status") or {}, Draft()
        used = self._count(view, quota, hard, draft, now)
        if used is None:
            return draft.plan()
        if status.get("hard") != hard or not _same(status.get("used") or {}, used):
            write = status_write(kinds.RESOURCE_QUOTAS, quota, {**status, "hard": dict(hard), "used": used})
            if write is not None:
                draft.writes.append(write)
        return draft.plan()

    def _count(self, view: View, quota: Obj, hard: Mapping[str, Any], draft: Draft, now: float) -> Amounts | None:
        """What is used of each name; None where that cannot be said yet, with reads or a time in `draft`.

        Where the caches agree with the status nothing is to be written, and it does not matter how old they are."""
        key = key_of(quota)
        before = (quota.get("status") or {}).get("used") or {}
        used: Amounts = {}
        behind = False
        for resource, kind in self._kinds.items():
            names = quotas.tracked(hard, kind)
            if not names:
                continue
            count = self._count_of(view, quota, resource, kind, names)
            wait_s = count.refresh(view, now)
            if wait_s is not None:
                draft.wake_after(wait_s)
            found = count.total()
            # The quota is the last write of its batch: a cache that has come to the one before holds all it was for.
            is_complete = view.revision_of(resource) >= version_of(quota) - 1
            if not is_complete and not _same({name: before[name] for name in names if name in before}, found):
                behind = True
                read = Read(resource, quota["metadata"].get("namespace", ""))
                objects = view.answer(read) if len(count) <= READ_MAX or self._is_late(key, now) else None
                if objects is not None and version_of(quota) > self._asked.get(key, 0):
                    draft.wake_after(LAG_S)  # what was charged while they were read is not in them
                    return None
                if objects is not None:
                    found = count.total_of(objects, now)
                elif len(count) <= READ_MAX or self._is_late(key, now):
                    draft.reads.append(read)
                    self._asked[key] = version_of(quota)
                else:
                    draft.wake_after(LAG_S)
                    return None
            used |= found
        if draft.reads:
            return None
        if not behind or self._is_late(key, now):
            self._behind.pop(key, None)
        return {name: used.get(name, "0") for name in hard}

    def _is_late(self, key: str, now: float) -> bool:
        """Whether the caches have had their time to catch up with what was charged."""
        return now - self._behind.setdefault(key, now) >= LAG_MAX_S

    def _count_of(self, view: View, quota: Obj, resource: str, kind: quotas.Kind, names: Sequence[str]) -> Count:
        counts = self._counts.setdefault(key_of(quota), {})
        count = counts.get(resource)
        if count is None or not count.is_for(quota):
            count = counts[resource] = Count(view, quota, resource, kind, names)
        return count


def _names(quota: Obj) -> Iterable[str]:
    return (quota.get("spec") or {}).get("hard") or ()


def _uses(kind: quotas.Kind, obj: Obj) -> Any:
    """What of an object decides what it uses, and of which quotas; () for kinds that are merely counted."""
    if kind == quotas.PODS:
        ended = (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        return ended, quotas.ends_at(obj), obj.get("spec")
    if kind == quotas.CLAIMS:
        return obj.get("spec"), obj.get("status")
    return obj.get("spec") if kind in (quotas.SERVICES, quotas.RESOURCE_CLAIMS) else ()


def _same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        quantity.parse(first[name]) == quantity.parse(second[name]) for name in first
    )
