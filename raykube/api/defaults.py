"""Upstream's defaults: `apply_defaults` fills what a conforming object leaves open.

A defaulter changes its object in place, touches nothing that is set, and running it twice is running it once. What
a server decides by itself (uid, selector of a job, first status) is not a default, and not done here.
"""

import base64
from collections.abc import Callable
from typing import Any

from raykube.api.pod_defaults import default_pod, default_pod_spec, default_template
from raykube.api.schema import Typed

Object = dict[str, Any]

RBAC = "rbac.authorization.k8s.io"
NAME_LABEL = "kubernetes.io/metadata.name"
_CLIENT_IP_TIMEOUT_S = 10800
_BACKOFF_LIMIT_NONE = 2**31 - 1


def apply_defaults(resource: Typed, obj: Object) -> None:
    """Fills the defaults of a conforming object in place."""
    defaulter = _DEFAULTERS.get((resource.group, resource.kind))
    if defaulter is not None:
        defaulter(obj)


def _spec(obj: Object) -> Object:
    spec: Object = obj.setdefault("spec", {})
    return spec


def _list(owner: Object, name: str) -> list[Object]:
    items: list[Object] = owner.get(name) or []
    return items


def _fill(target: Object, **values: Any) -> None:
    """Sets what is absent. An empty string is absent: in Go there is no other."""
    for name, value in values.items():
        if target.get(name) is None or target[name] == "":
            target[name] = value


# -- core


def _pod(obj: Object) -> None:
    default_pod(_spec(obj))


def _namespace(obj: Object) -> None:
    name = obj["metadata"].get("name")
    if name:
        obj["metadata"].setdefault("labels", {})[NAME_LABEL] = name


def _service(obj: Object) -> None:
    spec = _spec(obj)
    _fill(spec, sessionAffinity="None", type="ClusterIP")
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        client = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        client.setdefault("timeoutSeconds", _CLIENT_IP_TIMEOUT_S)
    for port in _list(spec, "ports"):
        _fill(port, protocol="TCP")
        if not port.get("targetPort"):
            port["targetPort"] = port.get("port", 0)
    if spec["type"] in ("NodePort", "LoadBalancer") or (spec["type"] == "ClusterIP" and spec.get("externalIPs")):
        _fill(spec, externalTrafficPolicy="Cluster")
    if spec["type"] != "ExternalName":
        _fill(spec, internalTrafficPolicy="Cluster")
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)


def _secret(obj: Object) -> None:
    _fill(obj, type="Opaque")
    # stringData is write-only: what is stored and read is data.
    for name, text in (obj.pop("stringData", None) or {}).items():
        obj.setdefault("data", {})[name] = base64.b64encode(text.encode()).decode()


def _node(obj: Object) -> None:
    status = obj.get("status") or {}
    if status.get("capacity"):
        allocatable = status.setdefault("allocatable", {})
        for name, quantity in status["capacity"].items():
            allocatable.setdefault(name, quantity)


def _endpoints(obj: Object) -> None:
    for subset in _list(obj, "subsets"):
        for port in _list(subset, "ports"):
            _fill(port, protocol="TCP")


def _persistent_volume(obj: Object) -> None:
    _fill(_spec(obj), persistentVolumeReclaimPolicy="Retain", volumeMode="Filesystem")
    host_path = obj["spec"].get("hostPath")
    if host_path is not None:
        host_path.setdefault("type", "")


def _claim(obj: Object) -> None:
    _fill(_spec(obj), volumeMode="Filesystem")


def _replication_controller(obj: Object) -> None:
    spec = _spec(obj)
    if "template" in spec:
        default_template(spec)
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
    if labels:
        spec.setdefault("selector", dict(labels))
        obj["metadata"].setdefault("labels", dict(labels))
    spec.setdefault("replicas", 1)


def _pod_template(obj: Object) -> None:
    if isinstance(obj.get("template"), dict):
        default_pod_spec(obj["template"].setdefault("spec", {}))


def _limit_range(obj: Object) -> None:
    for item in _list(_spec(obj), "limits"):
        if item.get("type") != "Container":
            continue
        default = {**item.get("max", {}), **item.get("default", {})}
        request = {**item.get("min", {}), **default, **item.get("defaultRequest", {})}
        if default:
            item["default"] = default
        if request:
            item["defaultRequest"] = request


# -- apps and batch


def _deployment(obj: Object) -> None:
    spec = _spec(obj)
    default_template(spec)
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    _fill(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)


def _replica_set(obj: Object) -> None:
    default_template(_spec(obj))
    obj["spec"].setdefault("replicas", 1)


def _stateful_set(obj: Object) -> None:
    spec = _spec(obj)
    default_template(spec)
    _fill(spec, podManagementPolicy="OrderedReady")
    strategy = spec.setdefault("updateStrategy", {})
    _fill(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        strategy.setdefault("rollingUpdate", {}).setdefault("partition", 0)
    retention = spec.setdefault("persistentVolumeClaimRetentionPolicy", {})
    _fill(retention, whenDeleted="Retain", whenScaled="Retain")
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    for claim in _list(spec, "volumeClaimTemplates"):
        _fill(claim, apiVersion="v1", kind="PersistentVolumeClaim")
        _claim(claim)
        claim.setdefault("status", {}).setdefault("phase", "Pending")


def _daemon_set(obj: Object) -> None:
    spec = _spec(obj)
    default_template(spec)
    strategy = spec.setdefault("updateStrategy", {})
    _fill(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)
    spec.setdefault("revisionHistoryLimit", 10)


def _job(obj: Object) -> None:
    spec = _spec(obj)
    default_template(spec)
    # Neither set: one pod. Only parallelism set: a work queue, whose pods decide when it is done.
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("backoffLimit", _BACKOFF_LIMIT_NONE if "backoffLimitPerIndex" in spec else 6)
    _fill(spec, completionMode="NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault("manualSelector", False)
    _fill(spec, podReplacementPolicy="Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed")
    for rule in _list(spec.get("podFailurePolicy") or {}, "rules"):
        for pattern in _list(rule, "onPodConditions"):
            _fill(pattern, status="True")
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
    if labels and not obj["metadata"].get("labels"):
        obj["metadata"]["labels"] = dict(labels)


def _cron_job(obj: Object) -> None:
    spec = _spec(obj)
    job = spec.get("jobTemplate")
    if isinstance(job, dict) and isinstance(job.get("spec"), dict):
        default_template(job["spec"])
    _fill(spec, concurrencyPolicy="Allow")
    spec.setdefault("suspend", False)
    spec.setdefault("successfulJobsHistoryLimit", 3)
    spec.setdefault("failedJobsHistoryLimit", 1)


def _autoscaler(obj: Object) -> None:
    spec = _spec(obj)
    spec.setdefault("minReplicas", 1)
    if obj.get("apiVersion") == "autoscaling/v1":
        return  # its other defaults depend on annotations: its conversion to v2 sets them
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    behavior = spec.get("behavior")
    if behavior is not None:
        every_15_s = {"type": "Percent", "value": 100, "periodSeconds": 15}
        up = behavior.setdefault("scaleUp", {})
        up.setdefault("stabilizationWindowSeconds", 0)
        _fill(up, selectPolicy="Max")
        up.setdefault("policies", [{"type": "Pods", "value": 4, "periodSeconds": 15}, dict(every_15_s)])
        down = behavior.setdefault("scaleDown", {})
        _fill(down, selectPolicy="Max")
        down.setdefault("policies", [dict(every_15_s)])


# -- networking, storage, policy


def _endpoint_slice(obj: Object) -> None:
    for port in _list(obj, "ports"):
        port.setdefault("name", "")
        _fill(port, protocol="TCP")


def _network_policy(obj: Object) -> None:
    spec = _spec(obj)
    spec.setdefault("podSelector", {})
    for rule in (*_list(spec, "ingress"), *_list(spec, "egress")):
        for port in _list(rule, "ports"):
            _fill(port, protocol="TCP")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def _ingress_class(obj: Object) -> None:
    parameters = (obj.get("spec") or {}).get("parameters")
    if parameters is not None:
        _fill(parameters, scope="Cluster")


def _storage_class(obj: Object) -> None:
    _fill(obj, reclaimPolicy="Delete", volumeBindingMode="Immediate")


def _csi_driver(obj: Object) -> None:
    spec = _spec(obj)
    spec.setdefault("attachRequired", True)
    spec.setdefault("podInfoOnMount", False)
    spec.setdefault("storageCapacity", False)
    _fill(spec, fsGroupPolicy="ReadWriteOnceWithFSType")
    if not spec.get("volumeLifecycleModes"):
        spec["volumeLifecycleModes"] = ["Persistent"]
    spec.setdefault("requiresRepublish", False)
    spec.setdefault("seLinuxMount", False)


def _priority_class(obj: Object) -> None:
    _fill(obj, preemptionPolicy="PreemptLowerPriority")
    obj.setdefault("value", 0)


def _binding(obj: Object) -> None:
    """RoleBinding and ClusterRoleBinding."""
    if isinstance(obj.get("roleRef"), dict):
        _fill(obj["roleRef"], apiGroup=RBAC)
    for subject in _list(obj, "subjects"):
        if subject.get("kind") in ("User", "Group"):
            _fill(subject, apiGroup=RBAC)


# -- extensions


def _webhooks(obj: Object) -> None:
    for hook in _list(obj, "webhooks"):
        _fill(hook, failurePolicy="Fail", matchPolicy="Equivalent")
        hook.setdefault("namespaceSelector", {})
        hook.setdefault("objectSelector", {})
        hook.setdefault("timeoutSeconds", 10)
        if obj.get("kind") == "MutatingWebhookConfiguration":
            _fill(hook, reinvocationPolicy="Never")
        service = (hook.get("clientConfig") or {}).get("service")
        if service is not None:
            service.setdefault("port", 443)
        for rule in _list(hook, "rules"):
            _fill(rule, scope="*")


def _admission_policy(obj: Object) -> None:
    spec = _spec(obj)
    _fill(spec, failurePolicy="Fail")
    _match_resources(spec.get("matchConstraints"))


def _admission_binding(obj: Object) -> None:
    _match_resources(_spec(obj).get("matchResources"))


def _match_resources(match: Any) -> None:
    if isinstance(match, dict):
        _fill(match, matchPolicy="Equivalent")
        match.setdefault("namespaceSelector", {})
        match.setdefault("objectSelector", {})
        for rule in (*_list(match, "resourceRules"), *_list(match, "excludeResourceRules")):
            _fill(rule, scope="*")


def _definition(obj: Object) -> None:
    spec = _spec(obj)
    names = spec.setdefault("names", {})
    if names.get("kind"):
        _fill(names, singular=names["kind"].lower(), listKind=names["kind"] + "List")
    conversion = spec.setdefault("conversion", {})
    _fill(conversion, strategy="None")


def _api_service(obj: Object) -> None:
    service = _spec(obj).get("service")
    if service is not None:
        service.setdefault("port", 443)


def _flow_schema(obj: Object) -> None:
    spec = _spec(obj)
    if not spec.get("matchingPrecedence"):
        spec["matchingPrecedence"] = 1000


def _priority_level(obj: Object) -> None:
    spec = _spec(obj)
    limited = spec.get("limited")
    if limited is not None:
        limited.setdefault("nominalConcurrencyShares", 30)
        limited.setdefault("lendablePercent", 0)
    exempt = spec.get("exempt")
    if exempt is not None:
        exempt.setdefault("nominalConcurrencyShares", 0)
        exempt.setdefault("lendablePercent", 0)


def _claim_requests(devices: Object) -> None:
    for request in _list(devices, "requests"):
        for each in (request.get("exactly"), *_list(request, "firstAvailable")):
            if isinstance(each, dict):
                _fill(each, allocationMode="ExactCount")
                if each["allocationMode"] == "ExactCount" and not each.get("count"):
                    each["count"] = 1


def _resource_claim(obj: Object) -> None:
    _claim_requests(_spec(obj).get("devices") or {})


def _resource_claim_template(obj: Object) -> None:
    _claim_requests((_spec(obj).get("spec") or {}).get("devices") or {})


_ADMISSION = "admissionregistration.k8s.io"
_DEFAULTERS: dict[tuple[str, str], Callable[[Object], None]] = {
    ("", "Endpoints"): _endpoints,
    ("", "LimitRange"): _limit_range,
    ("", "Namespace"): _namespace,
    ("", "Node"): _node,
    ("", "PersistentVolume"): _persistent_volume,
    ("", "PersistentVolumeClaim"): _claim,
    ("", "Pod"): _pod,
    ("", "PodTemplate"): _pod_template,
    ("", "ReplicationController"): _replication_controller,
    ("", "Secret"): _secret,
    ("", "Service"): _service,
    ("apps", "DaemonSet"): _daemon_set,
    ("apps", "Deployment"): _deployment,
    ("apps", "ReplicaSet"): _replica_set,
    ("apps", "StatefulSet"): _stateful_set,
    ("autoscaling", "HorizontalPodAutoscaler"): _autoscaler,
    ("batch", "CronJob"): _cron_job,
    ("batch", "Job"): _job,
    ("discovery.k8s.io", "EndpointSlice"): _endpoint_slice,
    ("networking.k8s.io", "IngressClass"): _ingress_class,
    ("networking.k8s.io", "NetworkPolicy"): _network_policy,
    ("storage.k8s.io", "CSIDriver"): _csi_driver,
    ("storage.k8s.io", "StorageClass"): _storage_class,
    ("scheduling.k8s.io", "PriorityClass"): _priority_class,
    (RBAC, "RoleBinding"): _binding,
    (RBAC, "ClusterRoleBinding"): _binding,
    (_ADMISSION, "MutatingWebhookConfiguration"): _webhooks,
    (_ADMISSION, "ValidatingWebhookConfiguration"): _webhooks,
    (_ADMISSION, "MutatingAdmissionPolicy"): _admission_policy,
    (_ADMISSION, "ValidatingAdmissionPolicy"): _admission_policy,
    (_ADMISSION, "MutatingAdmissionPolicyBinding"): _admission_binding,
    (_ADMISSION, "ValidatingAdmissionPolicyBinding"): _admission_binding,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _definition,
    ("apiregistration.k8s.io", "APIService"): _api_service,
    ("flowcontrol.apiserver.k8s.io", "FlowSchema"): _flow_schema,
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"): _priority_level,
    ("resource.k8s.io", "ResourceClaim"): _resource_claim,
    ("resource.k8s.io", "ResourceClaimTemplate"): _resource_claim_template,
}
