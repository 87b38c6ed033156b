"""What every object's metadata must be, and label selectors."""

from functools import lru_cache
from typing import Any

from raykube.api.errors import Cause, forbidden_field, invalid_value, required, too_long
from raykube.api.labels import key_errors, value_errors
from raykube.api.validation.names import (
    IMMUTABLE,
    Check,
    cron_job_name,
    dns_label,
    dns_subdomain,
    ip_name,
    path_segment,
)

Object = dict[str, Any]

_ANNOTATIONS_BYTES_MAX = 256 * 1024
_STANDARD_FINALIZERS = frozenset(("kubernetes", "orphan", "foregroundDeletion"))
_RBAC = "rbac.authorization.k8s.io"
_NAME_CHECKS: dict[tuple[str, str], Check] = {
    ("", "Namespace"): dns_label,
    ("", "Service"): dns_label,
    ("", "Event"): path_segment,
    ("events.k8s.io", "Event"): path_segment,
    ("apps", "StatefulSet"): dns_label,
    ("batch", "CronJob"): cron_job_name,
    ("networking.k8s.io", "IPAddress"): ip_name,
    (_RBAC, "Role"): path_segment,
    (_RBAC, "ClusterRole"): path_segment,
    (_RBAC, "RoleBinding"): path_segment,
    (_RBAC, "ClusterRoleBinding"): path_segment,
}


def check_metadata(group: str, kind: str, namespaced: bool, metadata: Object) -> list[Cause]:
    """The metadata of a new or changed object."""
    causes: list[Cause] = []
    check = _NAME_CHECKS.get((group, kind), dns_subdomain)
    prefix, name = metadata.get("generateName") or "", metadata.get("name") or ""
    if prefix:
        # A trailing dash is fine: five letters follow.
        masked = prefix[:-1] + "a" if prefix.endswith("-") and len(prefix) > 1 else prefix
        causes += [invalid_value("metadata.generateName", prefix, error) for error in check(masked)]
    if not name:
        causes.append(required("metadata.name", "name or generateName is required"))
    else:
        causes += [invalid_value("metadata.name", name, error) for error in check(name)]
    space = metadata.get("namespace") or ""
    if namespaced and not space:
        causes.append(required("metadata.namespace"))
    elif namespaced:
        causes += [invalid_value("metadata.namespace", space, error) for error in dns_label(space)]
    elif space:
        causes.append(forbidden_field("metadata.namespace", "not allowed on this type"))
    causes += check_labels(metadata.get("labels"), "metadata.labels")
    causes += check_annotations(metadata.get("annotations"), "metadata.annotations")
    causes += _check_owners(metadata.get("ownerReferences") or [])
    causes += check_finalizers(metadata.get("finalizers") or [], "metadata.finalizers")
    return causes


def check_metadata_update(new: Object, old: Object) -> list[Cause]:
    """What of the metadata may not change. Finalizers of an object that goes are the registry's to judge."""
    return [
        invalid_value(f"metadata.{name}", new.get(name) or "", IMMUTABLE)
        for name in ("name", "namespace", "uid", "creationTimestamp")
        if (new.get(name) or "") != (old.get(name) or "")
    ]


def check_labels(labels: Any, field: str) -> list[Cause]:
    causes: list[Cause] = []
    for key, value in (labels or {}).items():
        of_key, of_value = _label_errors(key, value)
        if of_key or of_value:
            causes += [invalid_value(field, key, error) for error in of_key]
            causes += [invalid_value(field, value, error) for error in of_value]
    return causes


@lru_cache(maxsize=8192)
def _label_errors(key: str, value: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is wrong with each. A template's labels come with every one of its pods."""
    return tuple(key_errors(key)), tuple(value_errors(value))


def check_annotations(annotations: Any, field: str) -> list[Cause]:
    causes: list[Cause] = []
    size = 0
    for key, value in (annotations or {}).items():
        causes += [invalid_value(field, key, error) for error in key_errors(key.lower())]
        size += len(key.encode()) + len(value.encode())
    if size > _ANNOTATIONS_BYTES_MAX:
        causes.append(too_long(field, _ANNOTATIONS_BYTES_MAX))
    return causes


def check_finalizers(finalizers: list[str], field: str) -> list[Cause]:
    causes: list[Cause] = []
    for each in finalizers:
        causes += [invalid_value(field, each, error) for error in key_errors(each)]
        if "/" not in each and each not in _STANDARD_FINALIZERS:
            text = "name is neither a standard finalizer name nor is it fully qualified"
            causes.append(invalid_value(field, each, text))
    return causes


def _check_owners(owners: list[Object]) -> list[Cause]:
    causes: list[Cause] = []
    field = "metadata.ownerReferences"
    controllers = []
    for index, owner in enumerate(owners):
        place = f"{field}[{index}]"
        if not owner.get("apiVersion"):
            causes.append(invalid_value(f"{place}.apiVersion", "", "version must not be empty"))
        causes += [
            invalid_value(f"{place}.{name}", "", f"{name} must not be empty")
            for name in ("kind", "name", "uid")
            if not owner.get(name)
        ]
        if owner.get("controller"):
            controllers.append(str(owner.get("name", "")))
    if len(controllers) > 1:
        text = 'Only one reference can have Controller set to true. Found "true" in references for {} and {}'
        causes.append(invalid_value(field, owners, text.format(*controllers[:2])))
    return causes


def check_selector(selector: Any, field: str) -> list[Cause]:
    """A LabelSelector: matchLabels and matchExpressions."""
    if not isinstance(selector, dict):
        return []
    causes = check_labels(selector.get("matchLabels"), f"{field}.matchLabels")
    for index, each in enumerate(selector.get("matchExpressions") or []):
        place = f"{field}.matchExpressions[{index}]"
        operator, values = each.get("operator", ""), each.get("values") or []
        if operator in ("In", "NotIn"):
            if not values:
                text = "must be specified when `operator` is 'In' or 'NotIn'"
                causes.append(required(f"{place}.values", text))
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                causes.append(forbidden_field(f"{place}.values", text))
        else:
            causes.append(invalid_value(f"{place}.operator", operator, "not a valid selector operator"))
        key = each.get("key", "")
        causes += [invalid_value(f"{place}.key", key, error) for error in key_errors(key)]
        for at, value in enumerate(values):
            causes += [invalid_value(f"{place}.values[{at}]", value, error) for error in value_errors(value)]
    return causes


def is_empty_selector(selector: Any) -> bool:
    return not (selector.get("matchLabels") or selector.get("matchExpressions"))
