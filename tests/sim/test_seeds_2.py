"""Lives 500 to 749 of a group. In files, as that is how tests are spread over processes."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.sim.many import CHUNKS, live


@pytest.mark.parametrize("first", CHUNKS[2])
def test_a_group_survives(first: int, record_property: Callable[[str, Any], None]) -> None:
    live(first, record_property)
