"""Quantities and semantic versions in CEL, as Kubernetes' environment has them.

An expression sees them as maps of one entry, whose text is the same for equal values, so that `==` holds:

    quantity("0.5")      {"quantity": "500m"}        isGreaterThan, compareTo, add, sub, sign, asInteger, …
    semver("1.2.3")      {"semver": "1.2.3"}         isGreaterThan, compareTo, major, minor, patch
"""

import re
from collections.abc import Mapping
from typing import Any

from raykube.api import quantity
from raykube.api.quantity import Number

Value = dict[str, str]

_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?"
)
_LOOSE = re.compile(r"v?0*(\d+)(?:\.0*(\d+))?(?:\.0*(\d+))?([-+].*)?")
Precedence = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]


def quantity_of(text: str) -> Value:
    """Raises ValueError."""
    return {"quantity": quantity.format_quantity(quantity.parse(text))}


def semver_of(text: str) -> Value:
    """Raises ValueError."""
    if not is_semver(text):
        raise ValueError(f"{text!r} is no semantic version")
    return {"semver": text}


def is_semver(text: str) -> bool:
    return _SEMVER.fullmatch(text) is not None


def _is_quantity(text: str) -> bool:
    try:
        quantity.parse(text)
    except ValueError:
        return False
    return True


def _loosely(text: str, normalize: bool = False) -> str:
    """With normalize: without a "v", with all three numbers, and without leading zeros."""
    found = _LOOSE.fullmatch(text) if normalize else None
    if found is None:
        return text
    return ".".join(found[part] or "0" for part in (1, 2, 3)) + (found[4] or "")


def precedence(version: str) -> Precedence:
    """What semantic versions are ordered by (semver.org, 11); build metadata is no part of it."""
    found = _SEMVER.fullmatch(version)
    if found is None:
        raise ValueError(f"{version!r} is no semantic version")
    parts = tuple(
        (False, int(part), "") if part.isdigit() else (True, 0, part) for part in (found[4] or "").split(".") if part
    )
    return int(found[1]), int(found[2]), int(found[3]), not parts, parts


def _number(value: Any) -> Number:
    if isinstance(value, dict) and "quantity" in value:
        return quantity.parse(value["quantity"])
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError("no such overload")


def _order(first: Any, second: Any) -> int:
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        if "semver" in first:
            one, other = precedence(first["semver"]), precedence(second["semver"])
            return (one > other) - (one < other)
        number, against = _number(first), _number(second)
        return (number > against) - (number < against)
    raise TypeError("no such overload")


def _result(number: Number) -> Value:
    return {"quantity": quantity.format_quantity(number)}


def _as_integer(value: Any) -> int:
    number = _number(value)
    if number.denominator != 1:
        raise ValueError("cannot convert value to integer")
    return int(number)


def _sign(value: Any) -> int:
    number = _number(value)
    return (number > 0) - (number < 0)


def _part(index: int) -> Any:
    return lambda value: precedence(value["semver"])[index]


FUNCTIONS: Mapping[str, Any] = {
    "quantity": quantity_of,
    "isQuantity": _is_quantity,
    "semver": lambda text, normalize=False: semver_of(_loosely(text, normalize)),
    "isSemver": lambda text, normalize=False: is_semver(_loosely(text, normalize)),
    "compareTo": _order,
    "isGreaterThan": lambda first, second: _order(first, second) > 0,
    "isLessThan": lambda first, second: _order(first, second) < 0,
    "add": lambda first, second: _result(_number(first) + _number(second)),
    "sub": lambda first, second: _result(_number(first) - _number(second)),
    "sign": _sign,
    "asInteger": _as_integer,
    "isInteger": lambda value: _number(value).denominator == 1,
    "asApproximateFloat": lambda value: float(_number(value)),
    "major": _part(0),
    "minor": _part(1),
    "patch": _part(2),
}
