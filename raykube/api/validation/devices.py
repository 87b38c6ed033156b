"""DeviceClasses, ResourceClaims and templates of them: requests, selectors, constraints, and what drivers are told."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from raykube.api.cel import EXPRESSION_MAX, TOO_COMPLEX
from raykube.api.device_selectors import compile_selector
from raykube.api.errors import (
    Cause,
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
    too_long,
    too_many,
)
from raykube.api.labels import key_errors, value_errors
from raykube.api.validation.metadata import check_annotations, check_labels
from raykube.api.validation.names import IMMUTABLE, dns_label, dns_subdomain
from raykube.api.validation.values import check_choice, check_choice_if_set, check_required_text, check_text

Object = dict[str, Any]

LIST_MAX = 32  # requests, constraints, configurations, selectors; devices of a claim
ALTERNATIVES_MAX = 8
TOLERATIONS_MAX = 16
RESERVED_MAX = 256
PARAMETERS_BYTES_MAX = 10 * 1024
DRIVER_LENGTH_MAX = 63
POOL_LENGTH_MAX = 253
DOMAIN_LENGTH_MAX, IDENTIFIER_LENGTH_MAX = 63, 32
OPERATORS = ("Equal", "Exists")
EFFECTS = ("NoExecute", "NoSchedule", "None")
NAME_OF_REQUEST = (
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
)
C_IDENTIFIER_RULE = (
    "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters "
    "or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')"
)
_C_IDENTIFIER = re.compile("[A-Za-z_][A-Za-z0-9_]*")


def check_device_class(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes = check_selectors(spec.get("selectors"), "spec.selectors")
    return causes + _check_each(spec.get("config"), "spec.config", LIST_MAX, _check_configuration)


def check_claim(obj: Object) -> list[Cause]:
    return _check_claim_spec(obj.get("spec") or {}, "spec")


def check_template(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    metadata = spec.get("metadata") or {}
    causes = check_labels(metadata.get("labels") or {}, "spec.metadata.labels")
    causes += check_annotations(metadata.get("annotations") or {}, "spec.metadata.annotations")
    return causes + _check_claim_spec(spec.get("spec") or {}, "spec.spec")


def check_spec_update(new: Object, old: Object) -> list[Cause]:
    """Of claims and templates: nothing of their spec may change."""
    spec = new.get("spec")
    return [] if spec == old.get("spec") else [invalid_value("spec", spec, IMMUTABLE)]


def check_claim_status(new: Object, old: Object) -> list[Cause]:
    """Who may use the claim, and which devices it has."""
    status, before = new.get("status") or {}, old.get("status") or {}
    reserved, allocation = status.get("reservedFor") or [], status.get("allocation")
    path = "status.reservedFor"
    causes = _check_set(reserved, path, RESERVED_MAX, _check_consumer, "uid")
    if reserved and allocation is None:
        causes.append(forbidden_field(path, "may not be specified when `allocated` is not set"))
    elif new["metadata"].get("deletionTimestamp") and any(
        one not in (before.get("reservedFor") or []) for one in reserved
    ):
        text = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"
        causes.append(forbidden_field(path, text))
    if allocation is not None and before.get("allocation") is not None:
        if allocation != before["allocation"]:
            causes.append(invalid_value("status.allocation", allocation, IMMUTABLE))
    elif allocation is not None:
        causes += _check_allocation(allocation, _names(new.get("spec") or {}))
    return causes


# -- claims


def _check_claim_spec(spec: Object, path: str) -> list[Cause]:
    devices, path = spec.get("devices") or {}, f"{path}.devices"
    names = _names(spec)
    causes = _check_set(devices.get("requests"), f"{path}.requests", LIST_MAX, _check_request, "name")
    causes += _check_each(
        devices.get("constraints"), f"{path}.constraints", LIST_MAX, lambda one, at: _check_constraint(one, at, names)
    )
    return causes + _check_each(
        devices.get("config"),
        f"{path}.config",
        LIST_MAX,
        lambda one, at: [
            *_check_references(one.get("requests"), f"{at}.requests", names),
            *_check_configuration(one, at),
        ],
    )


def _names(spec: Object) -> set[str]:
    """What requests of a claim can be called: by name, and by name/alternative."""
    found = set()
    for request in (spec.get("devices") or {}).get("requests") or ():
        name = request.get("name") or ""
        found.add(name)
        found |= {f"{name}/{one.get('name') or ''}" for one in request.get("firstAvailable") or ()}
    return found


def _check_request(request: Object, path: str) -> list[Cause]:
    causes = check_required_text(request.get("name"), f"{path}.name", dns_label)
    exactly, alternatives = request.get("exactly"), request.get("firstAvailable")
    if exactly is not None and alternatives:
        text = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"
        causes.append(invalid_value(path, None, text))
    elif exactly is not None:
        causes += _check_option(exactly, f"{path}.exactly")
    elif alternatives:
        causes += _check_set(alternatives, f"{path}.firstAvailable", ALTERNATIVES_MAX, _check_alternative, "name")
    else:
        causes.append(required(path, "exactly one of `exactly` or `firstAvailable` is required"))
    return causes


def _check_alternative(one: Object, path: str) -> list[Cause]:
    return check_required_text(one.get("name"), f"{path}.name", dns_label) + _check_option(one, path)


def _check_option(one: Object, path: str) -> list[Cause]:
    causes = check_required_text(one.get("deviceClassName"), f"{path}.deviceClassName", dns_subdomain)
    causes += check_selectors(one.get("selectors"), f"{path}.selectors")
    mode, count = one.get("allocationMode"), one.get("count") or 0
    if mode == "All":
        if count:
            text = "must not be specified when allocationMode is 'All'"
            causes.append(invalid_value(f"{path}.count", count, text))
    elif mode == "ExactCount":
        if count <= 0:
            causes.append(invalid_value(f"{path}.count", count, "must be greater than zero"))
    else:
        causes.append(not_supported(f"{path}.allocationMode", mode or "", ("All", "ExactCount")))
    return causes + _check_each(one.get("tolerations"), f"{path}.tolerations", TOLERATIONS_MAX, _check_toleration)


def _check_toleration(one: Object, path: str) -> list[Cause]:
    causes = check_text(one.get("key"), f"{path}.key", key_errors)
    causes += check_choice(one.get("operator"), f"{path}.operator", OPERATORS)
    if one.get("operator") == "Exists" and one.get("value"):
        causes.append(invalid_value(f"{path}.value", one["value"], "must be empty for operator `Exists`"))
    elif one.get("operator") == "Equal":
        causes += check_text(one.get("value"), f"{path}.value", value_errors)
    return causes + check_choice_if_set(one.get("effect"), f"{path}.effect", EFFECTS)


def check_selectors(selectors: list[Object] | None, path: str) -> list[Cause]:
    return _check_each(selectors, path, LIST_MAX, _check_selector)


def _check_selector(selector: Object, path: str) -> list[Cause]:
    cel = selector.get("cel")
    if cel is None:
        return [required(f"{path}.cel")]
    text, path = cel.get("expression") or "", f"{path}.cel.expression"
    if len(text) > EXPRESSION_MAX:
        return [too_long(path, EXPRESSION_MAX)]
    found = compile_selector(text)
    if not isinstance(found, str):
        return []
    return [forbidden_field(path, found) if found == TOO_COMPLEX else invalid_value(path, text, found)]


def _check_constraint(one: Object, path: str, names: set[str]) -> list[Cause]:
    causes = _check_references(one.get("requests"), f"{path}.requests", names)
    matched, distinct = one.get("matchAttribute"), one.get("distinctAttribute")
    if (matched is None) == (distinct is None):
        text = 'exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set'
        return [*causes, required(path, text)]
    name = "matchAttribute" if matched is not None else "distinctAttribute"
    return causes + check_qualified(str(one[name]), f"{path}.{name}", domain=True)


def check_qualified(text: str, path: str, *, domain: bool = False) -> list[Cause]:
    """A name of an attribute or a capacity: "identifier", or "domain/identifier". `domain`: it must be there."""
    first, slash, rest = text.partition("/")
    if not text:
        return [required(path)]
    if domain and not slash:
        return [invalid_value(path, text, "must include a domain")]
    causes = []
    if slash:
        causes += check_required_text(first, path, dns_subdomain)
        if len(first) > DOMAIN_LENGTH_MAX:
            causes.append(too_long(path, DOMAIN_LENGTH_MAX))
    identifier = rest if slash else first
    if not identifier:
        causes.append(required(path, "the name must not be empty"))
    elif not _C_IDENTIFIER.fullmatch(identifier):
        causes.append(invalid_value(path, identifier, C_IDENTIFIER_RULE))
    elif len(identifier) > IDENTIFIER_LENGTH_MAX:
        causes.append(too_long(path, IDENTIFIER_LENGTH_MAX))
    return causes


def _check_references(names: list[str] | None, path: str, known: set[str]) -> list[Cause]:
    causes = [] if len(names or ()) <= LIST_MAX else [too_many(path, len(names or ()), LIST_MAX)]
    for index, name in enumerate(names or ()):
        if name in (names or [])[:index]:
            causes.append(duplicate(f"{path}[{index}]", name))
        elif name not in known:
            causes.append(invalid_value(f"{path}[{index}]", name, NAME_OF_REQUEST))
    return causes


def _check_configuration(one: Object, path: str) -> list[Cause]:
    opaque, path = one.get("opaque"), f"{path}.opaque"
    if opaque is None:
        return [required(path)]
    causes = check_driver(opaque.get("driver"), f"{path}.driver")
    parameters, path = opaque.get("parameters"), f"{path}.parameters"
    if parameters is None:
        causes.append(required(path))
    elif not isinstance(parameters, dict):
        causes.append(invalid_value(path, "<value omitted>", "parameters must be a valid JSON object"))
    elif len(orjson.dumps(parameters)) > PARAMETERS_BYTES_MAX:
        causes.append(too_long(path, PARAMETERS_BYTES_MAX))
    return causes


def check_driver(name: Any, path: str) -> list[Cause]:
    causes = check_required_text(name, path, dns_subdomain)
    return causes if len(name or "") <= DRIVER_LENGTH_MAX else [*causes, too_long(path, DRIVER_LENGTH_MAX)]


def check_pool(name: Any, path: str) -> list[Cause]:
    if not name:
        return [required(path)]
    causes = [] if len(name) <= POOL_LENGTH_MAX else [too_long(path, POOL_LENGTH_MAX)]
    return causes + [invalid_value(path, part, error) for part in name.split("/") for error in dns_subdomain(part)]


# -- their status


def _check_consumer(one: Object, path: str) -> list[Cause]:
    return [required(f"{path}.{name}") for name in ("resource", "name", "uid") if not one.get(name)]


def _check_allocation(allocation: Object, names: set[str]) -> list[Cause]:
    devices, path = allocation.get("devices") or {}, "status.allocation.devices"

    def check(one: Object, at: str) -> list[Cause]:
        causes = (
            [] if one.get("request") in names else [invalid_value(f"{at}.request", one.get("request"), NAME_OF_REQUEST)]
        )
        causes += check_driver(one.get("driver"), f"{at}.driver") + check_pool(one.get("pool"), f"{at}.pool")
        return causes + check_required_text(one.get("device"), f"{at}.device", dns_label)

    causes = _check_each(devices.get("results"), f"{path}.results", LIST_MAX, check)
    return causes + _check_each(
        devices.get("config"),
        f"{path}.config",
        2 * LIST_MAX,
        lambda one, at: [
            *check_choice(one.get("source"), f"{at}.source", ("FromClaim", "FromClass")),
            *_check_references(one.get("requests"), f"{at}.requests", names),
            *_check_configuration(one, at),
        ],
    )


# -- lists

CheckOne = Callable[[Object, str], Iterable[Cause]]


def _check_each(items: list[Object] | None, path: str, count_max: int, check: CheckOne) -> list[Cause]:
    causes: list[Cause] = [] if len(items or ()) <= count_max else [too_many(path, len(items or ()), count_max)]
    for index, one in enumerate(items or ()):
        causes += check(one, f"{path}[{index}]")
    return causes


def _check_set(items: list[Object] | None, path: str, count_max: int, check: CheckOne, key: str) -> list[Cause]:
    """As `_check_each`, and no two may have the same `key`."""
    causes = _check_each(items, path, count_max, check)
    seen: set[str] = set()
    for index, one in enumerate(items or ()):
        name = one.get(key) or ""
        if name in seen:
            causes.append(duplicate(f"{path}[{index}].{key}" if key == "name" else f"{path}[{index}]", name))
        seen.add(name)
    return causes
