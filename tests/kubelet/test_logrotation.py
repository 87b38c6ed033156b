"""Which files of a log go, and which are packed."""

from hypothesis import given
from hypothesis import strategies as st

from raykube.kubelet.core.logrotation import rotation

STAMPS = st.lists(st.integers(0, 99), unique=True, max_size=8)


@given(STAMPS, st.integers(0, 8), st.integers(2, 6))
def test_a_bounded_number_is_left(stamps: list[int], packed: int, files_max: int) -> None:
    names = [f"0.log.{stamp:02}" for stamp in sorted(stamps)]
    rotated = [f"{name}.gz" for name in names[:packed]] + names[packed:]
    removals, packings = rotation(reversed(rotated), files_max)
    left = [name for name in rotated if name not in removals]
    assert len(left) <= files_max - 2  # the log itself, and what it is renamed to, come on top
    assert left == rotated[len(rotated) - len(left) :]  # the oldest go
    assert len(left) == min(len(rotated), files_max - 2)
    assert packings == [name for name in left if not name.endswith(".gz")]


def test_what_a_crash_left() -> None:
    rotated = ["0.log.01", "0.log.01.gz", "0.log.02", "0.log.02.tmp"]
    assert rotation(rotated, 5) == (["0.log.02.tmp", "0.log.01"], ["0.log.02"])
