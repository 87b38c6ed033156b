"""Types of the built-in kinds, held against objects: what upstream's decoder does, and its generic required fields.

    conform    the decoder: types (400 with its words), nulls and unknown fields out, quantities and times in their
               one stored form. Returns the unknown fields.
    validate   causes for missing required fields.

`conform` asks a compiled JSON schema first (microseconds): it accepts only objects that need no change. What it refuses
is walked in Python, which finds the words for it. Validators are compiled on the first use of a kind.

Kinds without a schema (custom resources) are left alone.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Protocol

import jsonschema_rs

from raykube.api import errors, quantity, typetree
from raykube.api.errors import ApiError, Cause
from raykube.api.shapes import SCHEMA_VERSION, definitions
from raykube.api.typetree import Node

__all__ = ["SCHEMA_VERSION", "conform", "definitions", "merge_keys", "unknown_fields", "validate"]

Object = dict[str, Any]

INT_RANGES = {typetree.INT32: (-(2**31), 2**31 - 1), typetree.INT64: (-(2**63), 2**63 - 1)}


class Typed(Protocol):
    """A resource or a subresource: what names the type of a body."""

    @property
    def group(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def kind(self) -> str: ...


def conform(resource: Typed, obj: Object) -> list[str]:
    """Decodes `obj` in place into the type of `resource`. Returns e.g. `unknown field "spec.foo"`, in order.

    Raises ApiError 400 where a value has the wrong type."""
    root = typetree.of_kind(resource.group, resource.version, resource.kind)
    if root is None or _validator(root.definition).is_valid(obj):
        return []
    walk = _Walk()
    try:
        walk.struct(root, obj, "", (), in_status=False)
    except _DecodeError as error:
        raise cannot_handle(resource, str(error)) from None
    except RecursionError:
        raise cannot_handle(resource, "exceeded max depth") from None
    return walk.unknown


def conforms(resource: Typed, name: str, value: Any) -> bool:
    """Whether `conform` surely changes nothing in the field `name` of an object that has this `value` there."""
    judge = _field_judge(resource.group, resource.version, resource.kind, name)
    return judge is not None and judge.is_valid(value)


@cache
def _field_judge(group: str, version: str, kind: str, name: str) -> jsonschema_rs.Draft4Validator | None:
    root = typetree.of_kind(group, version, kind)
    field = root.fields.get(name) if root is not None else None
    return _validator(field.definition) if field is not None and field.kind == typetree.STRUCT else None


def cannot_handle(resource: Typed, problem: str) -> ApiError:
    """The 400 of a body that does not decode into this type."""
    kind = resource.kind
    return ApiError.bad_request(f'{kind} in version "{resource.version}" cannot be handled as a {kind}: {problem}')


def unknown_fields(resource: Typed, obj: Object) -> list[str]:
    """What `conform` would return; `obj` is not changed."""
    return conform(resource, _copy(obj))


def validate(resource: Typed, obj: Object) -> list[Cause]:
    """Required fields of the schema that are missing in a conforming object, but for its status."""
    root = typetree.of_kind(resource.group, resource.version, resource.kind)
    if root is None or _validator(root.definition).is_valid(obj):
        return []
    causes: list[Cause] = []
    for name, value in obj.items():
        if name not in ("metadata", "status") and name in root.fields:
            _missing(root.fields[name], value, name, causes)
    _required(root, obj, "", causes)
    return causes


def merge_keys(resource: Typed, path: Sequence[str]) -> tuple[str, ...]:
    """The fields that identify an item of the list at `path` (field names only), () if its items have no identity."""
    node = typetree.of_kind(resource.group, resource.version, resource.kind)
    keys: tuple[str, ...] = ()
    for step in path:
        while node is not None and node.kind in (typetree.LIST, typetree.MAP):
            node = node.item
        if node is None or node.kind != typetree.STRUCT or step not in node.fields:
            return ()
        place = definitions()[node.definition]["properties"][step]
        keys = tuple(place.get("x-kubernetes-list-map-keys", ())) or (
            (place["x-kubernetes-patch-merge-key"],) if "x-kubernetes-patch-merge-key" in place else ()
        )
        node = node.fields[step]
    return keys


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_copy(each) for each in value]
    return value


# -- required fields


def _required(node: Node, value: Object, path: str, causes: list[Cause]) -> None:
    causes.extend(errors.required(f"{path}.{name}" if path else name) for name in node.required if name not in value)


def _missing(node: Node, value: Any, path: str, causes: list[Cause]) -> None:
    if node.kind == typetree.STRUCT and isinstance(value, dict):
        if node.struct_name == "ObjectMeta":
            return
        _required(node, value, path, causes)
        for name, child in value.items():
            if name in node.fields and isinstance(child, dict | list):
                _missing(node.fields[name], child, f"{path}.{name}", causes)
    elif node.kind == typetree.LIST and isinstance(value, list):
        for index, child in enumerate(value):
            _missing(node.item, child, f"{path}[{index}]", causes)
    elif node.kind == typetree.MAP and isinstance(value, dict):
        for key, child in value.items():
            _missing(node.item, child, f"{path}[{key}]", causes)


# -- the fast judge: a JSON schema of the objects that need no change

_CANONICAL_QUANTITY = r"^(0|[1-9][0-9]{0,2}(m|k|M|G|T|Ki|Mi|Gi|Ti)?)$"
_DAY = r"(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_BASE64 = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

_LEAVES: dict[str, dict[str, Any]] = {
    typetree.STRING: {"type": "string"},
    typetree.BOOL: {"type": "boolean"},
    typetree.FLOAT: {"type": "number"},
    typetree.BYTES: {"type": "string", "pattern": _BASE64},
    typetree.QUANTITY: {"type": "string", "pattern": _CANONICAL_QUANTITY},
    typetree.TIME: {"type": "string", "pattern": rf"^[0-9]{{4}}-{_DAY}T{_CLOCK}Z$"},
    typetree.MICRO_TIME: {"type": "string", "pattern": rf"^[0-9]{{4}}-{_DAY}T{_CLOCK}\.[0-9]{{6}}Z$"},
    typetree.RAW: {"type": "object"},
    typetree.ANY: {},
    **{kind: {"type": "integer", "minimum": low, "maximum": high} for kind, (low, high) in INT_RANGES.items()},
}
_INT32 = _LEAVES[typetree.INT32]


@cache
def _validator(definition: str) -> jsonschema_rs.Draft4Validator:
    # Draft 4: the last one in which 3.0 is not an integer, as in Go.
    parts: dict[str, Any] = {}
    _compile(typetree.of_definition(definition), parts)
    return jsonschema_rs.Draft4Validator({"$ref": f"#/definitions/{definition}", "definitions": parts})


def _compile(node: Node, parts: dict[str, Any]) -> dict[str, Any]:
    if node.kind == typetree.STRUCT:
        if node.definition not in parts:
            part: dict[str, Any] = {"type": "object", "additionalProperties": False}
            parts[node.definition] = part
            part["properties"] = {name: _compile(child, parts) for name, child in node.fields.items()}
            if node.required:
                part["required"] = list(node.required)
        return {"$ref": f"#/definitions/{node.definition}"}
    if node.kind == typetree.LIST:
        return {"type": "array", "items": _compile(node.item, parts)}
    if node.kind == typetree.MAP:
        return {"type": "object", "additionalProperties": _compile(node.item, parts)}
    if node.kind == typetree.INT_OR_STRING:
        return {"anyOf": [_INT32, {"type": "string"}]}
    return _LEAVES[node.kind]


# -- the slow walk: changes what may be changed, and names what may not stand


class _DecodeError(Exception):
    pass


_DROP = object()
_ZEROS = {
    typetree.STRING: "",
    typetree.BOOL: False,
    typetree.INT32: 0,
    typetree.INT64: 0,
    typetree.FLOAT: 0,
}


def _describe(value: Any) -> str:
    """What upstream's decoder calls a JSON value."""
    if isinstance(value, str):
        return "string"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "array" if isinstance(value, list) else "object"


class _Walk:
    """One pass over one object. `stack` holds the field names to here: upstream's errors name no indices."""

    def __init__(self) -> None:
        self.unknown: list[str] = []

    def struct(self, node: Node, obj: Object, path: str, stack: tuple[str, ...], in_status: bool) -> None:
        for name in list(obj):
            place = f"{path}.{name}" if path else name
            child = node.fields.get(name)
            if child is None:
                self.unknown.append(f'unknown field "{place}"')
                del obj[name]
                continue
            here = (*stack, name)
            kept = self.value(child, obj[name], place, here, node, in_status or (not path and name == "status"))
            if kept is _DROP:
                del obj[name]
            else:
                obj[name] = kept
        if in_status:
            # Upstream writes the zeros of plain required fields; readers, the official client first, rely on them.
            for name in node.required:
                zero = _ZEROS.get(node.fields[name].kind, _DROP)
                if name not in obj and zero is not _DROP:
                    obj[name] = zero

    def value(self, node: Node, value: Any, path: str, stack: tuple[str, ...], owner: Node, in_status: bool) -> Any:
        """The value to keep, or _DROP."""
        kind = node.kind
        if value is None:
            return _DROP
        if kind == typetree.STRUCT:
            if not isinstance(value, dict):
                raise self.mismatch(node, value, stack, owner)
            self.struct(node, value, path, stack, in_status)
            return value
        if kind == typetree.LIST:
            if not isinstance(value, list):
                raise self.mismatch(node, value, stack, owner)
            for index, each in enumerate(value):
                kept = self.value(node.item, each, f"{path}[{index}]", stack, owner, in_status)
                value[index] = _zero(node.item) if kept is _DROP else kept
            return value
        if kind == typetree.MAP:
            if not isinstance(value, dict):
                raise self.mismatch(node, value, stack, owner)
            for key, each in value.items():
                kept = self.value(node.item, each, f"{path}.{key}", stack, owner, in_status)
                value[key] = _zero(node.item) if kept is _DROP else kept
            return value
        return self.scalar(node, value, stack, owner)

    def scalar(self, node: Node, value: Any, stack: tuple[str, ...], owner: Node) -> Any:
        kind = node.kind
        if kind == typetree.ANY:
            return value
        if kind == typetree.RAW and isinstance(value, dict):
            return value
        if kind == typetree.STRING and isinstance(value, str):
            return value
        if kind == typetree.BOOL and isinstance(value, bool):
            return value
        if kind in INT_RANGES and not isinstance(value, bool) and isinstance(value, int):
            low, high = INT_RANGES[kind]
            if low <= value <= high:
                return value
        if kind == typetree.FLOAT and not isinstance(value, bool) and isinstance(value, int | float):
            return value
        if kind == typetree.BYTES and isinstance(value, str):
            return _base64(value)
        if kind == typetree.QUANTITY:
            return _quantity(value)
        if kind in (typetree.TIME, typetree.MICRO_TIME):
            return _time(value, kind)
        if kind == typetree.INT_OR_STRING:
            return _int_or_string(value)
        raise self.mismatch(node, value, stack, owner)

    def mismatch(self, node: Node, value: Any, stack: tuple[str, ...], owner: Node) -> _DecodeError:
        what = _describe(value)
        if what == "number" and node.kind in INT_RANGES:
            what = f"number {value}"
        place = ".".join((owner.struct_name, *stack))
        return _DecodeError(f"json: cannot unmarshal {what} into Go struct field {place} of type {node.go_name}")


def _zero(node: Node) -> Any:
    """What a null becomes where something must stand: in a list or a map."""
    if node.kind in (typetree.STRUCT, typetree.MAP, typetree.RAW):
        return {}
    return [] if node.kind == typetree.LIST else _ZEROS.get(node.kind, "")


def _base64(text: str) -> str:
    compact = text.replace("\n", "").replace("\r", "")
    try:
        base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError):
        good = re.match(r"[A-Za-z0-9+/]*", compact)
        at = good.end() if good else 0
        raise _DecodeError(f"illegal base64 data at input byte {at - at % 4 if at == len(compact) else at}") from None
    return compact


def _quantity(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _DecodeError(quantity.FORMAT_ERROR)
    try:
        return quantity.canonical(value)
    except ValueError as error:
        raise _DecodeError(str(error)) from None


def _int_or_string(value: Any) -> Any:
    if isinstance(value, str):
        return value
    low, high = INT_RANGES[typetree.INT32]
    if not isinstance(value, bool) and isinstance(value, int) and low <= value <= high:
        return value
    what = f"number {value}" if isinstance(value, int | float) and not isinstance(value, bool) else _describe(value)
    raise _DecodeError(f"json: cannot unmarshal {what} into Go value of type int32")


_LAYOUTS = {typetree.TIME: "2006-01-02T15:04:05Z07:00", typetree.MICRO_TIME: "2006-01-02T15:04:05.000000Z07:00"}
_TIME_PARTS = (
    ("2006", r"\d{4}"),
    ("-", "-"),
    ("01", r"\d\d"),
    ("-", "-"),
    ("02", r"\d\d"),
    ("T", "T"),
    ("15", r"\d\d"),
    (":", ":"),
    ("04", r"\d\d"),
    (":", ":"),
    ("05", r"\d\d(?:\.\d+)?"),
    ("Z07:00", r"(?:Z|[+-]\d\d:\d\d)"),
)


def _time(value: Any, kind: str) -> str:
    """Upstream's one form of a time: UTC, whole seconds or six decimals."""
    if not isinstance(value, str):
        raise _DecodeError(f"json: cannot unmarshal {_describe(value)} into Go value of type string")
    rest = value
    problem = f'parsing time "{value}" as "{_LAYOUTS[kind]}": '
    for part, pattern in _TIME_PARTS:
        found = re.match(pattern, rest, re.ASCII)
        if found is None:
            raise _DecodeError(f'{problem}cannot parse "{rest}" as "{part}"')
        rest = rest[found.end() :]
    if rest:
        raise _DecodeError(f'parsing time "{value}": extra text: "{rest}"')
    try:
        at = datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        raise _DecodeError(f'parsing time "{value}": day out of range') from None
    text = f"{at.year:04}-{at.month:02}-{at.day:02}T{at.hour:02}:{at.minute:02}:{at.second:02}"
    return f"{text}.{at.microsecond:06}Z" if kind == typetree.MICRO_TIME else text + "Z"
