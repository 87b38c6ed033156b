"""Shapes: how the values of a kind merge, read out of Kubernetes' own schema.

Strategic merge and server-side apply both ask the same questions at each level of an object: is this a struct, a map, a
list or a leaf? Is it merged or replaced as a whole? Which fields identify an item of this list? A shape answers them
for one place in one kind. Shapes are made on demand (some kinds contain themselves) and kept for ever: there are few.

Where the schema is silent (unknown fields, free-form values) the shape is `UNKNOWN`: maps merge, lists are replaced."""

import importlib.util
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import orjson

SCHEMA_VERSION = "v1.36.0"

STRUCT, MAP, LIST, LEAF, ANY = "struct", "map", "list", "leaf", "any"
ATOMIC, GRANULAR, SET = "atomic", "granular", "set"

# The schema of the package has no defaults, but these are parts of a list item's identity.
_KEY_DEFAULTS: dict[tuple[str, str], str] = {
    ("io.k8s.api.core.v1.ContainerPort", "protocol"): "TCP",
    ("io.k8s.api.core.v1.ServicePort", "protocol"): "TCP",
}
# Free-form values: what is inside is nobody's schema.
_FREE_FORM = frozenset(
    (
        "io.k8s.apimachinery.pkg.runtime.RawExtension",
        "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
    )
)
_SCALARS = frozenset(("string", "integer", "number", "boolean"))


@lru_cache(maxsize=1)
def definitions() -> dict[str, Any]:
    """Every definition of the built-in API, by its full name."""
    spec = importlib.util.find_spec("kubernetes_validate")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package kubernetes-validate is not installed: pip install kubernetes-validate")
    folder = Path(spec.origin).parent / "kubernetes-json-schema" / f"{SCHEMA_VERSION}-local"
    found: dict[str, Any] = orjson.loads((folder / "_definitions.json").read_bytes())["$defs"]
    return found


@lru_cache(maxsize=1)
def _by_kind() -> dict[tuple[str, str, str], str]:
    names = {}
    for name, definition in definitions().items():
        for kind in definition.get("x-kubernetes-group-version-kind", ()):
            names[kind["group"], kind["version"], kind["kind"]] = name
    return names


@dataclass(eq=False)
class Shape:
    """One place in a kind. `schema` is what stands at the place, `name` the definition it refers to ("" for none)."""

    schema: dict[str, Any]
    name: str

    @cached_property
    def _target(self) -> dict[str, Any]:
        return definitions().get(self.name, {}) if self.name else self.schema

    @cached_property
    def kind(self) -> str:
        """struct, map, list, leaf or any."""
        if self.name in _FREE_FORM or not self._target:
            return ANY
        if "properties" in self._target:
            return STRUCT
        if "additionalProperties" in self._target:
            return MAP
        types = self._target.get("type", ())
        types = {types} if isinstance(types, str) else set(types)
        if "array" in types:
            return LIST
        if "object" in types:
            return STRUCT if self.name else ANY
        return LEAF if types & _SCALARS or "oneOf" in self._target or "anyOf" in self._target else ANY

    @cached_property
    def _children(self) -> "dict[str, Shape]":
        return {}

    def child(self, field: str) -> "Shape":
        """The shape of a field of a struct, or of any value of a map."""
        known = self._children.get(field)
        if known is None:
            known = self._children[field] = self._child(field)
        return known

    def _child(self, field: str) -> "Shape":
        if self.kind == STRUCT:
            properties = self._target.get("properties", {})
            return _shape(properties[field]) if field in properties else UNKNOWN
        if self.kind == MAP:
            values = self._target["additionalProperties"]
            return _shape(values) if isinstance(values, dict) else UNKNOWN
        return UNKNOWN

    def has(self, field: str) -> bool:
        """True if a struct has `field`."""
        return field in self._target.get("properties", {})

    @property
    def closed(self) -> bool:
        """True for a struct that has the schema's fields and no others."""
        return self.kind == STRUCT and bool(self.name)

    @cached_property
    def item(self) -> "Shape":
        """The shape of a list's items."""
        items = self._target.get("items")
        return _shape(items) if isinstance(items, dict) else UNKNOWN

    # -- strategic merge

    @cached_property
    def strategies(self) -> frozenset[str]:
        """The patch strategies of this field: of `merge`, `retainKeys`, `replace`."""
        return frozenset(filter(None, self.schema.get("x-kubernetes-patch-strategy", "").split(",")))

    @cached_property
    def merge_key(self) -> str:
        """The field that identifies an item in a strategic merge, "" for lists of scalars."""
        key: str = self.schema.get("x-kubernetes-patch-merge-key", "")
        return key

    # -- server-side apply

    @cached_property
    def topology(self) -> str:
        """Lists: `atomic`, `set` or `map`. Structs and maps: `atomic` or `granular`. Leaves: `atomic`."""
        if self.kind == LIST:
            kind: str = self.schema.get("x-kubernetes-list-type", ATOMIC)
            return kind
        if self.kind in (STRUCT, MAP):
            here = self.schema.get("x-kubernetes-map-type") or self._target.get("x-kubernetes-map-type")
            return here or GRANULAR
        return GRANULAR if self.kind == ANY else ATOMIC

    @cached_property
    def map_keys(self) -> tuple[str, ...]:
        """The fields that identify an item of a list of topology `map`."""
        return tuple(self.schema.get("x-kubernetes-list-map-keys", ()))

    def key_default(self, field: str) -> str | None:
        """What an item's key field is when it is not written."""
        return _KEY_DEFAULTS.get((self.item.name, field))


UNKNOWN = Shape({}, "")
_ROOT_UNKNOWN = Shape(
    {"properties": {"metadata": {"$ref": "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}}}, ""
)


def _shape(schema: dict[str, Any]) -> Shape:
    reference = schema.get("$ref")
    if reference is None:
        reference = next((part["$ref"] for part in schema.get("allOf", ()) if "$ref" in part), None)
    name = reference.rpartition("/")[2] if reference else ""
    if name == "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta":
        return _metadata()
    return Shape(schema, name)


@lru_cache(maxsize=1)
def _metadata() -> Shape:
    # Every kind has one: sharing it keeps the cache small.
    return Shape({}, "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")


@lru_cache(maxsize=1024)
def root_shape(group: str, version: str, kind: str) -> Shape:
    """The shape of a whole object. Kinds without a schema merge their metadata by the rules and the rest as maps."""
    name = _by_kind().get((group, version, kind))
    return Shape({}, name) if name else _ROOT_UNKNOWN
