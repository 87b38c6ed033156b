"""Selections out of the selector texts of a request."""

from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.api.selectors import FieldSelector, LabelSelector, check_supported
from raykube.apiserver.core.watchcache import Selection


def selection(resource: Resource, namespace: str, labels: str, fields: str, name: str = "") -> Selection:
    """Parses and checks selectors; equalities on name, namespace and node become indexes. Raises ApiError 400."""
    try:
        label_selector = LabelSelector.parse(labels) if labels else None
    except ValueError as error:
        raise ApiError.bad_request(f"unable to parse requirement: {error}") from None
    if name:
        fields = f"{fields},metadata.name={name}" if fields else f"metadata.name={name}"
    if not fields:
        return Selection(namespace, labels=label_selector)
    field_selector = _parse(fields)
    check_supported(resource, field_selector)
    if resource.namespaced and not namespace:
        namespace = field_selector.required("metadata.namespace") or ""
    is_pod = (resource.group, resource.plural) == ("", "pods")
    node = (field_selector.required("spec.nodeName") or "") if is_pod else ""
    wanted = field_selector.required("metadata.name") or ""
    return Selection(namespace, wanted, label_selector, field_selector, node)


def _parse(fields: str) -> FieldSelector:
    try:
        return FieldSelector.parse(fields)
    except ValueError as error:
        raise ApiError.bad_request(str(error)) from None


def fixed_fields(fields: str) -> tuple[tuple[str, str], ...]:
    """The `field=value` terms, as authorization looks at them. Raises ApiError 400."""
    if not fields:
        return ()
    return tuple((term.field, term.value) for term in _parse(fields).requirements if not term.negated)
