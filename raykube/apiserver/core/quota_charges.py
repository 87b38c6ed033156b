"""Charging new objects, and those that grow, to the ResourceQuotas of their namespace.

    tallies = the namespace's quotas as they are known ── charge(object) ──► the same, touched where it costs something
                                                              └────────────► ApiError (403): it does not fit

A batch of objects is charged one after the other to the same tallies; then every touched quota is written once, in one
transaction with the objects. A quota that limits what its status does not know yet (it is new, or was changed) is
touched too, though nothing is charged: its controller, which counts now, then counts again.

Messages are upstream's (admission plugin ResourceQuota).
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from raykube.api import quantity, quotas
from raykube.api.errors import ApiError
from raykube.api.pod_resources import Amounts
from raykube.api.resources import Resource
from raykube.apiserver.core.strategy import Object

_GROWING = frozenset((("", "services", ""), ("", "persistentvolumeclaims", ""), ("", "pods", "resize")))


def may_grow(resource: Resource, subresource: str) -> bool:
    """Whether an update through `subresource` can use up more of a quota."""
    return (resource.group, resource.plural, subresource) in _GROWING


class Tally:
    """One ResourceQuota, and what was charged to it since it was read at `revision`."""

    def __init__(self, quota: Object, revision: int) -> None:
        self.quota, self.revision = quota, revision
        self.name: str = quota["metadata"]["name"]
        self.is_touched = False
        self._spec: Object = quota.get("spec") or {}
        status = quota.get("status") or {}
        self._hard: Mapping[str, Any] = status.get("hard") or {}
        self._used: Amounts = dict(status.get("used") or {})

    def charged(self) -> Object:
        """The quota as it is to be stored."""
        return {**self.quota, "status": {**(self.quota.get("status") or {}), "used": self._used}}

    def covers(self, kind: quotas.Kind, obj: Object) -> bool:
        """Whether it limits anything of the object, or will when its controller has seen it."""
        names = {**(self._spec.get("hard") or {}), **self._hard}
        return bool(quotas.tracked(names, kind)) and quotas.in_scope(self._spec, kind, obj)

    def check(self, resource: Resource, kind: quotas.Kind, obj: Object) -> None:
        """Raises ApiError if the object says too little to be counted, or the usage is not known yet."""
        limited = quotas.tracked(self._hard, kind)
        name = obj["metadata"].get("name", "")
        if unsaid := quotas.unspecified(limited, kind, obj):
            raise ApiError.forbidden(resource, name, f"failed quota: {self.name}: {unsaid}")
        if any(each not in self._used for each in limited):
            listed = ",".join(sorted(limited))
            raise ApiError.forbidden(resource, name, f"status unknown for quota: {self.name}, resources: {listed}")

    def added(self, resource: Resource, obj: Object, usage: Amounts) -> Amounts:
        """`used` with `usage`. Raises ApiError if that is more than there is."""
        asked = {name: amount for name, amount in usage.items() if name in self._hard}
        after = {name: quantity.add(self._used.get(name, "0"), amount) for name, amount in asked.items()}
        exceeded = [name for name in after if quantity.parse(after[name]) > quantity.parse(self._hard[name])]
        if exceeded:
            shown = [_shown(exceeded, amounts) for amounts in (asked, self._used, self._hard)]
            message = f"exceeded quota: {self.name}, requested: {shown[0]}, used: {shown[1]}, limited: {shown[2]}"
            raise ApiError.forbidden(resource, obj["metadata"].get("name", ""), message)
        return after

    def take(self, after: Amounts, kind: quotas.Kind) -> None:
        """Notes what `added` said."""
        unknown = [name for name in quotas.tracked(self._spec.get("hard") or {}, kind) if name not in self._hard]
        self._used |= after
        self.is_touched = self.is_touched or bool(after) or bool(unknown)


def charge(tallies: Sequence[Tally], resource: Resource, obj: Object, old: Object | None = None) -> bool:
    """Charges a new object, or what it uses more than `old`. Whether a quota has to be written with it.

    Raises ApiError, with nothing charged, when one of the quotas is exceeded."""
    kind = (resource.group, resource.plural)
    covering = [tally for tally in tallies if tally.covers(kind, obj)]
    if not covering:
        return False
    for tally in covering:
        tally.check(resource, kind, obj)
    usage = quotas.usage(kind, obj)
    negative = sorted(name for name, amount in usage.items() if quantity.parse(amount) < 0)
    if negative:
        message = f"quota usage is negative for resource(s): {','.join(negative)}"
        raise ApiError.forbidden(resource, obj["metadata"].get("name", ""), message)
    if old is not None:
        usage = _more(usage, quotas.usage(kind, old))
    usage = {name: amount for name, amount in usage.items() if amount != "0"}
    if not usage:
        return False
    afters = [tally.added(resource, obj, usage) for tally in covering]
    for tally, after in zip(covering, afters, strict=True):
        tally.take(after, kind)
    return any(tally.is_touched for tally in covering)


def _more(usage: Amounts, before: Amounts) -> Amounts:
    found = {}
    for name, amount in usage.items():
        growth = Fraction(quantity.parse(amount)) - Fraction(quantity.parse(before.get(name, "0")))
        found[name] = quantity.format_quantity(growth, quantity.style_of(amount)) if growth > 0 else "0"
    return found


def _shown(names: Iterable[str], amounts: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={quantity.canonical(amounts.get(name, '0'))}" for name in sorted(names))
