"""What becomes of pods whose statuses could not be written."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from raykube.api.errors import ApiError
from raykube.client.api import ApiClient
from raykube.hollow.pods import PodWorker
from tests.hollow.world import World


class Failing:
    """A client whose writes raise."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def write(self, batch: Sequence[Any]) -> list[Any]:
        raise self._error


@pytest.mark.parametrize("error", [ApiError.unavailable("away"), ValueError("a bug")])
async def test_a_request_that_fails_in_any_way_is_made_again(error: Exception) -> None:
    world = World()
    world.create("p")
    worker = PodWorker(cast(ApiClient, Failing(error)), ["n1"], world.pods, lambda: world.now, lambda: None)
    world.now += 5
    for item in world.timers.due(world.now):
        world.pods.on_timer(item, world.now)  # type: ignore[arg-type]
    batch = world.pods.take(1000, world.now)
    assert batch
    await worker._request(batch)
    assert world.objects["p"]["status"]["phase"] == "Pending"
    world.run(30)
    assert world.objects["p"]["status"]["phase"] == "Running"
