"""Quantities: exact values, the canonical text, rounding, refusals."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api import quantity


@pytest.mark.parametrize(
    ("text", "canonical", "number"),
    [
        ("0", "0", 0),
        ("-0", "0", 0),
        ("0.5", "500m", Fraction(1, 2)),
        ("100m", "100m", Fraction(1, 10)),
        ("1000m", "1", 1),
        ("1024Mi", "1Gi", 2**30),
        ("1.5Gi", "1536Mi", 3 * 2**29),
        ("0.5Ki", "512", 512),
        ("1023Ki", "1023Ki", 1023 * 1024),
        ("0.1Mi", "104857600m", Fraction(1048576, 10)),
        ("1e3", "1e3", 1000),
        ("12E6", "12e6", 12_000_000),
        ("1E", "1E", 10**18),
        ("12000000", "12M", 12_000_000),
        ("1.1u", "1100n", Fraction(11, 10_000_000)),
        ("0.1n", "1n", Fraction(1, 10**9)),
        ("1e100", "9223372036854775807", 2**63 - 1),
        ("1e-1000000000", "1e-9", Fraction(1, 10**9)),
        ("5.", "5", 5),
        (".5", "500m", Fraction(1, 2)),
        (2, "2", 2),
        (1.5, "1500m", Fraction(3, 2)),
    ],
)
def test_value_and_canonical_text(text: str | float, canonical: str, number: Fraction) -> None:
    assert quantity.parse(text) == number
    assert quantity.canonical(text) == canonical


@pytest.mark.parametrize(
    ("text", "whole", "thousandths"),
    [("100m", 1, 100), ("1.5Gi", 1610612736, 1610612736000), ("1u", 1, 1), ("2", 2, 2000), ("1100n", 1, 1)],
)
def test_rounding_is_upwards(text: str, whole: int, thousandths: int) -> None:
    assert quantity.value(text) == whole
    assert quantity.milli(text) == thousandths


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", quantity.EMPTY_ERROR),
        ("x", quantity.FORMAT_ERROR),
        ("1 Gi", quantity.FORMAT_ERROR),
        ("--1", quantity.FORMAT_ERROR),
        (".", quantity.FORMAT_ERROR),
        ("1kk", quantity.SUFFIX_ERROR),
        ("1e", quantity.SUFFIX_ERROR),
        ("1mi", quantity.SUFFIX_ERROR),
    ],
)
def test_refusals(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match="quantit") as raised:
        quantity.parse(text)
    assert str(raised.value) == complaint


def test_true_is_no_quantity() -> None:
    with pytest.raises(ValueError, match="regular expression"):
        quantity.parse(True)


STYLES = st.sampled_from([quantity.DECIMAL, quantity.BINARY, quantity.EXPONENT])


@given(st.integers(-(10**27), 10**27), STYLES)
def test_canonical_text_keeps_the_value_and_is_a_fixed_point(nanos: int, style: str) -> None:
    number = Fraction(nanos, 10**9)
    text = quantity.format_quantity(number, style)
    assert quantity.parse(text) == number
    assert quantity.canonical(text) == text
    assert "." not in text


def test_sum_keeps_the_style() -> None:
    assert quantity.add("1Gi", "512Mi") == "1536Mi"
    assert quantity.add("0", "512Mi") == "512Mi"
    assert quantity.add("500m", "0.5") == "1"
