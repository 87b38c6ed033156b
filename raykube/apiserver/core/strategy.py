"""What every write does to an object's metadata, spec and status, whatever its kind.

    create   decoded object → defaulted elsewhere → `for_create`  → validated elsewhere → stored
    update   decoded object → `for_update(new, old)`              → validated elsewhere → stored
    delete   `for_delete(old)` → Deletion: gone at once, or marked and kept until finalizers and grace are over

Objects are plain dicts and are changed in place; `old` never is. Rules that only one kind has sit in the tables on top
and in `_CREATE`, `_UPDATE`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raykube.api import schema, serialization
from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.apiserver.core.options import DeleteOptions
from raykube.apiserver.core.preparation import SERVER_METADATA, prepare_update
from raykube.base.clock import parse_rfc3339, rfc3339
from raykube.base.ids import generate_name, uid

Object = dict[str, Any]

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"

# A deletion answers with the object instead of a Status.
_DELETED_RETURNED = frozenset(
    {
        "pods",
        "services",
        "podtemplates",
        "resourcequotas",
        "persistentvolumeclaims",
        "persistentvolumes",
        "serviceaccounts",
    }
)

# What nobody may replace without a look at it, as upstream: a Lease would be taken from its holder. (The bulk front,
# which is our components' and of which each writes its own alone, does not hold its clients to that.)
NEVER_BLIND = frozenset(
    {
        "apiservices.apiregistration.k8s.io",
        "csidrivers.storage.k8s.io",
        "csinodes.storage.k8s.io",
        "csistoragecapacities.storage.k8s.io",
        "customresourcedefinitions.apiextensions.k8s.io",
        "leasecandidates.coordination.k8s.io",
        "leases.coordination.k8s.io",
        "mutatingadmissionpolicies.admissionregistration.k8s.io",
        "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        "poddisruptionbudgets.policy",
        "runtimeclasses.node.k8s.io",
        "validatingadmissionpolicies.admissionregistration.k8s.io",
        "validatingadmissionpolicybindings.admissionregistration.k8s.io",
        "validatingwebhookconfigurations.admissionregistration.k8s.io",
        "volumeattachments.storage.k8s.io",
    }
)

# What a PUT makes where there is none, as upstream: others have to be created by a POST.
CREATED_BY_UPDATE = frozenset(
    {
        "clusterrolebindings.rbac.authorization.k8s.io",
        "clusterroles.rbac.authorization.k8s.io",
        "endpoints",
        "events",
        "events.events.k8s.io",
        "leasecandidates.coordination.k8s.io",
        "leases.coordination.k8s.io",
        "limitranges",
        "rolebindings.rbac.authorization.k8s.io",
        "roles.rbac.authorization.k8s.io",
        "runtimeclasses.node.k8s.io",
        "services",
    }
)

_CRITICAL_NAMESPACES = frozenset({"default", "kube-system", "kube-public"})


@dataclass(frozen=True, slots=True)
class Draw:
    """Randomness, as an argument."""

    entropy: Callable[[int], bytes]  # n random bytes
    below: Callable[[int], int]  # a number in 0..n-1


def check_envelope(resource: Resource, obj: Object, namespace: str, name: str) -> None:
    """That the object says the kind, namespace and name that the request says; fills them in where absent."""
    serialization.check_kind(resource, obj)
    metadata = obj.get("metadata")
    if metadata is None:
        metadata = obj["metadata"] = {}
    if not isinstance(metadata, dict):
        raise schema.cannot_handle(resource, "metadata must be an object")
    if resource.namespaced:
        given = metadata.get("namespace")
        if given and given != namespace:
            raise ApiError.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        metadata["namespace"] = namespace
    elif metadata.pop("namespace", None) and namespace:
        raise ApiError.bad_request("namespace may not be set on cluster-scoped objects")
    if name:
        given = metadata.get("name")
        if given and given != name:
            raise ApiError.bad_request(f"the name of the object ({given}) does not match the name on the URL ({name})")
        metadata["name"] = name


def for_create(resource: Resource, obj: Object, now: float, draw: Draw) -> None:
    """The server's part of a new object: name, uid, times, generation, an empty status."""
    metadata = obj["metadata"]
    if metadata.pop("resourceVersion", None):
        raise ApiError.from_status(
            {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 500,
                "message": "resourceVersion should not be set on objects to be created",
            }
        )  # fmt: skip
    for key in SERVER_METADATA:
        metadata.pop(key, None)
    if not metadata.get("name"):
        prefix = metadata.get("generateName")
        if prefix and isinstance(prefix, str):
            metadata["name"] = generate_name(prefix, draw.below)
    metadata["uid"] = uid(draw.entropy(16))
    metadata["creationTimestamp"] = rfc3339(now)


def for_update(resource: Resource, new: Object, old: Object, subresource: str = "") -> None:
    """Makes `new` what is to be stored in place of `old`: server-owned parts come from `old`.

    A write to `status` changes status (and labels, annotations), any other write everything but it.
    """
    metadata, before = new["metadata"], old["metadata"]
    given = metadata.get("uid")
    if given and given != before.get("uid"):
        raise ApiError.conflict(
            resource,
            before["name"],
            f"Precondition failed: UID in precondition: {given}, UID in object meta: {before.get('uid')}",
        )
    metadata.pop("resourceVersion", None)
    if "managedFields" not in metadata and "managedFields" in before:
        metadata["managedFields"] = before["managedFields"]
    if before.get("deletionTimestamp"):
        added = set(metadata.get("finalizers") or ()) - set(before.get("finalizers") or ())
        if added - {ORPHAN, FOREGROUND}:
            raise ApiError.forbidden(
                resource,
                before["name"],
                "no new finalizers can be added if the object is being deleted, found new finalizers "
                f"{sorted(added)}".replace("'", '"'),
            )
    prepare_update(resource, new, old, subresource)


def is_finished(resource: Resource, obj: Object) -> bool:
    """Whether an object that was marked for deletion may go now: no finalizer and no grace left."""
    metadata = obj["metadata"]
    if not metadata.get("deletionTimestamp") or metadata.get("finalizers"):
        return False
    if (resource.group, resource.plural) == ("", "namespaces") and (obj.get("spec") or {}).get("finalizers"):
        return False
    return not metadata.get("deletionGracePeriodSeconds")


@dataclass(slots=True)
class Deletion:
    """What a delete does: `marked` is the object to store; None: it is removed at once."""

    marked: Object | None
    unchanged: bool = False  # it is being deleted already, and nothing about that changes


def check_preconditions(resource: Resource, old: Object, revision: int, want_uid: str, want_version: str) -> None:
    """Raises Conflict when the object is another or changed one."""
    metadata = old["metadata"]
    if want_uid and want_uid != metadata.get("uid"):
        raise ApiError.conflict(
            resource,
            metadata["name"],
            f"Precondition failed: UID in precondition: {want_uid}, UID in object meta: {metadata.get('uid')}",
        )
    if want_version and want_version != str(revision):
        raise ApiError.conflict(
            resource,
            metadata["name"],
            f"Precondition failed: ResourceVersion in precondition: {want_version}, ResourceVersion in object meta: "
            f"{revision}",
        )


def for_delete(resource: Resource, old: Object, options: DeleteOptions, now: float) -> Deletion:
    """How `old` goes. Raises ApiError when it must not."""
    place = (resource.group, resource.plural)
    if place == ("", "namespaces") and old["metadata"]["name"] in _CRITICAL_NAMESPACES:
        raise ApiError.forbidden(resource, old["metadata"]["name"], "this namespace may not be deleted")
    obj = dict(old)
    metadata = obj["metadata"] = dict(old["metadata"])
    finalizers = _finalizers(list(metadata.get("finalizers") or ()), options.propagation)
    grace = _grace_s(obj, options) if place == ("", "pods") else 0
    marked = bool(metadata.get("deletionTimestamp"))
    holds = bool(finalizers)
    if place == ("", "namespaces") and (obj.get("spec") or {}).get("finalizers"):
        if marked:
            message = (
                "The system is ensuring all content is removed from this namespace.  Upon completion, this namespace "
                "will automatically be purged by the system."
            )
            raise ApiError.conflict(resource, metadata["name"], message)
        holds = True
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
    if marked:
        grace = min(grace, metadata.get("deletionGracePeriodSeconds") or 0)
    if not holds and not grace:
        return Deletion(None)
    same = finalizers == list(metadata.get("finalizers") or ())
    if marked and grace == (metadata.get("deletionGracePeriodSeconds") or 0) and same:
        return Deletion(obj, unchanged=True)
    if finalizers:
        metadata["finalizers"] = finalizers
    else:
        metadata.pop("finalizers", None)
    if marked and grace != metadata.get("deletionGracePeriodSeconds"):
        requested = parse_rfc3339(metadata["deletionTimestamp"]) - (metadata.get("deletionGracePeriodSeconds") or 0)
        metadata["deletionTimestamp"] = rfc3339(max(now, requested + grace) if grace else now)
    elif not marked:
        metadata["deletionTimestamp"] = rfc3339(now + grace)
        if metadata.get("generation"):
            metadata["generation"] += 1
    metadata["deletionGracePeriodSeconds"] = grace
    return Deletion(obj)


def _finalizers(finalizers: list[str], propagation: str) -> list[str]:
    if not propagation:
        return finalizers
    kept = [name for name in finalizers if name not in (ORPHAN, FOREGROUND)]
    if propagation == "Orphan":
        kept.append(ORPHAN)
    elif propagation == "Foreground":
        kept.append(FOREGROUND)
    return kept


def _grace_s(pod: Object, options: DeleteOptions) -> int:
    """Seconds a pod has to end. One that nobody runs, or that has ended, has none."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return 0
    grace = options.grace_s
    if grace is None:
        grace = spec.get("terminationGracePeriodSeconds", 30)
    return 1 if grace < 0 else int(grace)


def returns_deleted(resource: Resource) -> bool:
    """Whether an accomplished deletion answers with the object."""
    return resource.group == "" and resource.plural in _DELETED_RETURNED


def success(resource: Resource, name: str, uid_: str) -> Object:
    """The Status of an accomplished deletion."""
    details: Object = {"name": name}
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.plural
    if uid_:
        details["uid"] = uid_
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
