"""What the objects of a namespace use of one ResourceQuota, kept up to date by what changes.

Pods whose grace period is over use nothing any longer. All is made anew when the quota's spec has changed.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from raykube.api import quantity, quotas
from raykube.api.pod_resources import Amounts
from raykube.controllers.core.keeper import Keeper
from raykube.controllers.core.patches import uid_of
from raykube.controllers.core.plan import Obj, View


class Count(Keeper):
    """The sums of one resource for one quota; `refresh` before they are read."""

    def __init__(self, view: View, quota: Obj, resource: str, kind: quotas.Kind, names: Iterable[str]) -> None:
        self._namespace = str(quota["metadata"].get("namespace", ""))
        self._resource, self._kind, self._names = resource, kind, tuple(names)
        self._basis = _basis(quota)
        self._spec: Obj = quota.get("spec") or {}
        self._used: dict[str, Amounts] = {}  # name of an object → what it uses
        self._sums: dict[str, quantity.Number] = dict.fromkeys(self._names, 0)
        self._styles: dict[str, str] = {}
        found = view.by_index(resource, "namespace", self._namespace)
        super().__init__(obj["metadata"]["name"] for obj in found)

    def __len__(self) -> int:
        """How many objects there are."""
        return len(self._used)

    def is_for(self, quota: Obj) -> bool:
        """Whether what was counted still holds for `quota`."""
        return _basis(quota) == self._basis

    def refresh(self, view: View, now: float) -> float | None:
        """Looks at the marked objects. Seconds until one uses less by itself, None for never."""
        for name in self._take(now):
            obj = view.get(self._resource, self._namespace, name)
            self._replace(name, None if obj is None else self.usage(obj, now))
            end = quotas.ends_at(obj) if obj is not None and self._kind == quotas.PODS else None
            if end is not None and end >= now:
                self._mark_at(name, end + 1)  # in its last second it still counts
        return self._wait_s(now)

    def usage(self, obj: Obj, now: float) -> Amounts:
        """What one object uses; nothing when it is not in the quota's scopes."""
        scoped = bool(self._spec.get("scopes") or self._spec.get("scopeSelector"))
        if scoped and not quotas.in_scope(self._spec, self._kind, obj):
            return {}
        return quotas.usage(self._kind, obj, now)

    def total(self) -> Amounts:
        """The sums, written as `quotas.total` does."""
        return {
            name: quantity.format_quantity(number, self._styles.get(name, quantity.DECIMAL))
            for name, number in self._sums.items()
        }

    def total_of(self, objects: Iterable[Obj], now: float) -> Amounts:
        """The sums of these objects, in place of those that are remembered."""
        return quotas.total([self.usage(obj, now) for obj in objects], self._names)

    def _replace(self, name: str, used: Amounts | None) -> None:
        before = self._used.pop(name, {})
        if used is not None:
            self._used[name] = used
        if before == used:
            return
        self._add(before, -1)
        self._add(used or {}, 1)

    def _add(self, used: Mapping[str, str], sign: int) -> None:
        for name, text in used.items():
            if name in self._sums and text != "0":
                self._sums[name] += sign * quantity.parse(text)
                self._styles.setdefault(name, quantity.style_of(text))


def _basis(quota: Obj) -> tuple[str, Any]:
    return uid_of(quota), quota.get("spec")
