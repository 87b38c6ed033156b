"""Claims and volumes as a filter on nodes, and which volume a waiting claim gets when its pod is placed.

    claim     bound            the nodes of its volume
              unbound          nobody may start: the pod waits for the binding
              waits (class)    nodes where a free volume fits, or where one can be provisioned: chosen with the node

A volume chosen for a placed pod is assumed: no other claim gets it. The API's own word (`claimRef`) replaces that.

Which volumes fit is known per *shape* of claim (class, size, modes, selector), and kept as volumes change; which nodes
a volume can be used on is a mask, kept until nodes change. So a pod costs one look at the free volumes of its class.
"""

from bisect import insort
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import orjson

from raykube.api import volumes
from raykube.api.volumes import BIND_COMPLETED, SELECTED_NODE, WAITS, annotations, class_of, phase
from raykube.scheduler.core.attachments import AttachmentLimits
from raykube.scheduler.core.capacities import StorageCapacities
from raykube.scheduler.core.nodes import Mask, NodeTable
from raykube.scheduler.core.requirements import Term, term_of
from raykube.scheduler.core.terms import matches_term

Object = dict[str, Any]
Key = tuple[str, str]  # namespace, name

SHAPES_MAX = 64  # per class
EVERY = slice(None)
UNBOUND = "pod has unbound immediate PersistentVolumeClaims"
ONCE = "ReadWriteOncePod"


class Claim(NamedTuple):
    """A claim that a pod uses; `ephemeral`: it must be the pod's own."""

    name: str
    ephemeral: bool


class Reservation(NamedTuple):
    """What must be written before the pod is bound: the volume is the claim's, or the claim is for this node."""

    claim: Object
    volume: Object | None  # None: somebody is to provision one for the node
    node: str
    assumed: bool  # another pod's placement writes it


@dataclass(frozen=True, slots=True)
class Storage:
    """What the claims of one pod allow: masks of nodes that fail, by reason."""

    conflict: Mask  # the volume of a bound claim cannot be used there
    lost: Mask  # a bound claim's volume is gone
    unfound: Mask  # no volume for a waiting claim
    short: Mask  # one could be made, but for the room that is left


@dataclass(slots=True)
class _Shape:
    """Free volumes for one kind of claim, best first."""

    claim: Object
    fitting: list[tuple[tuple[Any, ...], str]] = field(default_factory=list)


@dataclass(slots=True)
class _Assumed:
    claim: Key
    uid: str  # of the claim
    pods: set[str] = field(default_factory=set)


def claims_of(pod: Object) -> tuple[Claim, ...]:
    """The claims of a pod, in the order of its volumes."""
    given = pod["spec"].get("volumes")
    if not given:
        return ()
    found = []
    for volume in given:
        if "persistentVolumeClaim" in volume:
            found.append(Claim(volume["persistentVolumeClaim"]["claimName"], False))
        elif "ephemeral" in volume:
            found.append(Claim(volumes.ephemeral_claim(pod, volume), True))
    return tuple(dict.fromkeys(found))


class VolumeTable:
    """All claims, volumes and classes, with what is assumed. Objects are never changed."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self.attachments = AttachmentLimits()
        self.capacities = StorageCapacities(nodes, self._matching)
        self._claims: dict[Key, Object] = {}
        self._volumes: dict[str, Object] = {}
        self._classes: dict[str, Object] = {}
        self._shapes: dict[str, OrderedDict[bytes, _Shape]] = {}
        self._reserved: dict[Key, dict[str, None]] = {}  # claim → volumes that name it
        self._assumed: dict[str, _Assumed] = {}
        self._assumed_for: dict[Key, str] = {}
        self._of_pod: dict[str, set[str]] = {}
        self._users: Counter[Key] = Counter()  # placed pods of each claim
        self.on_row: dict[int, Counter[Key]] = {}  # the same by row
        self._masks: dict[str, Mask] = {}
        self._masks_at = (-1, -1)

    # -- what the API says; each answers whether that may matter to a pod that waits

    def set_claim(self, key: Key, claim: Object | None) -> bool:
        old = self._claims.pop(key, None)
        if claim is not None:
            self._claims[key] = claim
        return old is None or claim is None or _matters(old) != _matters(claim)

    def set_class(self, name: str, obj: Object | None) -> bool:
        old = self._classes.pop(name, None)
        if obj is not None:
            self._classes[name] = obj
        return old != obj

    def set_volume(self, name: str, volume: Object | None) -> bool:
        old = self._volumes.pop(name, None)
        if old is not None:
            self._unlist(name, old)
        if volume is not None:
            self._volumes[name] = volume
            self._list(name, volume)
        if old is None or volume is None or old["spec"].get("nodeAffinity") != volume["spec"].get("nodeAffinity"):
            self._masks.pop(name, None)
        return old is None or volume is None or _matters(old) != _matters(volume)

    def _list(self, name: str, volume: Object) -> None:
        reference = volume["spec"].get("claimRef")
        if reference:
            self._reserved.setdefault((reference.get("namespace", ""), reference.get("name", "")), {})[name] = None
        elif volumes.is_free(volume):
            for shape in self._shapes.get(class_of(volume), {}).values():
                if volumes.may_serve(volume, shape.claim):
                    insort(shape.fitting, (volumes.preference(volume), name))

    def _unlist(self, name: str, volume: Object) -> None:
        reference = volume["spec"].get("claimRef")
        if reference:
            key = (reference.get("namespace", ""), reference.get("name", ""))
            names = self._reserved.get(key, {})
            names.pop(name, None)
            if not names:
                self._reserved.pop(key, None)
            return
        for shape in self._shapes.get(class_of(volume), {}).values():
            shape.fitting = [entry for entry in shape.fitting if entry[1] != name]

    # -- what pods do

    def use(self, namespace: str, claims: Iterable[Claim], row: int, sign: int) -> None:
        """A pod with these claims was placed on a row (1), or taken away (-1)."""
        here = self.on_row.setdefault(row, Counter())
        for claim in claims:
            key = namespace, claim.name
            for users in (self._users, here):
                users[key] += sign
                if not users[key]:
                    del users[key]
        if not here:
            del self.on_row[row]

    def release(self, uid: str) -> None:
        """Nothing is assumed for the pod any more: it is bound, or was not placed after all."""
        for name in self._of_pod.pop(uid, ()):
            assumed = self._assumed[name]
            assumed.pods.discard(uid)
            if not assumed.pods:
                del self._assumed[name]
                del self._assumed_for[assumed.claim]

    # -- decisions

    def judge(self, uid: str, namespace: str, claims: tuple[Claim, ...]) -> Storage | str:
        """Where the pod's claims let it run; or why it may not run anywhere now."""
        none = np.zeros(self._nodes.capacity, bool)
        conflict, lost = none.copy(), none
        waiting = []
        for wanted in claims:
            claim = self._claims.get((namespace, wanted.name))
            why_not = _unusable(claim, wanted, uid, namespace)
            if why_not:
                return why_not
            assert claim is not None, "a missing claim is a reason"
            name = claim["spec"].get("volumeName")
            if name and BIND_COMPLETED in annotations(claim):
                volume = self._volumes.get(name)
                if volume is None:
                    lost = ~none
                else:
                    conflict |= ~self._mask(volume)
            elif name or not self._waits(claim):
                return UNBOUND
            else:
                waiting.append(claim)
        if not waiting:
            return Storage(conflict, lost, none, none)
        possible = self._possible(waiting)
        fits = self._possible(waiting, room=True) if any(self._room(one) is not None for one in waiting) else possible
        return Storage(conflict, lost, ~possible, possible & ~fits)

    def has_claim(self, key: Key) -> bool:
        return key in self._claims

    def volumes_of(self, namespace: str, claims: Iterable[Claim]) -> list[Object]:
        """The volumes that the claims name."""
        found = []
        for wanted in claims:
            claim = self._claims.get((namespace, wanted.name)) or {"spec": {}}
            volume = self._volumes.get(claim["spec"].get("volumeName", ""))
            if volume is not None:
                found.append(volume)
        return found

    def driver_volume(self, key: Key) -> tuple[str, str]:
        """A claim's CSI driver ("" for none) and the volume's handle there, or one for what is to be provisioned."""
        claim = self._claims.get(key)
        if claim is None:
            return "", ""
        name = claim["spec"].get("volumeName")
        if name:
            csi = ((self._volumes.get(name) or {}).get("spec") or {}).get("csi") or {}
            return csi.get("driver", ""), csi.get("volumeHandle", "")
        provisioner = (self._classes.get(class_of(claim)) or {}).get("provisioner", "")
        # In-tree names are no drivers. Two pods of one claim wait for one volume.
        return ("" if provisioner.startswith("kubernetes.io/") else provisioner), f"claim/{key[0]}/{key[1]}"

    def held_by_another(self, namespace: str, claims: tuple[Claim, ...]) -> bool:
        """Whether a placed pod uses one of the claims that only one pod may use."""
        return any(
            ONCE in (self._claims[namespace, wanted.name]["spec"].get("accessModes") or ())
            for wanted in claims
            if self._users[namespace, wanted.name] and (namespace, wanted.name) in self._claims
        )

    def choose(self, uid: str, namespace: str, claims: tuple[Claim, ...], row: int) -> list[Reservation]:
        """The volumes for the waiting claims of a pod that `judge` permitted on this row; they are assumed."""
        waiting = [claim for one in claims if self._is_waiting(claim := self._claims[namespace, one.name])]
        node = self._nodes.names[row]
        found = []
        for claim, name in self._assign(waiting, row) or ():
            key = _key(claim)
            if not name:
                found.append(Reservation(claim, None, node, annotations(claim).get(SELECTED_NODE) == node))
                continue
            assumed = self._assumed.get(name)
            found.append(Reservation(claim, self._volumes[name], node, assumed is not None))
            if assumed is None:
                assumed = self._assumed[name] = _Assumed(key, claim["metadata"]["uid"])
                self._assumed_for[key] = name
            assumed.pods.add(uid)
            self._of_pod.setdefault(uid, set()).add(name)
        return found

    def bound(self, reservations: Iterable[Reservation]) -> bool | None:
        """Whether all claims have what was reserved for them: yes, no longer possible (False), not yet (None)."""
        done = True
        for claim, volume, node, _ in reservations:
            now = self._claims.get(_key(claim))
            if now is None or now["metadata"]["uid"] != claim["metadata"]["uid"]:
                return False
            complete = BIND_COMPLETED in annotations(now) and bool(now["spec"].get("volumeName"))
            if volume is not None and now["spec"].get("volumeName", "") not in ("", volume["metadata"]["name"]):
                return False
            if volume is None and not complete and annotations(now).get(SELECTED_NODE, node) != node:
                return False  # the provisioner could not, and asks for another node
            done = done and complete
        return True if done else None

    # -- which volumes

    def _is_waiting(self, claim: Object) -> bool:
        return not claim["spec"].get("volumeName") and self._waits(claim)

    def _waits(self, claim: Object) -> bool:
        return (self._classes.get(class_of(claim)) or {}).get("volumeBindingMode") == WAITS

    def _candidates(self, claim: Object) -> list[str]:
        """Volumes for a waiting claim, best first: one that is its own already, else the free ones."""
        key = _key(claim)
        own = self._assumed_for.get(key)
        if own is not None and self._assumed[own].uid == claim["metadata"]["uid"] and own in self._volumes:
            return [own]
        reserved = [name for name in self._reserved.get(key, ()) if volumes.best([self._volumes[name]], claim)]
        if reserved:
            return reserved
        return [name for _, name in self._shape(claim).fitting if name not in self._assumed]

    def _shape(self, claim: Object) -> _Shape:
        spec = claim["spec"]
        parts = [
            class_of(claim),
            *(spec.get(name) for name in ("accessModes", "resources", "selector", "volumeMode")),
            spec.get("volumeAttributesClassName"),
        ]
        key = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
        shapes = self._shapes.setdefault(class_of(claim), OrderedDict())
        shape = shapes.get(key)
        if shape is None:
            shape = shapes[key] = _Shape(claim)
            shape.fitting = sorted(
                (volumes.preference(volume), name)
                for name, volume in self._volumes.items()
                if volumes.is_free(volume) and volumes.may_serve(volume, claim)
            )
            if len(shapes) > SHAPES_MAX:
                shapes.popitem(last=False)
        else:
            shapes.move_to_end(key)
        return shape

    def _possible(self, waiting: list[Object], room: bool = False) -> Mask:
        """Nodes where every waiting claim can have a volume of its own; with `room`: drivers have that much left."""
        possible = np.ones(self._nodes.capacity, bool)
        for claim in waiting:
            possible &= self._provisionable(claim, room) | self._any(self._candidates(claim))
        if len(waiting) > 1:
            # Two claims may both have counted on the same volume.
            for row in np.flatnonzero(possible & self._nodes.live).tolist():
                possible[row] = self._assign(waiting, row, room) is not None
        return possible

    def _any(self, names: list[str]) -> Mask:
        found = np.zeros(self._nodes.capacity, bool)
        for name in names:
            found |= self._mask(self._volumes[name])
            if found.all():
                break
        return found

    def _assign(self, waiting: list[Object], row: int, room: bool = True) -> list[tuple[Object, str]] | None:
        """A volume for each claim on one node, "" where one is to be provisioned; the smallest claim chooses first."""
        found = []
        taken: set[str] = set()
        for claim in sorted(waiting, key=volumes.size_wanted):
            fitting = (n for n in self._candidates(claim) if n not in taken and self._mask(self._volumes[n])[row])
            name = next(fitting, None)
            if name is None:
                if not self._provisionable(claim, room)[row]:
                    return None
                name = ""
            else:
                taken.add(name)
            found.append((claim, name))
        return found

    def _room(self, claim: Object) -> Mask | None:
        """Nodes where its driver has room for a new volume for the claim; None: nobody says."""
        return self.capacities.enough(self._classes.get(class_of(claim)) or {}, volumes.size_wanted(claim))

    def _provisionable(self, claim: Object, room: bool) -> Mask:
        """Nodes where somebody could make a volume for the claim; with `room`: and says that there is room for it."""
        found = self._topologies(claim)
        left = self._room(claim) if room else None
        return found if left is None else found & left

    def _topologies(self, claim: Object) -> Mask:
        """Nodes where the claim's class lets volumes be made."""
        storage = self._classes.get(class_of(claim)) or {}
        possible = np.zeros(self._nodes.capacity, bool)
        if str(storage.get("provisioner", "kubernetes.io/")).startswith("kubernetes.io/"):
            return possible
        selected = annotations(claim).get(SELECTED_NODE)
        if selected is not None:
            row = self._nodes.rows.get(selected)
            if row is not None:
                possible[row] = True
            return possible
        topologies = storage.get("allowedTopologies")
        if not topologies:
            return ~possible
        for topology in topologies:
            expressions = [one | {"operator": "In"} for one in topology.get("matchLabelExpressions") or ()]
            possible |= matches_term(self._nodes, term_of({"matchExpressions": expressions}), EVERY)
        return possible

    def _mask(self, volume: Object) -> Mask:
        """The nodes on which pods can use a volume."""
        at = self._nodes.revised, self._nodes.capacity
        if self._masks_at != at:
            self._masks.clear()
            self._masks_at = at
        name = volume["metadata"]["name"]
        mask = self._masks.get(name)
        if mask is None:
            required = (volume["spec"].get("nodeAffinity") or {}).get("required")
            mask = self._masks[name] = self._matching(required)
        return mask

    def _matching(self, selector: Object | None) -> Mask:
        if selector is None:
            return np.ones(self._nodes.capacity, bool)
        found = np.zeros(self._nodes.capacity, bool)
        terms: list[Term] = [term_of(term) for term in selector.get("nodeSelectorTerms") or ()]
        for term in terms:
            found |= matches_term(self._nodes, term, EVERY)
        return found


def _key(claim: Object) -> Key:
    return claim["metadata"].get("namespace", ""), claim["metadata"]["name"]


def _matters(obj: Object) -> Any:
    """What of a claim or volume a decision depends on."""
    metadata = obj["metadata"]
    return obj["spec"], phase(obj), metadata.get("annotations"), metadata.get("labels"), "deletionTimestamp" in metadata


def _unusable(claim: Object | None, wanted: Claim, uid: str, namespace: str) -> str:
    """Why no pod can start with the claim; "" when it can."""
    if claim is None:
        if wanted.ephemeral:
            return f'waiting for ephemeral volume controller to create the persistentvolumeclaim "{wanted.name}"'
        return f'persistentvolumeclaim "{wanted.name}" not found'
    metadata = claim["metadata"]
    if wanted.ephemeral and not any(
        owner.get("controller") and owner["uid"] == uid for owner in metadata.get("ownerReferences") or ()
    ):
        return f"PVC {namespace}/{wanted.name} was not created for the pod (pod is not owner)"
    if phase(claim) == "Lost":
        volume = claim["spec"].get("volumeName", "")
        return f'persistentvolumeclaim "{wanted.name}" bound to non-existent persistentvolume "{volume}"'
    if "deletionTimestamp" in metadata:
        return f'persistentvolumeclaim "{wanted.name}" is being deleted'
    return ""
