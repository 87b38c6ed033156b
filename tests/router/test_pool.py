"""Which backend is picked."""

from hypothesis import given
from hypothesis import strategies as st

from raykube.router.core.pool import Health, Pool


def pool(**health: Health) -> Pool:
    found = Pool()
    found.set_members(health)
    for address, value in health.items():
        found.on_check(address, value)
    return found


def picked(found: Pool, tried: list[str] | None = None) -> str:
    backend = found.pick(tried or [])
    return backend.address if backend else ""


def test_the_fewest_connections_win() -> None:
    found = pool(a=Health.UP, b=Health.UP)
    for backend in found:
        backend.connections = {"a": 3, "b": 2}[backend.address]
    assert picked(found) == "b"


def test_equals_take_turns() -> None:
    found = pool(a=Health.UP, b=Health.UP, c=Health.UP)
    assert sorted(picked(found) for _ in range(3)) == ["a", "b", "c"]
    assert sorted(picked(found) for _ in range(3)) == ["a", "b", "c"]


def test_down_ones_come_last_but_they_come() -> None:
    found = pool(a=Health.DOWN, b=Health.UNREADY, c=Health.UP)
    assert picked(found) == "c"
    assert picked(found, ["c"]) == "b"
    assert picked(found, ["b", "c"]) == "a"
    assert picked(found, ["a", "b", "c"]) == ""


def test_unknown_ones_are_used() -> None:
    found = pool(a=Health.UNKNOWN, b=Health.DOWN)
    assert picked(found) == "a"


def test_members() -> None:
    found = pool(a=Health.UP, b=Health.UP)
    assert found.set_members(["b", "c", "c"]) == (["c"], ["a"])
    assert found.addresses == ["b", "c"]
    assert not found.on_check("a", Health.DOWN)
    assert found.on_check("b", Health.DOWN)
    assert not found.on_check("b", Health.DOWN)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(Health))), max_size=20))
def test_an_up_backend_is_never_passed_over_for_another(checks: list[tuple[str, Health]]) -> None:
    found = pool(a=Health.UNKNOWN, b=Health.UNKNOWN, c=Health.UNKNOWN)
    for address, health in checks:
        found.on_check(address, health)
    usable = [backend.address for backend in found if backend.health in (Health.UP, Health.UNKNOWN)]
    if usable:
        assert picked(found) in usable
