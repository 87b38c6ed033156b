"""garbage-collector-controller: objects go when all their owners are gone.

The graph has a vertex for every object seen, by uid, and an edge for every owner reference. An owner that was never
seen is *unknown*: before anything is deleted because of it, the API is asked whether it exists. What happens with the
dependents of a deleted object is said by the object's own finalizers:

| finalizer | deletion | dependents |
|---|---|---|
| none | background | lose their owner, and go when it was the last |
| foregroundDeletion | foreground | go first; the finalizer stays until no dependent with blockOwnerDeletion is left, |
| | | but for those that the object itself depends on |
| orphan | orphan | have the reference taken out of them, then the finalizer goes |

Owners in another namespace do not exist: a reference means the dependent's own namespace, or a cluster-scoped object.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from raykube.api.resources import Resource
from raykube.controllers.core import aspects
from raykube.controllers.core.patches import delete_write, patch_write, uid_of
from raykube.controllers.core.plan import NOTHING, Draft, Event, Obj, Plan, Read, View, Write

ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"
IGNORED = frozenset({"events", "events.events.k8s.io"})
BURST = 500
ABSENT_MAX = 1000  # a thousand pods of one ReplicaSet ask once
SOLID, WAITING, ABSENT, ASKED = "solid", "waiting", "absent", "asked"


@dataclass(slots=True)
class Vertex:
    """What the graph remembers of one object."""

    resource: str
    namespace: str
    name: str
    owners: tuple[str, ...] = ()
    deleting: bool = False
    foreground: bool = False
    orphaning: bool = False

    @property
    def waits(self) -> bool:
        """Whether its deletion waits for its dependents."""
        return self.foreground or self.orphaning


@dataclass(slots=True)
class Graph:
    """Objects by uid, and who depends on whom."""

    vertices: dict[str, Vertex] = field(default_factory=dict)
    dependents: dict[str, dict[str, None]] = field(default_factory=dict)  # owner's uid → dependents' uids

    def put(self, resource: str, obj: Obj) -> None:
        """Adds or changes an object."""
        meta, uid = obj["metadata"], uid_of(obj)
        owners = tuple(str(reference.get("uid", "")) for reference in meta.get("ownerReferences") or ())
        before = self.vertices.get(uid)
        for owner in before.owners if before else ():
            self._unlink(owner, uid)
        for owner in owners:
            self.dependents.setdefault(owner, {})[uid] = None
        deleting = bool(meta.get("deletionTimestamp"))
        finalizers = meta.get("finalizers") or () if deleting else ()
        self.vertices[uid] = Vertex(
            resource,
            meta.get("namespace", ""),
            meta["name"],
            owners,
            deleting,
            foreground=FOREGROUND in finalizers,
            orphaning=ORPHAN in finalizers,
        )

    def remove(self, uid: str) -> None:
        """Takes an object out; its dependents keep their edges."""
        vertex = self.vertices.pop(uid, None)
        for owner in vertex.owners if vertex else ():
            self._unlink(owner, uid)

    def _unlink(self, owner: str, uid: str) -> None:
        found = self.dependents.get(owner)
        if found is not None:
            found.pop(uid, None)
            if not found:
                del self.dependents[owner]

    def dependents_of(self, uid: str) -> list[str]:
        """The uids of the objects that name `uid` as an owner."""
        return list(self.dependents.get(uid, ()))

    def ancestors_of(self, uid: str) -> set[str]:
        """The uids of its owners, of theirs, and so on: its own among them where they go round in a circle."""
        found: set[str] = set()
        left = [uid]
        while left:
            vertex = self.vertices.get(left.pop())
            fresh = [owner for owner in (vertex.owners if vertex else ()) if owner not in found]
            found.update(fresh)
            left += fresh
        return found


class GarbageCollector:
    """See the module's docstring. `resources_of_api` are the resources there are, by qualified plural."""

    name = "garbage-collector-controller"
    looks_at = aspects.OWNERS | aspects.FINALIZERS | aspects.DELETION

    def __init__(self, resources_of_api: Mapping[str, Resource]) -> None:
        self._known = resources_of_api
        self._by_kind = {(each.group, each.kind): name for name, each in resources_of_api.items()}
        self._graph = Graph()
        self._absent: dict[tuple[str, Read], None] = {}  # owners the API said are gone; a uid never comes back
        self.resources: Sequence[str] = [
            name
            for name, each in resources_of_api.items()
            if name not in IGNORED and {"list", "watch", "delete"} <= set(each.verbs)
        ]

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """Keeps the graph; the uids whose fate the change may have decided."""
        if new is None:
            return self._gone(old) if old is not None else ()
        keys: list[str] = []
        if old is not None:
            if uid_of(old) != uid_of(new):
                keys += self._gone(old)
            elif _fate(old) == _fate(new):
                return ()
        uid = uid_of(new)
        keys += self._waiting_owners(uid)
        self._graph.put(resource, new)
        meta = new["metadata"]
        if meta.get("deletionTimestamp"):
            if {ORPHAN, FOREGROUND} & set(meta.get("finalizers") or ()):
                keys.append(uid)
        elif any(self._is_doubtful(owner, meta.get("namespace", "")) for owner in self._graph.vertices[uid].owners):
            keys.append(uid)
        return keys

    def _is_doubtful(self, owner: str, namespace: str) -> bool:
        """Whether a dependent in `namespace` may have to go because of this owner."""
        vertex = self._graph.vertices.get(owner)
        return vertex is None or vertex.foreground or vertex.namespace not in ("", namespace)

    def _gone(self, old: Obj) -> list[str]:
        uid = uid_of(old)
        waiting = self._waiting_owners(uid)
        self._graph.remove(uid)
        return [*self._graph.dependents_of(uid), *waiting]

    def _waiting_owners(self, uid: str) -> list[str]:
        """The owners of an object, as known so far, whose deletion waits for it."""
        vertices = self._graph.vertices
        owners = vertices[uid].owners if uid in vertices else ()
        return [owner for owner in owners if owner in vertices and vertices[owner].waits]

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """Deletes the object, takes references out of it, or works off the finalizers of its own deletion."""
        vertex = self._graph.vertices.get(key)
        obj = view.get(vertex.resource, vertex.namespace, vertex.name) if vertex else None
        if vertex is None or obj is None or uid_of(obj) != key:
            return NOTHING
        if vertex.deleting:
            finalizers = obj["metadata"].get("finalizers") or ()
            if ORPHAN in finalizers:
                return self._orphan(view, vertex, obj)
            return self._foreground(view, vertex, obj) if FOREGROUND in finalizers else NOTHING
        return self._collect(view, vertex, obj)

    # -- an object that is not being deleted: does it still have an owner?

    def _collect(self, view: View, vertex: Vertex, obj: Obj) -> Plan:
        references = obj["metadata"].get("ownerReferences") or []
        if not references:
            return NOTHING
        draft = Draft()
        states = [self._state(view, vertex, obj, reference, draft) for reference in references]
        if ASKED in states:
            return draft.plan()
        if SOLID in states:
            kept = [each for each, state in zip(references, states, strict=True) if state == SOLID]
            if len(kept) < len(references):
                draft.writes.append(_with_owners(vertex, obj, kept))
            return draft.plan()
        foreground = WAITING in states and bool(self._graph.dependents_of(uid_of(obj)))
        draft.writes.append(_deletion(vertex, obj, foreground))
        return draft.plan()

    def _state(self, view: View, vertex: Vertex, obj: Obj, reference: Obj, draft: Draft) -> str:
        group = str(reference.get("apiVersion", "")).rpartition("/")[0]
        resource = self._by_kind.get((group, str(reference.get("kind", ""))))
        if resource is None:
            return SOLID  # of a kind that nobody here can ask for: never a reason to delete
        namespaced = self._known[resource].namespaced
        if namespaced and not vertex.namespace:
            message = f"ownerRef {reference.get('kind')}/{reference.get('name')} names a namespaced owner"
            draft.events.append(Event(obj, "Warning", "OwnerRefInvalidNamespace", message))
            return SOLID
        namespace = vertex.namespace if namespaced else ""
        owner = self._graph.vertices.get(str(reference.get("uid", "")))
        if owner is not None and (owner.resource, owner.namespace, owner.name) == (
            resource,
            namespace,
            reference.get("name"),
        ):
            return WAITING if owner.foreground and reference.get("blockOwnerDeletion") else SOLID
        read = Read(resource, namespace, str(reference.get("name", "")))
        asked = (str(reference.get("uid", "")), read)
        if asked in self._absent:
            return ABSENT
        answer = view.answer(read)
        if answer is None:
            if read not in draft.reads:
                draft.reads.append(read)
            return ASKED
        if any(uid_of(found) == reference.get("uid") for found in answer):
            return SOLID
        self._absent[asked] = None
        if len(self._absent) > ABSENT_MAX:
            del self._absent[next(iter(self._absent))]
        return ABSENT

    # -- an object that is being deleted, and its dependents

    def _dependents(self, view: View, uid: str) -> list[tuple[Vertex, Obj]]:
        found = []
        for dependent in self._graph.dependents_of(uid):
            vertex = self._graph.vertices.get(dependent)
            obj = view.get(vertex.resource, vertex.namespace, vertex.name) if vertex else None
            if vertex is not None and obj is not None and uid_of(obj) == dependent:
                found.append((vertex, obj))
        return found

    def _orphan(self, view: View, vertex: Vertex, owner: Obj) -> Plan:
        writes = []
        for child, obj in self._dependents(view, uid_of(owner))[:BURST]:
            references = obj["metadata"].get("ownerReferences") or []
            kept = [each for each in references if each.get("uid") != uid_of(owner)]
            writes.append(_with_owners(child, obj, kept))
        return Plan(writes or [_without_finalizer(vertex, owner, ORPHAN)])

    def _foreground(self, view: View, vertex: Vertex, owner: Obj) -> Plan:
        writes: list[Write] = []
        blocked = False
        ancestors = self._graph.ancestors_of(uid_of(owner))
        for child, obj in self._dependents(view, uid_of(owner)):
            references = obj["metadata"].get("ownerReferences") or []
            blocks = any(each.get("uid") == uid_of(owner) and each.get("blockOwnerDeletion") for each in references)
            # In a circle each would wait for the next one for ever.
            blocked |= blocks and uid_of(obj) not in ancestors
            if child.deleting or len(writes) >= BURST:
                continue
            others = [each for each in references if each.get("uid") != uid_of(owner)]
            if others and any(each.get("uid") in self._graph.vertices for each in others):
                writes.append(_with_owners(child, obj, others))
            else:
                writes.append(_deletion(child, obj, bool(self._graph.dependents_of(uid_of(obj)))))
        if blocked or writes:
            return Plan(writes)
        return Plan([_without_finalizer(vertex, owner, FOREGROUND)])


def _fate(obj: Obj) -> tuple[object, ...]:
    """All of an object that the graph depends on."""
    meta = obj["metadata"]
    return meta.get("ownerReferences"), meta.get("finalizers"), meta.get("deletionTimestamp")


def _with_owners(vertex: Vertex, obj: Obj, references: Sequence[Obj]) -> Write:
    return patch_write(vertex.resource, obj, {"metadata": {"ownerReferences": list(references) or None}})


def _without_finalizer(vertex: Vertex, obj: Obj, finalizer: str) -> Write:
    kept = [each for each in obj["metadata"].get("finalizers") or () if each != finalizer]
    return patch_write(vertex.resource, obj, {"metadata": {"finalizers": kept or None}})


def _deletion(vertex: Vertex, obj: Obj, foreground: bool) -> Write:
    finalizers = obj["metadata"].get("finalizers") or ()
    if ORPHAN in finalizers:
        policy = "Orphan"
    elif foreground or FOREGROUND in finalizers:
        policy = "Foreground"
    else:
        policy = "Background"
    # Of exactly this state: its owner references must be those that were looked at.
    return delete_write(vertex.resource, obj, {"propagationPolicy": policy}, versioned=True)
