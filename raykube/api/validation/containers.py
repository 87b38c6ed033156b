"""Containers: names, images, ports, environment, mounts, resources, probes. In upstream's order."""

from collections.abc import Iterable, Mapping
from typing import Any

from raykube.api import quantity
from raykube.api.errors import (
    Cause,
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
    too_many,
    value_not_found,
)
from raykube.api.labels import key_errors
from raykube.api.validation.names import (
    NOT_NEGATIVE,
    config_key,
    dns_label,
    env_name,
    port_name,
    port_number,
)
from raykube.api.validation.values import (
    PROTOCOLS,
    check_choice,
    check_choice_if_set,
    check_not_negative,
    check_port,
    check_required_text,
)

Object = dict[str, Any]

_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_MESSAGE_POLICIES = ("FallbackToLogsOnError", "File")
_STANDARD_RESOURCES = frozenset(("cpu", "memory", "ephemeral-storage"))
_ENV_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_ENV_FIELDS = frozenset(
    (
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    )
)
_NOT_EPHEMERAL = ("ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle")
_RESTART_POLICIES = ("Always", "Never", "OnFailure")
_RESTART_ACTIONS = ("Restart", "RestartAllContainers")
_RESTART_RULES_MAX, _EXIT_CODES_MAX = 20, 255
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_HOOKS = ("exec", "httpGet", "tcpSocket", "sleep")


def check_containers(spec: Object, path: str, volumes: Mapping[str, Object]) -> list[Cause]:
    """All of a pod's containers; `path` is the spec's, `volumes` the pod's by name."""
    containers = spec.get("containers") or []
    causes: list[Cause] = []
    if not containers:
        causes.append(required(f"{path}.containers"))
    seen: set[str] = set()
    host_ports: set[str] = set()
    for group in ("containers", "initContainers", "ephemeralContainers"):
        for index, container in enumerate(spec.get(group) or []):
            place = f"{path}.{group}[{index}]"
            causes += _check_name(container, place, seen)
            causes += _check_container(container, place, volumes)
            causes += _check_probes(container, place, group)
            if group == "containers":
                causes += _check_restarts(container, place)
                causes += _check_host_ports(container, place, host_ports)
            elif group == "initContainers":
                causes += _check_restarts(container, place)
            else:
                causes += [
                    forbidden_field(f"{place}.{name}", "cannot be set for an Ephemeral Container")
                    for name in (*_NOT_EPHEMERAL, "restartPolicy", "restartPolicyRules")
                    if container.get(name)
                ]
    return causes


def _check_restarts(container: Object, place: str) -> list[Cause]:
    policy, rules = container.get("restartPolicy"), container.get("restartPolicyRules") or []
    causes = check_choice_if_set(policy, f"{place}.restartPolicy", _RESTART_POLICIES)
    if rules and policy is None:
        causes.append(required(f"{place}.restartPolicy", "must specify restartPolicy when restart rules are used"))
    where = f"{place}.restartPolicyRules"
    if len(rules) > _RESTART_RULES_MAX:
        causes.append(too_many(where, len(rules), _RESTART_RULES_MAX))
    for index, rule in enumerate(rules):
        causes += _check_listed(rule.get("action"), f"{where}[{index}].action", _RESTART_ACTIONS)
        codes = rule.get("exitCodes")
        if codes is None:
            causes.append(required(f"{where}[{index}].exitCodes", "must be specified"))
            continue
        causes += _check_listed(codes.get("operator"), f"{where}[{index}].exitCodes.operator", ("In", "NotIn"))
        values = codes.get("values") or []
        if len(values) > _EXIT_CODES_MAX:
            causes.append(too_many(f"{where}[{index}].exitCodes.values", len(values), _EXIT_CODES_MAX))
    return causes


def _check_listed(value: Any, field: str, choices: tuple[str, ...]) -> list[Cause]:
    return [not_supported(field, value or "", choices)] if value not in choices else []


def _check_name(container: Object, place: str, seen: set[str]) -> list[Cause]:
    name = container.get("name") or ""
    causes = check_required_text(name, f"{place}.name", dns_label)
    if name and name in seen:
        causes.append(duplicate(f"{place}.name", name))
    seen.add(name)
    return causes


def _check_container(container: Object, place: str, volumes: Mapping[str, Object]) -> list[Cause]:
    causes: list[Cause] = []
    image = container.get("image") or ""
    if not image:
        causes.append(required(f"{place}.image"))
    elif image != image.strip():
        causes.append(invalid_value(f"{place}.image", image, "must not have leading or trailing whitespace"))
    causes += check_choice_if_set(
        container.get("terminationMessagePolicy"), f"{place}.terminationMessagePolicy", _MESSAGE_POLICIES
    )
    causes += _check_ports(container.get("ports") or [], f"{place}.ports")
    causes += _check_env(container.get("env") or [], f"{place}.env")
    causes += _check_env_from(container.get("envFrom") or [], f"{place}.envFrom")
    privileged = bool((container.get("securityContext") or {}).get("privileged"))
    causes += _check_mounts(container.get("volumeMounts") or [], f"{place}.volumeMounts", volumes, privileged)
    causes += check_choice(container.get("imagePullPolicy"), f"{place}.imagePullPolicy", _PULL_POLICIES)
    causes += check_resources(container.get("resources") or {}, f"{place}.resources")
    causes += check_security_context(container.get("securityContext") or {}, f"{place}.securityContext")
    return causes


def check_security_context(context: Object, path: str) -> list[Cause]:
    text = "must be between 0 and 2147483647, inclusive"
    return [
        invalid_value(f"{path}.{name}", context[name], text)
        for name in ("runAsUser", "runAsGroup", "fsGroup")
        if not 0 <= (context.get(name) or 0) <= 2**31 - 1
    ]


def _check_ports(ports: list[Object], path: str) -> list[Cause]:
    causes: list[Cause] = []
    names: set[str] = set()
    for index, port in enumerate(ports):
        place = f"{path}[{index}]"
        name = port.get("name") or ""
        if name:
            errors = port_name(name)
            causes += [invalid_value(f"{place}.name", name, error) for error in errors]
            if not errors and name in names:
                causes.append(duplicate(f"{place}.name", name))
            names.add(name)
        number = port.get("containerPort") or 0
        if number == 0:
            causes.append(required(f"{place}.containerPort"))
        else:
            causes += [invalid_value(f"{place}.containerPort", number, error) for error in port_number(number)]
        host = port.get("hostPort") or 0
        if host:
            causes += [invalid_value(f"{place}.hostPort", host, error) for error in port_number(host)]
        causes += check_choice(port.get("protocol"), f"{place}.protocol", PROTOCOLS)
    return causes


def _check_host_ports(container: Object, place: str, seen: set[str]) -> list[Cause]:
    causes: list[Cause] = []
    for index, port in enumerate(container.get("ports") or []):
        if not port.get("hostPort"):
            continue
        own = f"{port.get('protocol', 'TCP')}/{port.get('hostIP', '')}/{port['hostPort']}"
        if own in seen:
            causes.append(duplicate(f"{place}.ports[{index}].hostPort", own))
        seen.add(own)
    return causes


def _check_env(variables: list[Object], path: str) -> list[Cause]:
    causes: list[Cause] = []
    for index, variable in enumerate(variables):
        place = f"{path}[{index}]"
        causes += check_required_text(variable.get("name"), f"{place}.name", env_name)
        source = variable.get("valueFrom")
        if source is not None:
            causes += _check_env_source(variable, source, f"{place}.valueFrom")
    return causes


def _check_env_source(variable: Object, source: Object, place: str) -> list[Cause]:
    causes: list[Cause] = []
    for name in ("configMapKeyRef", "secretKeyRef"):
        if name in source:
            if not source[name].get("name"):
                causes.append(required(f"{place}.{name}.name"))
            causes += check_required_text(source[name].get("key"), f"{place}.{name}.key", config_key)
    if "fileKeyRef" in source:
        file = source["fileKeyRef"]
        for name in ("volumeName", "path", "key"):
            if not file.get(name):
                causes.append(required(f"{place}.fileKeyRef.{name}"))
        path = file.get("path") or ""
        if path.startswith("/"):
            causes.append(invalid_value(f"{place}.fileKeyRef.path", path, "must be a relative path"))
        elif ".." in path.split("/"):
            causes.append(invalid_value(f"{place}.fileKeyRef.path", path, "must not contain '..'"))
    if "fieldRef" in source:
        causes += check_field_ref(source["fieldRef"], f"{place}.fieldRef", _ENV_FIELDS)
    if "resourceFieldRef" in source and not source["resourceFieldRef"].get("resource"):
        causes.append(required(f"{place}.resourceFieldRef.resource"))
    given = [name for name in _ENV_SOURCES if name in source]
    if not given:
        choices = ", ".join(f"`{name}`" for name in _ENV_SOURCES[:-1]) + f" or `{_ENV_SOURCES[-1]}`"
        causes.append(invalid_value(place, "", f"must specify one of: {choices}"))
    elif variable.get("value"):
        causes.append(invalid_value(place, "", "may not be specified when `value` is not empty"))
    elif len(given) > 1:
        causes.append(invalid_value(place, "", "may not have more than one field specified at a time"))
    return causes


def check_field_ref(reference: Object, place: str, fields: Iterable[str]) -> list[Cause]:
    """A downward API reference to one of `fields`, or to a single label or annotation."""
    path = reference.get("fieldPath") or ""
    if not path:
        return [required(f"{place}.fieldPath")]
    base, bracket, rest = path.partition("[")
    if bracket:
        if base in ("metadata.labels", "metadata.annotations") and rest.endswith("']") and rest.startswith("'"):
            errors = key_errors(rest[1:-2])
            return [invalid_value(f"{place}.fieldPath", rest[1:-2], error) for error in errors]
        return [invalid_value(f"{place}.fieldPath", path, "does not support subscript")]
    if path in fields:
        return []
    if path.startswith(("metadata.", "spec.", "status.")):
        return [not_supported(f"{place}.fieldPath", path, sorted(fields))]
    return [invalid_value(f"{place}.fieldPath", path, f"error converting fieldPath: field label not supported: {path}")]


def _check_env_from(sources: list[Object], path: str) -> list[Cause]:
    causes: list[Cause] = []
    for index, source in enumerate(sources):
        place = f"{path}[{index}]"
        if source.get("prefix"):
            causes += [invalid_value(f"{place}.prefix", source["prefix"], e) for e in env_name(source["prefix"])]
        given = [name for name in ("configMapRef", "secretRef") if name in source]
        causes += [required(f"{place}.{name}.name") for name in given if not source[name].get("name")]
        if not given:
            causes.append(invalid_value(f"{place}", "", "must specify one of: `configMapRef` or `secretRef`"))
        elif len(given) > 1:
            causes.append(invalid_value(f"{place}", "", "may not have more than one field specified at a time"))
    return causes


def _check_mounts(mounts: list[Object], path: str, volumes: Mapping[str, Object], privileged: bool) -> list[Cause]:
    causes: list[Cause] = []
    paths: set[str] = set()
    for index, mount in enumerate(mounts):
        place = f"{path}[{index}]"
        name, target = mount.get("name") or "", mount.get("mountPath") or ""
        if not name:
            causes.append(required(f"{place}.name"))
        if name not in volumes:
            causes.append(value_not_found(f"{place}.name", name))
        if not target:
            causes.append(required(f"{place}.mountPath"))
        if target in paths:
            causes.append(invalid_value(f"{place}.mountPath", target, "must be unique"))
        paths.add(target)
        for field in ("subPath", "subPathExpr"):
            inner = mount.get(field) or ""
            if inner.startswith("/"):
                causes.append(invalid_value(f"{place}.{field}", inner, "must be a relative path"))
            if ".." in inner.split("/"):
                causes.append(invalid_value(f"{place}.{field}", inner, "must not contain '..'"))
        if mount.get("subPath") and mount.get("subPathExpr"):
            text = "subPathExpr and subPath are mutually exclusive"
            causes.append(invalid_value(f"{place}.subPathExpr", mount["subPathExpr"], text))
        causes += _check_propagation(mount, path, privileged)
    return causes


def _check_propagation(mount: Object, path: str, privileged: bool) -> list[Cause]:
    """How mounts travel, and whether read-only reaches what is mounted below."""
    wanted = mount.get("mountPropagation")
    causes = check_choice_if_set(wanted, f"{path}.mountPropagation", ("Bidirectional", "HostToContainer", "None"))
    if wanted == "Bidirectional" and not privileged:
        text = "Bidirectional mount propagation is available only to privileged containers"
        causes.append(forbidden_field(f"{path}.mountPropagation", text))
    recursive, field = mount.get("recursiveReadOnly"), f"{path}.recursiveReadOnly"
    causes += check_choice_if_set(recursive, field, ("Disabled", "Enabled", "IfPossible"))
    if recursive in ("Enabled", "IfPossible"):
        if not mount.get("readOnly"):
            causes.append(forbidden_field(field, "may only be specified when readOnly is true"))
        if wanted not in (None, "None"):
            text = "may only be specified when mountPropagation is None or not specified"
            causes.append(forbidden_field(field, text))
    return causes


# -- resources


def check_resources(resources: Object, path: str) -> list[Cause]:
    causes: list[Cause] = []
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name, amount in limits.items():
        causes += _check_resource(name, amount, f"{path}.limits")
    for name, amount in requests.items():
        causes += _check_resource(name, amount, f"{path}.requests")
        limit = limits.get(name)
        exact = not _overcommittable(name)
        if limit is None:
            if exact:
                text = "Limit must be set for non overcommitable resources"
                causes.append(required(f"{path}.limits", text))
        elif exact and quantity.parse(amount) != quantity.parse(limit):
            text = f"must be equal to {name} limit of {limit}"
            causes.append(invalid_value(f"{path}.requests", amount, text))
        elif quantity.parse(amount) > quantity.parse(limit):
            text = f"must be less than or equal to {name} limit of {limit}"
            causes.append(invalid_value(f"{path}.requests", amount, text))
    return causes


def _overcommittable(name: str) -> bool:
    native = "/" not in name or "kubernetes.io/" in name
    return native and not name.startswith("hugepages-")


def _check_resource(name: str, amount: str, path: str) -> list[Cause]:
    place = f"{path}[{name}]"
    causes = [invalid_value(place, name, error) for error in key_errors(name)]
    if not causes and "/" not in name and name not in _STANDARD_RESOURCES and not name.startswith("hugepages-"):
        causes.append(invalid_value(place, name, "must be a standard resource for containers"))
    number = quantity.parse(amount)
    if number < 0:
        causes.append(invalid_value(place, amount, NOT_NEGATIVE))
    elif "/" in name and number.denominator != 1:
        causes.append(invalid_value(place, amount, "must be an integer"))
    return causes


# -- probes and hooks


def _check_probes(container: Object, place: str, group: str) -> list[Cause]:
    causes: list[Cause] = []
    sidecar = group == "initContainers" and container.get("restartPolicy") == "Always"
    if group == "initContainers" and not sidecar:
        return [
            forbidden_field(f"{place}.{name}", "may not be set for init containers without restartPolicy=Always")
            for name in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe")
            if container.get(name)
        ]
    for name, hook in (container.get("lifecycle") or {}).items():
        if isinstance(hook, dict):
            causes += _check_handler(hook, f"{place}.lifecycle.{name}", _HOOKS)
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if probe is None:
            continue
        causes += _check_probe(probe, f"{place}.{name}")
        threshold = probe.get("successThreshold", 1)
        if name != "readinessProbe" and threshold != 1:
            causes.append(invalid_value(f"{place}.{name}.successThreshold", threshold, "must be 1"))
        if name == "readinessProbe" and "terminationGracePeriodSeconds" in probe:
            grace = probe["terminationGracePeriodSeconds"]
            text = "must not be set for readinessProbes"
            causes.append(invalid_value(f"{place}.{name}.terminationGracePeriodSeconds", grace, text))
    return causes


def _check_probe(probe: Object, place: str) -> list[Cause]:
    causes = _check_handler(probe, place, _HANDLERS)
    causes += check_not_negative(
        probe, place, "initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"
    )
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None and grace <= 0:
        causes.append(invalid_value(f"{place}.terminationGracePeriodSeconds", grace, "must be greater than 0"))
    return causes


def _check_handler(handler: Object, place: str, kinds: tuple[str, ...]) -> list[Cause]:
    given = [name for name in kinds if handler.get(name) is not None]
    if not given:
        return [required(place, "must specify a handler type")]
    causes = [forbidden_field(f"{place}.{name}", "may not specify more than 1 handler type") for name in given[1:]]
    kind, action = given[0], handler[given[0]]
    where = f"{place}.{kind}"
    if kind == "exec" and not action.get("command"):
        causes.append(required(f"{where}.command"))
    elif kind == "httpGet":
        if not action.get("path"):
            causes.append(required(f"{where}.path"))
        causes += check_port(action.get("port"), f"{where}.port")
        causes += check_choice_if_set(action.get("scheme"), f"{where}.scheme", ("HTTP", "HTTPS"))
    elif kind in ("tcpSocket", "grpc"):
        causes += check_port(action.get("port"), f"{where}.port")
    elif kind == "sleep" and (action.get("seconds") or 0) < 0:
        causes.append(invalid_value(f"{where}.seconds", action["seconds"], NOT_NEGATIVE))
    return causes
