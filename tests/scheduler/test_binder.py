"""Pods that wait for their claims: each looks again for its own."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

from raykube.rpc.clock import SystemClock
from raykube.scheduler.binder import Binder, Decision
from raykube.scheduler.core.volumes import Reservation
from tests.kit.waiting import until

PODS = 50


async def test_a_claim_wakes_the_pods_that_wait_for_it() -> None:
    looked: Counter[str] = Counter()

    def bound(reservations: tuple[Reservation, ...]) -> None:
        looked[reservations[0].claim["metadata"]["name"]] += 1

    pods = {str(number): SimpleNamespace(pod=SimpleNamespace(uid=str(number))) for number in range(PODS)}
    nothing: Any = None
    cluster: Any = SimpleNamespace(volumes=SimpleNamespace(bound=bound), forget=lambda _uid: True)
    queue: Any = SimpleNamespace(get=pods.get)
    binder = Binder(nothing, nothing, cluster, queue, nothing, nothing, SystemClock(), lambda: None)
    decisions: list[Any] = []
    for uid, pending in pods.items():
        claims = [{"metadata": {"namespace": "n", "name": name}} for name in (f"c{uid}", "shared")]
        reservations = tuple(Reservation(claim, None, "node", True) for claim in claims)
        decisions.append(Decision(pending, "node", reservations))  # type: ignore[arg-type]
    try:
        await binder.bind(decisions)
        await until(lambda: looked.total() == PODS)
        binder.on_claim(("n", "c7"))
        await until(lambda: looked["c7"] == 2)
        binder.on_claim(("other", "c8"))
        binder.on_claim(("n", "c9"))
        await until(lambda: looked["c9"] == 2)
        await asyncio.sleep(0)
        assert looked.total() == PODS + 2
        binder.on_claim(("n", "shared"))
        await until(lambda: looked.total() == 2 * PODS + 2)
    finally:
        await binder.close()
    assert not binder._waiters
