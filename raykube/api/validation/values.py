"""Checks that many kinds share: numbers, choices, ports, int-or-percent."""

from collections.abc import Iterable
from typing import Any

from raykube.api.errors import Cause, invalid_value, not_supported, required
from raykube.api.validation.names import NOT_NEGATIVE, Check, percent, port_name, port_number

Object = dict[str, Any]

PROTOCOLS = ("SCTP", "TCP", "UDP")


def check_not_negative(owner: Object, path: str, *names: str) -> list[Cause]:
    """Each named field of `owner`, where it is set, is at least 0."""
    return [invalid_value(f"{path}.{name}", owner[name], NOT_NEGATIVE) for name in names if (owner.get(name) or 0) < 0]


def check_choice(value: Any, field: str, choices: Iterable[str]) -> list[Cause]:
    """One of `choices`, and it must be there."""
    if not value:
        return [required(field)]
    return check_choice_if_set(value, field, choices)


def check_choice_if_set(value: Any, field: str, choices: Iterable[str]) -> list[Cause]:
    known = list(choices)
    return [not_supported(field, value, known)] if value and value not in known else []


def check_text(value: Any, field: str, check: Check) -> list[Cause]:
    """`check` on a value that may be left out."""
    return [invalid_value(field, value, error) for error in check(value)] if value else []


def check_required_text(value: Any, field: str, check: Check) -> list[Cause]:
    return check_text(value, field, check) if value else [required(field)]


def check_port(value: Any, field: str) -> list[Cause]:
    """A port number or the name of one."""
    errors = port_name(value) if isinstance(value, str) else port_number(value or 0)
    return [invalid_value(field, value, error) for error in errors]


def check_number_or_percent(value: Any, field: str) -> list[Cause]:
    """A count or a percentage, at least 0."""
    if isinstance(value, str):
        return [invalid_value(field, value, error) for error in percent(value)]
    return [invalid_value(field, value, NOT_NEGATIVE)] if isinstance(value, int) and value < 0 else []


def check_at_most_all(value: Any, field: str) -> list[Cause]:
    """Not more than 100 %."""
    if isinstance(value, str) and not percent(value) and int(value[:-1]) > 100:
        return [invalid_value(field, value, "must not be greater than 100%")]
    return []


def is_zero(value: Any) -> bool:
    return value in (None, 0) or (isinstance(value, str) and not percent(value) and int(value[:-1]) == 0)
