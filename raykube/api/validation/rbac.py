"""Roles and their bindings."""

from typing import Any

from raykube.api.errors import Cause, invalid_value, not_supported, required
from raykube.api.validation.metadata import check_selector

Object = dict[str, Any]

_GROUP = "rbac.authorization.k8s.io"
_BOTH = "rules cannot apply to both regular resources and non-resource URLs"


def check_role(obj: Object) -> list[Cause]:
    return _check_rules(obj.get("rules") or [], namespaced=True)


def check_cluster_role(obj: Object) -> list[Cause]:
    causes = _check_rules(obj.get("rules") or [], namespaced=False)
    aggregation = obj.get("aggregationRule")
    if aggregation is not None:
        selectors = aggregation.get("clusterRoleSelectors") or []
        place = "aggregationRule.clusterRoleSelectors"
        if not selectors:
            text = "at least one clusterRoleSelector required if aggregationRule is non-nil"
            causes.append(required(place, text))
        for index, selector in enumerate(selectors):
            causes += check_selector(selector, f"{place}[{index}]")
    return causes


def _check_rules(rules: list[Object], namespaced: bool) -> list[Cause]:
    causes: list[Cause] = []
    for index, rule in enumerate(rules):
        place = f"rules[{index}]"
        urls = rule.get("nonResourceURLs") or []
        if not rule.get("verbs"):
            causes.append(required(f"{place}.verbs", "verbs must contain at least one value"))
        if urls:
            if namespaced:
                text = "namespaced rules cannot apply to non-resource URLs"
                causes.append(invalid_value(f"{place}.nonResourceURLs", urls, text))
            if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
                causes.append(invalid_value(f"{place}.nonResourceURLs", urls, _BOTH))
            continue
        if not rule.get("apiGroups"):
            text = "resource rules must supply at least one api group"
            causes.append(required(f"{place}.apiGroups", text))
        if not rule.get("resources"):
            text = "resource rules must supply at least one resource"
            causes.append(required(f"{place}.resources", text))
    return causes


def check_role_binding(obj: Object) -> list[Cause]:
    return _check_binding(obj, ("Role", "ClusterRole"), namespaced=True)


def check_cluster_role_binding(obj: Object) -> list[Cause]:
    return _check_binding(obj, ("ClusterRole",), namespaced=False)


def _check_binding(obj: Object, kinds: tuple[str, ...], namespaced: bool) -> list[Cause]:
    causes: list[Cause] = []
    role = obj.get("roleRef") or {}
    if (role.get("apiGroup") or "") != _GROUP:
        causes.append(not_supported("roleRef.apiGroup", role.get("apiGroup") or "", [_GROUP]))
    if role.get("kind") not in kinds:
        causes.append(not_supported("roleRef.kind", role.get("kind") or "", kinds))
    if not role.get("name"):
        causes.append(required("roleRef.name"))
    for index, subject in enumerate(obj.get("subjects") or []):
        causes += _check_subject(subject, f"subjects[{index}]", namespaced)
    return causes


def _check_subject(subject: Object, place: str, namespaced: bool) -> list[Cause]:
    causes: list[Cause] = []
    kind, group = subject.get("kind") or "", subject.get("apiGroup") or ""
    if not subject.get("name"):
        causes.append(required(f"{place}.name"))
    if kind == "ServiceAccount":
        if group:
            causes.append(not_supported(f"{place}.apiGroup", group, [""]))
        if not namespaced and not subject.get("namespace"):
            causes.append(required(f"{place}.namespace"))
    elif kind in ("User", "Group"):
        if group != _GROUP:
            causes.append(not_supported(f"{place}.apiGroup", group, [_GROUP]))
    else:
        causes.append(not_supported(f"{place}.kind", kind, ["ServiceAccount", "User", "Group"]))
    return causes


def check_binding_update(new: Object, old: Object) -> list[Cause]:
    if new.get("roleRef") == old.get("roleRef"):
        return []
    return [invalid_value("roleRef", new.get("roleRef"), "cannot change roleRef")]
