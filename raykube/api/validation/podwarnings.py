"""What a valid pod, or a template of pods, says in vain or against its own interest: upstream's warnings."""

from collections.abc import Iterable, Iterator
from typing import Any

from raykube.api import quantity
from raykube.api.errors import quote
from raykube.api.resources import Resource
from raykube.api.validation.names import dns_label

Object = dict[str, Any]

# Where kinds have their template of pods.
_TEMPLATES = {
    ("", "replicationcontrollers"): ("spec", "template"),
    ("apps", "daemonsets"): ("spec", "template"),
    ("apps", "deployments"): ("spec", "template"),
    ("apps", "replicasets"): ("spec", "template"),
    ("apps", "statefulsets"): ("spec", "template"),
    ("batch", "jobs"): ("spec", "template"),
    ("batch", "cronjobs"): ("spec", "jobTemplate", "spec", "template"),
}
_NAMING = {("apps", "deployments"), ("apps", "replicasets"), ("apps", "statefulsets"), ("batch", "jobs")}
_LABELS = {
    "beta.kubernetes.io/arch": ("1.14", "kubernetes.io/arch"),
    "beta.kubernetes.io/os": ("1.14", "kubernetes.io/os"),
    "beta.kubernetes.io/instance-type": ("1.17", "node.kubernetes.io/instance-type"),
    "failure-domain.beta.kubernetes.io/region": ("1.17", "topology.kubernetes.io/region"),
    "failure-domain.beta.kubernetes.io/zone": ("1.17", "topology.kubernetes.io/zone"),
}
_ANNOTATIONS = {
    "scheduler.alpha.kubernetes.io/critical-pod": ("1.16", "priorityClassName"),
    "security.alpha.kubernetes.io/sysctls": ("1.11", "sysctls"),
    "security.alpha.kubernetes.io/unsafe-sysctls": ("1.11", "sysctls"),
}
_VOLUMES = {
    "cephfs": "deprecated in v1.28, non-functional in v1.31+",
    "flocker": "deprecated in v1.22, non-functional in v1.25+",
    "gitRepo": "deprecated in v1.11",
    "glusterfs": "deprecated in v1.25, non-functional in v1.26+",
    "photonPersistentDisk": "deprecated in v1.11, non-functional in v1.16+",
    "quobyte": "deprecated in v1.22, non-functional in v1.25+",
    "rbd": "deprecated in v1.28, non-functional in v1.31+",
    "scaleIO": "deprecated in v1.16, non-functional in v1.22+",
    "storageos": "deprecated in v1.22, non-functional in v1.25+",
}


def pod_warnings(resource: Resource, obj: Object, *, is_new: bool) -> list[str]:
    """The warnings for a valid object that is a pod or makes pods; none for any other kind."""
    kind = (resource.group, resource.plural)
    is_pod = kind == ("", "pods")
    steps = () if is_pod else _TEMPLATES.get(kind)
    if steps is None:
        return []
    found = []
    if is_new and (is_pod or kind in _NAMING) and (flaws := dns_label(obj["metadata"].get("name") or "")):
        use = "the Pod's hostname" if is_pod else "Pod names and hostnames"
        text = f"this is used in {use}, which can result in surprising behavior; a DNS label is recommended"
        found.append(f"metadata.name: {text}: [{' '.join(flaws)}]")
    template: Any = obj
    for step in steps:
        template = template.get(step) or {}
    prefix = "".join(f"{step}." for step in steps)
    return [*found, *_of_template(template.get("metadata") or {}, template.get("spec") or {}, prefix)]


def _of_template(metadata: Object, spec: Object, prefix: str) -> Iterator[str]:
    path = f"{prefix}spec"
    yield from _labels(spec, path)
    yield from _annotations(metadata.get("annotations") or {}, spec, f"{prefix}metadata.annotations")
    for index, volume in enumerate(spec.get("volumes") or ()):
        yield from (f"{path}.volumes[{index}].{name}: {_VOLUMES[name]}" for name in volume if name in _VOLUMES)
    yield from _repeated(spec, path, "hostAliases", "ip")
    yield from _repeated(spec, path, "imagePullSecrets", "name")
    for index, secret in enumerate(spec.get("imagePullSecrets") or ()):
        if not secret.get("name"):
            yield f'{path}.imagePullSecrets[{index}].name: invalid empty name ""'
    yield from _fractions(spec.get("overhead") or {}, f"{path}.overhead")
    containers = list(_containers(spec, path))
    for container, place in containers:
        for amounts in ("limits", "requests"):
            found = (container.get("resources") or {}).get(amounts) or {}
            yield from _fractions(found, f"{place}.resources.{amounts}")
        yield from _environment(container.get("env") or (), f"{place}.env")
    yield from _ports(containers)
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        text = "must be >= 0; negative values are invalid and will be treated as 1"
        yield f"{path}.terminationGracePeriodSeconds: {text}"
    yield from _affinities(spec.get("affinity") or {}, f"{path}.affinity")


def _containers(spec: Object, path: str) -> Iterator[tuple[Object, str]]:
    for key in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(spec.get(key) or ()):
            yield container, f"{path}.{key}[{index}]"


def _deprecated(label: str) -> str:
    since, instead = _LABELS[label]
    return f'deprecated since v{since}; use "{instead}" instead'


def _labels(spec: Object, path: str) -> Iterator[str]:
    for label in spec.get("nodeSelector") or ():
        if label in _LABELS:
            yield f"{path}.nodeSelector[{label}]: {_deprecated(label)}"
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    place = f"{path}.affinity.nodeAffinity"
    required = (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms") or ()
    for index, term in enumerate(required):
        where = f"{place}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[{index}]"
        yield from _term(term, where)
    for index, each in enumerate(affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()):
        where = f"{place}.preferredDuringSchedulingIgnoredDuringExecution[{index}].preference"
        yield from _term(each.get("preference") or {}, where)
    for index, each in enumerate(spec.get("topologySpreadConstraints") or ()):
        where = f"{path}.topologySpreadConstraints[{index}]"
        if (key := each.get("topologyKey")) in _LABELS:
            yield f"{where}.topologyKey: {key} is {_deprecated(key)}"
        if each.get("labelSelector") is None:
            yield f"{where}.labelSelector: a null labelSelector results in matching no pod"


def _term(term: Object, path: str) -> Iterator[str]:
    for index, each in enumerate(term.get("matchExpressions") or ()):
        if (key := each.get("key")) in _LABELS:
            yield f"{path}.matchExpressions[{index}].key: {key} is {_deprecated(key)}"


def _annotations(annotations: dict[str, str], spec: Object, path: str) -> Iterator[str]:
    for key, (since, instead) in _ANNOTATIONS.items():
        if key in annotations:
            yield f'{path}[{key}]: non-functional in v{since}+; use the "{instead}" field instead'
    unheard = 'non-functional in v1.27+; use the "seccompProfile" field instead'
    whole = "seccomp.security.alpha.kubernetes.io/pod"
    if whole in annotations and not (spec.get("securityContext") or {}).get("seccompProfile"):
        yield f"{path}[{whole}]: {unheard}"
    for container, _ in _containers(spec, ""):
        key = f"container.seccomp.security.alpha.kubernetes.io/{container.get('name')}"
        if key in annotations and not (container.get("securityContext") or {}).get("seccompProfile"):
            yield f"{path}[{key}]: {unheard}"


def _repeated(spec: Object, path: str, field: str, key: str) -> Iterator[str]:
    seen = set()
    for index, each in enumerate(spec.get(field) or ()):
        value = each.get(key) or ""
        if value in seen:
            yield f"{path}.{field}[{index}].{key}: duplicate {key} {quote(value)}"
        seen.add(value)


def _fractions(amounts: Object, path: str) -> Iterator[str]:
    for name in ("memory", "ephemeral-storage"):
        if name in amounts and quantity.parse(amounts[name]) % 1:
            text = f'fractional byte value "{amounts[name]}" is invalid, must be an integer'
            yield f"{path}[{name}]: {text}"


def _environment(variables: Iterable[Object], path: str) -> Iterator[str]:
    """A name that comes twice is meant where the second value takes the first one up."""
    seen = set()
    for index, each in enumerate(variables):
        name, value = each.get("name") or "", each.get("value") or ""
        reference = f"$({name})"
        if name in seen and (each.get("valueFrom") or value == reference or reference not in value):
            yield f"{path}[{index}]: hides previous definition of {quote(name)}, which may be dropped when using apply"
        seen.add(name)


def _ports(containers: Iterable[tuple[Object, str]]) -> Iterator[str]:
    known: dict[tuple[Any, Any], list[tuple[str, Any, int]]] = {}
    for container, place in containers:
        for index, each in enumerate(container.get("ports") or ()):
            address, port = each.get("hostIP") or "", each.get("hostPort") or 0
            where = f"{place}.ports[{index}]"
            others = known.setdefault((each.get("containerPort"), each.get("protocol")), [])
            for other, other_address, other_port in others:
                if (address, port) == (other_address, other_port):
                    yield f"{where}: duplicate port definition with {other}"
                elif not port or not other_port:
                    yield f"{where}: overlapping port definition with {other}"
                elif port == other_port and bool(address) != bool(other_address):
                    yield f"{where}: dangerously ambiguous port definition with {other}"
            others.append((where, address, port))


def _affinities(affinity: Object, path: str) -> Iterator[str]:
    text = "a null labelSelector results in matching no pod"
    for kind in ("podAffinity", "podAntiAffinity"):
        found = affinity.get(kind) or {}
        hard, soft = (f"{how}DuringSchedulingIgnoredDuringExecution" for how in ("required", "preferred"))
        for index, term in enumerate(found.get(hard) or ()):
            if term.get("labelSelector") is None:
                yield f"{path}.{kind}.{hard}[{index}].labelSelector: {text}"
        for index, each in enumerate(found.get(soft) or ()):
            if (each.get("podAffinityTerm") or {}).get("labelSelector") is None:
                yield f"{path}.{kind}.{soft}[{index}].podAffinityTerm.labelSelector: {text}"
