"""The built-in kinds as a tree of types, read from Kubernetes' own schema: what decoding and validation walk.

A node says what may stand at a place: a scalar, a list, a map or a struct with named fields. Nodes are made on demand
(`JSONSchemaProps` contains itself) and shared. `go_name` is what upstream's decoder calls the type in its errors.
"""

import gzip
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import orjson

from raykube.api.shapes import definitions

STRUCT, MAP, LIST = "struct", "map", "list"
STRING, BOOL, INT32, INT64, FLOAT, BYTES = "string", "bool", "int32", "int64", "float64", "bytes"
QUANTITY, TIME, MICRO_TIME, INT_OR_STRING = "quantity", "time", "microtime", "intorstring"
RAW, ANY = "raw", "any"  # an object of any form; any value

_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
_EXTENSIONS = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
_SPECIAL = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": QUANTITY,
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": INT_OR_STRING,
    "io.k8s.apimachinery.pkg.runtime.RawExtension": RAW,
    _META + "Time": TIME,
    _META + "MicroTime": MICRO_TIME,
    _META + "FieldsV1": RAW,
    _EXTENSIONS + "JSON": ANY,
    _EXTENSIONS + "JSONSchemaPropsOrArray": ANY,
    _EXTENSIONS + "JSONSchemaPropsOrBool": ANY,
    _EXTENSIONS + "JSONSchemaPropsOrStringArray": ANY,
}
_PACKAGES = (
    "io.k8s.api.",
    "io.k8s.apimachinery.pkg.apis.",
    "io.k8s.apiextensions-apiserver.pkg.apis.",
    "io.k8s.kube-aggregator.pkg.apis.",
)


@dataclass(eq=False)
class Node:
    """One type. `definition` is the full name of a struct, "" for the rest; `item` is of a list or a map."""

    kind: str
    go_name: str
    definition: str = ""
    _item: dict[str, Any] = field(default_factory=dict, repr=False)
    _item_go: str = ""

    @cached_property
    def item(self) -> "Node":
        return _node(self._item, self._item_go)

    @cached_property
    def fields(self) -> dict[str, "Node"]:
        properties: dict[str, Any] = definitions()[self.definition].get("properties", {})
        wire = wire_types().get(_wire_name(self.definition), {})
        return {name: _node(schema, wire.get(name, "")) for name, schema in properties.items()}

    @cached_property
    def required(self) -> tuple[str, ...]:
        return tuple(definitions()[self.definition].get("required", ()))

    @cached_property
    def struct_name(self) -> str:
        """The bare Go name: `DeploymentSpec`."""
        return self.definition.rpartition(".")[2]


@lru_cache(maxsize=1)
def protobuf_table() -> dict[str, Any]:
    """Message → field number → [JSON name, type, one|list|map, pointer?, wire type]; `=type` is an alias."""
    data = (Path(__file__).parent / "protobuf_fields.json.gz").read_bytes()
    table: dict[str, Any] = orjson.loads(gzip.decompress(data))
    return table


@lru_cache(maxsize=1)
def wire_types() -> dict[str, dict[str, str]]:
    """Message → JSON name → Go type, for error messages: the schema knows no names of scalar types."""
    found: dict[str, dict[str, str]] = {}
    for message, fields in protobuf_table().items():
        if isinstance(fields, dict):
            prefixes = {"one": "", "list": "[]", "map": "map[string]"}
            found[message] = {each[0]: prefixes[each[2]] + _short(each[1]) for each in fields.values() if each[0]}
    return found


def _short(wire: str) -> str:
    """`core/v1.Protocol` → `v1.Protocol`."""
    return wire.rpartition("/")[2]


def _wire_name(definition: str) -> str:
    """`io.k8s.api.apps.v1.DeploymentSpec` → `apps/v1.DeploymentSpec`, the name in the protobuf table."""
    for prefix in _PACKAGES:
        if definition.startswith(prefix):
            group, version, name = definition[len(prefix) :].split(".")
            return f"{group}/{version}.{name}"
    return definition


def _node(schema: dict[str, Any], go: str = "") -> Node:
    reference = schema.get("$ref")
    if reference is not None:
        return of_definition(reference.rpartition("/")[2])
    types = schema.get("type", ())
    types = {types} if isinstance(types, str) else set(types)
    if "array" in types:
        inner = go[2:] if go.startswith("[]") else ""
        node = Node(LIST, go, _item=schema.get("items", {}), _item_go=inner)
        node.go_name = go or f"[]{node.item.go_name}"
        return node
    if "object" in types:
        values = schema.get("additionalProperties")
        if not isinstance(values, dict):
            return Node(RAW, go or "map[string]interface {}")
        inner = go.partition("]")[2] if go.startswith("map[") else ""
        node = Node(MAP, go, _item=values, _item_go=inner)
        node.go_name = go or f"map[string]{node.item.go_name}"
        return node
    kind, name = _scalar(types, str(schema.get("format", "")))
    return Node(kind, go or name)


def _scalar(types: set[str], form: str) -> tuple[str, str]:
    if "string" in types:
        return (BYTES, "[]uint8") if form == "byte" else (STRING, STRING)
    if "integer" in types:
        return (INT32, INT32) if form == "int32" else (INT64, INT64)
    if "boolean" in types:
        return BOOL, BOOL
    if "number" in types:
        return FLOAT, FLOAT
    return ANY, "interface {}"


@cache
def of_definition(name: str) -> Node:
    """The node of a definition. Structs are nodes of their own, so that what contains itself ends."""
    version, own = name.split(".")[-2:]
    go = f"{version}.{own}"
    special = _SPECIAL.get(name)
    if special:
        return Node(special, go)
    definition = definitions()[name]
    types = definition.get("type", ())
    if "object" in types and ("properties" in definition or "additionalProperties" not in definition):
        return Node(STRUCT, go, definition=name)
    return _node(definition, go)


@lru_cache(maxsize=1)
def _by_kind() -> dict[tuple[str, str, str], str]:
    return {
        (each["group"], each["version"], each["kind"]): name
        for name, definition in definitions().items()
        for each in definition.get("x-kubernetes-group-version-kind", ())
    }


def definition_name(group: str, version: str, kind: str) -> str:
    """The full name of a kind's definition, "" if the schema does not have it."""
    return _by_kind().get((group, version, kind), "")


def of_kind(group: str, version: str, kind: str) -> Node | None:
    name = definition_name(group, version, kind)
    return of_definition(name) if name else None
