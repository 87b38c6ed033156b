"""Upstream's validation: what a well-typed, defaulted object may still not say.

    validate_create   metadata, the rules of the kind, and required fields of the schema that no rule spoke of
    validate_update   the same of the new object, and what may not change

`loopback` says that this cluster has pods in 127.0.0.0/8, where no Service of upstream's may lead.

Causes come in upstream's order with its words: metadata first, then the spec from top to bottom. Checks are functions
from an object to causes; the tables below say which kind has which. A kind without rules has those of its schema.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import orjson

from raykube.api import schema
from raykube.api.errors import Cause
from raykube.api.resources import Resource
from raykube.api.validation import (
    device_slices,
    devices,
    endpoints,
    groups,
    network_policy,
    objects,
    pod,
    quotas,
    rbac,
    service,
    storage,
    workloads,
)
from raykube.api.validation.metadata import check_metadata, check_metadata_update

__all__ = ["validate_create", "validate_update"]

Object = dict[str, Any]

_REMEMBERED_BYTES_MAX = 16384


def validate_create(resource: Resource, obj: Object, *, loopback: bool = False) -> list[Cause]:
    """What is wrong with a new object, [] if nothing. Its name is made, its defaults are set."""
    causes = check_metadata(resource.group, resource.kind, resource.namespaced, obj.get("metadata") or {})
    return causes + _check_kind(resource, obj, loopback)


def validate_update(
    resource: Resource, new: Object, old: Object, subresource: str = "", *, loopback: bool = False
) -> list[Cause]:
    """What is wrong with changing `old` into `new`. `subresource` is what the write came through."""
    metadata, stored = new.get("metadata") or {}, old.get("metadata") or {}
    causes = check_metadata_update(metadata, stored)
    if not causes:
        causes = check_metadata(resource.group, resource.kind, resource.namespaced, metadata)
    kind = (resource.group, resource.kind)
    if subresource == "status":
        if kind == ("resource.k8s.io", "ResourceClaim"):
            return causes + devices.check_claim_status(new, old)
        return causes + (service.check_service_status(new) if kind == ("", "Service") else [])
    if kind == ("", "Pod"):
        return causes + pod.check_pod_update(new, old, subresource)
    check = _UPDATES.get(kind)
    if check is not None:
        causes += check(new, old)
    if any(new.get(name) != old.get(name) for name in {*new, *old} - {"metadata", "status"}):
        causes += _check_kind(resource, new, loopback)
    return causes


def _check_kind(resource: Resource, obj: Object, loopback: bool) -> list[Cause]:
    kind = (resource.group, resource.kind)
    check = partial(_LEADING[kind], loopback=loopback) if kind in _LEADING else _CREATES.get(kind)
    causes = check(obj) if check is not None else []
    spoken = [cause.field for cause in causes]
    for cause in schema.validate(resource, obj):
        # A rule that spoke of the field or of something in it said it better.
        if not any(
            field == cause.field or field.startswith((cause.field + ".", cause.field + "[")) for field in spoken
        ):
            causes.append(cause)
    return causes


def _check_pod(obj: Object) -> list[Cause]:
    # A controller's pods have one spec: it is judged once, and then known by its bytes.
    data = orjson.dumps(obj.get("spec") or {})
    return (
        list(_check_pod_spec(data)) if len(data) <= _REMEMBERED_BYTES_MAX else list(_check_pod_spec.__wrapped__(data))
    )


@lru_cache(maxsize=1024)
def _check_pod_spec(data: bytes) -> tuple[Cause, ...]:
    return tuple(pod.check_pod_spec(orjson.loads(data), "spec"))


def _check_pod_template(obj: Object) -> list[Cause]:
    return pod.check_template(obj.get("template") or {}, "template")


_RBAC = "rbac.authorization.k8s.io"
_CREATES: dict[tuple[str, str], Callable[[Object], list[Cause]]] = {
    ("", "ConfigMap"): objects.check_config_map,
    ("", "Event"): objects.check_event,
    ("", "LimitRange"): quotas.check_limit_range,
    ("", "Namespace"): objects.check_namespace,
    ("", "Node"): objects.check_node,
    ("", "PersistentVolume"): storage.check_volume,
    ("", "PersistentVolumeClaim"): storage.check_claim,
    ("", "Pod"): _check_pod,
    ("", "PodTemplate"): _check_pod_template,
    ("", "ReplicationController"): workloads.check_replication_controller,
    ("", "ResourceQuota"): quotas.check_quota,
    ("", "Secret"): objects.check_secret,
    ("apps", "ControllerRevision"): workloads.check_revision,
    ("apps", "DaemonSet"): workloads.check_daemon_set,
    ("apps", "Deployment"): workloads.check_deployment,
    ("apps", "ReplicaSet"): workloads.check_replica_set,
    ("apps", "StatefulSet"): workloads.check_stateful_set,
    ("autoscaling", "HorizontalPodAutoscaler"): objects.check_autoscaler,
    ("batch", "CronJob"): workloads.check_cron_job,
    ("batch", "Job"): workloads.check_job,
    ("coordination.k8s.io", "Lease"): objects.check_lease,
    ("networking.k8s.io", "Ingress"): objects.check_ingress,
    ("networking.k8s.io", "NetworkPolicy"): network_policy.check_network_policy,
    ("policy", "PodDisruptionBudget"): objects.check_budget,
    ("resource.k8s.io", "DeviceClass"): devices.check_device_class,
    ("resource.k8s.io", "ResourceClaim"): devices.check_claim,
    ("resource.k8s.io", "ResourceClaimTemplate"): devices.check_template,
    ("resource.k8s.io", "ResourceSlice"): device_slices.check_slice,
    ("scheduling.k8s.io", "PodGroup"): groups.check_pod_group,
    ("scheduling.k8s.io", "PriorityClass"): groups.check_priority_class,
    ("scheduling.k8s.io", "Workload"): groups.check_workload,
    ("storage.k8s.io", "StorageClass"): storage.check_storage_class,
    (_RBAC, "ClusterRole"): rbac.check_cluster_role,
    (_RBAC, "ClusterRoleBinding"): rbac.check_cluster_role_binding,
    (_RBAC, "Role"): rbac.check_role,
    (_RBAC, "RoleBinding"): rbac.check_role_binding,
}
_LEADING = {  # somewhere, by addresses
    ("", "Endpoints"): endpoints.check_endpoints,
    ("", "Service"): service.check_service,
    ("discovery.k8s.io", "EndpointSlice"): endpoints.check_endpoint_slice,
}
_UPDATES: dict[tuple[str, str], Callable[[Object, Object], list[Cause]]] = {
    ("", "ConfigMap"): objects.check_config_map_update,
    ("", "Node"): objects.check_node_update,
    ("", "PersistentVolume"): storage.check_volume_update,
    ("", "PersistentVolumeClaim"): storage.check_claim_update,
    ("", "ResourceQuota"): quotas.check_quota_update,
    ("", "Secret"): objects.check_secret_update,
    ("", "Service"): service.check_service_update,
    ("apps", "ControllerRevision"): workloads.check_revision_update,
    ("apps", "DaemonSet"): workloads.check_selector_update,
    ("apps", "Deployment"): workloads.check_selector_update,
    ("apps", "ReplicaSet"): workloads.check_selector_update,
    ("apps", "StatefulSet"): workloads.check_stateful_set_update,
    ("batch", "Job"): workloads.check_job_update,
    ("discovery.k8s.io", "EndpointSlice"): endpoints.check_endpoint_slice_update,
    ("resource.k8s.io", "ResourceClaim"): devices.check_spec_update,
    ("resource.k8s.io", "ResourceClaimTemplate"): devices.check_spec_update,
    ("resource.k8s.io", "ResourceSlice"): device_slices.check_slice_update,
    ("scheduling.k8s.io", "PodGroup"): groups.check_pod_group_update,
    ("scheduling.k8s.io", "PriorityClass"): objects.check_priority_class_update,
    ("scheduling.k8s.io", "Workload"): groups.check_workload_update,
    ("storage.k8s.io", "StorageClass"): storage.check_storage_class_update,
    (_RBAC, "ClusterRoleBinding"): rbac.check_binding_update,
    (_RBAC, "RoleBinding"): rbac.check_binding_update,
}
