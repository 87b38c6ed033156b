"""Why a pod fits nowhere, in upstream's words, and which plugins said so.

Every node is counted under the reasons of the first filter that rejects it, in upstream's order of filters. The second
sentence is about preemption: nodes that no eviction could make suitable, and the others. Where pods of lower priority
run, `preemption` finds its words.

    0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s).
    no new claims to deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, …

What stands before "preemption" is upstream's DynamicResources, which would give back claims that nobody uses yet; every
message on a pod that nothing can be done for has it, also of pods without claims.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from raykube.scheduler.core.events import NOTHING, Event
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import Filter, Rejected
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.podclass import PodClass
from raykube.scheduler.core.requirements import Requirements

if TYPE_CHECKING:
    from raykube.scheduler.core.preemption import Eviction

Object = dict[str, Any]

NO_NODES = "no nodes available to schedule pods"
NOT_HELPFUL = "Preemption is not helpful for scheduling"
NO_VICTIMS = "No preemption victims found for incoming pod"
KEPT = "node(s) kept for pods with deadlines"
NO_CLAIMS, STILL = "no new claims to deallocate", "still not schedulable"  # of a pod without claims, and with some
DEALLOCATED = "deallocation of ResourceClaim completed"
NEVER_PREEMPTS = "not eligible due to preemptionPolicy=Never."


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The message for the pod's condition and event, and what may help: events that a rejecting plugin named."""

    message: str
    plugins: frozenset[str]
    helped_by: Event
    hopeless: Mask | None = field(default=None, compare=False, repr=False)  # rows that no eviction could help
    eviction: "Eviction | None" = None  # who leaves, so that the pod fits
    unpromised: bool = False  # its nomination is of no use any more
    waits: bool = False  # for something that is being made for it: nothing was tried
    idle: Object | None = None  # a ResourceClaim of its own whose devices are to be given back


def nowhere(pod_class: PodClass, by: Filter, reason: str) -> Diagnosis:
    """Of a pod that one filter keeps from running on any node."""
    count = pod_class.nodes.count
    if not count:
        return Diagnosis(NO_NODES, frozenset(), Event.NODE)
    prefix = f"0/{count} nodes are available:"
    afterwards = _afterwards(pod_class, Counter({NOT_HELPFUL: count}))
    return Diagnosis(f"{prefix} {reason}. {afterwards}", frozenset((by.name,)), by.helped_by)


def _afterwards(pod_class: PodClass, verdict: Counter[str]) -> str:
    """What is said of a way out where there is none. `verdict`: the nodes, by why no eviction there helps."""
    if not pod_class.preempts:
        return _claims(pod_class.needs)
    if pod_class.needs.never_preempts:
        return no_way_out(pod_class.needs, NEVER_PREEMPTS)
    return no_way_out(pod_class.needs, f"0/{pod_class.nodes.count} nodes are available: {histogram(verdict)}.")


def no_way_out(needs: Requirements, preemption: str) -> str:
    """What the plugins say that look for one, in their order."""
    return f"{_claims(needs)}, preemption: {preemption}"


def _claims(needs: Requirements) -> str:
    return STILL if needs.wants_devices else NO_CLAIMS


@dataclass(slots=True)
class Findings:
    """How many nodes the filters reject for which reason, each counted under the first filter that says no."""

    reasons: Counter[str]
    plugins: set[str]
    helped_by: Event
    left: Mask  # rows that no filter rejects
    hopeless: Mask  # rejected rows where no eviction could help


def judge(pod_class: PodClass, pod: Pod, only: int | None = None) -> Findings:
    """Asks every filter, in upstream's order; about all nodes, or one row."""
    pod_class.catch_up()
    nodes = pod_class.nodes
    found = Findings(Counter(), set(), NOTHING, nodes.live.copy(), np.zeros(nodes.capacity, bool))
    if only is not None:
        found.left[:only] = found.left[only + 1 :] = False
    filters = pod_class.filters_for(pod)
    for one in filters:
        narrowed = one.narrowed()
        if narrowed is not None:
            _reject(found, one, [Rejected(f"node(s) didn't satisfy plugin(s) [{one.name}]", narrowed, True)])
    for one in filters:
        _reject(found, one, one.rejections(found.left, pod))
        if not found.left.any():
            break
    return found


def _reject(found: Findings, one: Filter, rejections: Iterable[Rejected]) -> None:
    """Takes the rows that one filter rejects out of those left, and counts them under its reasons."""
    failing = np.zeros(len(found.left), bool)
    for reason, rows, beyond in rejections:
        rows = rows & found.left
        if rows.any():
            found.reasons[reason] += int(np.count_nonzero(rows))
            failing |= rows
            found.hopeless |= rows & beyond
    if failing.any():
        found.plugins.add(one.name)
        found.helped_by |= one.helped_by
        found.left &= ~failing


def diagnose(pod_class: PodClass, pod: Pod, kept: Mask | None = None, *, victims: bool = False) -> Diagnosis:
    """Of a pod that `pick` found no row for. `victims`: others may have to give way, so preemption adds its words."""
    nodes = pod_class.nodes
    if not nodes.count:
        return Diagnosis(NO_NODES, frozenset(), Event.NODE)
    found = judge(pod_class, pod)
    if kept is not None and (found.left & kept).any():
        found.reasons[KEPT] += int(np.count_nonzero(found.left & kept))
        found.helped_by |= Event.POD_GONE | Event.NODE
        found.hopeless |= found.left & kept
    prefix = f"0/{nodes.count} nodes are available:"
    message = f"{prefix} {histogram(found.reasons)}."
    if not victims:
        helpless = int(np.count_nonzero(found.hopeless))
        verdict = Counter({NOT_HELPFUL: helpless, NO_VICTIMS: nodes.count - helpless})
        message += f" {_afterwards(pod_class, verdict)}"
    return Diagnosis(message, frozenset(found.plugins), found.helped_by or Event.NODE, found.hopeless)


def histogram(reasons: Counter[str]) -> str:
    """Counts and reasons as upstream lists them: sorted as text."""
    return ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items() if count))
