"""Kubernetes' protobuf bodies → objects, by a table of fields and no protobuf library.

    6b 38 73 00 | Unknown{1: TypeMeta{1: apiVersion, 2: kind}, 2: raw, …}

Rules of the translation to JSON:
- Go writes every plain scalar, even zero: the zero of a pointer field counts, of any other it means absent.
- An inlined struct (`volumeSource`) is a message of its own on the wire and flat in JSON: its name in the table is "".
- Unknown field numbers come from newer clients and are skipped, as upstream does.
- Whatever the bytes are, the answer is an object or ApiError 400.
"""

import base64
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import orjson

from raykube.api.errors import ApiError
from raykube.api.typetree import protobuf_table

Object = dict[str, Any]
Wire = int | bytes

MAGIC = b"k8s\x00"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIGN = 1 << 63
_NUMBERS = frozenset(("int32", "int64", "int", "uint32", "uint64", "byte"))
_MAP_ALIAS = "map["
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


class _Malformed(Exception):
    pass


@dataclass(frozen=True)
class _Field:
    name: str
    type: str
    count: str  # one, list, map
    pointer: bool


def decode_protobuf(body: bytes) -> Object:
    """The object of a request body, with its kind and apiVersion. Raises ApiError 400."""
    try:
        return _unknown(body)
    except _Malformed as error:
        raise ApiError.bad_request(f"provided data does not appear to be a protobuf message: {error}") from None
    except RecursionError:
        raise ApiError.bad_request("provided data does not appear to be a protobuf message: nested too deep") from None


def _unknown(body: bytes) -> Object:
    if body[:4] != MAGIC:
        raise _Malformed("expected prefix [107 56 115 0]")
    parts = dict(_fields(body[4:]))
    names = dict(_fields(_bytes(parts.get(1, b""))))
    api_version, kind = _text(names.get(1, b"")), _text(names.get(2, b""))
    message = message_name(api_version, kind)
    if not message:
        raise _Malformed(f'no kind "{kind}" is registered for version "{api_version}"')
    return {"apiVersion": api_version, "kind": kind, **_message(message, _bytes(parts.get(2, b"")))}


def message_name(api_version: str, kind: str) -> str:
    """`apps/v1`, `Deployment` → its name in the table, "" if there is none."""
    group, _, version = api_version.rpartition("/")
    own = f"{group.partition('.')[0] or 'core'}/{version}.{kind}"
    # Options and Status come under the group they act on.
    return next((name for name in (own, f"meta/v1.{kind}") if isinstance(protobuf_table().get(name), dict)), "")


# -- the wire


def _fields(data: bytes) -> Iterator[tuple[int, Wire]]:
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise _Malformed("illegal tag 0")
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire == _FIXED64:
            size = 8
        elif wire == _FIXED32:
            size = 4
        else:
            raise _Malformed(f"illegal wireType {wire}")
        if size > end - at:
            raise _Malformed("unexpected EOF")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise _Malformed("unexpected EOF")
        if shift >= 70:
            raise _Malformed("integer overflow")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (_SIGN * 2 - 1), at
        shift += 7


def _bytes(value: Wire) -> bytes:
    if isinstance(value, bytes):
        return value
    raise _Malformed("wrong wireType: bytes expected")


def _number(value: Wire) -> int:
    if isinstance(value, int):
        return value - 2 * _SIGN if value & _SIGN else value
    raise _Malformed("wrong wireType: a number expected")


def _text(value: Wire) -> str:
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError:
        raise _Malformed("string field contains invalid UTF-8") from None


# -- messages


@cache
def _plan(message: str) -> dict[int, _Field]:
    rows = protobuf_table().get(message)
    if not isinstance(rows, dict):
        return {}
    return {int(number): _Field(row[0], row[1], row[2], bool(row[3])) for number, row in rows.items()}


def _alias(type_: str) -> str:
    """What an alias stands for, "" if `type_` is none."""
    entry = protobuf_table().get(type_)
    return entry[1:] if isinstance(entry, str) else ""


def _message(name: str, data: bytes) -> Object:
    plan = _plan(name)
    obj: Object = {}
    for number, wire in _fields(data):
        field = plan.get(number)
        if field is None:
            continue
        alias = _alias(field.type)
        if field.count == "map" or alias.startswith(_MAP_ALIAS):
            value_type = field.type if field.count == "map" else alias.partition("]")[2]
            entry = dict(_fields(_bytes(wire)))
            key = _text(entry.get(_ENTRY_KEY, b""))
            obj.setdefault(field.name, {})[key] = _value(value_type, entry.get(_ENTRY_VALUE))
        elif field.count == "list":
            items = obj.setdefault(field.name, [])
            if isinstance(wire, bytes) and (field.type in _NUMBERS or field.type == "bool"):
                items.extend(_packed(field.type, wire))
            else:
                items.append(_value(field.type, wire))
        else:
            value = _value(field.type, wire)
            if field.name == "":
                obj.update(value or {})
            elif value is not None and (field.pointer or _significant(value)):
                obj[field.name] = value
    return obj


def _significant(value: Any) -> bool:
    return isinstance(value, list) or bool(value)


def _packed(type_: str, data: bytes) -> Iterator[Any]:
    at = 0
    while at < len(data):
        number, at = _varint(data, at)
        yield _value(type_, number)


def _value(type_: str, wire: Wire | None) -> Any:
    """A value of `type_`; None for a time that is not set. `wire` is None where a map entry left its value out."""
    special = _SPECIAL.get(type_)
    if special is not None:
        return special(b"" if wire is None else _bytes(wire))
    alias = _alias(type_)
    if alias == "[]string":
        return [_text(each) for _, each in _fields(_bytes(wire or b""))]
    scalar = alias or type_
    if scalar in _NUMBERS:
        return _number(wire or 0)
    if scalar == "bool":
        return bool(_number(wire or 0))
    if scalar == "float64":
        return _double(_bytes(wire or bytes(8)))
    if isinstance(protobuf_table().get(type_), dict) or type_ in _EMPTY:
        return _message(type_, _bytes(wire or b""))
    return _text(wire or b"")


def _double(data: bytes) -> float:
    if len(data) != 8:
        raise _Malformed("wrong wireType: a double expected")
    number: float = struct.unpack("<d", data)[0]
    return number


def _time(data: bytes) -> str | None:
    parts = dict(_fields(data))
    seconds = _number(parts.get(1, 0))
    return _instant(seconds, 0).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds or parts.get(2) else None


def _micro_time(data: bytes) -> str | None:
    parts = dict(_fields(data))
    seconds, nanos = _number(parts.get(1, 0)), _number(parts.get(2, 0))
    return _instant(seconds, nanos // 1000).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if seconds or nanos else None


def _instant(seconds: int, micros: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)
    except (ValueError, OverflowError, OSError):
        raise _Malformed(f"time {seconds} out of range") from None


def _quantity(data: bytes) -> str:
    return _text(dict(_fields(data)).get(1, b"0"))


def _int_or_string(data: bytes) -> int | str:
    parts = dict(_fields(data))
    return _text(parts.get(3, b"")) if _number(parts.get(1, 0)) == 1 else _number(parts.get(2, 0))


def _raw_object(data: bytes) -> Any:
    raw = _bytes(dict(_fields(data)).get(1, b""))
    if not raw:
        return None
    if raw[:4] == MAGIC:
        return _unknown(raw)
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise _Malformed("embedded object is not JSON") from None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


_SPECIAL = {
    "[]byte": _base64,
    "meta/v1.Time": _time,
    "meta/v1.MicroTime": _micro_time,
    "resource.Quantity": _quantity,
    "intstr.IntOrString": _int_or_string,
    "runtime.RawExtension": _raw_object,
    "meta/v1.FieldsV1": _raw_object,
}
# Messages that the table leaves out because they have no fields.
_EMPTY = frozenset(
    (
        "scheduling/v1alpha2.BasicSchedulingPolicy",
        "apiserverinternal/v1alpha1.StorageVersionSpec",
    )
)
