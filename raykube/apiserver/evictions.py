"""Evictions: deletions of pods within what their disruption budgets allow.

The budget's status is written first, by compare-and-swap: two evictions never spend the same disruption. The write that
deletes the pod says why it goes, in its condition DisruptionTarget.
"""

import time

from raykube.api import meta
from raykube.api.errors import ApiError, Cause
from raykube.api.resources import Resource, builtin
from raykube.api.selectors import LabelSelector
from raykube.apiserver.authz import Guard
from raykube.apiserver.core import pods
from raykube.apiserver.core.item import Item
from raykube.apiserver.core.options import DeleteOptions
from raykube.apiserver.core.planning import DELETE, Operation
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.reader import Reader
from raykube.apiserver.writer import Writer
from raykube.base.clock import rfc3339
from raykube.pb import batch_pb2

BUDGETS = builtin("policy/v1", "PodDisruptionBudget")
DISRUPTED_PODS_MAX = 2000
DISRUPTION = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "EvictionByEvictionAPI",
    "message": "Eviction API: evicting",
}
_TRIES = 10


class Evictions:
    """Evicts pods."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer

    async def evict(
        self, resource: Resource, namespace: str, name: str, options: DeleteOptions, guard: Guard | None = None
    ) -> None:
        """Deletes the pod, or raises ApiError: 429 when a budget has nothing left."""
        item = await self._reader.get(resource, namespace, name)
        pod = item.decode()
        if guard is not None:
            guard(None, pod)
        if not pods.evictable_at_once(pod):
            budgets = [budget for budget in self._reader.cache(BUDGETS).items(namespace) if _covers(budget, pod)]
            if len(budgets) > 1:
                raise ApiError.internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
                )
            if budgets and not (options.dry_run or _spares(budgets[0], pod)):
                await self._spend(namespace, budgets[0].name, name)
        options.uid = options.uid or pod["metadata"]["uid"]
        options.condition = DISRUPTION
        await self._writer.one(Operation(DELETE, resource, namespace, name, deletion=options, dry_run=options.dry_run))

    async def _spend(self, namespace: str, name: str, pod: str) -> None:
        """Takes one disruption off a budget. Raises ApiError."""
        for _ in range(_TRIES):
            item = await self._reader.get(BUDGETS, namespace, name)
            budget = item.decode()
            status = budget.get("status") or {}
            _check(budget, status)
            disrupted = {**(status.get("disruptedPods") or {}), pod: rfc3339(time.time())}
            budget["status"] = {
                **status,
                "disruptionsAllowed": status["disruptionsAllowed"] - 1,
                "disruptedPods": disrupted,
            }
            write = batch_pb2.Write(
                key=BUDGETS.key(namespace, name).encode(), value=meta.encode(budget), expected_revision=item.revision
            )
            if (await self._writer.store.write([write]))[0].applied:
                return
        raise ApiError.too_many_requests("Cannot evict pod: the disruption budget is busy", 10)


def _covers(item: Item, pod: Object) -> bool:
    selector = (item.parsed().get("spec") or {}).get("selector")
    return selector is not None and LabelSelector.from_object(selector).matches(pod["metadata"].get("labels") or {})


def _spares(item: Item, pod: Object) -> bool:
    """Whether an unhealthy pod may go without asking: always, or while the budget's healthy pods suffice."""
    if pods.ready(pod):
        return False
    budget = item.parsed()
    status = budget.get("status") or {}
    if (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    wanted = int(status.get("desiredHealthy", 0))
    return 0 < wanted <= int(status.get("currentHealthy", 0))


def _check(budget: Object, status: Object) -> None:
    name = budget["metadata"]["name"]
    if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 0):
        cause = Cause("DisruptionBudget", f"The disruption budget {name} is still being processed by the server.", "")
        raise ApiError.too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.", 10, [cause]
        )
    if status.get("disruptionsAllowed", 0) <= 0:
        needs, has = status.get("desiredHealthy", 0), status.get("currentHealthy", 0)
        cause = Cause(
            "DisruptionBudget", f"The disruption budget {name} needs {needs} healthy pods and has {has} currently", ""
        )
        raise ApiError.too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.", 0, [cause]
        )
    if len(status.get("disruptedPods") or {}) > DISRUPTED_PODS_MAX:
        raise ApiError.forbidden(
            BUDGETS, name, "DisruptedPods map too big - too many evictions not confirmed by PDB controller"
        )
