"""Quantities: `100m` cpu, `1.5Gi` memory, exactly.

A quantity is a number and a suffix: decimal (`n u m k M G T P E`), binary (`Ki Mi Gi Ti Pi Ei`) or an exponent (`e3`).
Rules, all upstream's:
- Nothing is finer than 10^-9: finer values are rounded away from zero. Nothing is larger than 2^63-1:
  larger values are cut.
- The canonical text has no fraction, keeps the style of suffix it was written in, and the largest suffix that
  needs no fraction: `0.5` → `500m`, `1024Mi` → `1Gi`, `1.5Gi` → `1536Mi`.
- `value` and `milli` round up: who asks for half a byte gets one.

The functions are cached: a cluster has few distinct quantities and reads each of them thousands of times."""

import re
from fractions import Fraction
from functools import lru_cache

Number = int | Fraction

DECIMAL = "DecimalSI"
BINARY = "BinarySI"
EXPONENT = "DecimalExponent"

_SHAPE = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(.*)", re.DOTALL)
_EXPONENT = re.compile(r"[eE]([+-]?[0-9]+)")
_DECIMAL_POWERS = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_DECIMAL_SUFFIXES = {power: suffix for suffix, power in _DECIMAL_POWERS.items()}
_BINARY_POWERS = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_BINARY_SUFFIXES = {power: suffix for suffix, power in _BINARY_POWERS.items()}
_MAX = 2**63 - 1
_NANO = 10**9

FORMAT_ERROR = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
SUFFIX_ERROR = "unable to parse quantity's suffix"
EMPTY_ERROR = "empty string for quantity"


@lru_cache(maxsize=16384)
def _parsed(text: str) -> tuple[Number, str]:
    """The value and the style of `text`."""
    if not text:
        raise ValueError(EMPTY_ERROR)
    shape = _SHAPE.fullmatch(text)
    if shape is None or not (shape[2] or shape[3]):
        raise ValueError(FORMAT_ERROR)
    sign, whole, fraction, suffix = shape[1], shape[2], shape[3] or "", shape[4]
    digits = int(f"{sign}{whole}{fraction}")
    exponent = -len(fraction)
    style = DECIMAL
    factor = 1
    if suffix in _DECIMAL_POWERS:
        exponent += _DECIMAL_POWERS[suffix]
    elif suffix in _BINARY_POWERS:
        style = BINARY
        factor = 1024 ** _BINARY_POWERS[suffix]
    elif power := _EXPONENT.fullmatch(suffix):
        style = EXPONENT
        # Beyond these the answer is already the smallest or the largest value: no number gets a million digits.
        exponent += max(-(len(text) + 30), min(int(power[1]), 40))
    else:
        raise ValueError(SUFFIX_ERROR if re.fullmatch(r"[eEinumkKMGTP]*[-+]?[0-9]*", suffix) else FORMAT_ERROR)
    number = Fraction(digits * factor) * Fraction(10) ** exponent
    nanos = _away_from_zero(number * _NANO)
    exact = Fraction(max(-_MAX * _NANO, min(nanos, _MAX * _NANO)), _NANO)
    return (exact.numerator if exact.denominator == 1 else exact), style


def _away_from_zero(number: Fraction) -> int:
    return -((-number.numerator) // number.denominator) if number > 0 else number.numerator // number.denominator


def parse(quantity: str | int | float) -> Number:
    """The exact value. `100m` → 1/10. JSON numbers count as their text. Raises ValueError with upstream's wording."""
    if isinstance(quantity, str):
        return _parsed(quantity)[0]
    if isinstance(quantity, bool) or not isinstance(quantity, (int, float)):
        raise ValueError(FORMAT_ERROR)
    return _parsed(repr(quantity))[0]


@lru_cache(maxsize=16384)
def value(quantity: str | int | float) -> int:
    """Whole units, rounded up. `1.5Gi` → 1610612736, `100m` → 1."""
    number = parse(quantity)
    return -(-number.numerator // number.denominator)


@lru_cache(maxsize=16384)
def milli(quantity: str | int | float) -> int:
    """Thousandths, rounded up. `100m` → 100, `2` → 2000."""
    number = parse(quantity) * 1000
    return -(-number.numerator // number.denominator)


def style_of(quantity: str | int | float) -> str:
    """`DecimalSI`, `BinarySI` or `DecimalExponent`: how `quantity` is written."""
    return _parsed(quantity if isinstance(quantity, str) else repr(quantity))[1]


@lru_cache(maxsize=16384)
def canonical(quantity: str | int | float) -> str:
    """The one text of this quantity that upstream stores. `0.5` → `500m`, `1024Mi` → `1Gi`."""
    return format_quantity(parse(quantity), style_of(quantity))


def format_quantity(number: Number, style: str = DECIMAL) -> str:
    """Writes a value with suffixes of `style`. 1073741824 as BinarySI → `1Gi`, Fraction(1, 10) → `100m`."""
    if number == 0:
        return "0"
    if style == BINARY and (-1024 < number < 1024 or number.denominator != 1):
        style = DECIMAL  # small and fractional values stay exact
    if style == BINARY:
        mantissa, power = int(number), 0
        while mantissa % 1024 == 0 and power < 6:
            mantissa //= 1024
            power += 1
        return f"{mantissa}{_BINARY_SUFFIXES.get(power, '')}"
    mantissa = _away_from_zero(Fraction(number) * _NANO)
    exponent = -9
    while mantissa % 1000 == 0 and exponent < 18:
        mantissa //= 1000
        exponent += 3
    if style == EXPONENT:
        return f"{mantissa}e{exponent}" if exponent else str(mantissa)
    return f"{mantissa}{_DECIMAL_SUFFIXES[exponent]}"


def add(first: str | int | float, second: str | int | float) -> str:
    """The sum, in the style of the first (of the second if the first is zero)."""
    style = style_of(second) if parse(first) == 0 else style_of(first)
    return format_quantity(parse(first) + parse(second), style)
