"""Gangs: groups of pods of which some number must be placed at once, or none is.

A pod says which group it is of, the group how many it needs:

    spec.schedulingGroup.podGroupName         a PodGroup of scheduling.k8s.io/v1alpha2
    label scheduling.x-k8s.io/pod-group       the same, for clients that do not know the field
    pod-group.scheduling.sigs.k8s.io/name     labels or annotations of older clients; no PodGroup is needed, for the
    pod-group.scheduling.sigs.k8s.io/min-available          number is with them

A gang *waits* until its PodGroup and as many pods as it needs are there. Those that have a node as the API says count:
of a gang of six that lost one pod, the new one is placed alone. While some are being bound it waits too: that may fail.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

Object = dict[str, Any]
GroupKey = tuple[str, str]  # namespace, name

GROUP_LABEL = "scheduling.x-k8s.io/pod-group"
OLD_NAME, OLD_MINIMUM = "pod-group.scheduling.sigs.k8s.io/name", "pod-group.scheduling.sigs.k8s.io/min-available"
PLUGIN = "GangScheduling"
MINIMUM_MAX = 2**31 - 1
TOGETHER_MAX = 20_000  # pods bound in one step: the operations of one request to an apiserver
SHOWN_MAX = 63  # of a text that is no number
BINDING = "waiting for other pods of the gang to be bound"
TOO_FEW = "waiting for minCount pods from a gang to appear in scheduling queue"


class Membership(NamedTuple):
    """Which group a pod is of, and what it says itself about how many are needed."""

    group: GroupKey
    minimum: int | None = None
    problem: str = ""


class Condition(NamedTuple):
    """PodGroupScheduled."""

    status: str
    reason: str
    message: str


class Group(NamedTuple):
    """A PodGroup. `minimum` 0: its pods are placed one by one (the basic policy)."""

    uid: str
    minimum: int
    condition: Condition | None


class Gang(NamedTuple):
    """One group as a unit of scheduling."""

    key: GroupKey
    minimum: int
    there: int  # pods that have a node, as the API says


def membership(pod: Object) -> Membership | None:
    """Of a pod as the API has it."""
    metadata, spec = pod["metadata"], pod["spec"]
    namespace = metadata.get("namespace", "")
    named = (spec.get("schedulingGroup") or {}).get("podGroupName")
    if named:
        return Membership((namespace, named))
    said = (metadata.get("annotations") or {}) | (metadata.get("labels") or {})
    name = said.get(GROUP_LABEL) or said.get(OLD_NAME)
    if not name:
        return None
    text = said.get(OLD_MINIMUM)
    if text is None:
        return Membership((namespace, name))
    minimum = _number(text)
    if not minimum:
        shown = text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."
        return Membership((namespace, name), None, f'{OLD_MINIMUM} must be a positive integer, not "{shown}"')
    return Membership((namespace, name), minimum)


def _number(text: str) -> int:
    """Of an annotation, which can be any text of any length; 0 for what is no int32."""
    if len(text) > len(str(MINIMUM_MAX)) or not (text.isascii() and text.isdecimal()):
        return 0
    number = int(text)
    return number if number <= MINIMUM_MAX else 0


def group_of(obj: Object) -> Group:
    """A PodGroup as the API has it."""
    gang = ((obj.get("spec") or {}).get("schedulingPolicy") or {}).get("gang")
    condition = next(
        (
            Condition(one["status"], one["reason"], one["message"])
            for one in (obj.get("status") or {}).get("conditions") or ()
            if one["type"] == "PodGroupScheduled"
        ),
        None,
    )
    return Group(obj["metadata"]["uid"], int(gang["minCount"]) if gang else 0, condition)


class Gangs:
    """All groups, and their pods: those that wait, and how many have a node."""

    def __init__(self) -> None:
        self._groups: dict[GroupKey, Group] = {}
        self._waiting: dict[GroupKey, dict[str, Membership]] = {}
        self._of: dict[str, GroupKey] = {}
        self._there: Counter[GroupKey] = Counter()
        self._binding: Counter[GroupKey] = Counter()  # assumed pods

    def on_group(self, key: GroupKey, group: Group | None) -> bool:
        """A PodGroup as it is now (None: gone); whether how many it needs changed."""
        old = self._groups.pop(key, None)
        if group is not None:
            self._groups[key] = group
        return (old and old.minimum) != (group and group.minimum)

    def on_waiting(self, uid: str, member: Membership | None) -> bool:
        """A pod waits for a node; whether that made its gang complete."""
        if member is None:
            return False
        others = self._waiting.setdefault(member.group, {})
        fresh = uid not in others
        others[uid] = member
        self._of[uid] = member.group
        return fresh and not isinstance(self.gang(member), str)

    def on_settled(self, uid: str) -> None:
        """It waits no longer."""
        key = self._of.pop(uid, None)
        if key is not None:
            others = self._waiting[key]
            del others[uid]
            if not others:
                del self._waiting[key]

    def count(self, member: Membership, sign: int, assumed: bool) -> None:
        """A member came to a node, or left one."""
        counted = self._binding if assumed else self._there
        counted[member.group] += sign
        if not counted[member.group]:
            del counted[member.group]

    def binding(self, member: Membership | None) -> bool:
        """Whether pods of its gang are being bound."""
        return member is not None and member.group in self._binding

    def waiting(self, key: GroupKey) -> Iterable[str]:
        """The uids of its pods that wait."""
        return tuple(self._waiting.get(key, ()))

    def group(self, key: GroupKey) -> Group | None:
        return self._groups.get(key)

    def gang(self, member: Membership) -> Gang | str | None:
        """The gang to place with the pod; a text: what the pod must wait for; None: it is placed alone."""
        if member.problem:
            return member.problem
        minimum = member.minimum
        if minimum is None:
            group = self._groups.get(member.group)
            if group is None:
                return f'waiting for pod group "{member.group[1]}" to appear in scheduling queue'
            minimum = group.minimum
        there = self._there[member.group]
        if there >= minimum:
            return None
        if member.group in self._binding:
            return BINDING
        if minimum - there > TOGETHER_MAX:
            return (
                f'pod group "{member.group[1]}" is larger than one step: it needs {minimum} pods at once, '
                f"{TOGETHER_MAX} can be bound together"
            )
        if there + len(self._waiting.get(member.group, ())) < minimum:
            return TOO_FEW
        return Gang(member.group, minimum, there)
