"""Go's durations: texts, complaints, the configuration field."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from raykube.base.duration import Duration, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds", "canonical"),
    [
        ("0", 0.0, "0s"),
        ("1m30s", 90.0, "1m30s"),
        ("90s", 90.0, "1m30s"),
        ("300s", 300.0, "5m0s"),
        ("1h", 3600.0, "1h0m0s"),
        ("100ms", 0.1, "100ms"),
        ("1.5s", 1.5, "1.5s"),
        ("1us", 1e-6, "1µs"),
        ("1500µs", 0.0015, "1.5ms"),
        ("-1.5h", -5400.0, "-1h30m0s"),
        ("+.5m", 30.0, "30s"),
        ("3ns", 3e-9, "3ns"),
    ],
)
def test_texts(text: str, seconds: float, canonical: str) -> None:
    assert parse_duration(text) == seconds
    assert format_duration(seconds) == canonical


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", 'time: invalid duration ""'),
        ("x", 'time: invalid duration "x"'),
        ("5", 'time: missing unit in duration "5"'),
        ("3d", 'time: unknown unit "d" in duration "3d"'),
        ("1s ", 'time: invalid duration "1s "'),
        ("9999999h", 'time: invalid duration "9999999h"'),
    ],
)
def test_complaints_are_go_s(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=r"^time: ") as raised:
        parse_duration(text)
    assert str(raised.value) == complaint


@given(st.integers(-(10**15), 10**15))
def test_what_is_written_is_read_back(nanoseconds: int) -> None:
    seconds = nanoseconds / 1e9
    assert round(parse_duration(format_duration(seconds)) * 1e9) == nanoseconds


class Flags(BaseModel):
    period: Duration = 40.0


@pytest.mark.parametrize("given_value", [300, 300.0, "300", "5m", "5m0s"])
def test_field_takes_texts_and_numbers(given_value: object) -> None:
    assert Flags.model_validate({"period": given_value}).period == 300.0


def test_field_refuses_nonsense() -> None:
    with pytest.raises(ValidationError, match="unknown unit"):
        Flags.model_validate({"period": "5days"})
