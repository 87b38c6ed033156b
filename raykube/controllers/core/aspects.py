"""What has changed of a pod, found once for all controllers: each is told only of changes of what it looks at.

A pod that comes or goes, and one that took the place of another with the same name, changes in every aspect. A
controller names what it looks at in `looks_at` (see `plan.Selective`); one that names nothing hears of every change.
Indexes name what they are made of in the same way.

Next to the aspects stands whose pods are meant, by the kind of their controller: `PHASE | OF_JOB` is the phase of Jobs'
pods, `PHASE` that of all. A pod that waits to be counted is a Job's too, whoever controls it; one that went is
everybody's: its name is free again.
"""

from functools import reduce
from operator import or_

from raykube.controllers.core import conditions
from raykube.controllers.core.plan import Obj
from raykube.controllers.core.pods import JOB_FINALIZER

LABELS, OWNERS, FINALIZERS, ANNOTATIONS = 1, 2, 4, 8
DELETION = 16
NODE = 32
SPEC = 64  # all of the spec but the node
PHASE = 128
READY = 256  # the condition Ready, with its time
ADDRESS = 512
STATUS = 1024  # anything of the status
COMING = 2048  # it came, went, or is another one of the same name
OF_REPLICA_SET, OF_STATEFUL_SET, OF_DAEMON_SET, OF_JOB = 1 << 12, 1 << 13, 1 << 14, 1 << 15
OF_NOBODY = 1 << 16  # it may be adopted
OF_OTHERS = 1 << 17
OF_REPLICATION_CONTROLLER = 1 << 18
ALL = (1 << 12) - 1
_OF = {
    "ReplicaSet": OF_REPLICA_SET,
    "ReplicationController": OF_REPLICATION_CONTROLLER,
    "StatefulSet": OF_STATEFUL_SET,
    "DaemonSet": OF_DAEMON_SET,
    "Job": OF_JOB,
}
ANYBODYS = OF_NOBODY | OF_OTHERS | reduce(or_, _OF.values())


def wanted(looks_at: int) -> int:
    """What somebody looks at, with those whose pods are meant: where he names none, everybody's."""
    return looks_at if looks_at & ANYBODYS else looks_at | ANYBODYS


def concerns(found: int, wanted: int) -> int:
    """Whether a pod's change, of which `found` was found, is one of the `wanted`."""
    common = found & wanted
    return common & ALL != 0 and common & ANYBODYS != 0


def found(old: Obj | None, new: Obj | None) -> int:
    """The aspects in which two states of a pod differ, and whose it was and is, added up."""
    if new is None:
        return ALL | ANYBODYS
    owners = _owner(new)
    aspects = changed(old, new)
    if old is not None and aspects & (OWNERS | FINALIZERS):
        owners |= _owner(old)
    return aspects | owners


def _owner(pod: Obj) -> int:
    meta = pod["metadata"]
    counted = OF_JOB if JOB_FINALIZER in (meta.get("finalizers") or ()) else 0
    for reference in meta.get("ownerReferences") or ():
        if reference.get("controller"):
            return counted | _OF.get(reference.get("kind", ""), OF_OTHERS)
    return counted | OF_NOBODY


def changed(old: Obj | None, new: Obj | None) -> int:
    """The aspects in which two states of a pod differ, added up."""
    if old is None or new is None:
        return ALL
    before, after = old["metadata"], new["metadata"]
    if before.get("uid") != after.get("uid"):
        return ALL
    found = 0
    if before.get("labels") != after.get("labels"):
        found |= LABELS
    if before.get("ownerReferences") != after.get("ownerReferences"):
        found |= OWNERS
    if before.get("finalizers") != after.get("finalizers"):
        found |= FINALIZERS
    if before.get("annotations") != after.get("annotations"):
        found |= ANNOTATIONS
    if before.get("deletionTimestamp") != after.get("deletionTimestamp") or before.get(
        "deletionGracePeriodSeconds"
    ) != after.get("deletionGracePeriodSeconds"):
        found |= DELETION
    return found | _changed_spec(old.get("spec") or {}, new.get("spec") or {}) | _changed_status(old, new)


def _changed_spec(before: Obj, after: Obj) -> int:
    if before == after:
        return 0
    if before.get("nodeName") == after.get("nodeName"):
        return SPEC
    rest = {**before, "nodeName": ""} != {**after, "nodeName": ""}
    return NODE | SPEC if rest else NODE


def _changed_status(old: Obj, new: Obj) -> int:
    before, after = old.get("status") or {}, new.get("status") or {}
    if before == after:
        return 0
    found = STATUS
    if before.get("phase") != after.get("phase"):
        found |= PHASE
    if before.get("podIP") != after.get("podIP") or before.get("podIPs") != after.get("podIPs"):
        found |= ADDRESS
    if _ready(before) != _ready(after):
        found |= READY
    return found


def _ready(status: Obj) -> tuple[object, object]:
    condition = conditions.find(status.get("conditions"), "Ready") or {}
    return condition.get("status"), condition.get("lastTransitionTime")
