"""ResourceClaims of resource.k8s.io: which ones a pod uses, who holds a claim, and what the names in it mean.

pod.spec.resourceClaims[]     a claim by name; or a template, of which a controller makes a claim for the pod
pod.status.resourceClaimStatuses[]   what that claim is called; without a name: the pod does not need it
claim.status.allocation       the devices that the scheduler chose
claim.status.reservedFor      the pods that may use them; without one, the devices are free again
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

Object = dict[str, Any]

FINALIZER = "resource.kubernetes.io/delete-protection"  # of allocated claims
POD_CLAIM_ANNOTATION = "resource.kubernetes.io/pod-claim-name"  # of claims that were made for a pod
RESERVED_MAX = 256  # pods of one claim


class PodClaim(NamedTuple):
    """A claim of a pod by its name in the pod. `claim` is the object's name: "" when it has not been made yet."""

    name: str
    claim: str
    owned: bool  # made for the pod, so it must be the pod's own


def of_pod(pod: Object) -> tuple[PodClaim, ...]:
    """The claims that a pod needs, in its order."""
    given = pod["spec"].get("resourceClaims")
    if not given:
        return ()
    made = {one["name"]: one.get("resourceClaimName") for one in _statuses(pod)}
    found = []
    for one in given:
        name = one["name"]
        if one.get("resourceClaimName"):
            found.append(PodClaim(name, one["resourceClaimName"], False))
        elif name not in made:
            found.append(PodClaim(name, "", True))
        elif made[name]:
            found.append(PodClaim(name, str(made[name]), True))
    return tuple(found)


def _statuses(pod: Object) -> Sequence[Object]:
    return (pod.get("status") or {}).get("resourceClaimStatuses") or ()


def not_owned(claim: Object, namespace: str, pod_name: str, pod_uid: str) -> str:
    """Why a claim is not the one that was made for a pod; "" when it is."""
    for owner in claim["metadata"].get("ownerReferences") or ():
        if owner.get("controller") and owner.get("uid") == pod_uid:
            return ""
    full = f"{claim['metadata'].get('namespace', '')}/{claim['metadata']['name']}"
    return f"ResourceClaim {full} was not created for pod {namespace}/{pod_name} (pod is not owner)"


def allocation(claim: Object) -> Object | None:
    found: Object | None = (claim.get("status") or {}).get("allocation")
    return found


def reserved_for(claim: Object) -> Sequence[Object]:
    """References to those that use a claim: `resource`, `name`, `uid`."""
    return (claim.get("status") or {}).get("reservedFor") or ()


def is_reserved_for(claim: Object, pod_uid: str) -> bool:
    return any(one.get("uid") == pod_uid for one in reserved_for(claim))


def can_be_reserved(claim: Object) -> bool:
    """Whether one more pod may use it."""
    return len(reserved_for(claim)) < RESERVED_MAX


def consumer(pod_name: str, pod_uid: str) -> Object:
    """The entry of a pod in `reservedFor`."""
    return {"resource": "pods", "name": pod_name, "uid": pod_uid}
