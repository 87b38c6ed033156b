"""Why a pod fits nowhere, in upstream's words, and which plugins said so.

Every node is counted under the reasons of the first plugin that rejects it, in upstream's order of filters. The second
sentence is about preemption: nodes that no eviction could make suitable, and the others. It is left out where upstream
would look for victims among pods of lower priority: this scheduler evicts nobody.

    0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {key: value}.
    preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful …
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from raykube.scheduler.core import spread
from raykube.scheduler.core.affinity import Permits
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.podclass import PodClass
from raykube.scheduler.core.taints import untolerated
from raykube.scheduler.core.terms import pinned_names
from raykube.scheduler.core.volumes import Storage

NODE_UNSCHEDULABLE, TAINT_TOLERATION = "NodeUnschedulable", "TaintToleration"
NODE_AFFINITY, NODE_PORTS, NODE_RESOURCES = "NodeAffinity", "NodePorts", "NodeResourcesFit"
VOLUME_BINDING, VOLUME_RESTRICTIONS = "VolumeBinding", "VolumeRestrictions"
POD_TOPOLOGY_SPREAD, INTER_POD_AFFINITY = "PodTopologySpread", "InterPodAffinity"

NO_NODES = "no nodes available to schedule pods"
NOT_HELPFUL = "Preemption is not helpful for scheduling"
NO_VOLUME = "node(s) didn't find available persistent volumes to bind"
NO_VICTIMS = "No preemption victims found for incoming pod"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The message for the pod's condition and event, and the plugins whose rejection an event may lift."""

    message: str
    plugins: frozenset[str]


def nowhere(pod_class: PodClass, reason: str) -> Diagnosis:
    """Of a pod whose claims keep it from running on any node."""
    count = pod_class.nodes.count
    if not count:
        return Diagnosis(NO_NODES, frozenset())
    prefix = f"0/{count} nodes are available:"
    helpless = f"{prefix} {count} {NOT_HELPFUL}."
    if pod_class.needs.never_preempts:
        helpless = "not eligible due to preemptionPolicy=Never."
    return Diagnosis(f"{prefix} {reason}. preemption: {helpless}", frozenset((VOLUME_BINDING,)))


def diagnose(
    pod_class: PodClass, permits: Permits | None = None, storage: Storage | None = None, *, victims: bool = False
) -> Diagnosis:
    """Of a class that `pick` found no row for. `victims`: pods of lower priority run somewhere."""
    pod_class.catch_up()
    nodes, needs = pod_class.nodes, pod_class.needs
    if not nodes.count:
        return Diagnosis(NO_NODES, frozenset())
    left = nodes.live.copy()
    reasons: Counter[str] = Counter()
    plugins: set[str] = set()
    hopeless = 0

    def reject(plugin: str, failing: Mask, reason: str) -> int:
        """Takes the failing nodes out of those still judged; how many they are."""
        nonlocal left
        count = int(np.count_nonzero(left & failing))
        if count:
            plugins.add(plugin)
            reasons[reason] += count
            left &= ~failing
        return count

    pinned = pinned_names(needs)
    if pinned is not None:
        outside = np.ones(nodes.capacity, bool)
        outside[[nodes.rows[name] for name in pinned if name in nodes.rows]] = False
        hopeless += reject(NODE_AFFINITY, outside, f"node(s) didn't satisfy plugin(s) [{NODE_AFFINITY}]")
    if not pod_class.enters_unschedulable:
        hopeless += reject(NODE_UNSCHEDULABLE, nodes.unschedulable, "node(s) were unschedulable")
    for code in np.unique(nodes.taint_set[left & ~pod_class.tolerated]).tolist():
        taint = untolerated(nodes.taints.sets[code], needs.tolerations)
        if taint is not None:
            reason = f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}"
            hopeless += reject(TAINT_TOLERATION, nodes.taint_set == code, reason)
    hopeless += reject(NODE_AFFINITY, ~pod_class.affinity, "node(s) didn't match Pod's node affinity/selector")
    if needs.host_ports:
        taken = np.zeros(nodes.capacity, bool)
        for row in np.flatnonzero(left):
            taken[row] = nodes.port_conflict(int(row), needs.host_ports)
        reject(NODE_PORTS, taken, "node(s) didn't have free ports for the requested pod ports")
    hopeless += _reject_resources(pod_class, left, reasons, plugins)
    if storage is not None:
        text = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
        reject(VOLUME_RESTRICTIONS, storage.exclusive, text)
        text = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
        hopeless += reject(VOLUME_BINDING, storage.lost, text)
        both = left & storage.conflict & storage.unfound  # counted under each
        if both.any():
            reasons[NO_VOLUME] += int(np.count_nonzero(both))
        hopeless += reject(VOLUME_BINDING, storage.conflict, "node(s) didn't match PersistentVolume's node affinity")
        hopeless += reject(VOLUME_BINDING, storage.unfound, NO_VOLUME)
    if needs.hard:
        missing = spread.missing_keys(nodes, needs)
        text = "node(s) didn't match pod topology spread constraints"
        hopeless += reject(POD_TOPOLOGY_SPREAD, missing, f"{text} (missing required label)")
        reject(POD_TOPOLOGY_SPREAD, ~pod_class.hard_mask(), text)
    if permits is not None:
        text = "node(s) didn't match pod affinity rules"
        hopeless += reject(INTER_POD_AFFINITY, ~permits.affinity, text)
        reject(INTER_POD_AFFINITY, ~permits.anti_affinity, "node(s) didn't match pod anti-affinity rules")
        text = "node(s) didn't satisfy existing pods anti-affinity rules"
        reject(INTER_POD_AFFINITY, ~permits.existing, text)
    prefix = f"0/{nodes.count} nodes are available:"
    message = f"{prefix} {_histogram(reasons)}."
    if needs.never_preempts:
        message += " preemption: not eligible due to preemptionPolicy=Never."
    elif hopeless == nodes.count or not victims:
        helpless = Counter({NOT_HELPFUL: hopeless, NO_VICTIMS: nodes.count - hopeless})
        message += f" preemption: {prefix} {_histogram(helpless)}."
    return Diagnosis(message, frozenset(plugins))


def _reject_resources(pod_class: PodClass, left: Mask, reasons: Counter[str], plugins: set[str]) -> int:
    """Counts a node under every resource that it lacks; returns on how many it lacks even when empty."""
    nodes = pod_class.nodes
    full = left & (nodes.pod_count >= nodes.pods_allowed)
    failing = full.copy()
    hopeless = np.zeros(nodes.capacity, bool)
    if full.any():
        reasons["Too many pods"] += int(np.count_nonzero(full))
    for name, needed in pod_class.needs.resources:
        index = nodes.index_of(name)
        short = left & (nodes.requested[index] + needed > nodes.allocatable[index])
        if short.any():
            reasons[f"Insufficient {name}"] += int(np.count_nonzero(short))
            failing |= short
            hopeless |= short & (needed > nodes.allocatable[index])
    if failing.any():
        plugins.add(NODE_RESOURCES)
        left &= ~failing
    return int(np.count_nonzero(hopeless))


def _histogram(reasons: Counter[str]) -> str:
    return ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items() if count))
