"""What the steward does about machines and their actors, from what it sees. Pure."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from raykube.cluster.plan import COMPONENTS
from raykube.cluster.state import ClusterState, Machine


@dataclass(frozen=True, slots=True)
class View:
    """What there is besides the record.

    `gone_s`: by machine, for how long Ray has had no live node of it; 0 while there is one. `left`: machines whose Ray
    was ended on purpose. `newcomers`: addresses of live Ray nodes that are no machine of the cluster.
    """

    voters: frozenset[str]  # machines with a voting member of the store
    homes: frozenset[str]  # machines with any member
    gone_s: Mapping[str, float]
    left: frozenset[str]
    newcomers: tuple[str, ...]
    actors: frozenset[str]  # names


@dataclass(frozen=True, slots=True)
class Seat:
    """Have the control plane on these machines."""

    machines: frozenset[str]


@dataclass(frozen=True, slots=True)
class Admit:
    """Ask the machines at these addresses who they are, and take them."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """Move the pods away from a machine that leaves; when they are gone, it is drained."""

    machine: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete the Node of a machine that is gone, end its actors, and take it out of the record."""

    machine: str


Change = Seat | Admit | Drain | Forget


def changes(state: ClusterState, view: View, leave_after_s: float, forget_after_s: float) -> list[Change]:
    """What is to be done to the record now, the most urgent first. What cannot be made now stops none of the rest.

    A machine is not forgotten while the store counts on its member: it would be without a machine to come back on.
    """
    found: list[Change] = []
    seated = {machine.name for machine in state.control_plane}
    # One whose member is made anew there keeps the rest of its part meanwhile.
    wanted = view.voters | (seated & view.homes)
    if view.voters and wanted != seated:
        found.append(Seat(wanted))
    if view.newcomers:
        found.append(Admit(view.newcomers))
    for machine in state.machines:
        if machine.name in view.homes:
            continue
        gone_s = view.gone_s.get(machine.name, 0.0)
        if _is_gone(machine, gone_s, machine.name in view.left, leave_after_s, forget_after_s):
            found.append(Forget(machine.name))
        elif machine.phase == "draining" and not gone_s:
            found.append(Drain(machine.name))
    return found


def _is_gone(machine: Machine, gone_s: float, has_left: bool, leave_after_s: float, forget_after_s: float) -> bool:
    if not gone_s:
        return False
    if machine.phase == "drained":
        return True
    # One that was told to leave is waited for no longer than one whose Ray ended on purpose, though it crashed then.
    return gone_s >= (leave_after_s if has_left or machine.phase else forget_after_s or math.inf)


def amiss(wanted: Iterable[str], actors: Collection[str], apart: str) -> tuple[list[str], list[str]]:
    """The actors to start, in the order of `wanted`, and those to end. Names that begin with `apart` are another's."""
    names = list(wanted)
    missing = [name for name in names if name not in actors and not name.startswith(apart)]
    surplus = sorted(name for name in set(actors).difference(names) if not name.startswith(apart))
    return missing, surplus


def endings(surplus: Collection[str], leaving: Iterable[str]) -> list[tuple[list[str], bool]]:
    """Groups of actors to end, one after the other, and whether what they leave on their machine goes too.

    It does on machines that leave, where a kubelet's pods need their network until they have ended.
    """
    groups = []
    left, machines = set(surplus), list(leaving)
    for component in reversed(COMPONENTS):
        names = sorted(left.intersection(f"{component}-{machine}" for machine in machines))
        left.difference_update(names)
        groups.append((names, True))
    return [group for group in [*groups, (sorted(left), False)] if group[0]]
