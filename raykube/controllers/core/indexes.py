"""How the caches are indexed: for each resource, index name → the values under which an object is filed.

| resource | index | value |
|---|---|---|
| pods, replicasets, endpointslices | controller | uid of the controlling owner |
| pods, replicasets | orphan, orphan-label | namespace / "namespace/label=value" of objects that have no controller |
| pods | label | "namespace/label=value" |
| pods | node | the node's name |
| pods | job | "namespace/job" of pods that hold the finalizer of Jobs |
| pods | terminated, unscheduled-terminating | "" |
| all namespaced | namespace | namespace |
| endpointslices | service | "namespace/service" |
| services | selector | "namespace/label=value" of one of the labels that the Service selects |
| secrets | account | "namespace/serviceaccount" of token Secrets |
| pods | claim | "namespace/claim" of the claims that a pod uses |
| persistentvolumeclaims | waiting | storage class of claims that have no volume and name none |
| persistentvolumeclaims | volume | the volume that a claim has or names |
| persistentvolumes | free | storage class of volumes that no claim has |
| persistentvolumes | claim | "namespace/claim" that a volume is reserved for |
"""

from collections.abc import Callable, Iterable

from raykube.api import volumes
from raykube.controllers.core import kinds, pods
from raykube.controllers.core.plan import Obj

Index = Callable[[Obj], Iterable[str]]

TOKEN_SECRET_TYPE = "kubernetes.io/service-account-token"
SERVICE_ACCOUNT_NAME = "kubernetes.io/service-account.name"
JOB_FINALIZER = "batch.kubernetes.io/job-tracking"
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"


def controller_uid(obj: Obj) -> str:
    """The uid of the controlling owner; "" when there is none."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference.get("uid", ""))
    return ""


def by_namespace(obj: Obj) -> Iterable[str]:
    """Files an object under its namespace."""
    namespace = obj["metadata"].get("namespace")
    return (namespace,) if namespace else ()


def _by_controller(obj: Obj) -> Iterable[str]:
    uid = controller_uid(obj)
    return (uid,) if uid else ()


def _by_orphan(obj: Obj) -> Iterable[str]:
    return () if controller_uid(obj) else by_namespace(obj)


def _by_label(obj: Obj) -> Iterable[str]:
    meta = obj["metadata"]
    return [label_value(meta.get("namespace", ""), key, value) for key, value in (meta.get("labels") or {}).items()]


def _by_orphan_label(obj: Obj) -> Iterable[str]:
    return () if controller_uid(obj) else _by_label(obj)


def label_value(namespace: str, key: str, value: str) -> str:
    """The value of the label indexes."""
    return f"{namespace}/{key}={value}"


def _by_node(pod: Obj) -> Iterable[str]:
    name = pods.node_name(pod)
    return (name,) if name else ()


def _by_job(pod: Obj) -> Iterable[str]:
    meta = pod["metadata"]
    if JOB_FINALIZER not in (meta.get("finalizers") or ()):
        return ()
    name = (meta.get("labels") or {}).get(JOB_NAME_LABEL, "")
    for reference in meta.get("ownerReferences") or ():
        if reference.get("controller") and reference.get("kind") == "Job":
            name = reference["name"]
    return (f"{meta.get('namespace', '')}/{name}",) if name else ()


def _by_terminated(pod: Obj) -> Iterable[str]:
    return ("",) if pods.is_terminal(pod) else ()


def _by_unscheduled_terminating(pod: Obj) -> Iterable[str]:
    return ("",) if pods.is_terminating(pod) and not pods.node_name(pod) else ()


def _by_selector(service: Obj) -> Iterable[str]:
    selector = (service.get("spec") or {}).get("selector")
    if not selector:
        return ()
    key = min(selector)
    return (label_value(service["metadata"].get("namespace", ""), key, selector[key]),)


def _by_service(endpoint_slice: Obj) -> Iterable[str]:
    meta = endpoint_slice["metadata"]
    service = (meta.get("labels") or {}).get(SERVICE_NAME_LABEL)
    return (f"{meta.get('namespace', '')}/{service}",) if service else ()


def _by_account(secret: Obj) -> Iterable[str]:
    if secret.get("type") != TOKEN_SECRET_TYPE:
        return ()
    meta = secret["metadata"]
    account = (meta.get("annotations") or {}).get(SERVICE_ACCOUNT_NAME)
    return (f"{meta.get('namespace', '')}/{account}",) if account else ()


def _by_used_claim(pod: Obj) -> Iterable[str]:
    namespace = pod["metadata"].get("namespace", "")
    return [f"{namespace}/{name}" for name in volumes.claims_of(pod)]


def _by_waiting(claim: Obj) -> Iterable[str]:
    done = claim["spec"].get("volumeName") or volumes.BIND_COMPLETED in volumes.annotations(claim)
    return () if done else (volumes.class_of(claim),)


def _by_volume(claim: Obj) -> Iterable[str]:
    name = claim["spec"].get("volumeName")
    return (name,) if name else ()


def _by_free(volume: Obj) -> Iterable[str]:
    return (volumes.class_of(volume),) if volumes.is_free(volume) else ()


def _by_reserved(volume: Obj) -> Iterable[str]:
    reference = volume["spec"].get("claimRef")
    return (f"{reference.get('namespace', '')}/{reference.get('name', '')}",) if reference else ()


OWNED: dict[str, Index] = {"controller": _by_controller, "orphan": _by_orphan, "orphan-label": _by_orphan_label}

INDEXES: dict[str, dict[str, Index]] = {
    kinds.PODS: {
        **OWNED,
        "label": _by_label,
        "node": _by_node,
        "job": _by_job,
        "claim": _by_used_claim,
        "terminated": _by_terminated,
        "unscheduled-terminating": _by_unscheduled_terminating,
    },
    kinds.REPLICA_SETS: OWNED,
    kinds.ENDPOINT_SLICES: {"controller": _by_controller, "service": _by_service},
    kinds.SERVICES: {"selector": _by_selector},
    kinds.SECRETS: {"account": _by_account},
    kinds.PERSISTENT_VOLUME_CLAIMS: {"waiting": _by_waiting, "volume": _by_volume},
    kinds.PERSISTENT_VOLUMES: {"free": _by_free, "claim": _by_reserved},
}


def indexes_of(resource: str, namespaced: bool) -> dict[str, Index]:
    """All indexes of a resource."""
    indexes = dict(INDEXES.get(resource, {}))
    if namespaced:
        indexes["namespace"] = by_namespace
    return indexes
