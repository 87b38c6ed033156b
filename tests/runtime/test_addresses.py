"""Pod addresses: never two at once, reused as late as possible."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.runtime.core.addresses import AddressRing, NoFreeAddress


def test_order_and_end() -> None:
    ring = AddressRing.of("127.0.3.0/29", "", set())
    assert [ring.allocate() for _ in range(6)] == [f"127.0.3.{last}" for last in range(1, 7)]
    with pytest.raises(NoFreeAddress, match=r"no free pod address in 127\.0\.3\.0/29: all 6 are in use"):
        ring.allocate()
    ring.release("127.0.3.4")
    assert ring.allocate() == "127.0.3.4"


@given(st.lists(st.integers(0, 5), max_size=60))
def test_no_address_is_used_twice_or_soon(releases: list[int]) -> None:
    """Each number releases one of the addresses in use before the next is taken."""
    ring = AddressRing.of("10.0.0.0/28", "", set())
    used: list[str] = []
    taken: list[str] = []
    for number in releases:
        if len(used) > 5:
            ring.release(used.pop(number))
        address = ring.allocate()
        assert address not in used
        assert address not in taken[-8:], "an address that was freed rests while others are free"
        used.append(address)
        taken.append(address)
        ring = AddressRing.of("10.0.0.0/28", ring.last, set(used))  # a restart forgets nothing
