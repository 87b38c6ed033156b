"""The smaller kinds: ConfigMaps, Secrets, Nodes, Events, Leases, claims, classes, budgets."""

import base64
import binascii
from typing import Any

import orjson

from raykube.api.errors import Cause, duplicate, forbidden_field, invalid_value, required, too_long
from raykube.api.labels import key_errors, value_errors
from raykube.api.validation.metadata import check_finalizers, check_selector
from raykube.api.validation.names import IMMUTABLE, config_key
from raykube.api.validation.values import check_choice, check_number_or_percent

Object = dict[str, Any]

_DATA_BYTES_MAX = 1024 * 1024
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


# -- ConfigMap and Secret


def check_config_map(obj: Object) -> list[Cause]:
    causes: list[Cause] = []
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    for key in data:
        causes += [invalid_value(f"data[{key}]", key, error) for error in config_key(key)]
        if key in binary:
            causes.append(invalid_value(f"data[{key}]", key, "duplicate of key present in binaryData"))
    for key in binary:
        causes += [invalid_value(f"binaryData[{key}]", key, error) for error in config_key(key)]
    size = sum(len(value.encode()) for value in data.values()) + sum(map(_decoded_size, binary.values()))
    if size > _DATA_BYTES_MAX:
        causes.append(too_long("", _DATA_BYTES_MAX))
    return causes


def _decoded_size(text: str) -> int:
    return len(text) // 4 * 3 - text[-2:].count("=")


def check_config_map_update(new: Object, old: Object) -> list[Cause]:
    return _check_immutable(new, old, "data", "binaryData")


def _check_immutable(new: Object, old: Object, *names: str) -> list[Cause]:
    if not old.get("immutable"):
        return []
    text = "field is immutable when `immutable` is set"
    causes = [] if new.get("immutable") else [forbidden_field("immutable", text)]
    causes += [forbidden_field(name, text) for name in names if (new.get(name) or {}) != (old.get(name) or {})]
    return causes


def check_secret(obj: Object) -> list[Cause]:
    causes: list[Cause] = []
    data = obj.get("data") or {}
    for key in data:
        causes += [invalid_value(f"data[{key}]", key, error) for error in config_key(key)]
    if sum(map(_decoded_size, data.values())) > _DATA_BYTES_MAX:
        causes.append(too_long("data", _DATA_BYTES_MAX))
    kind = obj.get("type")
    if kind == "kubernetes.io/service-account-token":
        annotations = (obj.get("metadata") or {}).get("annotations") or {}
        if not annotations.get("kubernetes.io/service-account.name"):
            causes.append(required("metadata.annotations[kubernetes.io/service-account.name]"))
    elif kind == "kubernetes.io/dockerconfigjson":
        causes += _check_docker_config(data, ".dockerconfigjson")
    elif kind == "kubernetes.io/dockercfg":
        causes += _check_docker_config(data, ".dockercfg")
    elif kind == "kubernetes.io/basic-auth":
        if not data.get("username") and not data.get("password"):
            causes += [required("data[username]"), required("data[password]")]
    elif kind == "kubernetes.io/ssh-auth":
        if not data.get("ssh-privatekey"):
            causes.append(required("data[ssh-privatekey]"))
    elif kind == "kubernetes.io/tls":
        causes += [required(f"data[{key}]") for key in ("tls.crt", "tls.key") if key not in data]
    return causes


def _check_docker_config(data: dict[str, str], key: str) -> list[Cause]:
    if key not in data:
        return [required(f"data[{key}]")]
    try:
        orjson.loads(base64.b64decode(data[key]))
    except (orjson.JSONDecodeError, binascii.Error, ValueError) as error:
        return [invalid_value(f"data[{key}]", "<secret contents redacted>", str(error))]
    return []


def check_secret_update(new: Object, old: Object) -> list[Cause]:
    causes = []
    if (new.get("type") or "") != (old.get("type") or ""):
        causes.append(invalid_value("type", new.get("type") or "", IMMUTABLE))
    return causes + _check_immutable(new, old, "data")


# -- Namespace, Node, Event, Lease


def check_namespace(obj: Object) -> list[Cause]:
    return check_finalizers((obj.get("spec") or {}).get("finalizers") or [], "spec.finalizers")


def check_node(obj: Object) -> list[Cause]:
    causes: list[Cause] = []
    seen: set[tuple[str, str]] = set()
    for index, taint in enumerate((obj.get("spec") or {}).get("taints") or []):
        place = f"spec.taints[{index}]"
        key, value, effect = taint.get("key") or "", taint.get("value") or "", taint.get("effect") or ""
        causes += [invalid_value(f"{place}.key", key, error) for error in key_errors(key)]
        causes += [invalid_value(f"{place}.value", value, error) for error in value_errors(value)]
        causes += check_choice(effect, f"{place}.effect", _EFFECTS)
        if (key, effect) in seen:
            text = duplicate(place, taint)
            causes.append(Cause(text.reason, f"{text.message}: taints must be unique by key and effect pair", place))
        seen.add((key, effect))
    return causes


def check_node_update(new: Object, old: Object) -> list[Cause]:
    causes: list[Cause] = []
    wanted, stored = new.get("spec") or {}, old.get("spec") or {}
    for name in ("providerID", "podCIDR", "podCIDRs"):
        if stored.get(name) and wanted.get(name) != stored[name]:
            text = f'node updates may not change {name} except from "" to valid'
            causes.append(forbidden_field(f"spec.{name}", text))
    return causes


def check_event(obj: Object) -> list[Cause]:
    reference = obj.get("involvedObject") or {}
    space = (obj.get("metadata") or {}).get("namespace") or ""
    about = reference.get("namespace") or ""
    if about == space or (not about and space == "default"):
        return []
    return [invalid_value("involvedObject.namespace", about, "does not match event.namespace")]


def check_lease(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes: list[Cause] = []
    duration = spec.get("leaseDurationSeconds")
    if duration is not None and duration <= 0:
        causes.append(invalid_value("spec.leaseDurationSeconds", duration, "must be greater than 0"))
    transitions = spec.get("leaseTransitions")
    if transitions is not None and transitions < 0:
        text = "must be greater than or equal to 0"
        causes.append(invalid_value("spec.leaseTransitions", transitions, text))
    return causes


# -- storage, scheduling, policy


def check_priority_class_update(new: Object, old: Object) -> list[Cause]:
    return [
        forbidden_field(name, "may not be changed in an update.")
        for name in ("value", "preemptionPolicy")
        if new.get(name) != old.get(name)
    ]


def check_budget(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes: list[Cause] = []
    if "minAvailable" in spec and "maxUnavailable" in spec:
        causes.append(invalid_value("spec", spec, "minAvailable and maxUnavailable cannot be both set"))
    for name in ("minAvailable", "maxUnavailable"):
        causes += check_number_or_percent(spec.get(name), f"spec.{name}")
    return causes + check_selector(spec.get("selector"), "spec.selector")


def check_autoscaler(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes: list[Cause] = []
    low, high = spec.get("minReplicas", 1), spec.get("maxReplicas") or 0
    if low < 1:
        causes.append(invalid_value("spec.minReplicas", low, "must be greater than or equal to 1"))
    if high < 1:
        causes.append(invalid_value("spec.maxReplicas", high, "must be greater than 0"))
    if high < low:
        text = "must be greater than or equal to `minReplicas`"
        causes.append(invalid_value("spec.maxReplicas", high, text))
    target = spec.get("scaleTargetRef") or {}
    causes += [required(f"spec.scaleTargetRef.{name}") for name in ("kind", "name") if not target.get(name)]
    return causes


def check_ingress(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes: list[Cause] = []
    if not spec.get("rules") and "defaultBackend" not in spec:
        causes.append(invalid_value("spec", spec, "either `defaultBackend` or `rules` must be specified"))
    types = ("Exact", "ImplementationSpecific", "Prefix")
    for index, rule in enumerate(spec.get("rules") or []):
        for at, each in enumerate((rule.get("http") or {}).get("paths") or []):
            place = f"spec.rules[{index}].http.paths[{at}]"
            path = each.get("path") or ""
            if not each.get("pathType"):
                causes.append(required(f"{place}.pathType", "pathType must be specified"))
            else:
                causes += check_choice(each["pathType"], f"{place}.pathType", types)
            if each.get("pathType") in ("Exact", "Prefix") and not path.startswith("/"):
                causes.append(invalid_value(f"{place}.path", path, "must be an absolute path"))
    return causes
