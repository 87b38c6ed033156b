"""The scale subresource: replicas of a workload seen as an autoscaling/v1 Scale."""

from raykube.api.errors import ApiError, Cause
from raykube.api.resources import Resource
from raykube.apiserver.core.strategy import Object


def selector_text(selector: Object) -> str:
    """A LabelSelector (or an old map of labels) in its string form."""
    if not selector:
        return ""
    if "matchLabels" not in selector and "matchExpressions" not in selector:
        return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
    terms = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for requirement in selector.get("matchExpressions") or ():
        key, operator = requirement["key"], requirement["operator"]
        values = ",".join(sorted(requirement.get("values") or ()))
        if operator == "In":
            terms.append(f"{key} in ({values})")
        elif operator == "NotIn":
            terms.append(f"{key} notin ({values})")
        else:
            terms.append(key if operator == "Exists" else f"!{key}")
    return ",".join(terms)


def scale_of(resource: Resource, obj: Object, revision: int) -> Object:
    """The Scale of a workload."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    shown = {key: metadata[key] for key in ("name", "namespace", "uid", "creationTimestamp") if key in metadata}
    shown["resourceVersion"] = str(revision)
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": shown,
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": {"replicas": status.get("replicas", 0), "selector": selector_text(spec.get("selector") or {})},
    }


def rescaled(resource: Resource, old: Object, scale: Object) -> Object:
    """The workload with the replicas of `scale`. Raises ApiError."""
    if scale.get("kind", "Scale") != "Scale":
        raise ApiError.bad_request(f"expected input object type to be Scale, but {scale.get('kind')}")
    name = old["metadata"]["name"]
    given = (scale.get("metadata") or {}).get("name")
    if given and given != name:
        raise ApiError.bad_request(f"the name of the object ({given}) does not match the name on the URL ({name})")
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if isinstance(replicas, bool) or not isinstance(replicas, int):
        raise ApiError.bad_request(
            'Scale in version "v1" cannot be handled as a Scale: spec.replicas must be an integer'
        )
    if replicas < 0:
        cause = Cause(
            "FieldValueInvalid", f"Invalid value: {replicas}: must be greater than or equal to 0", "spec.replicas"
        )
        raise ApiError.invalid(resource, name, [cause])
    new = dict(old)
    new["metadata"] = dict(old["metadata"])
    new["spec"] = {**(old.get("spec") or {}), "replicas": replicas}
    return new
