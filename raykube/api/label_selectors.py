"""Label selectors: which objects a list, a watch or a controller means, by their labels.

A selector is a conjunction of requirements and an immutable value: parse it once, match many objects.
It comes as text (`app=web,tier in (a,b),!legacy`), as an object (`matchLabels`, `matchExpressions`) or as a plain map
(a Service's). Errors are ValueErrors in upstream's words."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from raykube.api import labels as label_rules

EQUALS, NOT_EQUALS = "=", "!="
IN, NOT_IN = "in", "notin"
EXISTS, NOT_EXISTS = "exists", "!"
GREATER, LESS = "gt", "lt"

_OBJECT_OPERATORS = {"In": IN, "NotIn": NOT_IN, "Exists": EXISTS, "DoesNotExist": NOT_EXISTS}
_BINARY = "in, notin, =, ==, !=, gt, lt"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term of a label selector. `values` is sorted; one value for = != gt lt, none for exists and !."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        if self.operator in (EQUALS, IN):
            return value is not None and value in self.values
        if self.operator in (NOT_EQUALS, NOT_IN):
            return value is None or value not in self.values
        if self.operator == EXISTS:
            return value is not None
        if self.operator == NOT_EXISTS:
            return value is None
        return value is not None and _compares(self.operator, value, self.values[0])

    def __str__(self) -> str:
        if self.operator == EXISTS:
            return self.key
        if self.operator == NOT_EXISTS:
            return f"!{self.key}"
        if self.operator in (IN, NOT_IN):
            return f"{self.key} {self.operator} ({','.join(self.values) or ','})"
        sign = {GREATER: ">", LESS: "<"}.get(self.operator, self.operator)
        return f"{self.key}{sign}{self.values[0]}"


def _compares(operator: str, value: str, bound: str) -> bool:
    try:
        return int(value) > int(bound) if operator == GREATER else int(value) < int(bound)
    except ValueError:
        return False


def _requirement(key: str, operator: str, values: list[str]) -> Requirement:
    """A checked requirement. Raises ValueError."""
    if problems := label_rules.key_errors(key):
        raise ValueError(f'<nil>: Invalid value: "{key}": {"; ".join(problems)}')
    if operator in (IN, NOT_IN) and not values:
        raise ValueError("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty")
    if operator in (EXISTS, NOT_EXISTS) and values:
        raise ValueError(
            f"values: Invalid value: {_go_list(values)}: values set must be empty for exists and does not exist"
        )
    if operator in (GREATER, LESS):
        for index, value in enumerate(values):
            if not re.fullmatch(r"[+-]?[0-9]+", value):
                raise ValueError(
                    f'values[{index}]: Invalid value: "{value}": '
                    "for 'Gt', 'Lt' operators, the value must be an integer"
                )
    for index, value in enumerate(values):
        if problems := label_rules.value_errors(value):
            raise ValueError(f'values[{index}][{key}]: Invalid value: "{value}": {"; ".join(problems)}')
    return Requirement(key, operator, tuple(sorted(set(values))))


def _go_list(values: list[str]) -> str:
    return "[" + ",".join(f'"{value}"' for value in values) + "]"


@dataclass(frozen=True)
class LabelSelector:
    """A conjunction of requirements, sorted by key. No requirement: everything (unless `nothing`)."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    @staticmethod
    @lru_cache(maxsize=4096)
    def parse(text: str) -> "LabelSelector":
        """The selector of a `labelSelector` query. Raises ValueError in upstream's words."""
        return LabelSelector(tuple(sorted(_Parser(text).requirements(), key=lambda r: r.key)))

    @staticmethod
    def from_object(selector: Mapping[str, Any] | None) -> "LabelSelector":
        """Of a LabelSelector object (`matchLabels`, `matchExpressions`): absent selects nothing, empty everything."""
        if selector is None:
            return NOTHING
        terms = [_requirement(key, EQUALS, [value]) for key, value in (selector.get("matchLabels") or {}).items()]
        for expression in selector.get("matchExpressions") or ():
            operator = _OBJECT_OPERATORS.get(expression.get("operator", ""))
            if operator is None:
                raise ValueError(f'"{expression.get("operator", "")}" is not a valid label selector operator')
            terms.append(_requirement(expression.get("key", ""), operator, list(expression.get("values") or ())))
        return LabelSelector(tuple(sorted(terms, key=lambda r: r.key)))

    @staticmethod
    def from_map(labels: Mapping[str, str] | None) -> "LabelSelector":
        """Of a plain map, as Services have: absent or empty selects nothing."""
        if not labels:
            return NOTHING
        return LabelSelector(tuple(Requirement(key, EQUALS, (labels[key],)) for key in sorted(labels)))

    @property
    def everything(self) -> bool:
        """True if every object matches."""
        return not self.requirements and not self.nothing

    @cached_property
    def exact(self) -> dict[str, str]:
        """The labels that a matching object has for certain: for indexes."""
        return {r.key: r.values[0] for r in self.requirements if r.operator in (EQUALS, IN) and len(r.values) == 1}

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        """True if an object with `labels` is selected."""
        if self.nothing:
            return False
        present = labels or {}
        return all(requirement.matches(present) for requirement in self.requirements)

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)


EVERYTHING = LabelSelector()
NOTHING = LabelSelector(nothing=True)


class _Parser:
    """Recursive descent over the tokens of a label selector text: words, operators, '' at the end."""

    _TOKEN = re.compile(r"[ \t\r\n]*(==|!=|[=!<>,()]|[^ \t\r\n=!<>,()]+|$)")
    _SYMBOLS = frozenset(("", "=", "==", "!=", "!", "<", ">", ",", "(", ")"))

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        at = 0
        while match := self._TOKEN.match(text, at):
            self._tokens.append(match[1])
            at = match.end()
            if not match[1]:
                break
        self._at = 0

    def _peek(self) -> str:
        return self._tokens[min(self._at, len(self._tokens) - 1)]

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def requirements(self) -> list[Requirement]:
        found: list[Requirement] = []
        while True:
            token = self._peek()
            if token == "":
                return found
            if token in self._SYMBOLS and token != "!":
                raise ValueError(f"found '{token}', expected: !, identifier, or 'end of string'")
            try:
                found.append(self._one())
            except ValueError as error:
                raise ValueError(f"unable to parse requirement: {error}") from None
            separator = self._next()
            if separator == "":
                return found
            if separator != ",":
                raise ValueError(f"found '{separator}', expected: ',' or 'end of string'")
            following = self._peek()
            if following in self._SYMBOLS and following != "!":
                raise ValueError(f"found '{following}', expected: identifier after ','")

    def _one(self) -> Requirement:
        negated = self._peek() == "!"
        if negated:
            self._next()
        key = self._next()
        if key in self._SYMBOLS:
            raise ValueError(f"found '{key}', expected: identifier")
        if negated:
            return _requirement(key, NOT_EXISTS, [])
        if self._peek() in ("", ","):
            return _requirement(key, EXISTS, [])
        if problems := label_rules.key_errors(key):
            raise ValueError(f'<nil>: Invalid value: "{key}": {"; ".join(problems)}')
        operator = self._next()
        if operator in (IN, NOT_IN):
            return _requirement(key, operator, self._values())
        if operator not in ("=", "==", "!=", "<", ">"):
            raise ValueError(f"found '{operator}', expected: {_BINARY}")
        operator = {"==": EQUALS, ">": GREATER, "<": LESS}.get(operator, operator)
        return _requirement(key, operator, [self._exact_value()])

    def _exact_value(self) -> str:
        if self._peek() in ("", ","):
            return ""
        value = self._next()
        if value in self._SYMBOLS:
            raise ValueError(f"found '{value}', expected: identifier")
        return value

    def _values(self) -> list[str]:
        if (token := self._next()) != "(":
            raise ValueError(f"found '{token}' expected: '('")
        if self._peek() == ")":
            self._next()
            return []
        values = []
        while True:
            token = self._peek()
            if token in (",", ")"):
                values.append("")  # upstream: an empty place is the empty value
            elif token in self._SYMBOLS:
                raise ValueError(f"found '{token}', expected: ',', ')' or identifier")
            else:
                values.append(self._next())
            separator = self._next()
            if separator == ")":
                return values
            if separator != ",":
                raise ValueError(f"found '{separator}', expected: ',' or ')'")
