"""What claims ask for, made of their specs and the DeviceClasses that they name.

claim ─┬─ request ── option              exactly: one option; firstAvailable: the first one that can be had
       └─ constraint                     devices whose attribute is equal (matchAttribute), or differs
option    count or all, and the selectors of the class and of the request
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from raykube.api import quantity
from raykube.api.device_selectors import Selector, compile_selector, qualified
from raykube.api.quantity import Number
from raykube.scheduler.core.requirements import Toleration

Object = dict[str, Any]
Key = tuple[str, str]  # namespace, name

RESULTS_MAX = 32  # devices of one claim


NO_CLAIM = -1


class Reason(NamedTuple):
    """Why claims cannot be allocated as they are, in upstream's words.

    Claims that ask for the same share it: which of them it is about is a position, and it is named by who asks.
    """

    text: str
    claim: int = NO_CLAIM  # the text begins behind "claim NAMESPACE/NAME"

    def said(self, names: Sequence[str]) -> str:
        return self.text if self.claim == NO_CLAIM else f"claim {names[self.claim]}{self.text}"


class Unusable(Exception):
    """Claims cannot be allocated as they are."""

    def __init__(self, text: str, claim: int = NO_CLAIM) -> None:
        super().__init__(text)
        self.reason = Reason(text, claim)


class NamedSelector(NamedTuple):
    selector: Selector
    text: str
    whose: str  # what an error of it begins with
    claim: int  # whose error that is


class Option(NamedTuple):
    """One way to fulfil a request."""

    name: str  # "request", or "request/subrequest"
    selectors: tuple[NamedSelector, ...]
    number: int  # of devices; 0: all that match
    admin: bool
    tolerations: tuple[Toleration, ...]
    raw_tolerations: tuple[Object, ...]
    capacity: Mapping[str, Number]  # wanted of a device that is shared
    config: tuple[Object, ...]  # of its class


class Request(NamedTuple):
    name: str
    options: tuple[Option, ...]

    @property
    def count_min(self) -> int:
        return min(option.number for option in self.options)


class Constraint(NamedTuple):
    requests: frozenset[str]  # empty: all
    attribute: tuple[str, str]
    distinct: bool

    def concerns(self, option: Option) -> bool:
        names = self.requests
        return not names or option.name in names or option.name.partition("/")[0] in names


class Wanted(NamedTuple):
    """One claim that is to be allocated."""

    requests: tuple[Request, ...]
    constraints: tuple[Constraint, ...]
    config: tuple[Object, ...]


def missing_class(spec: Object, classes: Mapping[str, Object]) -> str:
    """Of a claim that names a class which is not there: so; "" otherwise."""
    for name, request in _options_of(spec):
        wanted = request.get("deviceClassName", "")
        if wanted not in classes:
            return f"request {name}: device class {wanted} does not exist"
    return ""


def _options_of(spec: Object) -> list[tuple[str, Object]]:
    found = []
    for request in (spec.get("devices") or {}).get("requests") or ():
        if request.get("firstAvailable"):
            found += [(f"{request['name']}/{one['name']}", one) for one in request["firstAvailable"]]
        else:
            found.append((request["name"], request.get("exactly") or {}))
    return found


def wanted_of(claim: int, spec: Object, classes: Mapping[str, Object]) -> Wanted:
    """`claim`: its position among those of its pod. All classes must be there. Raises Unusable."""
    devices = spec.get("devices") or {}
    requests: dict[str, list[Option]] = {}
    for option_name, request in _options_of(spec):
        option = _option(claim, option_name, request, classes[request["deviceClassName"]])
        requests.setdefault(option_name.partition("/")[0], []).append(option)
    made = tuple(Request(each, tuple(options)) for each, options in requests.items())
    least = sum(request.count_min for request in made)
    if least > RESULTS_MAX:
        raise Unusable(f": number of requested devices {least} exceeds the claim limit of {RESULTS_MAX}", claim)
    constraints = tuple(_constraint(claim, number, one) for number, one in enumerate(devices.get("constraints") or ()))
    return Wanted(made, constraints, tuple(devices.get("config") or ()))


def _option(claim: int, name: str, request: Object, device_class: Object) -> Option:
    class_spec = device_class.get("spec") or {}
    selectors = [
        _selector(one, f"class {device_class['metadata']['name']}: selector #{number}", NO_CLAIM)
        for number, one in enumerate(class_spec.get("selectors") or ())
    ]
    selectors += [
        _selector(one, f": selector #{number}", claim) for number, one in enumerate(request.get("selectors") or ())
    ]
    mode = request.get("allocationMode") or "ExactCount"
    if mode not in ("ExactCount", "All"):
        raise Unusable(f", request {name}: unsupported count mode {mode}", claim)
    tolerations = tuple(request.get("tolerations") or ())
    return Option(
        name,
        tuple(selectors),
        0 if mode == "All" else int(request.get("count") or 1),
        bool(request.get("adminAccess")),
        tuple(
            Toleration(t.get("key") or "", t.get("operator") or "Equal", t.get("value") or "", t.get("effect") or "")
            for t in tolerations
        ),
        tolerations,
        {
            each: quantity.parse(amount)
            for each, amount in ((request.get("capacity") or {}).get("requests") or {}).items()
        },
        tuple(class_spec.get("config") or ()),
    )


def _selector(obj: Object, whose: str, claim: int) -> NamedSelector:
    text = (obj.get("cel") or {}).get("expression")
    if text is None:
        raise Unusable(f"{whose}: CEL expression empty (unsupported selector type?)", claim)
    found = compile_selector(text)
    if isinstance(found, str):
        raise Unusable(f"{whose}: CEL compile error: {found}", claim)
    return NamedSelector(found, text, whose, claim)


def _constraint(claim: int, number: int, obj: Object) -> Constraint:
    name = obj.get("matchAttribute") or obj.get("distinctAttribute")
    if not name:
        raise Unusable(f", constraint #{number}: empty constraint (unsupported constraint type?)", claim)
    return Constraint(frozenset(obj.get("requests") or ()), qualified(name, ""), "matchAttribute" not in obj)
