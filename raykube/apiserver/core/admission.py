"""Admission: what the server adds to new objects, and which ones it turns away for what is (not) there.

Each step is a function of the object and a `View` of what exists. A step that misses something which may merely not
have arrived yet raises `Missing`; the shell looks again with fresh state before it gives the error to the client.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from raykube.api.errors import ApiError, forbidden_field
from raykube.api.resources import Resource
from raykube.api.volumes import (
    CLAIM_FINALIZER,
    VOLUME_FINALIZER,
    class_of,
    default_class,
    phase,
    says_no_class,
    size_wanted,
)
from raykube.apiserver.core.strategy import Draw, Object
from raykube.base.ids import name_suffix

TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_EXPIRATION_S = 3607  # upstream's mark for tokens that clients may treat as long-lived
DEFAULT_ACCOUNT_WAIT_S = 2.0
TOKEN_VOLUME = "kube-api-access-"  # begins the name of the volume with the ServiceAccount's token
MIRROR = "kubernetes.io/config.mirror"
ADMIN_ACCESS = "resource.kubernetes.io/admin-access"  # a label of namespaces
# What admission of pods, and of their namespaces, looks at.
LOOKED_AT = (
    ("", "namespaces"),
    ("", "limitranges"),
    ("", "serviceaccounts"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("node.k8s.io", "runtimeclasses"),
)


class View(Protocol):
    """Objects by place and name, as far as they are known here. What comes back must not be changed."""

    version: int  # moves with every change of a resource in `LOOKED_AT`

    def find(self, group: str, plural: str, namespace: str, name: str) -> Object | None:
        """One object, or None."""

    def every(self, group: str, plural: str, namespace: str = "") -> list[Object]:
        """All objects of a resource."""


class Missing(Exception):
    """Something that admission needs is not there (yet); `error` is what to answer if it stays away."""

    def __init__(self, error: ApiError, patience_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.patience_s = patience_s  # how long it is worth to wait for it


@dataclass(frozen=True, slots=True)
class DefaultTolerations:
    """How many seconds a pod that says nothing stays on a node that is lost."""

    not_ready_s: int = 300
    unreachable_s: int = 300


def namespace_lifecycle(resource: Resource, obj: Object, namespaces: Resource, view: View) -> None:
    """New content goes into a namespace that exists and is not being deleted."""
    if not resource.namespaced:
        return
    metadata = obj["metadata"]
    namespace = metadata["namespace"]
    found = view.find("", "namespaces", "", namespace)
    if found is None:
        raise Missing(ApiError.not_found(namespaces, namespace))
    if found["metadata"].get("deletionTimestamp"):
        message = f"unable to create new content in namespace {namespace} because it is being terminated"
        error = ApiError.forbidden(resource, metadata.get("name", ""), message)
        status = error.status()
        status.setdefault("details", {})["causes"] = [
            {
                "reason": "NamespaceTerminating",
                "message": f"namespace {namespace} is being terminated",
                "field": "metadata.namespace",
            }
        ]
        raise ApiError.from_status(status)


def devices(resource: Resource, obj: Object, view: View) -> None:
    """Devices that others use may be looked into from namespaces only that are marked for it."""
    spec = obj.get("spec") or {}
    if resource.plural == "resourceclaimtemplates":
        spec = spec.get("spec") or {}
    options = [
        one
        for request in (spec.get("devices") or {}).get("requests") or ()
        for one in (request.get("exactly") or {}, *(request.get("firstAvailable") or ()))
    ]
    if not any(one.get("adminAccess") for one in options):
        return
    namespace = view.find("", "namespaces", "", obj["metadata"].get("namespace", "")) or {"metadata": {}}
    if (namespace["metadata"].get("labels") or {}).get(ADMIN_ACCESS) != "true":
        text = f"admin access to devices requires the `{ADMIN_ACCESS}: true` label on the containing namespace"
        raise ApiError.invalid(resource, obj["metadata"].get("name", ""), [forbidden_field("", text)])


def pod(resource: Resource, obj: Object, view: View, draw: Draw, tolerations: DefaultTolerations) -> None:
    """All that happens to a new pod."""
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        return  # validation says what is wrong
    _priority(resource, obj, spec, view)
    if MIRROR not in (obj["metadata"].get("annotations") or ()):
        _service_account(resource, obj, spec, view, draw)
    _tolerations(spec, tolerations)
    _runtime_class(resource, obj, spec, view)


def storage(resource: Resource, obj: Object, view: View) -> None:
    """A new claim without a class gets the default one; claims and volumes in use are protected from the start."""
    finalizer = {"persistentvolumeclaims": CLAIM_FINALIZER, "persistentvolumes": VOLUME_FINALIZER}.get(resource.plural)
    if finalizer is None or not isinstance(obj.get("spec"), dict):
        return
    present = obj["metadata"].setdefault("finalizers", [])
    if finalizer not in present:
        present.append(finalizer)
    if resource.plural == "persistentvolumeclaims" and says_no_class(obj):
        found = default_class(view.every("storage.k8s.io", "storageclasses"))
        if found is not None:
            obj["spec"]["storageClassName"] = found["metadata"]["name"]


def claim_growth(resource: Resource, new: Object, old: Object, view: View) -> None:
    """A claim may grow when it has a volume whose class says that its volumes can."""
    if size_wanted(new) <= size_wanted(old):
        return
    name = new["metadata"]["name"]
    if phase(old) != "Bound":
        raise ApiError.forbidden(resource, name, "Only bound persistent volume claims can be expanded")
    wanted = class_of(new)
    found = view.find("storage.k8s.io", "storageclasses", "", wanted) if wanted and wanted == class_of(old) else None
    if found is None or not found.get("allowVolumeExpansion"):
        message = (
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support "
            "resize"
        )
        raise Missing(ApiError.forbidden(resource, name, message))  # the class may have come, or changed, just now


def default_priority(resource: Resource, obj: Object, view: View) -> None:
    """There is one default PriorityClass at most."""
    if not obj.get("globalDefault"):
        return
    name = obj["metadata"].get("name", "")
    for other in view.every("scheduling.k8s.io", "priorityclasses"):
        there = other["metadata"]["name"]
        if other.get("globalDefault") and there != name:
            message = f"PriorityClass {there} is already marked as default. Only one default can exist"
            raise ApiError.forbidden(resource, name, message)


def _priority(resource: Resource, obj: Object, spec: Object, view: View) -> None:
    name = spec.get("priorityClassName")
    if name:
        found = view.find("scheduling.k8s.io", "priorityclasses", "", name)
        if found is None:
            message = f"no PriorityClass with name {name} was found"
            raise Missing(ApiError.forbidden(resource, obj["metadata"].get("name", ""), message))
    else:
        defaults = [each for each in view.every("scheduling.k8s.io", "priorityclasses") if each.get("globalDefault")]
        found = min(defaults, key=lambda each: int(each.get("value") or 0), default=None)
        if found is not None:
            spec["priorityClassName"] = found["metadata"]["name"]
    value = int(found.get("value") or 0) if found is not None else 0
    if spec.get("priority") not in (None, value):
        message = (
            f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; priority admission "
            f"controller computed {value} from the given PriorityClass name"
        )
        raise ApiError.forbidden(resource, obj["metadata"].get("name", ""), message)
    spec["priority"] = value
    policy = (found or {}).get("preemptionPolicy") or "PreemptLowerPriority"
    spec.setdefault("preemptionPolicy", policy)


def _runtime_class(resource: Resource, obj: Object, spec: Object, view: View) -> None:
    """A pod of a RuntimeClass carries its overhead, and goes where it says."""
    metadata = obj["metadata"]

    def rejected(why: str) -> ApiError:
        return ApiError.forbidden(resource, metadata.get("name", ""), f"pod rejected: {why}")

    name = spec.get("runtimeClassName")
    found = view.find("node.k8s.io", "runtimeclasses", "", name) if name else None
    if name and found is None:
        raise Missing(rejected(f'RuntimeClass "{name}" not found'))
    overhead = ((found or {}).get("overhead") or {}).get("podFixed")
    if spec.get("overhead") and not overhead:
        raise rejected("Pod.Spec.Overhead set without corresponding RuntimeClass defining Overhead")
    if overhead:
        if spec.get("overhead") and spec["overhead"] != overhead:
            raise rejected("Pod's Overhead doesn't match RuntimeClass's defined Overhead")
        spec["overhead"] = dict(overhead)
    scheduling = (found or {}).get("scheduling") or {}
    selector = spec.get("nodeSelector") or {}
    for key, value in (scheduling.get("nodeSelector") or {}).items():
        if selector.get(key, value) != value:
            theirs, own = f"runtimeClass.scheduling.nodeSelector[{key}]", f"pod.spec.nodeSelector[{key}]"
            raise rejected(f"conflict: {theirs} = {value}; {own} = {selector[key]}")
    if scheduling.get("nodeSelector"):
        spec["nodeSelector"] = {**selector, **scheduling["nodeSelector"]}
    given = spec.get("tolerations") or []
    added = [one for one in scheduling.get("tolerations") or () if one not in given]
    if added:
        spec["tolerations"] = [*given, *added]


def _service_account(resource: Resource, obj: Object, spec: Object, view: View, draw: Draw) -> None:
    metadata = obj["metadata"]
    name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = name
    account = view.find("", "serviceaccounts", metadata["namespace"], name)
    if account is None:
        message = f'error looking up service account {metadata["namespace"]}/{name}: serviceaccount "{name}" not found'
        # A namespace's default account is made right after the namespace: a pod that comes in between waits for it.
        raise Missing(
            ApiError.forbidden(resource, metadata.get("name", ""), message),
            DEFAULT_ACCOUNT_WAIT_S if name == "default" else 0.0,
        )
    secrets = account.get("imagePullSecrets")
    if secrets and not spec.get("imagePullSecrets"):
        spec["imagePullSecrets"] = secrets
    automount = spec.get("automountServiceAccountToken")
    if automount is None:
        automount = account.get("automountServiceAccountToken")
    if automount is not False:
        _mount_token(spec, draw)


def _mount_token(spec: Object, draw: Draw) -> None:
    containers = [
        container
        for key in ("initContainers", "containers")
        for container in (spec.get(key) or ())
        if isinstance(container, dict)
    ]
    wanting = [
        container
        for container in containers
        if not any(
            isinstance(m, dict) and m.get("mountPath") == TOKEN_PATH for m in container.get("volumeMounts") or ()
        )
    ]
    volumes = spec.get("volumes") or []
    present = next(
        (v["name"] for v in volumes if isinstance(v, dict) and str(v.get("name", "")).startswith(TOKEN_VOLUME)),
        None,
    )
    if not wanting and present is None:
        return
    name = present or token_volume(draw)
    for container in wanting:
        mount = {"name": name, "readOnly": True, "mountPath": TOKEN_PATH}
        container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]
    if present is None and wanting:
        spec["volumes"] = [*volumes, _token_volume(name)]


def token_volume(draw: Draw) -> str:
    """The name of a new volume with a token."""
    return TOKEN_VOLUME + name_suffix(draw.below)


def _token_volume(name: str) -> Object:
    field: dict[str, Any] = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    sources: list[Object] = [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_EXPIRATION_S, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}},
    ]
    return {"name": name, "projected": {"sources": sources, "defaultMode": 420}}


def _tolerations(spec: Object, default: DefaultTolerations) -> None:
    """Pods stay a while on a node that is not ready or out of reach, unless they say otherwise."""
    given = spec.get("tolerations") or []
    if not isinstance(given, list):
        return
    added = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}
        for key, seconds in (
            ("node.kubernetes.io/not-ready", default.not_ready_s),
            ("node.kubernetes.io/unreachable", default.unreachable_s),
        )
        if not any(_tolerates(toleration, key) for toleration in given if isinstance(toleration, dict))
    ]
    if added:
        spec["tolerations"] = [*given, *added]


def _tolerates(toleration: Object, key: str) -> bool:
    return toleration.get("key") in (key, None, "") and toleration.get("effect") in ("NoExecute", None, "")
