"""The pods that a manifest's workloads would have, before anybody has made them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raykube.api.selectors import LabelSelector

Object = dict[str, Any]

TEMPLATED = ("Deployment", "ReplicaSet", "ReplicationController", "StatefulSet", "DaemonSet", "Job", "CronJob")


@dataclass(frozen=True, slots=True)
class Workload:
    """`pod`: what its pods are made from; `count`: how many there would be (of a DaemonSet: one a node)."""

    kind: str
    namespace: str
    name: str
    pod: Object
    count: int
    selector: LabelSelector
    claims: tuple[Object, ...] = ()  # templates, of a StatefulSet

    @property
    def title(self) -> str:
        return f"{self.kind.lower()}/{self.name}"


def workload_of(obj: Object) -> Workload | None:
    """A workload of a manifest; None for objects that have no pods. The namespace is filled in already.

    Raises ValueError for one that has no pod template.
    """
    kind, metadata, spec = obj["kind"], obj.get("metadata") or {}, obj.get("spec") or {}
    namespace, name = metadata.get("namespace", ""), metadata.get("name") or metadata.get("generateName", "")
    if kind == "Pod":
        own = {"metadata": {key: metadata[key] for key in ("labels", "annotations") if key in metadata}, "spec": spec}
        return Workload(kind, namespace, name, own, 1, LabelSelector.from_object(None))
    if kind not in TEMPLATED:
        return None
    if kind == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    template = spec.get("template")
    if not isinstance(template, dict) or not isinstance(template.get("spec"), dict):
        raise ValueError(f"{kind} {name} has no pod template")
    selector = spec.get("selector")
    if kind == "ReplicationController" and selector is not None:
        selector = {"matchLabels": selector}
    claims = tuple(spec.get("volumeClaimTemplates") or ()) if kind == "StatefulSet" else ()
    return Workload(kind, namespace, name, template, _count(kind, spec), LabelSelector.from_object(selector), claims)


def _count(kind: str, spec: Object) -> int:
    if kind in ("Job", "CronJob"):
        parallelism, completions = spec.get("parallelism", 1), spec.get("completions")
        return int(parallelism if completions is None else min(parallelism, completions))
    return 1 if kind == "DaemonSet" else int(spec.get("replicas", 1))


def prototype(workload: Workload) -> Object:
    """A pod of the workload, as its controller would ask the API for it."""
    metadata = workload.pod.get("metadata") or {}
    kept = {key: metadata[key] for key in ("labels", "annotations") if metadata.get(key)}
    name = workload.name or "pod"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": kept | {"name": name, "namespace": workload.namespace},
        "spec": _with_claims(workload, dict(workload.pod["spec"]), name),
    }


def pods_of(workload: Workload, admitted: Object) -> list[Object]:
    """All of its pods, out of the prototype that the API admitted."""
    return [_numbered(workload, admitted, number) for number in range(workload.count)]


def tolerant(workload: Workload, admitted: Object) -> Object:
    """A pod of a DaemonSet before it is sent to one node, with the tolerations that its controller adds."""
    pod = _numbered(workload, admitted, 0)
    effects = [(f"node.kubernetes.io/{key}", "NoExecute") for key in ("not-ready", "unreachable")]
    keys = ("disk-pressure", "memory-pressure", "pid-pressure", "unschedulable")
    effects += [(f"node.kubernetes.io/{key}", "NoSchedule") for key in keys]
    if pod["spec"].get("hostNetwork"):
        effects.append(("node.kubernetes.io/network-unavailable", "NoSchedule"))
    added = [{"key": key, "operator": "Exists", "effect": effect} for key, effect in effects]
    pod["spec"]["tolerations"] = [*(pod["spec"].get("tolerations") or ()), *added]
    return pod


def daemon(pod: Object, node: str, number: int) -> Object:
    """The pod of a DaemonSet for one node."""
    metadata = pod["metadata"]
    name = f"{metadata['name'].rpartition('-')[0]}-{number}"
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    rules = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    affinity = (pod["spec"].get("affinity") or {}) | {"nodeAffinity": rules}
    return pod | {
        "metadata": metadata | {"name": name, "uid": f"{metadata['uid']}/{node}"},
        "spec": pod["spec"] | {"affinity": affinity},
    }


def _numbered(workload: Workload, admitted: Object, number: int) -> Object:
    alone = workload.kind == "Pod"
    name = workload.name if alone else f"{workload.name}-{number}"
    metadata = admitted["metadata"] | {"name": name, "uid": f"plan/{workload.title}/{number}", "resourceVersion": "0"}
    if not alone:
        # What the pods of one owner spread by.
        owner = {"kind": workload.kind, "name": workload.name, "uid": f"plan/{workload.title}", "controller": True}
        metadata["ownerReferences"] = [owner]
    spec = _with_claims(workload, dict(admitted["spec"]), name)
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}


def _with_claims(workload: Workload, spec: Object, name: str) -> Object:
    """The spec with the volumes that a StatefulSet adds for its claim templates, for the pod `name`."""
    if workload.claims:
        templates = {claim["metadata"]["name"] for claim in workload.claims}
        others = [volume for volume in spec.get("volumes") or () if volume["name"] not in templates]
        claimed = [
            {"name": template, "persistentVolumeClaim": {"claimName": f"{template}-{name}"}}
            for template in sorted(templates)
        ]
        spec["volumes"] = [*others, *claimed]
    return spec


def claims_of(workload: Workload, default_class: str) -> list[Object]:
    """The claims that a StatefulSet would make."""
    return [
        {
            "metadata": {
                "namespace": workload.namespace,
                "name": f"{claim['metadata']['name']}-{workload.name}-{number}",
                "uid": f"plan/{workload.title}/{claim['metadata']['name']}/{number}",
            },
            "spec": {"storageClassName": default_class} | claim["spec"],
            "status": {"phase": "Pending"},
        }
        for claim in workload.claims
        for number in range(workload.count)
    ]


def give_claims(pod: Object, templates: Mapping[tuple[str, str], Object]) -> list[Object]:
    """The ResourceClaims that would be made of templates for a pod, whose status tells of them then."""
    metadata = pod["metadata"]
    namespace = metadata["namespace"]
    made, told = [], []
    for one in pod["spec"].get("resourceClaims") or ():
        template = templates.get((namespace, one.get("resourceClaimTemplateName", "")))
        if template is None:
            continue
        name = f"{metadata['name']}-{one['name']}"
        owner = {"kind": "Pod", "name": metadata["name"], "uid": metadata["uid"], "controller": True}
        made.append(
            {
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "uid": f"{metadata['uid']}/{one['name']}",
                    "ownerReferences": [owner],
                },
                "spec": template["spec"].get("spec") or {},
            }
        )
        told.append({"name": one["name"], "resourceClaimName": name})
    if told:
        pod["status"] = (pod.get("status") or {}) | {"resourceClaimStatuses": told}
    return made


def belongs(workload: Workload, pod: Object) -> bool:
    """Whether a pod that exists is one of the workload's: it goes when the new ones come."""
    metadata = pod["metadata"]
    if metadata.get("namespace", "") != workload.namespace:
        return False
    if workload.kind == "Pod":
        return bool(metadata["name"] == workload.name)
    owner = next((one for one in metadata.get("ownerReferences") or () if one.get("controller")), None)
    if owner is None or not workload.selector.matches(metadata.get("labels") or {}):
        return False
    if workload.kind == "Deployment":
        return owner["kind"] == "ReplicaSet" and str(owner["name"]).startswith(f"{workload.name}-")
    return (owner["kind"], owner["name"]) == (workload.kind, workload.name)
