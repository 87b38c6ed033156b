"""What pods are scheduled by: PriorityClasses, and the groups that are scheduled together (PodGroups, Workloads)."""

from typing import Any

from raykube.api.errors import Cause, duplicate, forbidden_field, invalid_value, required, too_many
from raykube.api.validation.names import IMMUTABLE, dns_label
from raykube.api.validation.values import check_required_text

Object = dict[str, Any]

TEMPLATES_MAX = 8
PRIORITY_MAX = 1_000_000_000  # above are the system's
SYSTEM_PREFIX = "system-"
SYSTEM_PRIORITIES = {"system-node-critical": 2_000_001_000, "system-cluster-critical": 2_000_000_000}


def check_priority_class(obj: Object) -> list[Cause]:
    name, value = obj["metadata"].get("name", ""), obj.get("value", 0)
    if name.startswith(SYSTEM_PREFIX):
        if SYSTEM_PRIORITIES.get(name) == value and not obj.get("globalDefault"):
            return []
        text = "priority class names with '" + SYSTEM_PREFIX + "' prefix are reserved for system use only. error: "
        text += (
            f"{name} is not a known system priority class"
            if name not in SYSTEM_PRIORITIES
            else (
                f"value of {name} PriorityClass must be {SYSTEM_PRIORITIES[name]}"
                if SYSTEM_PRIORITIES[name] != value
                else f"globalDefault of {name} PriorityClass must be false"
            )
        )
        return [forbidden_field("metadata.name", text)]
    if isinstance(value, int) and value > PRIORITY_MAX:
        text = f"maximum allowed value of a user defined priority is {PRIORITY_MAX}"
        return [forbidden_field("value", text)]
    return []


def check_pod_group(obj: Object) -> list[Cause]:
    return _check_policy((obj.get("spec") or {}).get("schedulingPolicy"), "spec.schedulingPolicy")


def check_pod_group_update(new: Object, old: Object) -> list[Cause]:
    return _check_fixed(
        new, old, ("podGroupTemplateRef", "schedulingPolicy", "schedulingConstraints", "resourceClaims")
    )


def check_workload(obj: Object) -> list[Cause]:
    templates = (obj.get("spec") or {}).get("podGroupTemplates") or []
    path = "spec.podGroupTemplates"
    if not templates:
        return [required(path, "must have at least one item")]
    causes: list[Cause] = []
    if len(templates) > TEMPLATES_MAX:
        causes.append(too_many(path, len(templates), TEMPLATES_MAX))
    seen: set[str] = set()
    for index, template in enumerate(templates):
        name = template.get("name") or ""
        causes += check_required_text(name, f"{path}[{index}].name", dns_label)
        if name in seen:
            causes.append(duplicate(f"{path}[{index}]", name))
        seen.add(name)
        causes += _check_policy(template.get("schedulingPolicy"), f"{path}[{index}].schedulingPolicy")
    return causes


def check_workload_update(new: Object, old: Object) -> list[Cause]:
    return _check_fixed(new, old, ("podGroupTemplates", "controllerRef"))


def _check_policy(policy: Object | None, path: str) -> list[Cause]:
    chosen = [name for name in ("basic", "gang") if (policy or {}).get(name) is not None]
    if len(chosen) != 1:
        said = f"{{{', '.join(chosen)}}}" if chosen else ""
        return [invalid_value(path, said, "must specify exactly one of: `basic`, `gang`")]
    assert policy is not None
    if chosen == ["gang"]:
        count = policy["gang"].get("minCount")
        if isinstance(count, int) and count < 1:
            return [invalid_value(f"{path}.gang.minCount", count, "must be greater than or equal to 1")]
    return []


def _check_fixed(new: Object, old: Object, names: tuple[str, ...]) -> list[Cause]:
    now, before = new.get("spec") or {}, old.get("spec") or {}
    return [
        invalid_value(f"spec.{name}", now.get(name), IMMUTABLE)
        for name in names
        if (now.get(name) or None) != (before.get(name) or None)
    ]
