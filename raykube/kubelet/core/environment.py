"""A container's environment: in the order of Kubernetes, service variables, envFrom, env, each over the ones before."""

import re
from collections.abc import Iterable

from raykube.kubelet.core import downward
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.sources import Kind, Sources

_FROM: tuple[tuple[Kind, str], ...] = (("ConfigMap", "configMapRef"), ("Secret", "secretRef"))
_KEYS: tuple[tuple[Kind, str], ...] = (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef"))
_REFERENCE = re.compile(r"\$(\$|\(([^)]*)\))")


def expand(text: str, variables: dict[str, str]) -> str:
    """Replaces `$(NAME)` by its value; `$$` is one `$`, so that `$$(NAME)` stays; an unknown name stays too."""

    def replacement(match: re.Match[str]) -> str:
        if match.group(1) == "$":
            return "$"
        return variables.get(match.group(2), match.group(0))

    return _REFERENCE.sub(replacement, text)


def names_in(text: str) -> list[str]:
    """The variables that `expand` looks up in a text."""
    return [match.group(2) for match in _REFERENCE.finditer(text) if match.group(1) != "$"]


def service_variables(services: Iterable[Object]) -> dict[str, str]:
    """`NAME_SERVICE_HOST` and its kin for each service that has an address."""
    variables: dict[str, str] = {}
    for service in services:
        address = service["spec"].get("clusterIP")
        ports = service["spec"].get("ports") or []
        if not address or address == "None" or not ports:
            continue
        name = service["metadata"]["name"].upper().replace("-", "_")
        host = f"[{address}]" if ":" in address else address
        variables[f"{name}_SERVICE_HOST"] = address
        variables[f"{name}_SERVICE_PORT"] = str(ports[0]["port"])
        for port in ports:
            if port.get("name"):
                suffix = port["name"].upper().replace("-", "_")
                variables[f"{name}_SERVICE_PORT_{suffix}"] = str(port["port"])
        first_protocol = (ports[0].get("protocol") or "TCP").lower()
        variables[f"{name}_PORT"] = f"{first_protocol}://{host}:{ports[0]['port']}"
        for port in ports:
            protocol = port.get("protocol") or "TCP"
            prefix = f"{name}_PORT_{port['port']}_{protocol}"
            variables[prefix] = f"{protocol.lower()}://{host}:{port['port']}"
            variables[f"{prefix}_PROTO"] = protocol.lower()
            variables[f"{prefix}_PORT"] = str(port["port"])
            variables[f"{prefix}_ADDR"] = address
    return variables


def visible_services(pod: Object, services: Iterable[Object]) -> list[Object]:
    """The services whose variables a pod gets: the apiservers' always, those of its namespace unless it declines."""
    linked = pod["spec"].get("enableServiceLinks") is not False
    found: dict[str, Object] = {}
    for service in services:
        metadata = service["metadata"]
        if metadata["namespace"] == pod["metadata"]["namespace"] and linked:
            found[metadata["name"]] = service
        elif metadata["namespace"] == "default" and metadata["name"] == "kubernetes":
            found.setdefault("kubernetes", service)
    return list(found.values())


def environment(
    pod: Object,
    spec: Object,
    services: Iterable[Object],
    sources: Sources,
    pod_ip: str,
    host_ips: tuple[str, ...],
    allocatable: dict[str, str],
) -> dict[str, str | bytes]:
    """Raises SourceMissing and ValueError; both messages are for the container's waiting state."""
    result: dict[str, str | bytes] = {}
    result |= _from_sources(spec, sources)
    # References see what is set before them, service variables being weakest.
    service_values = service_variables(visible_services(pod, services))
    scope = service_values | {name: text for name, text in result.items() if isinstance(text, str)}
    for variable in spec.get("env") or ():
        name = variable["name"]
        value = _value(pod, spec, variable, sources, scope, pod_ip, host_ips, allocatable)
        if value is None:
            continue
        result[name] = value
        if isinstance(value, str):
            scope[name] = value
    return {**service_values, **result}


def _from_sources(spec: Object, sources: Sources) -> dict[str, str | bytes]:
    result: dict[str, str | bytes] = {}
    for source in spec.get("envFrom") or ():
        prefix = source.get("prefix") or ""
        for kind, key in _FROM:
            reference = source.get(key)
            if reference is None:
                continue
            data = sources.data(kind, reference["name"], bool(reference.get("optional")))
            for name, value in sorted((data or {}).items()):
                if "=" not in prefix + name:
                    result[prefix + name] = _text(value)
    return result


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _value(
    pod: Object,
    spec: Object,
    variable: Object,
    sources: Sources,
    scope: dict[str, str],
    pod_ip: str,
    host_ips: tuple[str, ...],
    allocatable: dict[str, str],
) -> str | bytes | None:
    source = variable.get("valueFrom")
    if not source:
        return expand(variable.get("value") or "", scope)
    if "fieldRef" in source:
        return downward.field_value(pod, source["fieldRef"]["fieldPath"], pod_ip, host_ips)
    if "resourceFieldRef" in source:
        return downward.resource_value(pod, source["resourceFieldRef"], spec["name"], allocatable)
    for kind, key in _KEYS:
        reference = source.get(key)
        if reference is not None:
            value = sources.value(kind, reference["name"], reference["key"], bool(reference.get("optional")))
            return None if value is None else _text(value)
    if "fileKeyRef" in source:
        file = source["fileKeyRef"]
        return sources.variable(file["volumeName"], file["path"], file["key"], bool(file.get("optional")))
    raise ValueError(f"environment variable {variable['name']} has a source that this kubelet does not know")
