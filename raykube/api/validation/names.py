"""The syntax of names, keys and ports, in upstream's words. A function returns what is wrong; nothing: empty."""

import ipaddress
import re
from collections.abc import Callable

Check = Callable[[str], list[str]]

LABEL_LENGTH_MAX = 63
SUBDOMAIN_LENGTH_MAX = 253
_PORT_NAME_LENGTH_MAX = 15
PORT_RANGE = "must be between 1 and 65535, inclusive"
NOT_NEGATIVE = "must be greater than or equal to 0"
IMMUTABLE = "field is immutable"

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_CONFIG_KEY = "[-._a-zA-Z0-9]+"
_PERCENT = "[0-9]+%"

_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    f"an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_CONFIG_KEY_RULE = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or "
    f"'key-name', regex used for validation is '{_CONFIG_KEY}')"
)
_PERCENT_RULE = (
    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for "
    f"validation is '{_PERCENT}')"
)
_ENV_RULE = "a valid environment variable name must consist only of printable ASCII characters other than '='"
_ENV_NAME = re.compile("[ -<>-~]+")


def _too_long(length_max: int) -> str:
    return f"must be no more than {length_max} characters"


def _pattern(pattern: str, rule: str, length_max: int) -> Check:
    compiled = re.compile(pattern)

    def found(text: str) -> list[str]:
        errors = [_too_long(length_max)] if len(text) > length_max else []
        if not compiled.fullmatch(text):
            errors.append(rule)
        return errors

    return found


dns_label = _pattern(_LABEL, _LABEL_RULE, LABEL_LENGTH_MAX)
dns_subdomain = _pattern(_SUBDOMAIN, _SUBDOMAIN_RULE, SUBDOMAIN_LENGTH_MAX)
_percent_pattern = re.compile(_PERCENT)
_config_key = _pattern(_CONFIG_KEY, _CONFIG_KEY_RULE, SUBDOMAIN_LENGTH_MAX)


def path_segment(text: str) -> list[str]:
    """A name that may be any one part of a URL's path: RBAC's."""
    if text in (".", ".."):
        return [f"may not be '{text}'"]
    return [f"may not contain '{char}'" for char in "/%" if char in text]


def cron_job_name(text: str) -> list[str]:
    """Its jobs append eleven characters."""
    return [_too_long(52)] if len(text) > 52 else dns_subdomain(text)


def ip_name(text: str) -> list[str]:
    return [] if is_ip(text) else ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]


def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def config_key(text: str) -> list[str]:
    """A key of a ConfigMap or Secret: it may become a file's name."""
    errors = _config_key(text)
    if text in (".", ".."):
        errors.append(f"must not be '{text}'")
    elif text.startswith(".."):
        errors.append("must not start with '..'")
    return errors


def env_name(text: str) -> list[str]:
    return [] if _ENV_NAME.fullmatch(text) else [_ENV_RULE]


def percent(text: str) -> list[str]:
    return [] if _percent_pattern.fullmatch(text) else [_PERCENT_RULE]


def port_name(text: str) -> list[str]:
    errors = []
    if len(text) > _PORT_NAME_LENGTH_MAX:
        errors.append(_too_long(_PORT_NAME_LENGTH_MAX))
    if not re.fullmatch("[-a-z0-9]+", text):
        errors.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", text):
        errors.append("must contain at least one letter (a-z)")
    if "--" in text:
        errors.append("must not contain consecutive hyphens")
    if text.startswith("-") or text.endswith("-"):
        errors.append("must not begin or end with a hyphen")
    return errors


def port_number(number: int) -> list[str]:
    return [] if 1 <= number <= 65535 else [PORT_RANGE]
