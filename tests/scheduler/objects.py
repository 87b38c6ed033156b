"""Nodes and pods for tests, as the API has them."""

from typing import Any

Object = dict[str, Any]


def node(name: str, cpu: str = "4", memory: str = "8Gi", pods: str = "110", **more: Any) -> Object:
    """`labels`, `taints` (key, value, effect), `unschedulable`, `extra` resources, `images` (name: bytes)."""
    labels = {"kubernetes.io/hostname": name} | more.get("labels", {})
    spec: Object = {}
    if more.get("taints"):
        spec["taints"] = [{"key": key, "value": value, "effect": effect} for key, value, effect in more["taints"]]
    if more.get("unschedulable"):
        spec["unschedulable"] = True
    images = more.get("images", {})
    allocatable = {"cpu": cpu, "memory": memory, "pods": pods} | more.get("extra", {})
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": {"allocatable": allocatable, "capacity": allocatable}
        | ({"images": [{"names": [i], "sizeBytes": size} for i, size in images.items()]} if images else {}),
    }


def pod(name: str, cpu: str = "", memory: str = "", **more: Any) -> Object:
    """`namespace`, `labels`, `owner`, `extra` requests, `ports`, `phase`, `image`; others go into the spec."""
    requests = {"cpu": cpu, "memory": memory} | more.pop("extra", {})
    container: Object = {
        "name": "c",
        "image": more.pop("image", "i"),
        "resources": {"requests": {k: v for k, v in requests.items() if v}},
    }
    if ports := more.pop("ports", None):
        container["ports"] = [{"hostPort": port, "containerPort": port} for port in ports]
    metadata: Object = {
        "name": name,
        "namespace": more.pop("namespace", "d"),
        "uid": f"uid-{name}",
        "resourceVersion": "1",
        "labels": more.pop("labels", {}),
    }
    if owner := more.pop("owner", ""):
        metadata["ownerReferences"] = [{"uid": owner, "controller": True, "kind": "ReplicaSet", "name": owner}]
    phase = more.pop("phase", "Pending")
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": {"containers": [container]} | more,
        "status": {"phase": phase},
    }


def affinity(*terms: list[Object], fields: bool = False) -> Object:
    name = "matchFields" if fields else "matchExpressions"
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{name: term} for term in terms],
            }
        }
    }


def expression(key: str, operator: str, *values: str) -> Object:
    return {"key": key, "operator": operator} | ({"values": list(values)} if values else {})


def spread(key: str, skew: int, labels: dict[str, str], when: str = "DoNotSchedule", **more: Any) -> Object:
    return {
        "topologyKey": key,
        "maxSkew": skew,
        "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": labels},
    } | more


def pod_term(key: str, labels: dict[str, str] | None, **more: Any) -> Object:
    """A required term about pods; `namespaces`, `namespaceSelector`, `matchLabelKeys` as more."""
    return {"topologyKey": key} | ({} if labels is None else {"labelSelector": {"matchLabels": labels}}) | more


def pod_affinity(
    near: list[Object] | None = None,
    away: list[Object] | None = None,
    near_if: list[tuple[int, Object]] | None = None,
    away_if: list[tuple[int, Object]] | None = None,
) -> Object:
    """Required terms, and preferred ones with their weights."""
    required, preferred = (f"{how}DuringSchedulingIgnoredDuringExecution" for how in ("required", "preferred"))
    found: Object = {}
    for kind, terms, weighted in (("podAffinity", near, near_if), ("podAntiAffinity", away, away_if)):
        rules: Object = {required: terms} if terms else {}
        if weighted:
            rules[preferred] = [{"weight": weight, "podAffinityTerm": term} for weight, term in weighted]
        if rules:
            found[kind] = rules
    return found
