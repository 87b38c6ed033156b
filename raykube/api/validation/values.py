"""Checks that many kinds share: numbers, choices, ports, int-or-percent."""

import re
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from raykube.api.errors import Cause, invalid_value, not_supported, required
from raykube.api.validation.names import NOT_NEGATIVE, Check, percent, port_name, port_number

Object = dict[str, Any]

PROTOCOLS = ("SCTP", "TCP", "UDP")
IP_RULE = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
CIDR_RULE = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
_LEADING_ZEROS = re.compile(r"\b0+(?=[0-9])")


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


def check_ip(value: str, field: str) -> list[Cause]:
    """An IP address, written so that every program reads the same one."""
    problem = _ip_problem(value)
    return [invalid_value(field, value, problem)] if problem else []


def _ip_problem(text: str) -> str:
    try:
        address = ip_address("" if "%" in text else text)
    except ValueError:
        # Some read octal numbers, some decimal ones.
        without = _LEADING_ZEROS.sub("", text)
        return (
            "must not have leading 0s" if ":" not in text and without != text and not _ip_problem(without) else IP_RULE
        )
    mapped = isinstance(address, IPv6Address) and address.ipv4_mapped is not None
    return "must not be an IPv4-mapped IPv6 address" if mapped else ""


def check_cidr(value: str, field: str) -> list[Cause]:
    """A network: nothing is set beyond the length of its prefix."""
    problem = _cidr_problem(value)
    return [invalid_value(field, value, problem)] if problem else []


def _cidr_problem(text: str) -> str:
    address, slash, length = text.partition("/")
    problem = _ip_problem(address)
    leading = problem == "must not have leading 0s" or (length.isdigit() and length != str(int(length)))
    bits_max = 128 if ":" in address else 32
    if not slash or not (length.isascii() and length.isdigit()) or int(length) > bits_max or problem == IP_RULE:
        return CIDR_RULE
    if leading:
        return "must not have leading 0s in IP or prefix length"
    if problem:
        return "must not have an IPv4-mapped IPv6 address"
    network = ip_network(text, strict=False)
    return "" if network.network_address == ip_address(address) else "must not have bits set beyond the prefix length"


def is_zero(value: Any) -> bool:
    return value in (None, 0) or (isinstance(value, str) and not percent(value) and int(value[:-1]) == 0)
