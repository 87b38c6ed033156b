"""Selectors of devices (DeviceClass, requests of a ResourceClaim): CEL over one device.

    device.driver                                    the driver's name
    device.attributes["dra.example.com"].model       a string, int, bool or semantic version
    device.capacity["dra.example.com"].memory        a quantity

Names without a domain are in the driver's own. A domain that a device has nothing of is an empty map, so that `has()`
answers false; looking into it without `has()` is an error, as upstream. To that end `device.attributes["…"]` is made a
variable of its own, which also spares handing over what an expression does not look at.
"""

import re
from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from raykube.api.cel import EXPRESSION_MAX, CelError, Expression, Token, tokens_of
from raykube.api.cel_values import FUNCTIONS, quantity_of, semver_of

Object = dict[str, Any]
Domains = Mapping[str, Mapping[str, Any]]

SAID_MAX = 4096
DRIVER = "__driver"  # the variable of device.driver
_LITERAL = re.compile(r"""(["'])([A-Za-z0-9./_-]*)\1""")


class Facts:
    """A device as selectors see it."""

    def __init__(self, driver: str, device: Object) -> None:
        """Raises ValueError for values that the API does not let through."""
        self.driver = driver
        self.attributes = _by_domain(driver, {k: _value(v) for k, v in (device.get("attributes") or {}).items()})
        capacity = {k: quantity_of(v["value"]) for k, v in (device.get("capacity") or {}).items()}
        self.capacity = _by_domain(driver, capacity)


def qualified(name: str, driver: str) -> tuple[str, str]:
    """Domain and identifier of an attribute's or a capacity's name."""
    domain, slash, identifier = name.partition("/")
    return (domain, identifier) if slash else (driver, name)


def _by_domain(driver: str, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        domain, identifier = qualified(name, driver)
        found.setdefault(domain, {})[identifier] = value
    return found


def _value(attribute: Object) -> Any:
    for kind in ("int", "bool", "string"):
        if attribute.get(kind) is not None:
            return attribute[kind]
    if attribute.get("version") is not None:
        return semver_of(attribute["version"])
    raise ValueError("unsupported attribute value")


class Selector:
    """A compiled selector. What it said is remembered by what it looks at: most devices are like others in that."""

    def __init__(self, expression: str) -> None:
        """Raises CelError."""
        if len(expression) > EXPRESSION_MAX:
            raise CelError("too long")
        self._domains: dict[str, tuple[str, str]] = {}  # variable → map and domain
        tokens = list(self._with_variables(tokens_of(expression)))
        source = " ".join(one.text for one in tokens)
        self._expression = Expression(source if tokens != tokens_of(expression) else expression, FUNCTIONS)
        self._whole = "device" in self._expression.variables
        self._names = None if self._whole else self._looked_at(tokens)
        self._said: dict[Hashable, bool | str] = {}
        self._check()

    def _with_variables(self, tokens: list[Token]) -> Iterator[Token]:
        position = 0
        while position < len(tokens):
            texts = [one.text for one in tokens[position : position + 6]]
            if len(texts) == 6 and texts[:2] == ["device", "."] and (texts[3], texts[5]) == ("[", "]"):
                literal = _LITERAL.fullmatch(texts[4])
                if texts[2] in ("attributes", "capacity") and literal is not None:
                    yield Token("name", self._variable(texts[2], literal[2]))
                    position += 6
                    continue
            if texts[:3] == ["device", ".", "driver"]:
                yield Token("name", DRIVER)
                position += 3
                continue
            yield tokens[position]
            position += 1

    def _looked_at(self, tokens: list[Token]) -> dict[str, list[str]] | None:
        """Which names of each variable it looks at; None: it may look at all."""
        found: dict[str, list[str]] = {variable: [] for variable in self._domains}
        for number, one in enumerate(tokens):
            if one.text in found:
                follow = [*(each.text for each in tokens[number + 1 : number + 4]), "", "", ""]
                if follow[0] != "." or follow[2] == "(":
                    return None
                found[one.text].append(follow[1])
        return found

    def _variable(self, kind: str, domain: str) -> str:
        for name, known in self._domains.items():
            if known == (kind, domain):
                return name
        name = f"__{kind}{len(self._domains)}"
        self._domains[name] = kind, domain
        return name

    def _check(self) -> None:
        """What is certain to fail on any device is an error of the selector."""
        try:
            found = self._expression.evaluate(self._given("", {}, {}))
        except CelError as error:
            if str(error).startswith("Undefined variable or function: "):
                name = str(error).split("'")[1]
                text = f"compilation failed: undeclared reference to '{name}' (in container '')"
                raise CelError(text) from None
            return
        if not isinstance(found, bool):
            raise CelError(f"must evaluate to bool or the unknown type, not {_type(found)}")

    def _given(self, driver: str, attributes: Domains, capacity: Domains) -> dict[str, Any]:
        maps = {"attributes": attributes, "capacity": capacity}
        given: dict[str, Any] = {name: maps[kind].get(domain, {}) for name, (kind, domain) in self._domains.items()}
        if self._whole:
            given["device"] = {"driver": driver, **maps}
        return given | {DRIVER: driver}

    def matches(self, device: Facts) -> bool:
        """Raises CelError where the expression fails on the device."""
        given = self._given(device.driver, device.attributes, device.capacity)
        if self._names is None:
            return self._evaluate(given)
        looked_at = {
            variable: {name: given[variable][name] for name in names if name in given[variable]}
            for variable, names in self._names.items()
        }
        key = device.driver, *((variable, *map(_key, values.items())) for variable, values in looked_at.items())
        said = self._said.get(key)
        if said is None:
            try:
                said = self._evaluate(looked_at | {DRIVER: device.driver})
            except CelError as error:
                said = str(error)
            if len(self._said) >= SAID_MAX:
                self._said.clear()
            self._said[key] = said
        if isinstance(said, str):
            raise CelError(said)
        return said

    def _evaluate(self, given: Mapping[str, Any]) -> bool:
        found = self._expression.evaluate(given)
        if not isinstance(found, bool):
            raise CelError(f"CEL result of type {_type(found)} could not be converted to bool")
        return found


def _key(entry: tuple[str, Any]) -> Hashable:
    """1 and true are not the same."""
    name, value = entry
    return name, type(value), tuple(value.items()) if isinstance(value, dict) else value


def _type(value: Any) -> str:
    names = {bool: "bool", int: "int", float: "double", str: "string", bytes: "bytes", dict: "map", type(None): "null"}
    return "list" if isinstance(value, list) else names.get(type(value), type(value).__name__)


@lru_cache(maxsize=1024)
def compile_selector(expression: str) -> Selector | str:
    """The selector, or what is wrong with it, in upstream's words where it has some."""
    try:
        return Selector(expression)
    except CelError as error:
        return str(error)
