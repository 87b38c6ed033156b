"""Field selectors: which objects a list or a watch means, by the few fields that upstream makes selectable.

A text only (`spec.nodeName=n1,status.phase!=Failed`; `\\` escapes `,`, `=` and itself). An immutable value: parse it
once, match many objects. Which fields a resource offers is the table at the end."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from raykube.api.errors import ApiError
from raykube.api.resources import Resource


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    """One term of a field selector; `negated` for `!=`."""

    field: str
    value: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """A conjunction of field requirements. None: everything."""

    requirements: tuple[FieldRequirement, ...] = ()
    names: tuple[str, ...] = field(init=False, compare=False, default=())  # of the fields that it looks at

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple([each.field for each in self.requirements]))

    @staticmethod
    @lru_cache(maxsize=4096)
    def parse(text: str) -> "FieldSelector":
        """The selector of a `fieldSelector` query. Raises ValueError in upstream's words."""
        found = []
        for term in re.findall(r"(?:\\.|[^,\\])+|\\$", text, re.DOTALL):
            shape = re.match(r"((?:\\.|[^\\=!])*?)(!=|==|=)(.*)", term, re.DOTALL)
            if shape is None:
                raise ValueError(f"invalid selector: '{text}'; can't understand '{term}'")
            found.append(FieldRequirement(shape[1], _unescaped(shape[3]), shape[2] == "!="))
        return FieldSelector(tuple(found))

    @property
    def everything(self) -> bool:
        """True if every object matches."""
        return not self.requirements

    def split(self, indexed: Iterable[str]) -> "tuple[dict[str, str], FieldSelector]":
        """The values that it demands of the fields `indexed`, one each and none of them "", and what is left of it."""
        fixed: dict[str, str] = {}
        rest = []
        wanted = set(indexed)
        for each in self.requirements:
            if each.field in wanted and not each.negated and each.value and each.field not in fixed:
                fixed[each.field] = each.value
            else:
                rest.append(each)
        return fixed, FieldSelector(tuple(rest))

    def matches(self, fields: Mapping[str, str]) -> bool:
        """True if an object with these selectable fields is selected."""
        for each in self.requirements:  # noqa: SIM110  # all() takes twice as long, for each event of each watcher
            if (fields.get(each.field, "") == each.value) == each.negated:
                return False
        return True

    def matches_object(self, resource: Resource, obj: Mapping[str, Any]) -> bool:
        """As `matches`, computing only the fields that the selector names."""
        if not self.requirements:
            return True
        readers = _readers(resource.qualified)
        return all(
            ((read(obj) if (read := readers.get(r.field)) else "") == r.value) != r.negated for r in self.requirements
        )

    def __str__(self) -> str:
        return ",".join(f"{r.field}{'!=' if r.negated else '='}{_escaped(r.value)}" for r in self.requirements)


ALL_FIELDS = FieldSelector()


def _unescaped(value: str) -> str:
    out = []
    letters = iter(value)
    for letter in letters:
        if letter == "\\":
            following = next(letters, "")
            if following not in ("\\", ",", "=") or not following:
                raise ValueError(f"invalid field selector: invalid escape sequence: \\{following}")
            out.append(following)
        elif letter == "=":
            raise ValueError(f"invalid field selector: unescaped character in value: {letter}")
        else:
            out.append(letter)
    return "".join(out)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,").replace("=", "\\=")


Reader = Callable[[Mapping[str, Any]], str]


def _field(path: str) -> Reader:
    """A reader of a scalar field, as upstream prints it: absent is "", true is "true"."""
    names = path.split(".")

    def read(obj: Mapping[str, Any]) -> str:
        value: Any = obj
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return _text(value)

    return read


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _or_default(path: str, default: str) -> Reader:
    read = _field(path)
    return lambda obj: read(obj) or default


def _first(*paths: str) -> Reader:
    readers = [_field(path) for path in paths]
    return lambda obj: next((text for read in readers if (text := read(obj))), "")


_METADATA = {"metadata.name": _field("metadata.name"), "metadata.namespace": _field("metadata.namespace")}
_REGARDING = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")


def _plain(*paths: str) -> dict[str, Reader]:
    return {path: _field(path) for path in paths}


# Per resource: the fields beyond metadata.name and metadata.namespace that its lists and watches can be selected by.
_SELECTABLE: dict[str, dict[str, Reader]] = {
    "pods": {
        **_plain("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName"),
        **_plain("status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName"),
        "spec.hostNetwork": _or_default("spec.hostNetwork", "false"),
    },
    "nodes": {"spec.unschedulable": _or_default("spec.unschedulable", "false")},
    "namespaces": _plain("status.phase"),
    "secrets": _plain("type"),
    "services": _plain("spec.clusterIP", "spec.type"),
    "replicationcontrollers": {"status.replicas": _or_default("status.replicas", "0")},
    "replicasets.apps": {"status.replicas": _or_default("status.replicas", "0")},
    "jobs.batch": {"status.successful": _or_default("status.succeeded", "0")},
    "certificatesigningrequests.certificates.k8s.io": _plain("spec.signerName"),
    "resourceslices.resource.k8s.io": _plain("spec.nodeName", "spec.driver"),
    # One storage, two shapes: core/v1 writes involvedObject and source, events.k8s.io regarding and reporting….
    "events": {
        **{f"involvedObject.{name}": _first(f"involvedObject.{name}", f"regarding.{name}") for name in _REGARDING},
        "reason": _field("reason"),
        "type": _field("type"),
        "reportingComponent": _first("reportingComponent", "reportingController"),
        "source": _first("source.component", "reportingComponent", "reportingController"),
    },
    "events.events.k8s.io": {
        **{f"regarding.{name}": _first(f"regarding.{name}", f"involvedObject.{name}") for name in _REGARDING},
        "reason": _field("reason"),
        "type": _field("type"),
        "reportingController": _first("reportingController", "reportingComponent"),
    },
}


@lru_cache(maxsize=1024)
def _readers(qualified: str) -> dict[str, Reader]:
    """By name, not by Resource: it is asked once an event, and a Resource has many fields to hash."""
    return _METADATA | _SELECTABLE.get(qualified, {})


def selectable_fields(resource: Resource, obj: Mapping[str, Any], names: Iterable[str] | None = None) -> dict[str, str]:
    """The fields `names` of `obj` (None: all that a field selector may name); one that cannot be selected is ""."""
    readers = _readers(resource.qualified)
    if names is None:
        names = readers
    return {name: read(obj) if (read := readers.get(name)) else "" for name in names}


def check_supported(resource: Resource, selector: FieldSelector) -> None:
    """Raises the 400 that upstream answers if `selector` names a field that `resource` cannot be selected by."""
    readers = _readers(resource.qualified)
    for requirement in selector.requirements:
        if requirement.field not in readers:
            if resource.qualified in _SELECTABLE:
                raise ApiError.bad_request(f"field label not supported: {requirement.field}")
            raise ApiError.bad_request(
                f'"{requirement.field}" is not a known field selector: only "metadata.name", "metadata.namespace"'
            )
