"""ResourceQuotas and LimitRanges: names of resources, quantities, scopes, bounds that do not contradict each other."""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from raykube.api import quantity
from raykube.api.errors import Cause, duplicate, forbidden_field, invalid_value, required
from raykube.api.labels import key_errors
from raykube.api.validation.names import IMMUTABLE, NOT_NEGATIVE

Object = dict[str, Any]

_COUNTED = frozenset(
    (
        "pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps",
        "persistentvolumeclaims", "services.nodeports", "services.loadbalancers",
    )
)  # fmt: skip
_AMOUNTS = frozenset(("cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"))
_STANDARD = _COUNTED | _AMOUNTS | {
    "ephemeral-storage", "requests.ephemeral-storage", "limits.ephemeral-storage", "requests.storage",
}  # fmt: skip
_OF_PODS = _AMOUNTS | {"pods"}
_SCOPED: dict[str, frozenset[str]] = {  # scope → the standard resources that it can be applied to
    "Terminating": _OF_PODS,
    "NotTerminating": _OF_PODS,
    "BestEffort": frozenset(("pods",)),
    "NotBestEffort": _OF_PODS,
    "PriorityClass": _OF_PODS,
    "CrossNamespacePodAffinity": _OF_PODS,
    "VolumeAttributesClass": frozenset(("persistentvolumeclaims", "requests.storage")),
}
_EXISTING_ONLY = ("BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity")
_OPPOSED = (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating"))
_HUGE_PAGES = ("hugepages-", "requests.hugepages-")


def check_quota(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    hard = spec.get("hard") or {}
    causes: list[Cause] = []
    for name, amount in hard.items():
        causes += _check_hard(name, amount, f"spec.hard[{name}]")
    return causes + _check_scopes(spec.get("scopes") or [], hard) + _check_selector(spec, hard)


def _check_hard(name: str, amount: Any, path: str) -> list[Cause]:
    causes = [invalid_value(path, name, error) for error in key_errors(name)]
    if not causes and "/" not in name and name not in _STANDARD and not name.startswith(_HUGE_PAGES):
        causes.append(invalid_value(path, name, "must be a standard resource for quota"))
    number = quantity.parse(amount)
    if number < 0:
        causes.append(invalid_value(path, amount, NOT_NEGATIVE))
    if number.denominator != 1 and (name in _COUNTED or _is_extended(name)):
        causes.append(invalid_value(path, amount, "must be an integer"))
    return causes


def _is_extended(name: str) -> bool:
    return "/" in name and "kubernetes.io/" not in name and not name.startswith("requests.")


def _check_scopes(scopes: list[str], hard: Object) -> list[Cause]:
    path = "spec.scopes"
    causes: list[Cause] = []
    for scope in scopes:
        if scope not in _SCOPED:
            causes.append(invalid_value(path, scopes, "unsupported scope"))
        causes += _check_applied(scope, hard, path, scopes)
    return causes + _check_opposed(set(scopes), path, scopes)


def _check_applied(scope: str, hard: Object, path: str, shown: Any) -> list[Cause]:
    fitting = _SCOPED.get(scope, _STANDARD)
    return [
        invalid_value(path, shown, "unsupported scope applied to resource")
        for name in hard
        if name in _STANDARD and name not in fitting
    ]


def _check_opposed(scopes: set[str], path: str, shown: Any) -> list[Cause]:
    return [invalid_value(path, shown, "conflicting scopes") for pair in _OPPOSED if scopes.issuperset(pair)]


def _check_selector(spec: Object, hard: Object) -> list[Cause]:
    selector = spec.get("scopeSelector")
    if selector is None:
        return []
    path = "spec.scopeSelector.matchExpressions"
    causes: list[Cause] = []
    expressions = selector.get("matchExpressions") or []
    for expression in expressions:
        scope, operator = expression.get("scopeName", ""), expression.get("operator", "")
        if scope not in _SCOPED:
            causes.append(invalid_value(f"{path}.scopeName", scope, "unsupported scope"))
        causes += _check_applied(scope, hard, path, scope)
        if scope in _EXISTING_ONLY and operator != "Exists":
            text = (
                "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "
                "ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or "
                "ResourceQuotaScopeCrossNamespacePodAffinity"
            )
            causes.append(invalid_value(f"{path}.operator", operator, text))
        causes += _check_operator(operator, expression.get("values") or [], path)
    return causes + _check_opposed({each.get("scopeName", "") for each in expressions}, path, expressions)


def _check_operator(operator: str, values: list[str], path: str) -> list[Cause]:
    if operator in ("In", "NotIn"):
        text = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
        return [] if values else [required(f"{path}.values", text)]
    if operator in ("Exists", "DoesNotExist"):
        text = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
        return [invalid_value(f"{path}.values", values, text)] if values else []
    return [invalid_value(f"{path}.operator", operator, "not a valid selector operator")]


def check_quota_update(new: Object, old: Object) -> list[Cause]:
    """The scopes stay."""
    scopes = (new.get("spec") or {}).get("scopes") or []
    if set(scopes) == set((old.get("spec") or {}).get("scopes") or []):
        return []
    return [invalid_value("spec.scopes", scopes, IMMUTABLE)]


# -- limit ranges

_BOUNDS = ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio")
_OF_CONTAINERS = ("cpu", "memory", "ephemeral-storage")


def check_limit_range(obj: Object) -> list[Cause]:
    causes: list[Cause] = []
    seen: set[str] = set()
    for index, item in enumerate((obj.get("spec") or {}).get("limits") or ()):
        kind, path = item.get("type", ""), f"spec.limits[{index}]"
        causes += [invalid_value(f"{path}.type", kind, error) for error in key_errors(kind)]
        if "/" not in kind and kind not in ("Pod", "Container", "PersistentVolumeClaim"):
            text = "must be a standard limit type or fully qualified"
            causes.append(invalid_value(f"{path}.type", kind, text))
        if kind in seen:
            causes.append(duplicate(f"{path}.type", kind))
        seen.add(kind)
        causes += _check_item(kind, item, path)
    return causes


def _check_item(kind: str, item: Object, path: str) -> list[Cause]:
    causes: list[Cause] = []
    for field in _BOUNDS:
        if kind == "Pod" and field in ("default", "defaultRequest"):
            if item.get(field):
                causes.append(forbidden_field(f"{path}.{field}", "may not be specified when `type` is 'Pod'"))
            continue
        for name in item.get(field) or ():
            causes += _check_name(kind, name, f"{path}.{field}[{name}]")
    if kind == "PersistentVolumeClaim" and not any("storage" in (item.get(each) or {}) for each in ("min", "max")):
        text = "either minimum or maximum storage value is required, but neither was provided"
        causes.append(required(f"{path}.limits", text))
    names = dict.fromkeys(name for field in _BOUNDS for name in item.get(field) or ())
    for name in names:
        causes += _check_order(name, {field: (item.get(field) or {}).get(name) for field in _BOUNDS}, path)
    return causes


def _check_name(kind: str, name: str, path: str) -> list[Cause]:
    causes = [invalid_value(path, name, error) for error in key_errors(name)]
    if causes or "/" in name or name.startswith("hugepages-"):
        return causes
    if kind in ("Pod", "Container"):
        if name not in _OF_CONTAINERS:
            causes.append(invalid_value(path, name, "must be a standard resource for containers"))
    elif name not in _STANDARD and name != "storage":
        causes.append(invalid_value(path, name, "must be a standard resource type or fully qualified"))
    return causes


def _check_order(name: str, amounts: dict[str, Any], path: str) -> list[Cause]:
    """Bounds and defaults of one resource: min <= defaultRequest <= default <= max, and the ratio between them."""
    causes: list[Cause] = []

    def above(first: str, second: str, field: str, shown: str, words: tuple[str, str]) -> Iterable[Cause]:
        low, high = amounts[first], amounts[second]
        if low is not None and high is not None and quantity.parse(low) > quantity.parse(high):
            text = f"{words[0]} value {low} is greater than {words[1]} value {high}"
            yield invalid_value(f"{path}.{field}[{name}]", amounts[shown], text)

    causes += above("min", "max", "min", "min", ("min", "max"))
    causes += above("min", "defaultRequest", "defaultRequest", "defaultRequest", ("min", "default request"))
    causes += above("defaultRequest", "max", "defaultRequest", "defaultRequest", ("default request", "max"))
    words = ("default request", "default limit")
    causes += above("defaultRequest", "default", "defaultRequest", "defaultRequest", words)
    causes += above("min", "default", "default", "min", ("min", "default"))
    causes += above("default", "max", "default", "max", ("default", "max"))
    return causes + _check_ratio(name, amounts, path)


def _check_ratio(name: str, amounts: dict[str, Any], path: str) -> list[Cause]:
    ratio, low, high = (amounts[field] for field in ("maxLimitRequestRatio", "min", "max"))
    if ratio is None:
        return []
    causes: list[Cause] = []
    place = f"{path}.maxLimitRequestRatio[{name}]"
    if quantity.parse(ratio) < 1:
        causes.append(invalid_value(place, ratio, f"ratio {ratio} is less than 1"))
    if low is not None and high is not None and quantity.parse(low):
        most = Fraction(quantity.parse(high)) / Fraction(quantity.parse(low))
        if quantity.parse(ratio) > most:
            text = f"ratio {ratio} is greater than max/min = {float(most):f}"
            causes.append(invalid_value(place, ratio, text))
    return causes
