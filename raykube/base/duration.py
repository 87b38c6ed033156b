"""Go's durations: `1m30s` in flags and manifests, seconds as a float inside raykube.

Rules:
- A text is what Go's `time.ParseDuration` takes: signed decimal numbers, each with a unit (`1h2.5m`), or `0`.
- `format_duration` writes what Go's `Duration.String` writes, so that both round-trip to the nanosecond
  (for durations a float can hold to the nanosecond: about 100 days).
- `Duration` is the annotation of a configuration field: it accepts a text or a number of seconds."""

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_NS_PER_S = 1_000_000_000
_NS_MAX = 2**63 - 1


def parse_duration(text: str) -> float:
    """Seconds of a Go duration. `1m30s` → 90.0. Raises ValueError with Go's wording."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    total_ns = Decimal(0)
    at = 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None:
            raise ValueError(_complaint(text, rest, at))
        total_ns += Decimal(part.group(1)) * _UNITS_NS[part.group(2)]
        at = part.end()
    if not rest or total_ns > _NS_MAX:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * float(int(total_ns)) / _NS_PER_S


def _complaint(text: str, rest: str, at: int) -> str:
    """What Go says about the part of `rest` that starts at `at` and has no known unit."""
    number = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+").match(rest, at)
    if number is None:
        return f'time: invalid duration "{text}"'
    unit = re.compile(r"[^0-9.]*").match(rest, number.end())
    if unit is None or not unit.group():
        return f'time: missing unit in duration "{text}"'
    return f'time: unknown unit "{unit.group()}" in duration "{text}"'


def format_duration(seconds: float) -> str:
    """Go's text of a duration. 90.0 → `1m30s`, 300 → `5m0s`, 0.1 → `100ms`, 0 → `0s`."""
    total_ns = round(seconds * _NS_PER_S)
    if total_ns == 0:
        return "0s"
    sign, total_ns = ("-", -total_ns) if total_ns < 0 else ("", total_ns)
    for unit, size in (("ns", 1), ("\u00b5s", 1_000), ("ms", 1_000_000)):
        if total_ns < size * 1000 and total_ns < _NS_PER_S:
            return f"{sign}{_decimal(total_ns, size)}{unit}"
    minutes, rest_ns = divmod(total_ns, 60 * _NS_PER_S)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest_ns, _NS_PER_S)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else sign + text


def _decimal(total_ns: int, size: int) -> str:
    """`total_ns / size` without trailing zeros."""
    whole, fraction = divmod(total_ns, size)
    digits = f"{fraction:0{len(str(size)) - 1}d}".rstrip("0") if size > 1 else ""
    return f"{whole}.{digits}" if digits else str(whole)


def _seconds(value: object) -> object:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return parse_duration(value)
    return value


Duration = Annotated[float, BeforeValidator(_seconds)]
"""A field of seconds that also accepts Go durations: 40, "40", "40s", "5m0s"."""
