"""Selectors of devices: what matches, what is an error of the selector, and what no expression may cost."""

from typing import Any

import pytest

from raykube.api.cel import BUDGET, CelError, cost, tokens_of
from raykube.api.cel_values import precedence
from raykube.api.device_selectors import Facts, Selector, compile_selector

DEVICE = {
    "attributes": {
        "model": {"string": "A100"},
        "index": {"int": 3},
        "healthy": {"bool": True},
        "driverVersion": {"version": "12.4.1"},
        "other.example.com/zone": {"string": "b"},
    },
    "capacity": {"memory": {"value": "40Gi"}, "cores": {"value": "7"}},
}
FACTS = Facts("gpu.example.com", DEVICE)


def matches(expression: str) -> bool:
    return Selector(expression).matches(FACTS)


@pytest.mark.parametrize(
    "expression",
    [
        'device.driver == "gpu.example.com"',
        'device.attributes["gpu.example.com"].model == "A100"',
        "device.attributes['gpu.example.com'].index in [1, 2, 3]",
        'device.attributes["other.example.com"].zone.startsWith("b")',
        'device.attributes["gpu.example.com"].healthy && device.driver.endsWith(".com")',
        'device.capacity["gpu.example.com"].memory.isGreaterThan(quantity("39Gi"))',
        'device.capacity["gpu.example.com"].memory.compareTo(quantity("40Gi")) == 0',
        'device.capacity["gpu.example.com"].memory == quantity("40960Mi")',
        'device.capacity["gpu.example.com"].cores.asInteger() == 7',
        'device.capacity["gpu.example.com"].cores.add(quantity("1")).sub(2).isLessThan(quantity("6.5"))',
        'device.attributes["gpu.example.com"].driverVersion.isGreaterThan(semver("12.4.0"))',
        'device.attributes["gpu.example.com"].driverVersion.isLessThan(semver("v13", true))',
        'device.attributes["gpu.example.com"].driverVersion.major() == 12',
        'isSemver("1.0.0") && !isSemver("1.0") && isQuantity("1Ki") && !isQuantity("1Q")',
        '!has(device.attributes["gpu.example.com"].nothing)',
        '!has(device.attributes["nobody.example.com"].model)',
        '!("nobody.example.com" in device.attributes) && "gpu.example.com" in device.attributes',
        'cel.bind(gpu, device.attributes["gpu.example.com"], gpu.index > 2 && gpu.healthy)',
        'cel.bind(a, 2, cel.bind(b, a + 1, a * b == 6)) && "cel.bind(x" != ""',
        'device.attributes["gpu.example.com"].nothing == "x" || true',
        'device.attributes.all(domain, domain.contains("example.com")) // a comment',
        'device.attributes[device.driver].model.lowerAscii() == "a100"',
        '["a", "b"].join("-") == "a-b" && sets.contains([1, 2], [1])',
    ],
)
def test_what_matches(expression: str) -> None:
    assert matches(expression) is True


def test_what_was_said_of_one_device_is_said_of_those_that_are_alike_in_what_was_looked_at() -> None:
    def facts(**attributes: Any) -> Facts:
        return Facts("d", {"attributes": {name: {kind: value} for name, (kind, value) in attributes.items()}})

    selector = Selector('device.driver == "d" && device.attributes["d"].a == 1')
    for _ in range(2):
        assert selector.matches(facts(a=("int", 1), uuid=("string", "x")))
        assert selector.matches(facts(a=("int", 1), uuid=("string", "y")))
        assert not selector.matches(facts(a=("int", 2)))
        assert not selector.matches(facts(a=("bool", True)))
        assert not selector.matches(Facts("e", {"attributes": {"d/a": {"int": 1}}}))
        with pytest.raises(CelError, match="no such key: a"):
            selector.matches(facts(b=("int", 1)))
    # One domain's 1 is not another's, and names that are not there shift nothing.
    two = Selector('has(device.attributes["d"].a) || has(device.attributes["e"].a)')
    assert two.matches(facts(a=("int", 1))) and not two.matches(facts(b=("int", 1)))
    which = Selector('has(device.attributes["d"].a) && !has(device.attributes["e"].a)')
    assert which.matches(facts(a=("int", 1)))
    assert not which.matches(Facts("d", {"attributes": {"e/a": {"int": 1}}}))


def test_what_does_not() -> None:
    assert matches('device.driver == "else"') is False
    assert matches('device.attributes["gpu.example.com"].driverVersion == "12.4.1"') is False


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("device.driver ==", "compilation failed: "),
        ("nobody(1) == 2", "compilation failed: undeclared reference to 'nobody' (in container '')"),
        ("gpu.driver == 'x'", "compilation failed: undeclared reference to 'gpu' (in container '')"),
        ("1 + 1", "must evaluate to bool or the unknown type, not int"),
        ("cel.bind(x, 1)", "compilation failed: cel.bind() takes a name, a value and an expression"),
        ("cel.bind(x, 1, x == 1", "compilation failed: "),
    ],
)
def test_what_is_wrong_with_a_selector(expression: str, error: str) -> None:
    found = compile_selector(expression)
    assert isinstance(found, str) and found.startswith(error)


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ('device.attributes["gpu.example.com"].nothing == "x"', "no such key: nothing"),
        ('device.attributes["nobody.example.com"].model == "x"', "no such key: model"),
        ('device.attributes["gpu.example.com"].index > "x"', "no such overload"),
        ('device.attributes["gpu.example.com"].model', "CEL result of type string could not be converted to bool"),
    ],
)
def test_what_fails_on_a_device(expression: str, error: str) -> None:
    with pytest.raises(CelError, match=error):
        matches(expression)


LIST = "[" + ",".join(["1"] * 40) + "]"


@pytest.mark.parametrize(
    "expression",
    [
        f"{LIST}.all(a, {LIST}.all(b, {LIST}.all(c, {LIST}.all(d, a + b + c + d > 0))))",
        "true" + "".join(f" && {LIST}.map(x, [x, x]).map(x, [x, x]).map(x, [x, x]).map(x, [x, x]) == []" for _ in "ab"),
        "cel.bind(a, 'aaaaaaaa', " * 12 + "true" + ")" * 12,
        "(" * 3000 + "true" + ")" * 3000,
        "!" * 10_300 + "true",
        "'" + "a" * 11_000 + "' == ''",
    ],
)
def test_what_would_cost_too_much_is_refused(expression: str) -> None:
    assert isinstance(compile_selector(expression), str)


def test_strings_do_not_grow_without_bounds() -> None:
    grown = '"aaaa"' + ('.replace("a", "' + "a" * 500 + '")') * 3
    with pytest.raises(CelError, match="actual cost limit exceeded"):
        matches(f"{grown} == device.driver")


def test_loops_beside_each_other_cost_less_than_loops_in_each_other() -> None:
    beside = tokens_of("[1].all(a, a > 0) && [1].all(b, b > 0) && [1].all(c, c > 0) && [1].all(d, d > 0)")
    within = tokens_of("[1].all(a, [1].all(b, [1].all(c, [1].all(d, d > 0))))")
    chained = tokens_of("([1].map(a, a).map(b, b)).map(c, c).map(d, d) == []")
    assert cost(beside) < 10_000 < BUDGET < min(cost(within), cost(chained))


def test_versions_are_ordered_as_semver_org_says() -> None:
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"]
    ordered += ["1.0.0-rc.1", "1.0.0", "1.0.1", "1.10.0", "2.0.0"]
    assert sorted(sorted(ordered), key=precedence) == ordered
    assert precedence("1.0.0+a") == precedence("1.0.0+b")
