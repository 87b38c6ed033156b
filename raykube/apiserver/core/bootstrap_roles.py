"""The roles and bindings that every cluster starts with, under upstream's names.

`bootstrap_objects()` is what the apiserver makes sure of at its start. All carry the label
`kubernetes.io/bootstrapping: rbac-defaults` and the annotation `rbac.authorization.kubernetes.io/autoupdate: "true"`: a
start adds rules and subjects that are missing, unless the user set that annotation to "false" (`reconciled`).

All of raykube's controllers are one process with one identity, system:kube-controller-manager. Its role holds what the
controllers need together; the system:controller:NAME roles are there for whoever runs one of upstream's by itself.
"""

from typing import Any

from raykube.apiserver.core.node_authorizer import NODE_RULES, READ

Rule = dict[str, Any]
RBAC_GROUP = "rbac.authorization.k8s.io"
API_VERSION = f"{RBAC_GROUP}/v1"
LABELS = {"kubernetes.io/bootstrapping": "rbac-defaults"}
AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
AGGREGATE = f"{RBAC_GROUP}/aggregate-to-"
WRITE = ("create", "delete", "deletecollection", "patch", "update")
ALL = (*READ, *WRITE)
EVENTS = ("create", "patch", "update")


def _rule(verbs: str | tuple[str, ...], group: str, *resources: str, names: tuple[str, ...] = ()) -> Rule:
    rule: Rule = {
        "apiGroups": [group],
        "resources": list(resources),
        "verbs": [verbs] if isinstance(verbs, str) else list(verbs),
    }
    if names:
        rule["resourceNames"] = list(names)
    return rule


def _urls(*urls: str) -> Rule:
    return {"nonResourceURLs": list(urls), "verbs": ["get"]}


def _metadata(name: str, namespace: str = "", labels: dict[str, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "labels": {**LABELS, **(labels or {})}, "annotations": {AUTOUPDATE: "true"}}
    if namespace:
        found["namespace"] = namespace
    return found


def _role(name: str, *rules: Rule, namespace: str = "", labels: dict[str, str] | None = None) -> dict[str, Any]:
    kind = "Role" if namespace else "ClusterRole"
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": _metadata(name, namespace, labels),
        "rules": list(rules),
    }


def _binding(
    name: str, *subjects: dict[str, str], role: str = "", namespace: str = "", kind: str = ""
) -> dict[str, Any]:
    role_kind = kind or ("Role" if namespace else "ClusterRole")
    return {
        "apiVersion": API_VERSION,
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": _metadata(name, namespace),
        "roleRef": {"apiGroup": RBAC_GROUP, "kind": role_kind, "name": role or name},
        "subjects": list(subjects),
    }


def _user(name: str) -> dict[str, str]:
    return {"apiGroup": RBAC_GROUP, "kind": "User", "name": name}


def _group(name: str) -> dict[str, str]:
    return {"apiGroup": RBAC_GROUP, "kind": "Group", "name": name}


def _service_account(name: str, namespace: str = "kube-system") -> dict[str, str]:
    return {"kind": "ServiceAccount", "name": name, "namespace": namespace}


# What people get: view < edit < admin, each made of the role below and its own part.

_HEALTH = ("/healthz", "/livez", "/readyz", "/version", "/version/")

_VIEW = (
    _rule(
        READ, "", "bindings", "configmaps", "endpoints", "events", "limitranges", "namespaces", "namespaces/status",
        "persistentvolumeclaims", "persistentvolumeclaims/status", "pods", "pods/log", "pods/status",
        "replicationcontrollers", "replicationcontrollers/scale", "replicationcontrollers/status", "resourcequotas",
        "resourcequotas/status", "serviceaccounts", "services", "services/status",
    ),
    _rule(READ, "discovery.k8s.io", "endpointslices"),
    _rule(READ, "events.k8s.io", "events"),
    _rule(
        READ, "apps", "controllerrevisions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale",
        "deployments/status", "replicasets", "replicasets/scale", "replicasets/status", "statefulsets",
        "statefulsets/scale", "statefulsets/status",
    ),
    _rule(READ, "autoscaling", "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
    _rule(READ, "batch", "cronjobs", "cronjobs/status", "jobs", "jobs/status"),
    _rule(READ, "policy", "poddisruptionbudgets", "poddisruptionbudgets/status"),
    _rule(READ, "metrics.k8s.io", "nodes", "pods"),
    _rule(READ, "networking.k8s.io", "ingresses", "ingresses/status", "networkpolicies"),
    _rule(READ, "resource.k8s.io", "resourceclaims", "resourceclaims/status", "resourceclaimtemplates"),
)  # fmt: skip

_EDIT = (
    _rule(READ, "", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
    _rule("impersonate", "", "serviceaccounts"),
    _rule(WRITE, "", "pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"),
    _rule("create", "", "pods/eviction"),
    _rule(
        WRITE, "", "configmaps", "events", "persistentvolumeclaims", "replicationcontrollers",
        "replicationcontrollers/scale", "secrets", "serviceaccounts", "services", "services/proxy",
    ),
    _rule("create", "", "serviceaccounts/token"),
    _rule(
        WRITE, "apps", "daemonsets", "deployments", "deployments/rollback", "deployments/scale", "replicasets",
        "replicasets/scale", "statefulsets", "statefulsets/scale",
    ),
    _rule(WRITE, "autoscaling", "horizontalpodautoscalers"),
    _rule(WRITE, "batch", "cronjobs", "jobs"),
    _rule(WRITE, "policy", "poddisruptionbudgets"),
    _rule(WRITE, "networking.k8s.io", "ingresses", "networkpolicies"),
    _rule(ALL, "coordination.k8s.io", "leases"),
    _rule(WRITE, "resource.k8s.io", "resourceclaims", "resourceclaimtemplates"),
)  # fmt: skip

_ADMIN = (
    _rule("create", "authorization.k8s.io", "localsubjectaccessreviews"),
    _rule(ALL, RBAC_GROUP, "roles", "rolebindings"),
)


def _aggregated(name: str, own: tuple[Rule, ...], below: tuple[Rule, ...], feeds: str = "") -> list[dict[str, Any]]:
    """A role that people are bound to, and the part of it that is its own. The rules shown are the resolved ones."""
    role = _role(name, *own, *below, labels={AGGREGATE + feeds: "true"} if feeds else None)
    role["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {AGGREGATE + name: "true"}}]}
    return [role, _role(f"system:aggregate-to-{name}", *own, labels={AGGREGATE + name: "true"})]


def _people() -> list[dict[str, Any]]:
    discovery = (*_HEALTH, "/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*")
    return [
        _role("cluster-admin", _rule("*", "*", "*"), {"nonResourceURLs": ["*"], "verbs": ["*"]}),
        *_aggregated("admin", _ADMIN, (*_EDIT, *_VIEW)),
        *_aggregated("edit", _EDIT, _VIEW, feeds="admin"),
        *_aggregated("view", _VIEW, (), feeds="edit"),
        _role("system:discovery", _urls(*discovery)),
        _role("system:public-info-viewer", _urls(*_HEALTH)),
        _role(
            "system:monitoring",
            _urls("/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*"),
        ),
        _role(
            "system:basic-user",
            _rule("create", "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
            _rule("create", "authentication.k8s.io", "selfsubjectreviews"),
        ),
        _role("system:service-account-issuer-discovery", _urls("/.well-known/openid-configuration", "/openid/v1/jwks")),
        _binding("cluster-admin", _group("system:masters")),
        _binding("system:monitoring", _group("system:monitoring")),
        _binding("system:discovery", _group("system:authenticated")),
        _binding("system:basic-user", _group("system:authenticated")),
        _binding("system:public-info-viewer", _group("system:authenticated"), _group("system:unauthenticated")),
        _binding("system:service-account-issuer-discovery", _group("system:serviceaccounts")),
    ]


# What components get.

_ANY_EVENTS = (_rule(EVENTS, "", "events"), _rule(EVENTS, "events.k8s.io", "events"))
_REVIEWS = (
    _rule("create", "authentication.k8s.io", "tokenreviews"),
    _rule("create", "authorization.k8s.io", "subjectaccessreviews"),
)


def _lock(name: str) -> tuple[Rule, ...]:
    return (
        _rule("create", "coordination.k8s.io", "leases"),
        _rule(("get", "update", "patch"), "coordination.k8s.io", "leases", names=(name,)),
    )


_SCHEDULER = (
    *_ANY_EVENTS,
    *_REVIEWS,
    *_lock("kube-scheduler"),
    _rule(("list", "watch"), "coordination.k8s.io", "leases"),
    _rule(READ, "", "nodes", "namespaces", "replicationcontrollers", "services"),
    _rule((*READ, "delete"), "", "pods"),
    _rule("create", "", "bindings", "pods/binding"),
    _rule(("patch", "update"), "", "pods/status"),
    _rule(READ, "apps", "replicasets", "statefulsets"),
    _rule(READ, "policy", "poddisruptionbudgets"),
    _rule((*READ, "patch", "update"), "", "persistentvolumeclaims", "persistentvolumes"),
    _rule(READ, "storage.k8s.io", "csidrivers", "csinodes", "csistoragecapacities", "storageclasses"),
    _rule((*READ, "patch", "update"), "resource.k8s.io", "resourceclaims", "resourceclaims/status"),
    _rule(READ, "resource.k8s.io", "deviceclasses", "resourceslices"),
    _rule(READ, "scheduling.k8s.io", "podgroups", "priorityclasses", "workloads"),
    _rule(("patch", "update"), "scheduling.k8s.io", "podgroups/status"),
)

_NODE_PROXIER = (
    *_ANY_EVENTS,
    _rule(("list", "watch"), "", "endpoints", "services"),
    _rule(READ, "", "nodes"),
    _rule(("list", "watch"), "discovery.k8s.io", "endpointslices"),
    _rule(("list", "watch"), "networking.k8s.io", "servicecidrs"),
)

_PODS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")

_CONTROLLERS: dict[str, tuple[Rule, ...]] = {
    "clusterrole-aggregation-controller": (
        _rule(("escalate", "get", "list", "patch", "update", "watch"), RBAC_GROUP, "clusterroles"),
    ),
    "cronjob-controller": (
        _rule((*READ, "update"), "batch", "cronjobs"),
        _rule(_PODS, "batch", "jobs"),
        _rule(("update", "patch"), "batch", "cronjobs/finalizers", "cronjobs/status"),
        _rule(("delete", "list"), "", "pods"),
    ),
    "daemon-set-controller": (
        _rule(READ, "apps", "daemonsets"),
        _rule(("update", "patch"), "apps", "daemonsets/finalizers", "daemonsets/status"),
        _rule(("list", "watch"), "", "nodes"),
        _rule(_PODS, "", "pods"),
        _rule(_PODS, "apps", "controllerrevisions"),
    ),
    "deployment-controller": (
        _rule((*READ, "update"), "apps", "deployments"),
        _rule(("update", "patch"), "apps", "deployments/finalizers", "deployments/status"),
        _rule(_PODS, "apps", "replicasets"),
        _rule((*READ, "update"), "", "pods"),
    ),
    "device-taint-eviction-controller": (
        _rule((*READ, "delete"), "", "pods"),
        _rule(("patch", "update"), "", "pods/status"),
        _rule(READ, "resource.k8s.io", "resourceclaims", "resourceslices"),
    ),
    "disruption-controller": (
        _rule(READ, "apps", "deployments", "replicasets", "statefulsets"),
        _rule(READ, "policy", "poddisruptionbudgets"),
        _rule(("update", "patch"), "policy", "poddisruptionbudgets/status"),
        _rule(READ, "", "pods", "replicationcontrollers"),
        _rule(("update", "patch"), "", "pods/status"),
        _rule("get", "*", "*/scale"),
    ),
    "endpoint-controller": (
        _rule(READ, "", "pods", "services"),
        _rule(("create", "delete", *READ, "update", "patch"), "", "endpoints"),
        _rule("create", "", "endpoints/restricted"),
    ),
    "endpointslice-controller": (
        _rule(READ, "", "nodes", "pods", "services"),
        _rule("update", "", "services/finalizers"),
        _rule(("create", "delete", *READ, "update", "patch"), "discovery.k8s.io", "endpointslices"),
        _rule("create", "discovery.k8s.io", "endpointslices/restricted"),
    ),
    "endpointslicemirroring-controller": (
        _rule(READ, "", "endpoints", "services"),
        _rule("update", "", "endpoints/finalizers", "services/finalizers"),
        _rule(("create", "delete", *READ, "update", "patch"), "discovery.k8s.io", "endpointslices"),
        _rule("create", "discovery.k8s.io", "endpointslices/restricted"),
    ),
    "generic-garbage-collector": (_rule(("delete", *READ, "patch", "update"), "*", "*"),),
    "job-controller": (
        _rule((*READ, "patch", "update"), "batch", "jobs"),
        _rule(("update", "patch"), "batch", "jobs/finalizers", "jobs/status"),
        _rule(_PODS, "", "pods"),
    ),
    "namespace-controller": (
        _rule(("delete", *READ), "", "namespaces"),
        _rule(("update", "patch"), "", "namespaces/finalize", "namespaces/status"),
        _rule(("delete", "deletecollection", "get", "list"), "*", "*"),
    ),
    "node-controller": (
        _rule(("delete", *READ, "patch", "update"), "", "nodes"),
        _rule(("patch", "update"), "", "nodes/status", "pods/status"),
        _rule((*READ, "delete"), "", "pods"),
        _rule(READ, "coordination.k8s.io", "leases"),
    ),
    "ephemeral-volume-controller": (
        _rule(READ, "", "pods"),
        _rule("update", "", "pods/finalizers"),
        _rule(("create", *READ), "", "persistentvolumeclaims"),
    ),
    "persistent-volume-binder": (
        _rule(("create", "delete", *READ, "patch", "update"), "", "persistentvolumes"),
        _rule((*READ, "patch", "update"), "", "persistentvolumeclaims"),
        _rule(("patch", "update"), "", "persistentvolumeclaims/status", "persistentvolumes/status"),
        _rule(READ, "storage.k8s.io", "storageclasses"),
        _rule(READ, "", "nodes", "pods"),
    ),
    "pv-protection-controller": (_rule((*READ, "patch", "update"), "", "persistentvolumes"),),
    "pvc-protection-controller": (
        _rule((*READ, "patch", "update"), "", "persistentvolumeclaims"),
        _rule(READ, "", "pods"),
    ),
    "pod-garbage-collector": (
        _rule(("delete", *READ), "", "pods"),
        _rule(READ, "", "nodes"),
        _rule(("patch", "update"), "", "pods/status"),
    ),
    "replicaset-controller": (
        _rule((*READ, "update"), "apps", "replicasets"),
        _rule(("update", "patch"), "apps", "replicasets/finalizers", "replicasets/status"),
        _rule(_PODS, "", "pods"),
    ),
    "replication-controller": (
        _rule((*READ, "update"), "", "replicationcontrollers"),
        _rule(("update", "patch"), "", "replicationcontrollers/finalizers", "replicationcontrollers/status"),
        _rule(_PODS, "", "pods"),
    ),
    "resource-claim-controller": (
        _rule(READ, "", "pods"),
        _rule("update", "", "pods/finalizers"),
        _rule(("patch", "update"), "", "pods/status"),
        _rule(("create", "delete", *READ, "patch", "update"), "resource.k8s.io", "resourceclaims"),
        _rule(("patch", "update"), "resource.k8s.io", "resourceclaims/status"),
        _rule(READ, "resource.k8s.io", "resourceclaimtemplates"),
    ),
    "resourcequota-controller": (
        _rule(("list", "watch"), "*", "*"),
        _rule(("update", "patch"), "", "resourcequotas/status"),
    ),
    "root-ca-cert-publisher": (_rule(("create", "update", *READ), "", "configmaps"), _rule(READ, "", "namespaces")),
    "service-account-controller": (_rule(("create", *READ), "", "serviceaccounts"), _rule(READ, "", "namespaces")),
    "statefulset-controller": (
        _rule(READ, "apps", "statefulsets"),
        _rule(("update", "patch"), "apps", "statefulsets/finalizers", "statefulsets/status"),
        _rule(_PODS, "", "pods"),
        _rule(_PODS, "apps", "controllerrevisions"),
        _rule(("create", "delete", *READ, "update"), "", "persistentvolumeclaims"),
    ),
    "ttl-after-finished-controller": (_rule((*READ, "delete"), "batch", "jobs"),),
}

_CONTROLLER_MANAGER = (
    *_ANY_EVENTS,
    *_REVIEWS,
    *_lock("kube-controller-manager"),
    _rule(("create", "delete", *READ, "patch", "update"), "", "secrets", "serviceaccounts"),
    _rule("create", "", "serviceaccounts/token"),
    _rule(("list", "watch"), "*", "*"),
    *(rule for rules in _CONTROLLERS.values() for rule in rules),
)


def _components() -> list[dict[str, Any]]:
    return [
        # Nobody is bound to system:node: the node authorizer answers for kubelets, object by object.
        _role("system:node", *NODE_RULES),
        _binding("system:node"),
        _role("system:node-proxier", *_NODE_PROXIER),
        _binding("system:node-proxier", _user("system:kube-proxy")),
        # kube-proxy announces its relay as an annotation of its Node.
        _role("raykube:node-relay", _rule("patch", "", "nodes")),
        _binding("raykube:node-relay", _user("system:kube-proxy")),
        _role(
            "raykube:pod-network",
            _rule(READ, "", "namespaces", "nodes", "pods"),
            _rule(READ, "networking.k8s.io", "networkpolicies"),
            *_ANY_EVENTS,
        ),
        _binding("raykube:pod-network", _user("raykube:pod-network")),
        # Whoever plays many kubelets: the node authorizer knows those of one node each.
        _role(
            "raykube:hollow",
            _rule(("create", "patch", *READ), "", "nodes"),
            _rule("patch", "", "nodes/status", "pods/status"),
            _rule(("delete", *READ), "", "pods"),
            _rule(("create", "patch", "get"), "coordination.k8s.io", "leases"),
            *_ANY_EVENTS,
        ),
        _binding("raykube:hollow", _user("raykube:hollow")),
        _role("system:kube-scheduler", *_SCHEDULER),
        _binding("system:kube-scheduler", _user("system:kube-scheduler")),
        _role("system:kube-controller-manager", *_CONTROLLER_MANAGER),
        _binding("system:kube-controller-manager", _user("system:kube-controller-manager")),
        _role(
            "system:kubelet-api-admin",
            _rule(READ, "", "nodes"),
            _rule("proxy", "", "nodes"),
            _rule(
                "*",
                "",
                "nodes/configz",
                "nodes/healthz",
                "nodes/log",
                "nodes/metrics",
                "nodes/pods",
                "nodes/proxy",
                "nodes/stats",
            ),
        ),
        _binding(
            "raykube:apiserver-kubelet-client", _user("kube-apiserver-kubelet-client"), role="system:kubelet-api-admin"
        ),
        _role("system:auth-delegator", *_REVIEWS),
        _role(
            "system:kube-dns",
            _rule(("list", "watch"), "", "endpoints", "services"),
            _rule(("list", "watch"), "discovery.k8s.io", "endpointslices"),
        ),
        _binding("system:kube-dns", _service_account("kube-dns"), _user("system:kube-dns")),
        # raykube's DNS servers: which namespaces there are, and, for the elected one, which machines are lost.
        _role("raykube:kube-dns", _rule(("list", "watch"), "", "namespaces", "nodes")),
        _binding("raykube:kube-dns", _user("system:kube-dns")),
        _role(
            "system:node-bootstrapper", _rule(("create", *READ), "certificates.k8s.io", "certificatesigningrequests")
        ),
    ]


def _controllers() -> list[dict[str, Any]]:
    objects = []
    for name, rules in _CONTROLLERS.items():
        objects.append(_role(f"system:controller:{name}", *rules, *_ANY_EVENTS))
        objects.append(_binding(f"system:controller:{name}", _service_account(name)))
    return objects


def _namespaced() -> list[dict[str, Any]]:
    reader = "extension-apiserver-authentication-reader"
    found = [
        _role(
            reader, _rule(READ, "", "configmaps", names=("extension-apiserver-authentication",)),
            namespace="kube-system",
        ),
        _binding(
            f"system::{reader}", _user("system:kube-controller-manager"), _user("system:kube-scheduler"),
            role=reader, namespace="kube-system",
        ),
    ]  # fmt: skip
    for component in ("kube-controller-manager", "kube-scheduler"):
        name = f"system::leader-locking-{component}"
        found.append(
            _role(
                name,
                _rule("watch", "", "configmaps"),
                _rule(("get", "update"), "", "configmaps", names=(component,)),
                namespace="kube-system",
            )
        )
        found.append(_binding(name, _user(f"system:{component}"), namespace="kube-system"))
    # The DNS servers make the Service kube-dns and join it by themselves.
    found += [
        _role(
            "raykube:kube-dns",
            _rule("create", "", "services"),
            _rule(("create", "patch", "delete"), "discovery.k8s.io", "endpointslices"),
            _rule("create", "coordination.k8s.io", "leases"),
            _rule(("get", "update"), "coordination.k8s.io", "leases", names=("kube-dns",)),
            namespace="kube-system",
        ),
        _binding("raykube:kube-dns", _user("system:kube-dns"), namespace="kube-system"),
    ]
    return found


def bootstrap_objects() -> list[dict[str, Any]]:
    """Fresh copies of all of them, roles before the bindings that refer to them."""
    found = [*_people(), *_components(), *_controllers(), *_namespaced()]
    return sorted(found, key=lambda obj: obj["kind"].endswith("Binding"))


def reconciled(stored: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any] | None:
    """`stored` with what a start must add to it: missing rules and subjects, labels, aggregation; None when nothing.

    What users added stays. Objects whose autoupdate annotation is "false" are theirs. A changed roleRef cannot be
    mended by an update and is left alone.
    """
    annotations = (stored.get("metadata") or {}).get("annotations") or {}
    if annotations.get(AUTOUPDATE) == "false":
        return None
    new = dict(stored)
    for field in ("rules", "subjects"):
        if field == "rules" and "aggregationRule" in wanted:
            if (stored.get(field) or []) != wanted[field] and not stored.get(field):
                new[field] = wanted[field]
            continue
        have = stored.get(field) or []
        missing = [item for item in wanted.get(field) or () if item not in have]
        if missing:
            new[field] = [*have, *missing]
    if "aggregationRule" in wanted and not stored.get("aggregationRule"):
        new["aggregationRule"] = wanted["aggregationRule"]
    metadata = dict(stored.get("metadata") or {})
    labels = {**(metadata.get("labels") or {}), **wanted["metadata"]["labels"]}
    metadata["labels"], metadata["annotations"] = labels, {**wanted["metadata"]["annotations"], **annotations}
    new["metadata"] = metadata
    return None if new == stored else new
