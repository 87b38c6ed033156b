"""When attempts of a probe are made."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raykube.kubelet import prober
from raykube.kubelet.core.observed import ObservedContainer, ObservedPod, State
from raykube.kubelet.handlers import Outcome


class Time:
    """Passes only while somebody sleeps, or an attempt takes its time."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    monotonic = now

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


@pytest.mark.parametrize(("takes_s", "expected"), [(0, [5, 15, 25]), (9, [5, 15, 25]), (12, [5, 17, 29])])
async def test_a_period_includes_the_attempt(
    monkeypatch: pytest.MonkeyPatch, takes_s: float, expected: list[float]
) -> None:
    time, begun = Time(), []

    async def run(*_: Any) -> Outcome:
        begun.append(time.at - 1000)
        time.at += takes_s
        return Outcome(False, "timed out")

    probe = {"exec": {"command": ["x"]}, "initialDelaySeconds": 5, "periodSeconds": 10, "failureThreshold": 3}
    pod = {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {"containers": [{"name": "c", "livenessProbe": probe}]},
    }
    failed = asyncio.Event()
    events = SimpleNamespace(record=lambda *_: None)
    found = prober.Prober(cast(Any, SimpleNamespace(run=run)), cast(Any, events), failed.set)
    found._clock = cast(Any, time)
    found._adopted = False
    monkeypatch.setattr(prober, "asyncio", SimpleNamespace(sleep=time.sleep, get_running_loop=asyncio.get_running_loop))
    run_of_it = ObservedContainer("id", "c", "s", 0, State.RUNNING, 1000.0, started_at=1000.0)
    found.follow(pod, ObservedPod(containers=(run_of_it,)), "", terminating=False)
    await failed.wait()
    assert begun == expected
    found.stop()


@pytest.mark.parametrize("terminating", [False, True])
async def test_a_kubelet_that_begins_while_a_pod_ends_finds_it_ready_as_well(terminating: bool) -> None:
    """Its startup probe does not run again: it must count as started, or it is not ready until it has ended."""
    probe = {"exec": {"command": ["x"]}}
    spec = {"name": "c", "startupProbe": probe, "readinessProbe": probe}
    pod = {"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [spec]}}
    told = {"name": "c", "containerID": "test://id", "started": True, "ready": True, "state": {"running": {}}}
    found = prober.Prober(cast(Any, None), cast(Any, None), lambda: None)
    run = ObservedContainer("id", "c", "s", 0, State.RUNNING, 1000.0, started_at=1000.0)
    found.follow(pod, ObservedPod(containers=(run,)), "", terminating, {"containerStatuses": [told]})
    assert found.results.ready(spec, "id")
    found.follow(pod, ObservedPod(), "", terminating)
    assert not found.results.results
    found.stop()


async def test_a_worker_that_begins_anew_goes_on_with_what_its_probes_have_found() -> None:
    probe = {"exec": {"command": ["x"]}}
    spec = {"name": "c", "startupProbe": probe, "readinessProbe": probe}
    pod = {"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [spec]}}
    found = prober.Prober(cast(Any, None), cast(Any, None), lambda: None)
    observed = ObservedPod(containers=(ObservedContainer("id", "c", "s", 0, State.RUNNING, 1000.0, started_at=1000.0),))
    found.follow(pod, observed, "", terminating=False)
    for kind in ("startupProbe", "readinessProbe"):
        found.results.set("id", kind, True)
    found.stop()
    found.follow(pod, observed, "", terminating=False)
    assert found.results.ready(spec, "id")
    found.stop()
