"""What the server writes into an object by itself before it is validated, beyond defaults and metadata.

    prepare_create   a first status, generation 1, a job's generated selector, a secret's stringData
    prepare_update   what the main resource or a subresource may not change is as it was; generation follows the spec

Both change the new object in place and expect it conforming and defaulted.
"""

import base64
from typing import Any

from raykube.api.qos import qos_class
from raykube.api.resources import Resource
from raykube.apiserver.core import servicespec

Object = dict[str, Any]

# Kinds whose metadata.generation counts changes of what the user wants.
_COUNTED = frozenset(
    {
        ("", "Pod"), ("", "ReplicationController"),
        ("apps", "DaemonSet"), ("apps", "Deployment"), ("apps", "ReplicaSet"), ("apps", "StatefulSet"),
        ("batch", "CronJob"), ("batch", "Job"), ("policy", "PodDisruptionBudget"),
        ("networking.k8s.io", "Ingress"), ("networking.k8s.io", "IngressClass"),
        ("networking.k8s.io", "NetworkPolicy"),
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"),
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding"),
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
        ("apiextensions.k8s.io", "CustomResourceDefinition"),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
        ("resource.k8s.io", "ResourceSlice"),
    }
)  # fmt: skip
_FIRST_STATUS: dict[tuple[str, str], Object] = {
    ("", "Namespace"): {"phase": "Active"},
    ("", "PersistentVolume"): {"phase": "Pending"},
    ("", "PersistentVolumeClaim"): {"phase": "Pending"},
    ("", "Service"): {"loadBalancer": {}},
}
TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"
_DIGITS_MAX = 18  # of a number in an annotation; more do not fit into 64 bits
# metadata that only the server writes
SERVER_METADATA = (
    "uid", "creationTimestamp", "generation", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds",
)  # fmt: skip

GATED = "Scheduling is blocked due to non-empty scheduling gates"


def prepare_create(resource: Resource, obj: Object) -> None:
    """The object's metadata.name and metadata.uid are set."""
    kind = (resource.group, resource.kind)
    if kind in _COUNTED:
        obj["metadata"]["generation"] = 1
    if resource.subresource("status") is not None and kind != ("", "Node"):  # a node comes with what its kubelet saw
        obj["status"] = dict(_FIRST_STATUS.get(kind, {}))
    if kind == ("", "Pod"):
        spec = obj.get("spec") or {}
        obj["status"] = {"phase": "Pending", "qosClass": qos_class(spec)}
        if spec.get("schedulingGates"):
            gated = {"type": "PodScheduled", "status": "False", "lastProbeTime": None, "lastTransitionTime": None}
            obj["status"]["conditions"] = [gated | {"reason": "SchedulingGated", "message": GATED}]
    elif kind == ("", "Namespace"):
        finalizers = obj.setdefault("spec", {}).setdefault("finalizers", [])
        if "kubernetes" not in finalizers:
            finalizers.append("kubernetes")
    elif kind == ("", "Secret"):
        _fold_string_data(obj)
    elif kind == ("", "Service"):
        servicespec.prepare(obj)
    elif kind == ("batch", "Job"):
        _select_own_pods(obj)
    elif kind == ("apps", "DaemonSet"):
        _count_template(obj, max(_template_generation(obj), 1))


def prepare_update(resource: Resource, new: Object, old: Object, subresource: str = "") -> None:
    """After it `new` is exactly what is validated and stored in place of `old`."""
    metadata, stored = new["metadata"], old["metadata"]
    for name in SERVER_METADATA:
        if name in stored:
            metadata[name] = stored[name]
        else:
            metadata.pop(name, None)
    if subresource in ("status", "approval"):
        _keep(new, old, (set(new) | set(old)) - {"status"})
        if "ownerReferences" in stored:
            metadata["ownerReferences"] = stored["ownerReferences"]
        else:
            metadata.pop("ownerReferences", None)
        if (resource.group, resource.kind) == ("apps", "DaemonSet"):
            _count_template(new, _template_generation(old))
        return
    kind = (resource.group, resource.kind)
    if kind == ("", "Pod") and subresource in ("resize", "ephemeralcontainers"):
        _keep_but_part(new, old, subresource)
    if subresource != "finalize" and resource.subresource("status") is not None:
        _keep(new, old, {"status"})
    if kind == ("", "Secret"):
        _fold_string_data(new)
    elif kind == ("", "Service"):
        servicespec.keep(new, old)
    elif kind == ("", "Namespace") and subresource != "finalize":
        _keep(new, old, {"spec"})  # its finalizers change through /finalize
    elif kind == ("apps", "DaemonSet"):
        changed = (new.get("spec") or {}).get("template") != (old.get("spec") or {}).get("template")
        _count_template(new, _template_generation(old) + changed)
    if kind in _COUNTED and _wanted(new) != _wanted(old):
        metadata["generation"] = int(stored.get("generation", 0)) + 1


def _keep_but_part(new: Object, old: Object, subresource: str) -> None:
    """Of a pod's spec only the subresource's part is taken from `new`."""
    wanted = new.get("spec") or {}
    spec = new["spec"] = dict(old["spec"])
    if subresource == "ephemeralcontainers":
        if wanted.get("ephemeralContainers"):
            spec["ephemeralContainers"] = wanted["ephemeralContainers"]
        else:
            spec.pop("ephemeralContainers", None)
        return
    for group in ("initContainers", "containers"):
        given = {each.get("name"): each for each in wanted.get(group) or ()}
        if spec.get(group):
            spec[group] = [_sized(each, given.get(each["name"])) for each in spec[group]]


def _sized(container: Object, given: Object | None) -> Object:
    """`container` with the resources and resize policies of `given`."""
    if given is None:
        return container
    fields = {name: given[name] for name in ("resources", "resizePolicy") if name in given}
    return {name: value for name, value in container.items() if name not in ("resources", "resizePolicy")} | fields


def _keep(new: Object, old: Object, names: set[str]) -> None:
    """These top-level fields are as in `old`."""
    for name in names - {"kind", "apiVersion", "metadata"}:
        if name in old:
            new[name] = old[name]
        else:
            new.pop(name, None)


def _wanted(obj: Object) -> Object:
    """What a generation counts changes of."""
    return {name: value for name, value in obj.items() if name not in ("metadata", "status", "kind", "apiVersion")}


def _template_generation(daemon_set: Object) -> int:
    """How many templates a DaemonSet has had: an annotation, which only the server counts on."""
    text = (daemon_set["metadata"].get("annotations") or {}).get(TEMPLATE_GENERATION, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX else 0


def _count_template(daemon_set: Object, generation: int) -> None:
    metadata = daemon_set["metadata"]
    metadata["annotations"] = {**(metadata.get("annotations") or {}), TEMPLATE_GENERATION: str(generation)}


def _fold_string_data(obj: Object) -> None:
    """A secret's `stringData` is write-only: it becomes `data`."""
    for name, text in (obj.pop("stringData", None) or {}).items():
        obj.setdefault("data", {})[name] = base64.b64encode(text.encode()).decode()


def _select_own_pods(job: Object) -> None:
    """A Job selects its pods by its own uid, which no other Job's pods carry."""
    spec, metadata = job.setdefault("spec", {}), job["metadata"]
    if spec.get("manualSelector"):
        return
    labels = spec.setdefault("template", {}).setdefault("metadata", {}).setdefault("labels", {})
    for prefix in ("batch.kubernetes.io/", ""):
        labels.setdefault(prefix + "controller-uid", metadata["uid"])
        labels.setdefault(prefix + "job-name", metadata.get("name", ""))
    selected = spec.setdefault("selector", {}).setdefault("matchLabels", {})
    selected.setdefault("batch.kubernetes.io/controller-uid", metadata["uid"])
