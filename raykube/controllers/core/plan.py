"""What a controller is: a key goes in, a Plan comes out.

Vocabulary:
- **view**: read-only access to the caches of the shared informers, with their indexes. Objects in it are never changed.
- **key**: names one object to look after ("namespace/name", a node name, a uid). It never says what happened.
- **plan**: the writes that bring the cluster one step nearer to what the object asks for.

Rules:
- A plan is one *step*: its writes do not depend on each other, each may fail or be lost by itself, and it holds at most
  one write for one object. What must happen after a write has landed belongs to the next plan, which is made from
  caches that have seen the write. So a crash between any two writes leaves a state that the next reconcile understands.
- Reconciling again after a plan's writes have landed, with nothing else changed, ends in an empty plan.
- Names of created objects are functions of the state they were decided in: deciding the same twice (the answer to the
  first write got lost) meets AlreadyExists instead of making a second object.
- What the caches cannot answer is asked for with `Plan.reads`; reconcile then runs again with `view.answer(read)` set.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

Obj = dict[str, Any]
WriteVerb = Literal["create", "update", "patch", "delete"]
PatchKind = Literal["merge", "json", "strategic"]


class Event(NamedTuple):
    """A Kubernetes Event to record about `about`."""

    about: Obj
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


class Write(NamedTuple):
    """One operation on one object. `resource` is the qualified plural: "pods", "deployments.apps"."""

    verb: WriteVerb
    resource: str
    namespace: str
    name: str
    body: Any = None  # the object (create, update), the patch (patch), DeleteOptions or None (delete)
    subresource: str = ""
    patch: PatchKind = "merge"
    resource_version: int = 0  # precondition when above zero
    uid: str = ""  # precondition when set
    done: Event | None = None  # recorded when the write has landed
    failed: Event | None = None  # recorded when it was refused; "{error}" in its message is replaced


class Read(NamedTuple):
    """A live read past the caches: of one object, or with no name of all in a namespace."""

    resource: str
    namespace: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one reconcile decided. The empty plan says: nothing to do until something changes."""

    writes: Sequence[Write] = ()
    requeue_after: float | None = None  # seconds; 0: there is a next step, as soon as the writes are in the caches
    events: Sequence[Event] = ()
    reads: Sequence[Read] = ()


NOTHING = Plan()


class View(Protocol):
    """The caches as a controller sees them during one reconcile."""

    def get(self, resource: str, namespace: str, name: str) -> Obj | None:
        """One object."""

    def list(self, resource: str) -> Iterable[Obj]:
        """All objects of a resource: a full scan, for rare events only."""

    def by_index(self, resource: str, index: str, value: str) -> Sequence[Obj]:
        """The objects that `index` (see indexes.py) files under `value`, in any order."""

    def revision_of(self, resource: str) -> int:
        """The store's revision that the resource's cache has seen: it holds all that was written up to there."""

    def answer(self, read: Read) -> Sequence[Obj] | None:
        """What a live read brought; None when it has not been made for this reconcile."""

    @property
    def error(self) -> str:
        """Why writes of this key's previous plan were refused; "" when they were not."""


class Controller(Protocol):
    """One controller. `observe` may keep what it has seen (heartbeats, owner graph); `reconcile` only decides."""

    @property
    def name(self) -> str:
        """Upstream's name of it, as `--controllers` takes it."""

    @property
    def resources(self) -> Sequence[str]:
        """The resources that it observes and reads."""

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """The keys that a change concerns: old None = added, new None = deleted."""

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """The next step for `key`."""


@runtime_checkable
class Selective(Protocol):
    """A controller to which not every change of a pod matters; it is not told of the others."""

    looks_at: int  # see aspects.py


@dataclass(slots=True)
class Draft:
    """A plan in the making."""

    writes: list[Write] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    requeue_after: float | None = None

    def wake_after(self, seconds: float) -> None:
        """Asks for another look, at the latest in `seconds`."""
        seconds = max(seconds, 0.001)
        if self.requeue_after is None or seconds < self.requeue_after:
            self.requeue_after = seconds

    def plan(self) -> Plan:
        """The finished plan."""
        return Plan(self.writes, self.requeue_after, self.events, self.reads)


def key_of(obj: Obj) -> str:
    """ "namespace/name", or "name" of a cluster-scoped object."""
    meta = obj["metadata"]
    namespace = meta.get("namespace")
    return f"{namespace}/{meta['name']}" if namespace else str(meta["name"])


def split_key(key: str) -> tuple[str, str]:
    """ "namespace/name" → (namespace, name); "name" → ("", name)."""
    namespace, _, name = key.rpartition("/")
    return namespace, name
