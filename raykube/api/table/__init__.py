"""Tables: the rows that `kubectl get` prints, made by the server as upstream's are.

Vocabulary
- A column has a name, a type and a priority (0 always, 1 with `-o wide`); a row has one cell a column.
- A row's `object` is what clients need beside the cells: `Metadata` (namespace for -A, labels for -L), `Object` or
  `None`.

Kinds that have no room here get the default columns, Name and Created At. Ages are computed for the `now` they are
asked for: a table is never stored."""

from collections.abc import Iterable
from typing import Any, Protocol

from raykube.api.table import access, core, network, nodes, pods, policy, storage, usage, workloads
from raykube.api.table.ages import human_duration
from raykube.api.table.columns import Object, Printer

__all__ = ["INCLUDE_OBJECT", "human_duration", "table", "table_columns", "table_row"]

INCLUDE_OBJECT = ("Metadata", "Object", "None")

_PRINTERS: dict[tuple[str, str], Printer] = {
    **pods.PRINTERS,
    **nodes.PRINTERS,
    **workloads.PRINTERS,
    **network.PRINTERS,
    **core.PRINTERS,
    **access.PRINTERS,
    **storage.PRINTERS,
    **policy.PRINTERS,
    **usage.PRINTERS,
}
_PODS = ("", "pods")


class Plural(Protocol):
    """What a table needs to know of a resource."""

    @property
    def group(self) -> str: ...
    @property
    def plural(self) -> str: ...


def _printer(resource: Plural) -> Printer:
    return _PRINTERS.get((resource.group, resource.plural), core.DEFAULT)


def table_columns(resource: Plural) -> list[dict[str, Any]]:
    """The columnDefinitions of a resource's table."""
    return [column.definition() for column in _printer(resource).columns]


def table_row(resource: Plural, obj: Object, now: float) -> list[Any]:
    """The cells of one object."""
    return _printer(resource).cells(obj, now)


def table(
    resource: Plural,
    objects: Iterable[Object],
    now: float,
    *,
    include_object: str = "Metadata",
    metadata: dict[str, Any] | None = None,
    with_columns: bool = True,
    version: str = "v1",
) -> dict[str, Any]:
    """A Table of `objects`. `metadata` is the list's; a watch sends the columns with its first event only."""
    printer = _printer(resource)
    is_pod = (resource.group, resource.plural) == _PODS
    rows = []
    for obj in objects:
        row: dict[str, Any] = {"cells": printer.cells(obj, now)}
        if is_pod and (conditions := pods.row_conditions(obj)):
            row["conditions"] = conditions
        if include_object == "Object":
            row["object"] = obj
        elif include_object == "Metadata":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": f"meta.k8s.io/{version}",
                "metadata": obj.get("metadata", {}),
            }
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": metadata or {},
        "columnDefinitions": table_columns(resource) if with_columns else [],
        "rows": rows,
    }
