"""How the caches are indexed: for each resource, index name → the values under which an object is filed.

| resource | index | value |
|---|---|---|
| pods, replicasets, controllerrevisions, jobs, endpointslices | controller | uid of the controlling owner |
| the first three | orphan, orphan-label | namespace / "namespace/label=value" of objects that have no controller |
| pods | label | "namespace/label=value" |
| pods | node | the node's name |
| pods | daemon | "uid/node" of the DaemonSet that controls a pod, and the node that it is on or meant for |
| pods | job | "namespace/job" of pods that hold the finalizer of Jobs |
| pods | unsettled | uid of the Job that controls a pod which runs or still waits to be counted |
| pods | failed | uid of the Job that controls a pod which has failed and was counted |
| pods | terminated | "" |
| all namespaced | namespace | namespace |
| endpointslices | service | "namespace/service" |
| services | selector | "namespace/label=value" of one of the labels that the Service selects |
| secrets | account | "namespace/serviceaccount" of token Secrets |
| pods | claim | "namespace/claim" of the claims that a pod uses |
| resourceclaims | controller | uid of the pod that a claim was made for |
| resourceclaims, resourceslices | pool | "driver/pool" of the devices that a claim has, or a slice offers |
| pods | resource-claim | "namespace/claim" of the ResourceClaims that a pod names, without those made for it |
| persistentvolumeclaims | waiting | storage class of claims that have no volume and name none |
| persistentvolumeclaims | volume | the volume that a claim has or names |
| persistentvolumes | free | storage class of volumes that no claim has |
| persistentvolumes | claim | "namespace/claim" that a volume is reserved for |
"""

from collections.abc import Callable, Iterable

from raykube.api import resource_claims, volumes
from raykube.controllers.core import aspects, kinds, pods
from raykube.controllers.core.plan import Obj
from raykube.controllers.core.pods import JOB_FINALIZER

Index = Callable[[Obj], Iterable[str]]

TOKEN_SECRET_TYPE = "kubernetes.io/service-account-token"
SERVICE_ACCOUNT_NAME = "kubernetes.io/service-account.name"
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


def _by_daemon(pod: Obj) -> Iterable[str]:
    for reference in pod["metadata"].get("ownerReferences") or ():
        if reference.get("controller") and reference.get("kind") == "DaemonSet":
            return (f"{reference.get('uid', '')}/{pods.target_node(pod)}",)
    return ()


def by_job(pod: Obj) -> Iterable[str]:
    """ "namespace/name" of the Job for which a pod's finalizer waits."""
    meta = pod["metadata"]
    if JOB_FINALIZER not in (meta.get("finalizers") or ()):
        return ()
    name = (meta.get("labels") or {}).get(JOB_NAME_LABEL, "")
    for reference in meta.get("ownerReferences") or ():
        if reference.get("controller") and reference.get("kind") == "Job":
            name = reference["name"]
    return (f"{meta.get('namespace', '')}/{name}",) if name else ()


def _by_unsettled(pod: Obj) -> Iterable[str]:
    tracked = JOB_FINALIZER in (pod["metadata"].get("finalizers") or ())
    return _by_kind(pod, "Job") if tracked or not pods.is_terminal(pod) else ()


def _by_failed(pod: Obj) -> Iterable[str]:
    tracked = JOB_FINALIZER in (pod["metadata"].get("finalizers") or ())
    return () if tracked or pods.phase(pod) != "Failed" else _by_kind(pod, "Job")


def _by_kind(pod: Obj, kind: str) -> Iterable[str]:
    for reference in pod["metadata"].get("ownerReferences") or ():
        if reference.get("controller") and reference.get("kind") == kind:
            return (str(reference.get("uid", "")),)
    return ()


def _by_terminated(pod: Obj) -> Iterable[str]:
    return ("",) if pods.is_terminal(pod) else ()


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


def _by_resource_claim(pod: Obj) -> Iterable[str]:
    if not pod["spec"].get("resourceClaims"):
        return ()
    namespace = pod["metadata"].get("namespace", "")
    return [f"{namespace}/{one.claim}" for one in resource_claims.of_pod(pod) if not one.owned]


def pool_value(spec: Obj) -> str:
    """The value of the pool indexes, of a slice's spec."""
    return f"{spec['driver']}/{spec['pool']['name']}"


def _by_pool(offered: Obj) -> Iterable[str]:
    return (pool_value(offered["spec"]),)


def _by_used_pool(claim: Obj) -> Iterable[str]:
    devices = (resource_claims.allocation(claim) or {}).get("devices") or {}
    return {f"{one['driver']}/{one['pool']}" for one in devices.get("results") or ()}


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
        "daemon": _by_daemon,
        "job": by_job,
        "unsettled": _by_unsettled,
        "failed": _by_failed,
        "claim": _by_used_claim,
        "terminated": _by_terminated,
        "resource-claim": _by_resource_claim,
    },
    kinds.RESOURCE_CLAIMS: {"controller": _by_controller, "pool": _by_used_pool},
    kinds.RESOURCE_SLICES: {"pool": _by_pool},
    kinds.REPLICA_SETS: OWNED,
    kinds.REPLICATION_CONTROLLERS: {"controller": _by_controller},
    kinds.CONTROLLER_REVISIONS: OWNED,
    kinds.JOBS: {"controller": _by_controller},
    kinds.ENDPOINT_SLICES: {"controller": _by_controller, "service": _by_service},
    kinds.SERVICES: {"selector": _by_selector},
    kinds.SECRETS: {"account": _by_account},
    kinds.PERSISTENT_VOLUME_CLAIMS: {"waiting": _by_waiting, "volume": _by_volume},
    kinds.PERSISTENT_VOLUMES: {"free": _by_free, "claim": _by_reserved},
}


# What of a pod, and of whose pods, the index is made: a change of anything else leaves it as it is.
_MADE_OF: dict[str, int] = {
    "controller": aspects.OWNERS,
    "orphan": aspects.OWNERS | aspects.OF_NOBODY,
    "orphan-label": aspects.OWNERS | aspects.LABELS | aspects.OF_NOBODY,
    "label": aspects.LABELS,
    "node": aspects.NODE,
    "daemon": aspects.OWNERS | aspects.NODE | aspects.SPEC | aspects.OF_DAEMON_SET,
    "job": aspects.OWNERS | aspects.LABELS | aspects.FINALIZERS,
    "unsettled": aspects.OWNERS | aspects.FINALIZERS | aspects.PHASE | aspects.OF_JOB,
    "failed": aspects.OWNERS | aspects.FINALIZERS | aspects.PHASE | aspects.OF_JOB,
    "claim": aspects.SPEC,
    "terminated": aspects.PHASE,
    "resource-claim": aspects.SPEC,
    "namespace": aspects.COMING,
}
MADE_OF = {title: aspects.wanted(made_of) for title, made_of in _MADE_OF.items()}


def indexes_of(resource: str, namespaced: bool) -> dict[str, Index]:
    """All indexes of a resource."""
    indexes = dict(INDEXES.get(resource, {}))
    if namespaced:
        indexes["namespace"] = by_namespace
    return indexes
