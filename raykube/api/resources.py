"""The resources that the API serves: one table, a kind is a row.

Vocabulary
  resource     what a URL names (`deployments`), with its kind (`Deployment`), group and version.
  subresource  a further noun behind an object's name (`pods/eviction`), with the kind of its own bodies.
  stored       has objects in the store; review kinds and bindings are answered and forgotten.
  view         a second face of another resource's stored objects (events.k8s.io/v1 over core events).
  registry     a set of rows. `BUILTIN` holds the table; a server that serves more makes its own copy and adds.

Order is meaning: groups come in the order of discovery, in which kubectl looks a short name up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
NO_COLLECTION_DELETE = ("create", "delete", "get", "list", "patch", "update", "watch")
READ_WRITE = ("get", "patch", "update")
CREATE = ("create",)
CONNECT = ("create", "get")
PROXY = ("create", "delete", "get", "patch", "update")


@dataclass(frozen=True)
class Subresource:
    """`name` behind the object's; (group, version, kind) is the type of its bodies."""

    name: str
    group: str
    version: str
    kind: str
    verbs: tuple[str, ...]

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


@dataclass(frozen=True)
class Resource:
    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: tuple[Subresource, ...] = ()
    stored: bool = True
    view_of: tuple[str, str, str] | None = None  # group, version, plural of the resource whose objects these are
    _prefix: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        group, _, plural = self.view_of or (self.group, self.version, self.plural)
        object.__setattr__(self, "_prefix", f"/registry/{group}/{plural}/" if group else f"/registry/{plural}/")

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """`deployments.apps`; a core resource is its plural alone."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def list_kind(self) -> str:
        return self.kind + "List"

    @property
    def key_prefix(self) -> str:
        """Every key of this resource starts with it; it ends in a slash."""
        return self._prefix

    def key(self, namespace: str, name: str) -> str:
        return f"{self._prefix}{namespace}/{name}" if self.namespaced else self._prefix + name

    def namespace_prefix(self, namespace: str) -> str:
        """The prefix of one namespace's keys; of all keys for namespace "" or a cluster-scoped resource."""
        return f"{self._prefix}{namespace}/" if self.namespaced and namespace else self._prefix

    def subresource(self, name: str) -> Subresource | None:
        return next((each for each in self.subresources if each.name == name), None)


class Registry:
    """Rows, found by path or by kind. Iteration keeps the order of addition."""

    def __init__(self, rows: Iterable[Resource] = ()) -> None:
        self._by_path: dict[tuple[str, str, str], Resource] = {}
        self._by_kind: dict[tuple[str, str, str], Resource] = {}
        for row in rows:
            self.add(row)

    def add(self, row: Resource) -> None:
        """Adds a row, or replaces the one of the same path."""
        old = self._by_path.get((row.group, row.version, row.plural))
        if old is not None and old.kind != row.kind:
            self._by_kind.pop((old.group, old.version, old.kind), None)
        self._by_path[row.group, row.version, row.plural] = row
        self._by_kind[row.group, row.version, row.kind] = row

    def remove(self, row: Resource) -> None:
        self._by_path.pop((row.group, row.version, row.plural), None)
        self._by_kind.pop((row.group, row.version, row.kind), None)

    def copy(self) -> Registry:
        return Registry(self._by_path.values())

    def by_path(self, group: str, version: str, plural: str) -> Resource | None:
        return self._by_path.get((group, version, plural))

    def by_kind(self, group: str, version: str, kind: str) -> Resource | None:
        return self._by_kind.get((group, version, kind))

    def of(self, obj: dict[str, object]) -> Resource | None:
        """The resource of an object, by its apiVersion and kind."""
        group, _, version = str(obj.get("apiVersion", "")).rpartition("/")
        return self._by_kind.get((group, version, str(obj.get("kind", ""))))

    def all_resources(self) -> list[Resource]:
        return list(self._by_path.values())

    def group_versions(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys((row.group, row.version) for row in self._by_path.values()))

    def in_group_version(self, group: str, version: str) -> list[Resource]:
        return [row for row in self._by_path.values() if (row.group, row.version) == (group, version)]


def _sub(name: str, group: str, version: str, kind: str, verbs: tuple[str, ...] = READ_WRITE) -> Subresource:
    return Subresource(name, group, version, kind, verbs)


_SCALE = _sub("scale", "autoscaling", "v1", "Scale")


class _Group:
    """Writes the rows of one group-version without repeating it."""

    def __init__(self, group: str, version: str) -> None:
        self.group, self.version = group, version

    def row(
        self,
        plural: str,
        kind: str,
        short: str = "",
        *,
        cluster: bool = False,
        categories: str = "",
        verbs: tuple[str, ...] = ALL_VERBS,
        status: bool = False,
        subs: tuple[Subresource, ...] = (),
        stored: bool = True,
        view_of: tuple[str, str, str] | None = None,
    ) -> Resource:
        if status:
            subs = (*subs, self.own("status", kind))
        return Resource(
            group=self.group,
            version=self.version,
            kind=kind,
            plural=plural,
            singular=kind.lower(),
            namespaced=not cluster,
            short_names=tuple(short.split()),
            categories=tuple(categories.split()),
            verbs=verbs,
            subresources=tuple(sorted(subs, key=lambda sub: sub.name)),
            stored=stored,
            view_of=view_of,
        )

    def own(self, name: str, kind: str, verbs: tuple[str, ...] = READ_WRITE) -> Subresource:
        """A subresource whose bodies are of the group itself."""
        return Subresource(name, self.group, self.version, kind, verbs)


def _table() -> Iterable[Resource]:
    g = _Group("", "v1")
    yield g.row("bindings", "Binding", verbs=CREATE, stored=False)
    yield g.row("componentstatuses", "ComponentStatus", "cs", cluster=True, verbs=("get", "list"))
    yield g.row("configmaps", "ConfigMap", "cm")
    yield g.row("endpoints", "Endpoints", "ep")
    yield g.row("events", "Event", "ev")
    yield g.row("limitranges", "LimitRange", "limits")
    yield g.row(
        "namespaces",
        "Namespace",
        "ns",
        cluster=True,
        verbs=NO_COLLECTION_DELETE,
        status=True,
        subs=(g.own("finalize", "Namespace", ("update",)),),
    )
    yield g.row("nodes", "Node", "no", cluster=True, status=True, subs=(g.own("proxy", "NodeProxyOptions", PROXY),))
    yield g.row("persistentvolumeclaims", "PersistentVolumeClaim", "pvc", status=True)
    yield g.row("persistentvolumes", "PersistentVolume", "pv", cluster=True, status=True)
    yield g.row(
        "pods",
        "Pod",
        "po",
        categories="all",
        status=True,
        subs=(
            g.own("attach", "PodAttachOptions", CONNECT),
            g.own("binding", "Binding", CREATE),
            g.own("ephemeralcontainers", "Pod"),
            _sub("eviction", "policy", "v1", "Eviction", CREATE),
            g.own("exec", "PodExecOptions", CONNECT),
            g.own("log", "Pod", ("get",)),
            g.own("portforward", "PodPortForwardOptions", CONNECT),
            g.own("proxy", "PodProxyOptions", PROXY),
            g.own("resize", "Pod"),
        ),
    )
    yield g.row("podtemplates", "PodTemplate")
    yield g.row("replicationcontrollers", "ReplicationController", "rc", categories="all", status=True, subs=(_SCALE,))
    yield g.row("resourcequotas", "ResourceQuota", "quota", status=True)
    yield g.row("secrets", "Secret")
    yield g.row(
        "serviceaccounts",
        "ServiceAccount",
        "sa",
        subs=(_sub("token", "authentication.k8s.io", "v1", "TokenRequest", CREATE),),
    )
    yield g.row(
        "services",
        "Service",
        "svc",
        categories="all",
        status=True,
        subs=(g.own("proxy", "ServiceProxyOptions", PROXY),),
    )

    g = _Group("apiregistration.k8s.io", "v1")
    yield g.row("apiservices", "APIService", cluster=True, categories="api-extensions", status=True)

    g = _Group("apps", "v1")
    yield g.row("controllerrevisions", "ControllerRevision")
    yield g.row("daemonsets", "DaemonSet", "ds", categories="all", status=True)
    yield g.row("deployments", "Deployment", "deploy", categories="all", status=True, subs=(_SCALE,))
    yield g.row("replicasets", "ReplicaSet", "rs", categories="all", status=True, subs=(_SCALE,))
    yield g.row("statefulsets", "StatefulSet", "sts", categories="all", status=True, subs=(_SCALE,))

    g = _Group("events.k8s.io", "v1")
    yield g.row("events", "Event", "ev", view_of=("", "v1", "events"))

    g = _Group("authentication.k8s.io", "v1")
    yield g.row("selfsubjectreviews", "SelfSubjectReview", cluster=True, verbs=CREATE, stored=False)
    yield g.row("tokenreviews", "TokenReview", cluster=True, verbs=CREATE, stored=False)

    g = _Group("authorization.k8s.io", "v1")
    yield g.row("localsubjectaccessreviews", "LocalSubjectAccessReview", verbs=CREATE, stored=False)
    yield g.row("selfsubjectaccessreviews", "SelfSubjectAccessReview", cluster=True, verbs=CREATE, stored=False)
    yield g.row("selfsubjectrulesreviews", "SelfSubjectRulesReview", cluster=True, verbs=CREATE, stored=False)
    yield g.row("subjectaccessreviews", "SubjectAccessReview", cluster=True, verbs=CREATE, stored=False)

    g = _Group("autoscaling", "v2")
    yield g.row("horizontalpodautoscalers", "HorizontalPodAutoscaler", "hpa", categories="all", status=True)
    stored = ("autoscaling", "v2", "horizontalpodautoscalers")
    g = _Group("autoscaling", "v1")
    yield g.row(stored[2], "HorizontalPodAutoscaler", "hpa", categories="all", status=True, view_of=stored)

    g = _Group("batch", "v1")
    yield g.row("cronjobs", "CronJob", "cj", categories="all", status=True)
    yield g.row("jobs", "Job", categories="all", status=True)

    g = _Group("certificates.k8s.io", "v1")
    yield g.row(
        "certificatesigningrequests",
        "CertificateSigningRequest",
        "csr",
        cluster=True,
        status=True,
        subs=(g.own("approval", "CertificateSigningRequest"),),
    )

    g = _Group("networking.k8s.io", "v1")
    yield g.row("ingressclasses", "IngressClass", cluster=True)
    yield g.row("ingresses", "Ingress", "ing", status=True)
    yield g.row("ipaddresses", "IPAddress", "ip", cluster=True)
    yield g.row("networkpolicies", "NetworkPolicy", "netpol")
    yield g.row("servicecidrs", "ServiceCIDR", cluster=True, status=True)

    g = _Group("policy", "v1")
    yield g.row("poddisruptionbudgets", "PodDisruptionBudget", "pdb", status=True)

    g = _Group("rbac.authorization.k8s.io", "v1")
    yield g.row("clusterrolebindings", "ClusterRoleBinding", cluster=True)
    yield g.row("clusterroles", "ClusterRole", cluster=True)
    yield g.row("rolebindings", "RoleBinding")
    yield g.row("roles", "Role")

    g = _Group("storage.k8s.io", "v1")
    yield g.row("csidrivers", "CSIDriver", cluster=True)
    yield g.row("csinodes", "CSINode", cluster=True)
    yield g.row("csistoragecapacities", "CSIStorageCapacity")
    yield g.row("storageclasses", "StorageClass", "sc", cluster=True)
    yield g.row("volumeattachments", "VolumeAttachment", cluster=True, status=True)
    yield g.row("volumeattributesclasses", "VolumeAttributesClass", "vac", cluster=True)

    g = _Group("admissionregistration.k8s.io", "v1")
    yield g.row("mutatingadmissionpolicies", "MutatingAdmissionPolicy", cluster=True, categories="api-extensions")
    yield g.row(
        "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", cluster=True, categories="api-extensions"
    )
    yield g.row(
        "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", cluster=True, categories="api-extensions"
    )
    yield g.row(
        "validatingadmissionpolicies",
        "ValidatingAdmissionPolicy",
        status=True,
        cluster=True,
        categories="api-extensions",
    )
    yield g.row(
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        cluster=True,
        categories="api-extensions",
    )
    yield g.row(
        "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", cluster=True, categories="api-extensions"
    )

    g = _Group("apiextensions.k8s.io", "v1")
    yield g.row(
        "customresourcedefinitions",
        "CustomResourceDefinition",
        "crd crds",
        cluster=True,
        categories="api-extensions",
        status=True,
    )

    g = _Group("scheduling.k8s.io", "v1")
    yield g.row("priorityclasses", "PriorityClass", "pc", cluster=True)

    g = _Group("scheduling.k8s.io", "v1alpha2")
    yield g.row("podgroups", "PodGroup", status=True)
    yield g.row("workloads", "Workload")

    g = _Group("coordination.k8s.io", "v1")
    yield g.row("leases", "Lease")

    g = _Group("node.k8s.io", "v1")
    yield g.row("runtimeclasses", "RuntimeClass", cluster=True)

    g = _Group("discovery.k8s.io", "v1")
    yield g.row("endpointslices", "EndpointSlice")

    g = _Group("resource.k8s.io", "v1")
    yield g.row("deviceclasses", "DeviceClass", cluster=True)
    yield g.row("resourceclaims", "ResourceClaim", status=True)
    yield g.row("resourceclaimtemplates", "ResourceClaimTemplate")
    yield g.row("resourceslices", "ResourceSlice", cluster=True)

    g = _Group("flowcontrol.apiserver.k8s.io", "v1")
    yield g.row("flowschemas", "FlowSchema", cluster=True, status=True)
    yield g.row("prioritylevelconfigurations", "PriorityLevelConfiguration", cluster=True, status=True)

    g = _Group("metrics.k8s.io", "v1beta1")
    yield g.row("nodes", "NodeMetrics", cluster=True, verbs=("get", "list"), stored=False)
    yield g.row("pods", "PodMetrics", verbs=("get", "list"), stored=False)


BUILTIN = Registry(_table())


def by_path(group: str, version: str, plural: str) -> Resource | None:
    return BUILTIN.by_path(group, version, plural)


def by_kind(group: str, version: str, kind: str) -> Resource | None:
    return BUILTIN.by_kind(group, version, kind)


def of(obj: dict[str, object]) -> Resource | None:
    """The built-in resource of an object, by its apiVersion and kind."""
    return BUILTIN.of(obj)


def builtin(api_version: str, kind: str) -> Resource:
    """A built-in that the caller knows to exist: `builtin("apps/v1", "Deployment")`."""
    group, _, version = api_version.rpartition("/")
    row = BUILTIN.by_kind(group, version, kind)
    if row is None:
        raise KeyError(f"{api_version} {kind} is not in the table")
    return row


def all_resources() -> list[Resource]:
    return BUILTIN.all_resources()


def group_versions() -> list[tuple[str, str]]:
    return BUILTIN.group_versions()
