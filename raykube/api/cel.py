"""CEL, the Common Expression Language, with bounds: what users write must cost neither much time nor much memory.

The interpreter is PyPI's `common-expression-language`. What is added to it here:

    cel.bind(x, e, body)   becomes [e].map(x, body)[0], which means the same
    a budget               tokens to the power of how deep loops are nested; upstream estimates its own cost units
    sizes                  functions that make strings make no longer ones than an expression may be
    names                  a function that nobody has is an error of the expression, not of its first evaluation

Optional syntax (`a.?b`, `a[?b]`) is refused by the parser. Types are checked when an expression is evaluated.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

Function = Callable[..., Any]

TOO_COMPLEX = "too complex, exceeds cost limit"
EXPRESSION_MAX = 10 * 1024  # characters, as upstream's selectors
BUDGET = 1 << 23
ELEMENTS_MAX = 32  # of what an expression is given: attributes of a device, for one
LOOPS = frozenset(("all", "exists", "exists_one", "map", "filter", "bind"))
TIMES = ("Hours", "Minutes", "Seconds", "Milliseconds", "FullYear", "Month", "Date", "DayOfYear", "DayOfMonth")
CASTS = ("int", "uint", "double", "string", "bytes", "dyn", "type", "timestamp", "duration")
CHECKS = ("size", "has", "contains", "startsWith", "endsWith", "matches")
NATIVE = frozenset((*CHECKS, *CASTS, "getDayOfWeek", *(f"get{part}" for part in TIMES)))
# Of the package's own library, what Kubernetes' environment has too.
TEXTS = (
    "charAt",
    "indexOf",
    "lastIndexOf",
    "substring",
    "replace",
    "split",
    "join",
    "lowerAscii",
    "upperAscii",
    "trim",
)
BORROWED = (*TEXTS, "bool", "sum", "min", "max", "sets.contains", "sets.equivalent", "sets.intersects")
_OPERATOR = re.compile(r"^[^A-Za-z]|^@")
_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)"""
    r"""|(?P<string>(?:[rR][bB]?|[bB][rR]?)?(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''"""
    r"""|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))"""
    r"""|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"""
    r"""|(?P<number>\d[\w.]*)"""
    r"""|(?P<mark>&&|\|\||[<>=!]=|.)""",
    re.DOTALL,
)


class CelError(Exception):
    """An expression that does not compile, or that failed on what it was given."""


class Token(NamedTuple):
    kind: str
    text: str


def tokens_of(source: str) -> list[Token]:
    """Without white space and comments."""
    return [
        Token(str(found.lastgroup), found.group()) for found in _TOKEN.finditer(source) if found.lastgroup != "space"
    ]


class Expression:
    """A compiled expression. `functions` are those of its environment, beside what all have."""

    def __init__(self, source: str, functions: Mapping[str, Function]) -> None:
        """Raises CelError with "compilation failed: …"."""
        import cel  # 0.3 s: most processes never meet an expression

        tokens = tokens_of(source)
        if cost(tokens) > BUDGET:
            raise CelError(TOO_COMPLEX)
        if any(one.text == "cel" for one in tokens):
            source = " ".join(one.text for one in without_binds(tokens))
        try:
            self._program = cel.compile(source)
        except ValueError as error:
            raise CelError(f"compilation failed: {_first_line(error)}") from None
        named = {name for name in self._program.functions() if not _OPERATOR.match(name)}
        known = NATIVE | {name.rpartition(".")[2] for name in (*BORROWED, *functions)}
        unknown = sorted(named - known)
        if unknown:
            raise CelError(f"compilation failed: undeclared reference to '{unknown[0]}' (in container '')")
        self.variables = frozenset(self._program.variables())
        self._functions = {name: functions[name] for name in functions if name.rpartition(".")[2] in named}
        self._functions |= _borrowed(named)

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        """Raises CelError."""
        import cel

        try:
            return self._program.execute(cel.Context(dict(variables), self._functions))
        except KeyError as error:
            raise CelError(f"no such key: {error.args[0] if error.args else ''}") from None
        except TypeError:
            raise CelError("no such overload") from None
        except (ValueError, RuntimeError, IndexError, ArithmeticError) as error:
            raise CelError(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _borrowed(named: set[str]) -> dict[str, Function]:
    from cel import stdlib

    library: dict[str, Function] = stdlib.STDLIB_FUNCTIONS
    return {name: bounded(library[name]) for name in BORROWED if name.rpartition(".")[2] in named}


def bounded(function: Function) -> Function:
    """The same, but for strings and lists that are too long."""

    def call(*arguments: Any) -> Any:
        found = function(*arguments)
        if isinstance(found, (str, list)) and len(found) > EXPRESSION_MAX:
            raise ValueError("operation cancelled: actual cost limit exceeded")
        return found

    return call


def cost(tokens: list[Token]) -> int:
    """A bound on the steps that an expression can take: each loop may run over all there is, in each turn of the
    loops around it and of those before it in a chain."""
    size = ELEMENTS_MAX + sum(1 + len(one.text) // 16 for one in tokens)
    deepest = around = before = longest = 0  # longest: chain within the present bracket
    opened: list[tuple[bool, int, int, int]] = []
    for number, one in enumerate(tokens):
        if one.text in ("(", "[", "{"):
            is_loop = one.text == "(" and number > 0 and tokens[number - 1].text in LOOPS
            opened.append((is_loop, around, before, longest))
            around, before, longest = around + before + is_loop, 0, 0
            deepest = max(deepest, around)
        elif one.text in (")", "]", "}") and opened:
            within = longest
            is_loop, around, before, longest = opened.pop()
            before += 1 if is_loop else within
            longest = max(longest, before)
            if number + 1 == len(tokens) or tokens[number + 1].text not in (".", "["):
                before = 0
    return int(size ** (deepest + 1))


def without_binds(tokens: list[Token]) -> Iterator[Token]:
    """cel.bind(name, value, body) → [value].map(name, body)[0]."""
    position = 0
    while position < len(tokens):
        if [one.text for one in tokens[position : position + 4]] != ["cel", ".", "bind", "("]:
            yield tokens[position]
            position += 1
            continue
        parts, position = _arguments(tokens, position + 4)
        if len(parts) != 3 or len(parts[0]) != 1:
            raise CelError("compilation failed: cel.bind() takes a name, a value and an expression")
        name, value, body = parts
        yield from (Token("mark", text) for text in ("(", "["))
        yield from without_binds(value)
        yield from (Token("mark", text) for text in ("]", ".", "map", "("))
        yield from name
        yield Token("mark", ",")
        yield from without_binds(body)
        yield from (Token("mark", text) for text in (")", "[", "0", "]", ")"))


def _arguments(tokens: list[Token], position: int) -> tuple[list[list[Token]], int]:
    """The arguments of a call from after its bracket on, and where it ends."""
    parts: list[list[Token]] = [[]]
    depth = 0
    while position < len(tokens):
        one = tokens[position]
        position += 1
        if one.text == ")" and not depth:
            return parts, position
        depth += one.text in ("(", "[", "{")
        depth -= one.text in (")", "]", "}")
        if one.text == "," and not depth:
            parts.append([])
        else:
            parts[-1].append(one)
    raise CelError("compilation failed: Syntax error: missing ')' at '<EOF>'")
