"""Label keys and values: what is allowed, in upstream's words. Annotation keys follow the rule of label keys."""

import re

_NAME = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = rf"({_NAME})?"
_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME_RE = re.compile(_NAME)
_VALUE_RE = re.compile(_VALUE)
_SUBDOMAIN_RE = re.compile(_SUBDOMAIN)

_NAME_RULE = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    f"(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_NAME}')"
)
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    f"'{_VALUE}')"
)
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_NAME_LENGTH_MAX = 63
_SUBDOMAIN_LENGTH_MAX = 253


def key_errors(key: str) -> list[str]:
    """What is wrong with a label key, `name` or `prefix/name`. Empty: nothing."""
    errors = []
    prefix, slash, name = key.rpartition("/")
    if "/" in prefix:
        return [
            f"a qualified name {_NAME_RULE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        ]
    if slash and not prefix:
        errors.append("prefix part must be non-empty")
    elif slash:
        if len(prefix) > _SUBDOMAIN_LENGTH_MAX:
            errors.append(f"prefix part must be no more than {_SUBDOMAIN_LENGTH_MAX} characters")
        if not _SUBDOMAIN_RE.fullmatch(prefix):
            errors.append(f"prefix part {_SUBDOMAIN_RULE}")
    if not name:
        errors.append("name part must be non-empty")
    elif len(name) > _NAME_LENGTH_MAX:
        errors.append(f"name part must be no more than {_NAME_LENGTH_MAX} characters")
    if not _NAME_RE.fullmatch(name):
        errors.append(f"name part {_NAME_RULE}")
    return errors


def value_errors(value: str) -> list[str]:
    """What is wrong with a label value. Empty: nothing."""
    errors = []
    if len(value) > _NAME_LENGTH_MAX:
        errors.append(f"must be no more than {_NAME_LENGTH_MAX} characters")
    if not _VALUE_RE.fullmatch(value):
        errors.append(_VALUE_RULE)
    return errors
