"""Everything the scheduler knows: nodes, the pods on them, spread groups and pod classes.

    on_node / on_pod      what the API says, as it comes
    schedule(pod)         → a Placement, at once assumed; or a Diagnosis
    forget(uid)           the binding failed: the assumption is taken back

An assumed pod counts like a bound one; when the API then says that it is bound to that node nothing changes. Pods that
ended (Succeeded, Failed) or are gone use nothing.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from raykube.scheduler.core.affinity import PodTerms, Terms, asked
from raykube.scheduler.core.diagnosis import Diagnosis, diagnose, nowhere
from raykube.scheduler.core.nodes import NodeTable
from raykube.scheduler.core.podclass import NONE, PodClass
from raykube.scheduler.core.requirements import Constraint, Requirements, RequirementsCache
from raykube.scheduler.core.spread import Group, GroupKey, group_key
from raykube.scheduler.core.volumes import Claim, Reservation, VolumeTable, claims_of

Object = dict[str, Any]

CLASSES_MAX = 512
ANSWERS_MAX = 64  # kept per class


@dataclass(slots=True)
class Pod:
    """A pod as the scheduler sees it."""

    uid: str
    namespace: str
    name: str
    resource_version: int
    labels: dict[str, str]
    owner: str  # uid of its controller, or ""
    priority: int
    node: str
    terminating: bool
    ended: bool
    reported: str  # the message of its PodScheduled=False condition
    needs: Requirements
    claims: tuple[Claim, ...]


class Placement(NamedTuple):
    node: str
    counted: bool  # some class spreads over, or looks for, pods like this one: its rejected pods may fit now
    reservations: tuple[Reservation, ...] = ()  # to be written before the pod is bound


@dataclass(slots=True)
class _Placed:
    """A pod that uses a row."""

    pod: Pod
    row: int
    assumed: bool
    groups: list[Group] = field(default_factory=list)
    counted: tuple[Terms, ...] = ()


class Cluster:
    """The state behind the decisions; changed by the methods only."""

    def __init__(self) -> None:
        self.nodes = NodeTable()
        self.volumes = VolumeTable(self.nodes)
        self._requirements = RequirementsCache()
        self._placed: dict[str, _Placed] = {}
        self._by_namespace: dict[str, dict[str, _Placed]] = {}
        self._by_owner: dict[str, dict[str, _Placed]] = {}
        self._groups: dict[GroupKey, Group] = {}
        self._selector_groups: dict[str, list[Group]] = {}
        self._classes: OrderedDict[bytes, PodClass] = OrderedDict()
        self._diagnoses: dict[bytes, dict[tuple[Terms, bool], tuple[tuple[int, int], Diagnosis]]] = {}
        self._terms = PodTerms(self.nodes)
        self._priorities: Counter[int] = Counter()
        self._forgot = False  # classes were forgotten, so nobody knows who may care for a placement

    # What the API says

    def read_pod(self, obj: Object) -> Pod:
        metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
        owner = next((ref["uid"] for ref in metadata.get("ownerReferences") or () if ref.get("controller")), "")
        return Pod(
            uid=metadata["uid"],
            namespace=metadata.get("namespace", ""),
            name=metadata["name"],
            resource_version=int(metadata.get("resourceVersion") or 0),
            labels=metadata.get("labels") or {},
            owner=owner,
            priority=int(spec.get("priority") or 0),
            node=spec.get("nodeName") or "",
            terminating="deletionTimestamp" in metadata,
            ended=status.get("phase") in ("Succeeded", "Failed"),
            reported=next(
                (
                    item.get("message", "")
                    for item in status.get("conditions") or ()
                    if item["type"] == "PodScheduled" and item["status"] == "False"
                ),
                "",
            ),
            needs=self._requirements.of(obj, owner),
            claims=claims_of(obj),
        )

    def on_node(self, node: Object) -> bool:
        """A node as it is now; whether anything that matters to scheduling changed."""
        return self.nodes.set_node(node)

    def on_node_gone(self, name: str) -> None:
        self.nodes.remove_node(name)

    def on_namespace(self, name: str, labels: dict[str, str] | None) -> bool:
        """A namespace as it is now (None: gone); whether that matters to terms which select namespaces by label."""
        if not self._terms.set_namespace(name, labels):
            return False
        self._uncount()
        self._diagnoses.clear()
        return True

    def on_pod(self, pod: Pod) -> bool:
        """A pod that has a node, as it is now; whether that freed or changed something."""
        placed = self._placed.get(pod.uid)
        if pod.ended or not pod.node:
            return self.on_pod_gone(pod.uid) if placed is not None and not placed.assumed else False
        if placed is None:
            self._place(pod, self.nodes.row_of(pod.node), assumed=False)
            return True
        same = (
            self.nodes.names[placed.row] == pod.node
            and placed.pod.labels == pod.labels
            and placed.pod.terminating == pod.terminating
            and placed.pod.needs.resources == pod.needs.resources
        )
        if same:
            placed.assumed = False
            if pod.claims:
                self.volumes.release(pod.uid)
            return False
        self._remove(placed)
        self._place(pod, self.nodes.row_of(pod.node), assumed=False)
        return True

    def on_pod_gone(self, uid: str) -> bool:
        """A pod is gone or ended; whether it used anything."""
        placed = self._placed.get(uid)
        if placed is None:
            return False
        self._remove(placed)
        return True

    # Decisions

    def schedule(self, pod: Pod) -> Placement | Diagnosis:
        """Chooses the best node for `pod` and assumes it there; or says why there is none."""
        needs = pod.needs
        pod_class = self._class(needs)
        if pod.claims:
            return self._schedule_with_claims(pod, pod_class)
        keep_off = self._terms.keep_off(pod.namespace, pod.labels)
        like = keep_off, self._outranks(pod.priority)
        answers = self._diagnoses.setdefault(needs.key, {})
        known = answers.get(like)
        if known is not None and known[0] == self._version():
            return known[1]
        permits = None
        if keep_off or needs.pod_affinity or needs.pod_anti_affinity:
            self._follow(needs)
            permits = self._terms.permits(needs, keep_off)
        row = pod_class.pick(None if permits is None else permits.all)
        if row == NONE:
            diagnosis = diagnose(pod_class, permits, victims=like[1])
            # Identical pods get the same answer until something changes.
            if len(answers) >= ANSWERS_MAX:
                answers.clear()
            answers[like] = self._version(), diagnosis
            return diagnosis
        return self._assume(pod, row)

    def _schedule_with_claims(self, pod: Pod, pod_class: PodClass) -> Placement | Diagnosis:
        """As `schedule`; its claims are its own, so that no other pod's answer is any use."""
        storage = self.volumes.judge(pod.uid, pod.namespace, pod.claims)
        if isinstance(storage, str):
            return nowhere(pod_class, storage)
        needs = pod.needs
        keep_off = self._terms.keep_off(pod.namespace, pod.labels)
        permits = None
        if keep_off or needs.pod_affinity or needs.pod_anti_affinity:
            self._follow(needs)
            permits = self._terms.permits(needs, keep_off)
        permitted = storage.permitted if permits is None else storage.permitted & permits.all
        row = pod_class.pick(permitted)
        if row == NONE:
            return diagnose(pod_class, permits, storage, victims=self._outranks(pod.priority))
        reservations = self.volumes.choose(pod.uid, pod.namespace, pod.claims, row)
        return self._assume(pod, row)._replace(reservations=tuple(reservations))

    def _assume(self, pod: Pod, row: int) -> Placement:
        placed = self._place(pod, row, assumed=True)
        return Placement(self.nodes.names[row], bool(placed.groups or placed.counted or self._forgot))

    def assumed(self, uid: str) -> str:
        """The node where the pod is assumed or bound, or ""."""
        placed = self._placed.get(uid)
        return self.nodes.names[placed.row] if placed is not None else ""

    def forget(self, uid: str) -> bool:
        """Takes back an assumption; a pod that the API said is bound stays."""
        placed = self._placed.get(uid)
        if placed is None or not placed.assumed:
            return False
        self._remove(placed)
        return True

    def _outranks(self, priority: int) -> bool:
        """Whether a pod of lower priority runs anywhere."""
        return any(other < priority for other in self._priorities)

    def _follow(self, needs: Requirements) -> None:
        """Counts what the class asks for; a new tally counts the pods that are there."""
        for terms in self._terms.unfollowed(needs):
            pods = list(self._placed.values())
            matches = self._terms.follow(terms, [(p.pod.namespace, p.pod.labels, p.row) for p in pods])
            for placed, matched in zip(pods, matches, strict=True):
                if matched:
                    placed.counted = (*placed.counted, terms)

    def _version(self) -> tuple[int, int]:
        return self.nodes.epoch, len(self.nodes.log)

    # Bookkeeping

    def _place(self, pod: Pod, row: int, assumed: bool) -> _Placed:
        placed = _Placed(pod, row, assumed)
        self._placed[pod.uid] = placed
        self._by_namespace.setdefault(pod.namespace, {})[pod.uid] = placed
        if pod.owner:
            self._by_owner.setdefault(pod.owner, {})[pod.uid] = placed
        self.nodes.use(row, pod.needs, 1)
        if pod.claims:
            self.volumes.use(pod.namespace, pod.claims, 1)
        self._priorities[pod.priority] += 1
        placed.counted = self._terms.place(pod.needs, pod.labels, row)
        if pod.terminating:
            return placed
        group = self._groups.get(("owner", pod.owner)) if pod.owner else None
        if group is not None:
            self._join(placed, group)
        for group in self._selector_groups.get(pod.namespace, ()):
            if group.matches(pod.labels):
                self._join(placed, group)
        return placed

    def _join(self, placed: _Placed, group: Group) -> None:
        group.count(placed.row, 1)
        placed.groups.append(group)

    def _remove(self, placed: _Placed) -> None:
        pod = placed.pod
        del self._placed[pod.uid]
        _drop(self._by_namespace, pod.namespace, pod.uid)
        if pod.owner:
            _drop(self._by_owner, pod.owner, pod.uid)
        for group in placed.groups:
            group.count(placed.row, -1)
        self._terms.remove(pod.needs, placed.row, placed.counted)
        self._priorities[pod.priority] -= 1
        if not self._priorities[pod.priority]:
            del self._priorities[pod.priority]
        self.nodes.use(placed.row, pod.needs, -1)
        if pod.claims:
            self.volumes.use(pod.namespace, pod.claims, -1)
            self.volumes.release(pod.uid)

    def _class(self, needs: Requirements) -> PodClass:
        known = self._classes.get(needs.key)
        if known is not None:
            self._classes.move_to_end(needs.key)
            return known
        hard = [self._group(constraint, needs.namespace) for constraint in needs.hard]
        soft = [self._group(constraint, needs.namespace) for constraint in needs.soft]
        made = self._classes[needs.key] = PodClass(self.nodes, needs, hard, soft)
        if len(self._classes) > CLASSES_MAX:
            # Many at once: finding the groups that nobody uses any more looks at all pods.
            for gone in list(self._classes)[: CLASSES_MAX // 4]:
                del self._classes[gone]
                self._diagnoses.pop(gone, None)
            self._drop_groups()
            self._drop_tallies()
            self._forgot = True
        return made

    def _group(self, constraint: Constraint, namespace: str) -> Group:
        """The group that a constraint counts; a new one counts the pods that are there."""
        key = group_key(constraint, namespace)
        group = self._groups.get(key)
        if group is not None:
            return group
        group = self._groups[key] = Group(constraint, namespace, self.nodes.capacity)
        if constraint.owner:
            members = self._by_owner.get(constraint.owner, {})
        else:
            members = self._by_namespace.get(namespace, {})
            self._selector_groups.setdefault(namespace, []).append(group)
        for placed in members.values():
            if not placed.pod.terminating and group.matches(placed.pod.labels):
                self._join(placed, group)
        return group

    def _drop_groups(self) -> None:
        """Forgets groups that no class uses any more."""
        used = {id(group) for known in self._classes.values() for group in known.hard_groups + known.soft_groups}
        dropped = {id(group) for group in self._groups.values() if id(group) not in used}
        if not dropped:
            return
        self._groups = {key: group for key, group in self._groups.items() if id(group) in used}
        for namespace, groups in list(self._selector_groups.items()):
            self._selector_groups[namespace] = [group for group in groups if id(group) in used]
        for placed in self._placed.values():
            if placed.groups:
                placed.groups = [group for group in placed.groups if id(group) in used]

    def _drop_tallies(self) -> None:
        """Forgets tallies that no class asks for any more."""
        self._terms.keep({terms for known in self._classes.values() for terms in asked(known.needs)})
        self._uncount()

    def _uncount(self) -> None:
        """Lets go of tallies that were forgotten."""
        for placed in self._placed.values():
            if placed.counted:
                placed.counted = self._terms.still_followed(placed.counted)


def _drop(index: dict[str, dict[str, _Placed]], key: str, uid: str) -> None:
    members = index[key]
    del members[uid]
    if not members:
        del index[key]
