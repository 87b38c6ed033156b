"""The rolling update of a DaemonSet: which nodes get a pod of the present template next. Decides; nothing here writes.

    maxUnavailable 1, maxSurge 0              maxUnavailable 0, maxSurge 1
    o* o* o*   one old pod goes               o*    o* o*   a second pod comes
    .  o* o*   a new one comes                o*n   o* o*   until it is available
    n  o* o*   until it is available          o*n*  o* o*   its old pod goes
    n* o* o*   the next one                   n*    o* o*   the next one

Old pods that are not available go (get their second pod) at once: nothing is lost with them. Where the node is not to
have a pod any longer but may keep it, a surge takes the old pod away only while enough others are available.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from raykube.controllers.core import intstr
from raykube.controllers.core.daemon_places import Ledger, Place, Stage, rolling
from raykube.controllers.core.plan import Obj


@dataclass(slots=True)
class Step:
    """Old pods to delete, and nodes that get a pod beside their old one."""

    delete: list[Obj] = field(default_factory=list)
    surge: list[str] = field(default_factory=list)


def limits(daemon_set: Obj, desired: int) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) as numbers of nodes, both rounded up; never are both 0."""
    wanted = rolling(daemon_set)
    unavailable = wanted.get("maxUnavailable")
    surge = intstr.resolve(wanted.get("maxSurge") or 0, desired, round_up=True)
    most = intstr.resolve(1 if unavailable is None else unavailable, desired, round_up=True)
    return surge, max(most, 1) if surge == 0 else most


def next_step(daemon_set: Obj, ledger: Ledger) -> Step:
    """What the roll-out does now. Empty when it is complete, or has to wait."""
    surge, unavailable = limits(daemon_set, ledger.sums["desiredNumberScheduled"])
    return _surging(ledger, surge) if surge else _replacing(ledger, unavailable)


def _replacing(ledger: Ledger, unavailable_max: int) -> Step:
    unavailable = sum(
        len(ledger.stages[stage])
        for stage in (Stage.MISSING, Stage.ENDING, Stage.NEW, Stage.OLD, Stage.BOTH, Stage.BOTH_AVAILABLE, Stage.EXCESS)
    )
    step = Step()
    for _, place in _idle(ledger, Stage.OLD):
        step.delete.append(_old(place))
    room = max(unavailable_max - unavailable, 0)
    for _, place in islice(_idle(ledger, Stage.OLD_AVAILABLE), room):
        step.delete.append(_old(place))
    return step


def _surging(ledger: Ledger, surge_max: int) -> Step:
    step = Step()
    for _, place in _idle(ledger, Stage.BOTH_AVAILABLE):
        step.delete.append(_old(place))
    for name, place in _idle(ledger, Stage.OLD):
        if place.verdict.run:
            step.surge.append(name)
        elif place.exists:
            step.delete.append(_old(place))
    room = max(surge_max - len(ledger.stages[Stage.BOTH]) - len(ledger.stages[Stage.EXCESS]), 0)
    spare = max(ledger.sums["serving"] - ledger.sums["desiredNumberScheduled"], 0)
    for name, place in _idle(ledger, Stage.OLD_AVAILABLE):
        if not room and not spare:
            break
        if place.verdict.run and room:
            step.surge.append(name)
            room -= 1
        elif place.exists and not place.verdict.run and spare:
            step.delete.append(_old(place))
            spare -= 1
    return step


def _idle(ledger: Ledger, stage: Stage) -> Iterator[tuple[str, Place]]:
    """The places of a stage where nothing else is deleted."""
    for name in ledger.stages[stage]:
        place = ledger.places[name]
        if not place.doomed:
            yield name, place


def _old(place: Place) -> Obj:
    assert place.old is not None
    return place.old
