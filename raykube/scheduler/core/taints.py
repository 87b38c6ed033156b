"""Taints and tolerations. Nodes with the same taints share one code: a class judges every distinct set once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raykube.scheduler.core.requirements import Toleration

UNSCHEDULABLE_KEY = "node.kubernetes.io/unschedulable"
HARD_EFFECTS = ("NoSchedule", "NoExecute")


class Taint(NamedTuple):
    key: str
    value: str
    effect: str


UNSCHEDULABLE = Taint(UNSCHEDULABLE_KEY, "", "NoSchedule")


def taints_of(spec: dict[str, Any]) -> tuple[Taint, ...]:
    return tuple(
        Taint(taint.get("key", ""), taint.get("value") or "", taint.get("effect", ""))
        for taint in spec.get("taints") or ()
    )


class TaintSets:
    """Distinct tuples of taints by code; code 0 is none."""

    def __init__(self) -> None:
        self.sets: list[tuple[Taint, ...]] = [()]
        self._codes: dict[tuple[Taint, ...], int] = {(): 0}

    def intern(self, taints: tuple[Taint, ...]) -> int:
        code = self._codes.get(taints)
        if code is None:
            code = self._codes[taints] = len(self.sets)
            self.sets.append(taints)
        return code


class Judged:
    """What a class thinks of each distinct set of taints, as a table by code."""

    def __init__(self, sets: TaintSets, judge: Callable[[tuple[Taint, ...]], float]) -> None:
        self._sets = sets
        self._judge = judge
        self._table: NDArray[Any] = np.zeros(0)

    def table(self, kind: type[np.bool_] | type[np.float64]) -> NDArray[Any]:
        sets = self._sets.sets
        if len(self._table) < len(sets):
            known = self._table.tolist()
            known += [self._judge(taints) for taints in sets[len(known) :]]
            self._table = np.array(known, kind)
        return self._table


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    if toleration.operator in ("Lt", "Gt"):
        return _compares(toleration, taint)
    return bool(toleration.key) and toleration.value == taint.value


def _compares(toleration: Toleration, taint: Taint) -> bool:
    try:
        has, bound = int(taint.value), int(toleration.value)
    except ValueError:
        return False
    return has < bound if toleration.operator == "Lt" else has > bound


def untolerated(taints: tuple[Taint, ...], tolerations: tuple[Toleration, ...]) -> Taint | None:
    """The first taint that keeps the pod away."""
    for taint in taints:
        if taint.effect in HARD_EFFECTS and not any(tolerates(toleration, taint) for toleration in tolerations):
            return taint
    return None


def disliked(taints: tuple[Taint, ...], tolerations: tuple[Toleration, ...]) -> int:
    """How many PreferNoSchedule taints the pod does not tolerate."""
    soft = [toleration for toleration in tolerations if toleration.effect in ("", "PreferNoSchedule")]
    return sum(
        taint.effect == "PreferNoSchedule" and not any(tolerates(toleration, taint) for toleration in soft)
        for taint in taints
    )
