"""The pod of a DaemonSet on one node: what is made of the template, and whether the node is to run it.

A pod is bound to its node by the scheduler: the only node affinity that it requires is the node's name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from raykube.api import node_selectors
from raykube.controllers.core import claims, pods, taints
from raykube.controllers.core import controller_revisions as revisions
from raykube.controllers.core.plan import Obj

GENERATION = "deprecated.daemonset.template.generation"  # annotation of a DaemonSet, counted by the apiserver
GENERATION_LABEL = "pod-template-generation"
NODE_PREFIX = "node.kubernetes.io/"


def _tolerated(condition: str, effect: str) -> Obj:
    return {"key": f"{NODE_PREFIX}{condition}", "operator": "Exists", "effect": effect}


TOLERATIONS = (
    _tolerated("not-ready", taints.NO_EXECUTE),
    _tolerated("unreachable", taints.NO_EXECUTE),
    _tolerated("disk-pressure", taints.NO_SCHEDULE),
    _tolerated("memory-pressure", taints.NO_SCHEDULE),
    _tolerated("pid-pressure", taints.NO_SCHEDULE),
    _tolerated("unschedulable", taints.NO_SCHEDULE),
)
HOST_NETWORK_TOLERATION = _tolerated("network-unavailable", taints.NO_SCHEDULE)


def _identity(toleration: Obj) -> tuple[str, ...]:
    return tuple(toleration.get(field) or "" for field in ("key", "effect", "operator", "value"))


def with_tolerations(spec: Obj) -> list[Obj]:
    """The tolerations of a pod spec with those that every daemon pod has; its own of the same taint are replaced."""
    added = [*TOLERATIONS, HOST_NETWORK_TOLERATION] if spec.get("hostNetwork") else list(TOLERATIONS)
    ours = {_identity(toleration): toleration for toleration in added}
    kept = [ours.pop(_identity(given), given) for given in spec.get("tolerations") or ()]
    return kept + list(ours.values())


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a DaemonSet thinks of a node: may a pod be put there, and may one that is there stay?"""

    run: bool
    stay: bool


NEVER = Verdict(run=False, stay=False)


class DaemonTemplate:
    """The pod template of one state of a DaemonSet, prepared for many nodes."""

    def __init__(self, daemon_set: Obj, hash_value: str) -> None:
        given = daemon_set["spec"].get("template") or {}
        meta, spec = given.get("metadata") or {}, given.get("spec") or {}
        self.hash = hash_value
        self.generation = (daemon_set["metadata"].get("annotations") or {}).get(GENERATION, "")
        self._tolerations = with_tolerations(spec)
        labels = {**(meta.get("labels") or {}), revisions.POD_LABEL: hash_value}
        if self.generation:
            labels[GENERATION_LABEL] = self.generation
        self._template = {"metadata": {**meta, "labels": labels}, "spec": {**spec, "tolerations": self._tolerations}}
        affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
        self._required = affinity.get(pods.REQUIRED_AFFINITY)
        self._node_selector: dict[str, str] = spec.get("nodeSelector") or {}
        self._node_name = spec.get("nodeName") or ""

    def on(self, node: str) -> Obj:
        """The template of the pod for `node`."""
        spec = self._template["spec"]
        affinity = spec.get("affinity") or {}
        node_affinity = {**(affinity.get("nodeAffinity") or {}), pods.REQUIRED_AFFINITY: _only(node)}
        return {**self._template, "spec": {**spec, "affinity": {**affinity, "nodeAffinity": node_affinity}}}

    def is_of(self, pod: Obj) -> bool:
        """Whether a pod was made of this template."""
        labels = claims.labels_of(pod)
        if labels.get(revisions.POD_LABEL) == self.hash:
            return True
        return bool(self.generation) and labels.get(GENERATION_LABEL) == self.generation

    def verdict(self, node: Obj) -> Verdict:
        """By name, node selector, required node affinity and taints. A NoSchedule taint moves no pod that is there."""
        meta = node["metadata"]
        labels = meta.get("labels") or {}
        if self._node_name not in ("", meta["name"]):
            return NEVER
        if any(labels.get(key) != value for key, value in self._node_selector.items()):
            return NEVER
        if not node_selectors.matches(self._required, labels, meta["name"]):
            return NEVER
        stay = self._tolerates(taints.taints_of(node, taints.NO_EXECUTE))
        return Verdict(run=stay and self._tolerates(taints.taints_of(node, taints.NO_SCHEDULE)), stay=stay)

    def _tolerates(self, present: Sequence[Obj]) -> bool:
        return all(any(taints.tolerates(each, taint) for each in self._tolerations) for taint in present)


def _only(node: str) -> Obj:
    term = {"matchFields": [{"key": pods.NAME_FIELD, "operator": "In", "values": [node]}]}
    return {"nodeSelectorTerms": [term]}
