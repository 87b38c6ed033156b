"""What a kubelet may do: the part of its permissions that depends on which pods run on its node.

    pod event ──► pod → node, and the Secrets, ConfigMaps, ServiceAccounts and claims that the pod names
    authorize ──► allowed / denied / no opinion (then RBAC's role system:node, which nobody is bound to, is asked here)

Rules, as upstream's node authorizer and NodeRestriction admission plug-in have them:
- a Secret or ConfigMap is readable by name only, and only while a pod on the node refers to it; claims and volumes too;
- a token is issued only for a ServiceAccount of a pod on the node;
- a node reads and writes its own Node, its own Lease in kube-node-lease, its own CSINode and ResourceSlices;
- everything else in NODE_RULES is allowed as such; `restriction` then looks at the objects: a kubelet writes the status
  of its own pods, deletes and evicts only them, and never creates any but mirror pods of its own.
Terminal pods count until they are deleted, as the kubelet still mounts nothing new for them but may report them.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from raykube.api import resource_claims
from raykube.api.volumes import claims_of
from raykube.apiserver.core.rbac_rules import Rule

if TYPE_CHECKING:
    from raykube.apiserver.core.rbac import Attributes

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
LEASE_NAMESPACE = "kube-node-lease"
DEVICES_GROUP = "resource.k8s.io"
RESTRICTED_LABEL_SUFFIX = "node-restriction.kubernetes.io"
# Labels of Kubernetes' own domains that a kubelet may set on a Node that is there; upstream's list.
_KUBELET_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
    }
)
_KUBELET_LABEL_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")
# Upstream leaves roles to the administrator; here a kubelet may state its machine's when it registers, never later.
_ROLE_DOMAIN = "node-role.kubernetes.io"
READ = ("get", "list", "watch")
WRITE_ONE = ("create", "update", "patch", "delete")

NODE_RULES: list[dict[str, Any]] = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {
        "apiGroups": ["authorization.k8s.io"],
        "resources": ["subjectaccessreviews", "localsubjectaccessreviews"],
        "verbs": ["create"],
    },
    {"apiGroups": [""], "resources": ["services"], "verbs": [*READ]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["create", *READ]},
    {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["update", "patch"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["update", "patch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "update", "patch"]},
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "update", "patch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": [*READ]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "delete"]},
    {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["update", "patch"]},
    {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["configmaps", "secrets"], "verbs": [*READ]},
    {"apiGroups": [""], "resources": ["persistentvolumeclaims", "persistentvolumes"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["persistentvolumeclaims/status"], "verbs": ["get", "update", "patch"]},
    {"apiGroups": [""], "resources": ["endpoints"], "verbs": ["get"]},
    {
        "apiGroups": ["certificates.k8s.io"],
        "resources": ["certificatesigningrequests"],
        "verbs": ["create", *READ],
    },
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", *WRITE_ONE]},
    {"apiGroups": ["storage.k8s.io"], "resources": ["volumeattachments"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["get"]},
    {"apiGroups": ["storage.k8s.io"], "resources": ["csidrivers"], "verbs": [*READ]},
    {"apiGroups": ["storage.k8s.io"], "resources": ["csinodes"], "verbs": ["get", *WRITE_ONE]},
    {"apiGroups": ["node.k8s.io"], "resources": ["runtimeclasses"], "verbs": [*READ]},
    {"apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims"], "verbs": ["get"]},
    {
        "apiGroups": ["resource.k8s.io"],
        "resources": ["resourceslices"],
        "verbs": ["deletecollection", *READ, *WRITE_ONE],
    },
]
_RULES = tuple(Rule.of(rule) for rule in NODE_RULES)

Reference = tuple[str, str, str]  # plural, namespace, name
_GRAPH_RESOURCES = frozenset(("secrets", "configmaps", "persistentvolumeclaims", "persistentvolumes"))

# Volume sources whose driver reads a Secret of the pod's namespace: source field → field of the Secret's reference.
_SECRET_REF_SOURCES = ("cephfs", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos")


def references(pod: dict[str, Any]) -> set[Reference]:
    """The objects of its own namespace that a pod names."""
    namespace = (pod.get("metadata") or {}).get("namespace", "")
    spec = pod.get("spec") or {}
    claims = {("persistentvolumeclaims", namespace, name) for name in claims_of(pod)} if spec.get("volumes") else set()
    if spec.get("resourceClaims"):
        claims |= {("resourceclaims", namespace, one.claim) for one in resource_claims.of_pod(pod) if one.claim}
    return {(plural, namespace, name) for plural, name in _names(spec) if name} | claims


def _names(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "serviceaccounts", spec.get("serviceAccountName", "")
    for secret in spec.get("imagePullSecrets") or ():
        yield "secrets", secret.get("name", "")
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(kind) or ():
            for source in container.get("envFrom") or ():
                yield "configmaps", (source.get("configMapRef") or {}).get("name", "")
                yield "secrets", (source.get("secretRef") or {}).get("name", "")
            for variable in container.get("env") or ():
                value = variable.get("valueFrom") or {}
                yield "configmaps", (value.get("configMapKeyRef") or {}).get("name", "")
                yield "secrets", (value.get("secretKeyRef") or {}).get("name", "")
    for volume in spec.get("volumes") or ():
        yield from _volume_names(volume)


def _volume_names(volume: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "secrets", (volume.get("secret") or {}).get("secretName", "")
    yield "configmaps", (volume.get("configMap") or {}).get("name", "")
    for source in (volume.get("projected") or {}).get("sources") or ():
        yield "secrets", (source.get("secret") or {}).get("name", "")
        yield "configmaps", (source.get("configMap") or {}).get("name", "")
    yield "secrets", (volume.get("azureFile") or {}).get("secretName", "")
    yield "secrets", ((volume.get("csi") or {}).get("nodePublishSecretRef") or {}).get("name", "")
    for kind in _SECRET_REF_SOURCES:
        yield "secrets", ((volume.get(kind) or {}).get("secretRef") or {}).get("name", "")


class NodeAuthorizer:
    """Which objects the pods of each node name, counted so that a deletion is as cheap as an addition."""

    def __init__(self) -> None:
        self._pods: dict[tuple[str, str], tuple[str, int, set[Reference]]] = {}  # → node, ephemeral containers, names
        self._by_node: dict[str, Counter[Reference]] = {}
        self._volumes: dict[Reference, str] = {}  # claim → volume name

    def on_event(self, event_type: str, obj: dict[str, Any]) -> None:
        """Follows Pods and PersistentVolumeClaims."""
        metadata = obj.get("metadata") or {}
        key = (metadata.get("namespace", ""), metadata.get("name", ""))
        spec = obj.get("spec") or {}
        if obj.get("kind") == "PersistentVolumeClaim":
            volume = spec.get("volumeName", "") if event_type != "DELETED" else ""
            if volume:
                self._volumes["persistentvolumeclaims", *key] = volume
            else:
                self._volumes.pop(("persistentvolumeclaims", *key), None)
            return
        mirror = MIRROR_ANNOTATION in (metadata.get("annotations") or {})
        node = "" if event_type == "DELETED" or mirror else spec.get("nodeName", "")
        old = self._pods.get(key)
        ephemeral = len(spec.get("ephemeralContainers") or ())
        if old is not None and (old[0], old[1]) == (node, ephemeral) and event_type == "MODIFIED":
            return  # status updates: what a pod names never changes otherwise
        self.forget(key)
        if node:
            named = references(obj)
            self._pods[key] = (node, ephemeral, named)
            self._count(node, named, 1)

    def forget(self, key: tuple[str, str]) -> None:
        """The pod of this namespace and name is gone, or is to be told anew."""
        old = self._pods.pop(key, None)
        if old is not None:
            self._count(old[0], old[2], -1)

    def _count(self, node: str, named: set[Reference], step: int) -> None:
        counter = self._by_node.setdefault(node, Counter())
        for reference in named:
            counter[reference] += step
            if not counter[reference]:
                del counter[reference]
        if not counter:
            del self._by_node[node]

    def related(self, node: str, resource: str, namespace: str, name: str) -> bool:
        """Whether a pod on `node` names the object."""
        named = self._by_node.get(node)
        if named is None:
            return False
        if resource == "persistentvolumes":
            return any(self._volumes.get(reference) == name for reference in named)
        return (resource, namespace, name) in named

    def authorize(self, node: str, asked: "Attributes") -> tuple[bool, str] | None:
        """(allowed, reason) for a request of `node`'s kubelet; None when bindings must decide."""
        if not any(
            rule.matches_resource(asked.verb, asked.group, asked.resource, asked.subresource) for rule in _RULES
        ):
            return None
        why_not = self._own(node, asked)
        return (False, why_not) if why_not else (True, "")

    def _own(self, node: str, asked: "Attributes") -> str:
        """Why an allowed kind of request is not this node's to make; "" when it is."""
        resource, name = asked.resource, asked.name
        if asked.group == "":
            if resource in _GRAPH_RESOURCES:
                if not name:
                    return f"can only read {resource} by name" if asked.verb != "get" else "no name given"
                if not self.related(node, resource, asked.namespace, name):
                    return f"no relationship found between node '{node}' and this object"
            elif resource == "serviceaccounts":
                if not self.related(node, resource, asked.namespace, name):
                    return f"no relationship found between node '{node}' and this object"
            elif resource == "nodes":
                return self._own_node(node, asked)
            elif (
                resource == "pods"
                and asked.verb in ("list", "watch")
                and not name
                and asked.fields is not None
                and ("spec.nodeName", node) not in asked.fields
            ):
                return f"can only list and watch pods with field selector spec.nodeName={node}"
        elif asked.group == "coordination.k8s.io":
            if asked.namespace != LEASE_NAMESPACE:
                return f'can only access leases in the "{LEASE_NAMESPACE}" system namespace'
            if name != node and not (asked.verb == "create" and not name):
                return "can only access node lease with the same name as the requesting node"
        elif asked.group == DEVICES_GROUP:
            return self._own_devices(node, asked)
        elif resource == "csinodes" and name != node and not (asked.verb == "create" and not name):
            return "can only access CSINode with the same name as the requesting node"
        return ""

    def _own_devices(self, node: str, asked: "Attributes") -> str:
        resource, name = asked.resource, asked.name
        if resource == "resourceclaims" and not self.related(node, resource, asked.namespace, name):
            return f"no relationship found between node '{node}' and this object"
        if resource != "resourceslices" or name or asked.verb == "create" or asked.fields is None:
            return ""
        own = ("spec.nodeName", node) in asked.fields
        return "" if own else "can only list/watch/deletecollection resourceslices with nodeName field selector"

    @staticmethod
    def _own_node(node: str, asked: "Attributes") -> str:
        if asked.verb in ("list", "watch"):
            named = asked.name == node or asked.fields is None or ("metadata.name", node) in asked.fields
            return "" if named else f"node '{node}' can only list and watch its own Node"
        if asked.name != node and not (asked.verb == "create" and not asked.name):
            return f"node '{node}' cannot access other nodes than itself"
        return ""


def restriction(
    node: str, verb: str, resource: str, subresource: str, new: dict[str, Any] | None, old: dict[str, Any] | None
) -> str:
    """Why the kubelet of `node` may not write this object (core group, Leases, ResourceSlices); "" when it may.

    `verb`: create, update, patch or delete. `old`: the stored object, if any. For a token request `new` is the
    TokenRequest. The answer goes behind `is forbidden: `.
    """
    obj = new if new is not None else old or {}
    name = (obj.get("metadata") or {}).get("name", "")
    if resource == "pods":
        return _pod_restriction(node, verb, subresource, new, old)
    if resource == "nodes":
        if name != node:
            return f"node {node!r} is not allowed to modify node {name!r}".replace("'", '"')
        return _node_labels_restriction(node, new, old)
    if resource == "resourceslices" and any(
        ((one or {}).get("spec") or {}).get("nodeName") != node for one in (new, old) if one is not None
    ):
        return f"can only {verb} ResourceSlice with the same NodeName as the requesting node"
    if resource == "leases" and name != node:
        return f'node "{node}" is not allowed to modify lease "{name}"'
    return ""


def _pod_restriction(
    node: str, verb: str, subresource: str, new: dict[str, Any] | None, old: dict[str, Any] | None
) -> str:
    if subresource not in ("", "status", "eviction"):
        return f"unexpected pod subresource {subresource!r}, only 'status' and 'eviction' are allowed"
    if verb == "create" and not subresource:
        metadata, spec = (new or {}).get("metadata") or {}, (new or {}).get("spec") or {}
        if MIRROR_ANNOTATION not in (metadata.get("annotations") or {}):
            return f'pod does not have "{MIRROR_ANNOTATION}" annotation, node "{node}" can only create mirror pods'
        if spec.get("nodeName") != node:
            return f'node "{node}" can only create pods with spec.nodeName set to itself'
        if spec.get("serviceAccountName") or any(plural != "serviceaccounts" for plural, _, _ in references(new or {})):
            return f'node "{node}" can not create pods that reference other objects'
        return ""
    if subresource == "" and verb != "delete":
        return f'node "{node}" can only update the status of pods'
    if ((old or {}).get("spec") or {}).get("nodeName") != node:
        act = {"delete": "delete pods", "create": "evict pods"}.get(verb, "update pod status for pods")
        return f'node "{node}" can only {act} with spec.nodeName set to itself'
    if subresource == "status" and _labels(new) != _labels(old):
        return f'node "{node}" cannot update labels through pod status'
    return ""


def _node_labels_restriction(node: str, new: dict[str, Any] | None, old: dict[str, Any] | None) -> str:
    if new is None:
        return f'node "{node}" cannot delete nodes'
    before, after = _labels(old), _labels(new)
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    forbidden = sorted(key for key in changed if not _may_label(key, registering=old is None))
    if forbidden:
        return f'node "{node}" is not allowed to modify labels: {", ".join(forbidden)}'
    if old is not None and (new.get("spec") or {}).get("taints") != (old.get("spec") or {}).get("taints"):
        return f'node "{node}" is not allowed to modify taints'
    return ""


def _may_label(key: str, *, registering: bool) -> bool:
    """Whether a kubelet may set, change or remove the label on its own Node."""
    domain = key.rpartition("/")[0]
    if _in_domain(domain, RESTRICTED_LABEL_SUFFIX):
        return False
    if not (_in_domain(domain, "kubernetes.io") or _in_domain(domain, "k8s.io")):
        return True
    if key in _KUBELET_LABELS or any(_in_domain(domain, own) for own in _KUBELET_LABEL_DOMAINS):
        return True
    return registering and domain == _ROLE_DOMAIN


def _in_domain(domain: str, parent: str) -> bool:
    return domain == parent or domain.endswith("." + parent)


def _labels(obj: dict[str, Any] | None) -> dict[str, str]:
    return ((obj or {}).get("metadata") or {}).get("labels") or {}
