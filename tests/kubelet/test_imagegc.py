"""Which images go, and which files of a log: the pure rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.kubelet.core.imagegc import Image, ImageAges, bytes_to_free, largest


def image(name: str, size: int = 1, pinned: bool = False) -> Image:
    return Image(f"id-{name}", (f"{name}:1",), size, pinned)


A, B, C, PINNED = image("a"), image("b"), image("c"), image("pinned", pinned=True)


def test_least_recently_used_first() -> None:
    ages = ImageAges()
    ages.observe([A, B, C, PINNED], {"id-a", "b:1"}, 100)
    ages.observe([A, B, C, PINNED], {"b:1"}, 200)
    plan = ages.plan(set(), 300, 0, 0, 0)
    assert [one.image for one in plan] == [C, A, B]  # never used, used until 100, until 200
    assert {one.reason for one in plan} == {"space"}
    assert [one.image for one in ages.plan({"id-c", "a:1"}, 300, 0, 0, 0)] == [B]  # by whatever name they are used


def test_a_young_image_stays_and_an_old_one_goes_anyway() -> None:
    ages = ImageAges()
    ages.observe([A], set(), 100)
    ages.observe([A, B], set(), 160)
    assert [one.image for one in ages.plan(set(), 219, 120, 0, 0)] == []
    assert [one.image for one in ages.plan(set(), 220, 120, 0, 0)] == [A]
    old = ages.plan(set(), 400, 120, 250, 0)
    assert [(one.image, one.reason) for one in old] == [(A, "age"), (B, "space")]
    assert all(one.reason == "space" for one in ages.plan(set(), 400, 120, 250, 300))  # a kubelet that just started
    ages.observe([B], set(), 400)
    ages.observe([A, B], set(), 500)  # came again
    assert [one.image for one in ages.plan(set(), 501, 120, 0, 0)] == [B]


@given(
    st.integers(1, 10**13).flatmap(lambda capacity: st.tuples(st.just(capacity), st.integers(0, capacity))),
    st.integers(0, 100).flatmap(lambda high: st.tuples(st.just(high), st.integers(0, high))),
)
def test_what_must_go_brings_the_disk_to_the_low_mark(disk: tuple[int, int], marks: tuple[int, int]) -> None:
    (capacity, available), (high, low) = disk, marks
    wanted = bytes_to_free(capacity, available, high, low)
    used_percent = 100 - available * 100 // capacity
    if high == 100 or used_percent < high:
        assert wanted == 0
    else:
        assert available + wanted >= capacity * (100 - low) // 100


@pytest.mark.parametrize(("most", "names"), [(2, ["b:1", "a:1"]), (-1, ["b:1", "a:1", "c:1"]), (0, [])])
def test_the_node_lists_the_largest(most: int, names: list[str]) -> None:
    found = largest([image("c", 1), image("a", 5), image("b", 9), Image("x", (), 100)], most)
    assert [one["names"] for one in found] == [[name] for name in names]


def test_the_high_mark_itself_is_too_much() -> None:
    assert bytes_to_free(100, 15, 85, 80) == 5
    assert bytes_to_free(100, 16, 85, 80) == 0
