"""Columns and cells: what every printer is made of.

A printer is its columns and a function from an object to one cell a column. Columns of priority 1 show only with
`-o wide`; the server always sends all, the client leaves them out. Descriptions come from the API's own schema."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raykube.api.shapes import definitions
from raykube.api.table.ages import object_age

Object = dict[str, Any]
Cells = Callable[[Object, float], list[Any]]

NONE, UNSET = "<none>", "<unset>"
_META = "meta.v1.ObjectMeta"
_PACKAGES = {"meta": "io.k8s.apimachinery.pkg.apis."}


@dataclass(frozen=True, slots=True)
class Column:
    """`about` is a description, or `group.version.Kind:field` for the schema's own."""

    name: str
    about: str
    type: str = "string"
    format: str = ""
    priority: int = 0

    def definition(self) -> dict[str, Any]:
        """The column as a Table carries it."""
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": _description(self.about),
            "priority": self.priority,
        }


def _description(about: str) -> str:
    kind, separator, field = about.partition(":")
    if not separator or " " in kind:
        return about
    package = _PACKAGES.get(kind.partition(".")[0], "io.k8s.api.")
    properties = definitions().get(package + kind, {}).get("properties", {})
    text: str = properties.get(field, {}).get("description", "")
    return text


@dataclass(frozen=True, slots=True)
class Printer:
    """How one resource becomes rows."""

    columns: tuple[Column, ...]
    cells: Cells


NAME = Column("Name", f"{_META}:name", format="name")
AGE = Column("Age", f"{_META}:creationTimestamp")
CREATED_AT = Column("Created At", f"{_META}:creationTimestamp", type="date")
CONTAINERS = Column("Containers", "Names of each container in the template.", priority=1)
IMAGES = Column("Images", "Images referenced by each container in the template.", priority=1)


def text(name: str, about: str, wide: bool = False) -> Column:
    return Column(name, about, priority=1 if wide else 0)


def number(name: str, about: str, wide: bool = False) -> Column:
    return Column(name, about, type="integer", priority=1 if wide else 0)


def flag(name: str, about: str) -> Column:
    return Column(name, about, type="boolean")


def name_of(obj: Object) -> str:
    name: str = obj.get("metadata", {}).get("name", "")
    return name


def spec(obj: Object) -> Object:
    return obj.get("spec") or {}


def status(obj: Object) -> Object:
    return obj.get("status") or {}


def named_and_aged(*middle: tuple[Column, Callable[[Object], Any]]) -> Printer:
    """Name, the given columns, age: the form of most kinds."""
    readers = tuple(reader for _, reader in middle)

    def cells(obj: Object, now: float) -> list[Any]:
        return [name_of(obj), *(reader(obj) for reader in readers), object_age(obj, now)]

    return Printer((NAME, *(column for column, _ in middle), AGE), cells)


def labels_text(labels: Mapping[str, str] | None) -> str:
    """`a=1,b=2`, or `<none>`."""
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels)) if labels else NONE


def shortened(items: Iterable[str], most: int, separator: str = ",", empty: str = NONE) -> str:
    """The first `most` items, and how many more there are."""
    known = list(items)
    if not known:
        return empty
    shown = separator.join(known[:most])
    return f"{shown} + {len(known) - most} more..." if len(known) > most else shown


def container_cells(pod_spec: Object) -> list[str]:
    """Names and images of the containers of a pod template."""
    containers = pod_spec.get("containers") or []
    return [
        ",".join(each.get("name", "") for each in containers),
        ",".join(each.get("image", "") for each in containers),
    ]


def template_spec(obj: Object) -> Object:
    """The pod spec in a workload's template."""
    return (spec(obj).get("template") or {}).get("spec") or {}


def condition_is_true(obj: Object, type_: str) -> bool:
    return any(
        each.get("type") == type_ and each.get("status") == "True" for each in status(obj).get("conditions") or ()
    )
