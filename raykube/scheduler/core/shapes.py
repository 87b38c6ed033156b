"""Strict decoding of a configuration document: unknown fields and wrong types, told as Go's decoder tells them.

A *shape* is what a field may hold: str, int, float, bool, dict (any object), a list of one shape, or a dict of fields.
"""

from collections.abc import Iterator
from typing import Any

Shape = Any  # type | list[Shape] | dict[str, Shape]

_GO = {str: "string", int: "int32", float: "float64", bool: "bool", dict: "map[string]interface {}"}


def check(document: Any, shape: Shape, root: str) -> None:
    """Raises ValueError with every problem of a document; `root` is the name of its Go type."""
    wrong = next(_wrong_types(document, shape, root), None)
    if wrong is not None:
        raise ValueError(wrong)
    unknown = list(_unknown_fields(document, shape, ""))
    if unknown:
        raise ValueError(f"strict decoding error: {', '.join(unknown)}")


def _wrong_types(value: Any, shape: Shape, path: str) -> Iterator[str]:
    if value is None:
        return
    if isinstance(shape, dict) or shape is dict:
        if not isinstance(value, dict):
            yield _cannot(value, path, "map[string]interface {}" if shape is dict else path.rpartition(".")[2])
        elif isinstance(shape, dict):
            for name, inner in shape.items():
                yield from _wrong_types(value.get(name), inner, f"{path}.{name}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield _cannot(value, path, f"[]{_GO.get(shape[0], 'struct')}" if not isinstance(shape[0], dict) else "[]")
        else:
            for item in value:
                yield from _wrong_types(item, shape[0], path)
    elif isinstance(value, bool) != (shape is bool) or not isinstance(value, shape):
        yield _cannot(value, path, _GO[shape])


def _cannot(value: Any, path: str, wanted: str) -> str:
    kinds = {str: "string", bool: "bool", list: "array", dict: "object"}
    return f"json: cannot unmarshal {kinds.get(type(value), 'number')} into Go struct field {path} of type {wanted}"


def _unknown_fields(value: Any, shape: Shape, path: str) -> Iterator[str]:
    if isinstance(shape, dict) and isinstance(value, dict):
        for name, item in value.items():
            place = f"{path}.{name}" if path else name
            if name in shape:
                yield from _unknown_fields(item, shape[name], place)
            else:
                yield f'unknown field "{place}"'
    elif isinstance(shape, list) and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown_fields(item, shape[0], f"{path}[{index}]")
