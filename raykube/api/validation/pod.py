"""Pods: the spec, for pods and templates, and what of a pod may change."""

from typing import Any

import orjson

from raykube.api.errors import Cause, duplicate, forbidden_field, invalid_value, not_supported, required
from raykube.api.labels import key_errors, value_errors
from raykube.api.qos import qos_class
from raykube.api.validation.containers import check_containers, check_field_ref, check_security_context
from raykube.api.validation.metadata import check_annotations, check_labels, check_selector
from raykube.api.validation.names import config_key, dns_label, dns_subdomain
from raykube.api.validation.storage import check_host_path
from raykube.api.validation.values import check_choice, check_choice_if_set, check_required_text, check_text

Object = dict[str, Any]

_RESTART_POLICIES = ("Always", "OnFailure", "Never")
_DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_VOLUME_FIELDS = frozenset(
    (
        "metadata.name",
        "metadata.namespace",
        "metadata.labels",
        "metadata.annotations",
        "metadata.uid",
    )
)


def check_pod_spec(spec: Object, path: str) -> list[Cause]:
    volumes, causes = _check_volumes(spec.get("volumes") or [], f"{path}.volumes")
    causes += check_containers(spec, path, volumes)
    causes += check_choice(spec.get("restartPolicy"), f"{path}.restartPolicy", _RESTART_POLICIES)
    causes += check_choice(spec.get("dnsPolicy"), f"{path}.dnsPolicy", _DNS_POLICIES)
    if spec.get("dnsPolicy") == "None" and not (spec.get("dnsConfig") or {}).get("nameservers"):
        text = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        causes.append(required(f"{path}.dnsConfig", text))
    causes += check_labels(spec.get("nodeSelector"), f"{path}.nodeSelector")
    causes += check_security_context(spec.get("securityContext") or {}, f"{path}.securityContext")
    causes += _check_affinity(spec.get("affinity") or {}, f"{path}.affinity")
    causes += _check_gates(spec, path)
    causes += _check_spread(spec.get("topologySpreadConstraints") or [], f"{path}.topologySpreadConstraints")
    causes += check_text(spec.get("serviceAccountName"), f"{path}.serviceAccountName", dns_subdomain)
    causes += check_text(spec.get("nodeName"), f"{path}.nodeName", dns_subdomain)
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= 2**31 - 1:
        text = f"must be between 1 and {2**31 - 1}, inclusive"
        causes.append(invalid_value(f"{path}.activeDeadlineSeconds", deadline, text))
    causes += check_text(spec.get("hostname"), f"{path}.hostname", dns_label)
    causes += check_text(spec.get("subdomain"), f"{path}.subdomain", dns_label)
    causes += _check_tolerations(spec.get("tolerations") or [], f"{path}.tolerations")
    causes += check_text(spec.get("priorityClassName"), f"{path}.priorityClassName", dns_subdomain)
    causes += check_text(spec.get("runtimeClassName"), f"{path}.runtimeClassName", dns_subdomain)
    return causes


def check_template(template: Object, path: str) -> list[Cause]:
    """A PodTemplateSpec."""
    metadata = template.get("metadata") or {}
    causes = check_labels(metadata.get("labels"), f"{path}.labels")
    causes += check_annotations(metadata.get("annotations"), f"{path}.annotations")
    causes += check_pod_spec(template.get("spec") or {}, f"{path}.spec")
    if (template.get("spec") or {}).get("ephemeralContainers"):
        causes.append(
            forbidden_field(f"{path}.spec.ephemeralContainers", "ephemeral containers not allowed in pod template")
        )
    return causes


def _check_volumes(volumes: list[Object], path: str) -> tuple[dict[str, Object], list[Cause]]:
    causes: list[Cause] = []
    found: dict[str, Object] = {}
    for index, volume in enumerate(volumes):
        place = f"{path}[{index}]"
        name = volume.get("name") or ""
        own = check_required_text(name, f"{place}.name", dns_label)
        if name in found:
            own.append(duplicate(f"{place}.name", name))
        sources = [source for source in volume if source != "name"]
        if not sources:
            own.append(required(place, "must specify a volume type"))
        own += [
            forbidden_field(f"{place}.{source}", "may not specify more than 1 volume type") for source in sources[1:]
        ]
        if sources:
            own += _check_source(sources[0], volume[sources[0]], f"{place}.{sources[0]}")
        causes += own
        if name:
            found[name] = volume
    return found, causes


_SOURCE_NAMES = {"secret": "secretName", "persistentVolumeClaim": "claimName", "configMap": "name", "hostPath": "path"}


def _check_source(kind: str, source: Any, place: str) -> list[Cause]:
    if not isinstance(source, dict):
        return []
    causes: list[Cause] = []
    needed = _SOURCE_NAMES.get(kind)
    if needed and not source.get(needed):
        causes.append(required(f"{place}.{needed}"))
    causes += _check_mode(source.get("defaultMode"), f"{place}.defaultMode")
    if kind in ("secret", "configMap"):
        causes += _check_items(source.get("items") or [], f"{place}.items")
    elif kind == "hostPath" and source.get("path"):
        causes += check_host_path(source, place)
    elif kind == "downwardAPI":
        causes += _check_downward(source.get("items") or [], f"{place}.items")
    elif kind == "projected":
        for index, part in enumerate(source.get("sources") or []):
            where = f"{place}.sources[{index}]"
            if not part:
                causes.append(required(where, "must specify a volume type"))
            for name in ("secret", "configMap"):
                if name in part:
                    if not part[name].get("name"):
                        causes.append(required(f"{where}.{name}.name"))
                    causes += _check_items(part[name].get("items") or [], f"{where}.{name}.items")
            if "downwardAPI" in part:
                causes += _check_downward(part["downwardAPI"].get("items") or [], f"{where}.downwardAPI.items")
            if "serviceAccountToken" in part and not part["serviceAccountToken"].get("path"):
                causes.append(required(f"{where}.serviceAccountToken.path"))
    return causes


def _check_mode(mode: Any, field: str) -> list[Cause]:
    if mode is None or 0 <= mode <= 0o777:
        return []
    return [invalid_value(field, mode, "must be a number between 0 and 0777 (octal), both inclusive")]


def _check_items(items: list[Object], path: str) -> list[Cause]:
    causes: list[Cause] = []
    for index, item in enumerate(items):
        place = f"{path}[{index}]"
        causes += check_required_text(item.get("key"), f"{place}.key", config_key)
        causes += _check_relative(item.get("path"), f"{place}.path")
        causes += _check_mode(item.get("mode"), f"{place}.mode")
    return causes


def _check_downward(items: list[Object], path: str) -> list[Cause]:
    causes: list[Cause] = []
    for index, item in enumerate(items):
        place = f"{path}[{index}]"
        causes += _check_relative(item.get("path"), f"{place}.path")
        if "fieldRef" in item:
            causes += check_field_ref(item["fieldRef"], f"{place}.fieldRef", _VOLUME_FIELDS)
        elif "resourceFieldRef" not in item:
            causes.append(required(place, "one of fieldRef and resourceFieldRef is required"))
    return causes


def _check_relative(path: Any, field: str) -> list[Cause]:
    if not path:
        return [required(field)]
    if path.startswith("/"):
        return [invalid_value(field, path, "must be a relative path")]
    if ".." in path.split("/"):
        return [invalid_value(field, path, "must not contain '..'")]
    return [invalid_value(field, path, "must not start with '..'")] if path.startswith("..") else []


# -- placement


def check_node_affinity(node: Object, path: str) -> list[Cause]:
    causes: list[Cause] = []
    must = node.get("requiredDuringSchedulingIgnoredDuringExecution")
    place = f"{path}.requiredDuringSchedulingIgnoredDuringExecution"
    if must is not None:
        terms = must.get("nodeSelectorTerms") or []
        if not terms:
            causes.append(required(f"{place}.nodeSelectorTerms", "must have at least one node selector term"))
        for index, term in enumerate(terms):
            causes += _check_node_term(term, f"{place}.nodeSelectorTerms[{index}]")
    place = f"{path}.preferredDuringSchedulingIgnoredDuringExecution"
    for index, each in enumerate(node.get("preferredDuringSchedulingIgnoredDuringExecution") or []):
        causes += _check_weight(each, f"{place}[{index}]")
        causes += _check_node_term(each.get("preference") or {}, f"{place}[{index}].preference")
    return causes


def _check_affinity(affinity: Object, path: str) -> list[Cause]:
    causes = check_node_affinity(affinity.get("nodeAffinity") or {}, f"{path}.nodeAffinity")
    for name in ("podAffinity", "podAntiAffinity"):
        own = affinity.get(name) or {}
        place = f"{path}.{name}.requiredDuringSchedulingIgnoredDuringExecution"
        for index, term in enumerate(own.get("requiredDuringSchedulingIgnoredDuringExecution") or []):
            causes += _check_pod_term(term, f"{place}[{index}]")
        place = f"{path}.{name}.preferredDuringSchedulingIgnoredDuringExecution"
        for index, each in enumerate(own.get("preferredDuringSchedulingIgnoredDuringExecution") or []):
            causes += _check_weight(each, f"{place}[{index}]")
            causes += _check_pod_term(each.get("podAffinityTerm") or {}, f"{place}[{index}].podAffinityTerm")
    return causes


def _check_weight(preference: Object, place: str) -> list[Cause]:
    weight = preference.get("weight") or 0
    return [] if 1 <= weight <= 100 else [invalid_value(f"{place}.weight", weight, "must be in the range 1-100")]


def _check_node_term(term: Object, path: str) -> list[Cause]:
    causes: list[Cause] = []
    for index, each in enumerate(term.get("matchExpressions") or []):
        place = f"{path}.matchExpressions[{index}]"
        operator, values = each.get("operator", ""), each.get("values") or []
        if operator in ("In", "NotIn"):
            if not values:
                causes.append(required(f"{place}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                causes.append(forbidden_field(f"{place}.values", text))
        elif operator in ("Gt", "Lt"):
            if len(values) != 1:
                text = "must be specified single value when `operator` is 'Lt' or 'Gt'"
                causes.append(required(f"{place}.values", text))
        else:
            causes.append(invalid_value(f"{place}.operator", operator, "not a valid selector operator"))
        key = each.get("key", "")
        causes += [invalid_value(f"{place}.key", key, error) for error in key_errors(key)]
        for at, value in enumerate(values):
            causes += [invalid_value(f"{place}.values[{at}]", value, error) for error in value_errors(value)]
    return causes


def _check_pod_term(term: Object, path: str) -> list[Cause]:
    causes = check_selector(term.get("labelSelector"), f"{path}.labelSelector")
    for index, namespace in enumerate(term.get("namespaces") or []):
        causes += [invalid_value(f"{path}.namespaces[{index}]", namespace, e) for e in dns_label(namespace)]
    key = term.get("topologyKey") or ""
    if not key:
        causes.append(required(f"{path}.topologyKey", "can not be empty"))
    else:
        causes += [invalid_value(f"{path}.topologyKey", key, error) for error in key_errors(key)]
    return causes


def _check_gates(spec: Object, path: str) -> list[Cause]:
    causes: list[Cause] = []
    for index, gate in enumerate(spec.get("readinessGates") or []):
        own = gate.get("conditionType") or ""
        where = f"{path}.readinessGates[{index}].conditionType"
        causes += [invalid_value(where, own, error) for error in key_errors(own)]
    seen: set[str] = set()
    for index, gate in enumerate(spec.get("schedulingGates") or []):
        own = gate.get("name") or ""
        where = f"{path}.schedulingGates[{index}]"
        causes += [invalid_value(where, own, error) for error in key_errors(own)]
        if own in seen:
            causes.append(duplicate(where, own))
        seen.add(own)
    return causes


def _check_spread(constraints: list[Object], path: str) -> list[Cause]:
    causes: list[Cause] = []
    seen: set[tuple[str, str]] = set()
    for index, each in enumerate(constraints):
        place = f"{path}[{index}]"
        skew = each.get("maxSkew") or 0
        if skew <= 0:
            causes.append(invalid_value(f"{place}.maxSkew", skew, "must be greater than zero"))
        key, when = each.get("topologyKey") or "", each.get("whenUnsatisfiable") or ""
        if not key:
            causes.append(required(f"{place}.topologyKey", "can not be empty"))
        else:
            causes += [invalid_value(f"{place}.topologyKey", key, error) for error in key_errors(key)]
        if when not in ("DoNotSchedule", "ScheduleAnyway"):
            causes.append(not_supported(f"{place}.whenUnsatisfiable", when, ["DoNotSchedule", "ScheduleAnyway"]))
        if (key, when) in seen:
            causes.append(duplicate(f"{place}.{{topologyKey, whenUnsatisfiable}}", f"{{{key}, {when}}}"))
        seen.add((key, when))
        domains = each.get("minDomains")
        if domains is not None and domains <= 0:
            causes.append(invalid_value(f"{place}.minDomains", domains, "must be greater than zero"))
        causes += check_selector(each.get("labelSelector"), f"{place}.labelSelector")
    return causes


def _check_tolerations(tolerations: list[Object], path: str) -> list[Cause]:
    causes: list[Cause] = []
    for index, each in enumerate(tolerations):
        place = f"{path}[{index}]"
        key, operator, effect = each.get("key") or "", each.get("operator") or "", each.get("effect") or ""
        if key:
            causes += [invalid_value(f"{place}.key", key, error) for error in key_errors(key)]
        elif operator != "Exists":
            text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            causes.append(invalid_value(f"{place}.operator", operator, text))
        if "tolerationSeconds" in each and effect != "NoExecute":
            text = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            causes.append(invalid_value(f"{place}.effect", effect, text))
        value = each.get("value") or ""
        if operator in ("", "Equal"):
            causes += [invalid_value(f"{place}.operator", value, error) for error in value_errors(value)]
        elif operator == "Exists":
            if value:
                text = "value must be empty when `operator` is 'Exists'"
                causes.append(invalid_value(f"{place}.operator", each, text))
        else:
            causes.append(not_supported(f"{place}.operator", operator, ["Equal", "Exists"]))
        causes += check_choice_if_set(effect, f"{place}.effect", _EFFECTS)
    return causes


# -- updates

_MUTABLE = (
    "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only "
    "additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
    "previously negative)"
)


def check_pod_update(new: Object, old: Object, subresource: str = "") -> list[Cause]:
    """What of a pod's spec may not change. Ephemeral containers and sizes have subresources of their own."""
    wanted, stored = new.get("spec") or {}, old.get("spec") or {}
    if wanted == stored:
        return []
    if subresource == "ephemeralcontainers":
        return _check_ephemeral_update(wanted, stored)
    causes: list[Cause] = []
    if subresource == "resize":
        causes += _check_resize(wanted, stored)
    for group in ("initContainers", "containers"):
        if len(wanted.get(group) or []) != len(stored.get(group) or []):
            return [forbidden_field(f"spec.{group}", "pod updates may not add or remove containers")]
    causes += _check_deadline_update(wanted.get("activeDeadlineSeconds"), stored.get("activeDeadlineSeconds"))
    allowed = dict(wanted)
    _copy_field(allowed, stored, "activeDeadlineSeconds")
    gated = bool(stored.get("schedulingGates"))
    for group in ("containers", "initContainers"):
        if group in wanted:
            allowed[group] = [
                _like(mine, theirs, subresource)
                for mine, theirs in zip(wanted[group], stored.get(group) or [], strict=True)
            ]
    kept = stored.get("tolerations") or []
    if all(each in (wanted.get("tolerations") or []) for each in kept):
        _copy_field(allowed, stored, "tolerations")
    if (stored.get("terminationGracePeriodSeconds") or 0) < 0 and wanted.get("terminationGracePeriodSeconds") == 1:
        _copy_field(allowed, stored, "terminationGracePeriodSeconds")
    if gated:
        gates = {gate.get("name") for gate in stored["schedulingGates"]}
        if all(gate.get("name") in gates for gate in wanted.get("schedulingGates") or []):
            _copy_field(allowed, stored, "schedulingGates")
        if (stored.get("nodeSelector") or {}).items() <= (wanted.get("nodeSelector") or {}).items():
            _copy_field(allowed, stored, "nodeSelector")
        _copy_field(allowed, stored, "affinity")
    elif wanted.get("schedulingGates"):
        text = "only deletion is allowed, but found new scheduling gate '{}'"
        causes += [
            forbidden_field("spec.schedulingGates", text.format(gate.get("name"))) for gate in wanted["schedulingGates"]
        ]
        _copy_field(allowed, stored, "schedulingGates")
    if allowed != stored:
        changed = sorted(name for name in {*allowed, *stored} if allowed.get(name) != stored.get(name))
        lines = "\n".join(
            f"- {name}: {orjson.dumps(stored.get(name)).decode()}\n+ {name}: {orjson.dumps(allowed.get(name)).decode()}"
            for name in changed
        )
        causes.append(forbidden_field("spec", f"pod updates may not change fields other than {_MUTABLE}\n{lines}"))
    return causes


def _check_resize(new: Object, old: Object) -> list[Cause]:
    """Sizes of cpu and memory may change, as long as the pod's quality of service stays."""
    causes: list[Cause] = []
    for group in ("containers", "initContainers"):
        before = {each.get("name"): each for each in old.get(group) or []}
        for index, each in enumerate(new.get(group) or []):
            stored = before.get(each.get("name"), {})
            if (each.get("resources") or {}) == (stored.get("resources") or {}):
                continue
            field = f"spec.{group}[{index}].resources"
            if group == "initContainers" and each.get("restartPolicy") != "Always":
                causes.append(forbidden_field(field, "resources for non-sidecar init containers are immutable"))
                continue
            causes += _check_container_resize(each.get("resources") or {}, stored.get("resources") or {}, field)
    was, would_be = qos_class(old), qos_class(new)
    if was != would_be:
        causes.append(invalid_value("spec", would_be, "Pod QOS Class may not change as a result of resizing"))
    return causes


def _check_container_resize(new: Object, old: Object, field: str) -> list[Cause]:
    causes: list[Cause] = []
    for kind in ("limits", "requests"):
        mine, theirs = new.get(kind) or {}, old.get(kind) or {}
        if any(name in theirs and name not in mine for name in ("cpu", "memory")):
            causes.append(forbidden_field(f"{field}.{kind}", f"resource {kind} cannot be removed"))
        others = {name for name in (*mine, *theirs) if name not in ("cpu", "memory")}
        if any(mine.get(name) != theirs.get(name) for name in others):
            causes.append(forbidden_field(f"{field}.{kind}", "only cpu and memory resources are mutable"))
    return causes


def _like(container: Object, stored: Object, subresource: str) -> Object:
    """`container` with what may change taken from `stored`."""
    copy = {**container}
    for name in ("image", *(("resources", "resizePolicy") if subresource == "resize" else ())):
        _copy_field(copy, stored, name)
    return copy


def _copy_field(target: Object, source: Object, name: str) -> None:
    if name in source:
        target[name] = source[name]
    else:
        target.pop(name, None)


def _check_deadline_update(new: Any, old: Any) -> list[Cause]:
    if new is not None:
        if not 0 <= new <= 2**31 - 1:
            text = f"must be between 0 and {2**31 - 1}, inclusive"
            return [invalid_value("spec.activeDeadlineSeconds", new, text)]
        if old is not None and new > old:
            text = "must be less than or equal to previous value"
            return [invalid_value("spec.activeDeadlineSeconds", new, text)]
    elif old is not None:
        text = "must not update from a positive integer to nil value"
        return [invalid_value("spec.activeDeadlineSeconds", None, text)]
    return []


def _check_ephemeral_update(new: Object, old: Object) -> list[Cause]:
    field = "spec.ephemeralContainers"
    mine = {each.get("name"): each for each in new.get("ephemeralContainers") or []}
    causes: list[Cause] = []
    for each in old.get("ephemeralContainers") or []:
        name = each.get("name")
        if name not in mine:
            causes.append(forbidden_field(field, f'existing ephemeral containers "{name}" may not be removed'))
        elif mine[name] != each:
            causes.append(forbidden_field(field, f'existing ephemeral containers "{name}" may not be changed'))
    return causes
