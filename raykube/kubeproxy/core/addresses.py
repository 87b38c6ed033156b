"""Addresses and ports as they may go into rules: what an object says is checked, and written in one way."""

import re
from functools import lru_cache
from ipaddress import ip_address

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")  # ten times as fast as ipaddress


@lru_cache(maxsize=1 << 17)
def canonical(text: object) -> str | None:
    """The address in its usual form, or None when it is none.

    Whatever is not an address must go no further: a rule is a line of text for a program that runs as root.
    """
    if not isinstance(text, str) or "%" in text:
        return None
    if _IPV4.fullmatch(text):
        return text
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def is_v6(address: str) -> bool:
    return ":" in address


def is_port(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number < 65536
