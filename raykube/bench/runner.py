"""Measures a scenario: machines come up, steps one after the other, figures of each."""

import asyncio
import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from importlib.metadata import version

from raykube.api.errors import ApiError
from raykube.bench.actions import Actions
from raykube.bench.core.scenario import Object, Scenario, Step
from raykube.bench.observer import Observer
from raykube.bench.plane import Usage, create
from raykube.bench.prober import Prober
from raykube.bench.site import NODES_TIMEOUT_S, BenchError, Progress, Site, joined, made
from raykube.client.kubeconfig import Connection

SERIES_MAX = 200  # intervals of a step's series
WARM = "warm"


class Runner:
    """One run of a scenario that is scaled."""

    def __init__(
        self,
        scenario: Scenario,
        progress: Progress,
        *,
        apiservers: int = 1,
        pod_events: bool = False,
        connection: Connection | None = None,
        namespace: str = "",
    ) -> None:
        """With `connection`, on that cluster and its hollow machines; `namespace`: as `site.joined` has it."""
        self._scenario = scenario
        self._progress = progress
        self._apiservers = apiservers
        self._pod_events = pod_events
        self._connection = connection
        self._namespace = namespace

    async def run(self) -> Object:
        """The report, as JSON has it. Raises BenchError, also where the apiservers are lost."""
        try:
            return await self._run()
        except ApiError as error:
            raise BenchError(str(error)) from error

    async def _run(self) -> Object:
        async with self._site() as site:
            observer, prober = Observer(site.client, site.run, site.namespace), Prober(site)
            tasks = [asyncio.create_task(observer.run())]
            try:
                await observer.until_synced()
                if observer.names or observer.strangers:
                    raise BenchError(f"namespace {site.namespace} has pods: a measurement needs it for itself")
                probing = asyncio.create_task(prober.run())
                tasks.append(probing)
                report = await self._measure(Measurement(site, observer, prober, self._progress))
                if probing.done():
                    raise BenchError(f"the API's latency was not measured: {probing.exception()}")
                return report
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _site(self) -> AbstractAsyncContextManager[Site]:
        if self._connection is not None:
            return joined(self._scenario, self._progress, self._connection, self._namespace)
        return made(self._scenario, self._progress, apiservers=self._apiservers, pod_events=self._pod_events)

    async def _measure(self, measurement: "Measurement") -> Object:
        scenario = measurement.scenario
        steps = await measurement.run()
        return {
            "format": 1,
            "scenario": scenario.name,
            "about": scenario.about,
            "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "version": version("raykube"),
            "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
            "scale": {"nodes": scenario.nodes, "pods": scenario.pods, "apiservers": self._apiservers},
            "steps": steps,
        }


class Measurement:
    """The steps of a scenario, where its machines are."""

    def __init__(self, site: Site, observer: Observer, prober: Prober, progress: Progress) -> None:
        self._site = site
        self.scenario = site.scenario
        self._observer = observer
        self._timeline = observer.timeline
        self._prober = prober
        self._progress = progress
        self._actions = Actions(site, observer)
        self._reached = 0.0  # pods a second, by the step before

    async def run(self) -> list[Object]:
        """The figures of the steps that are measured. Raises BenchError."""
        await create(self._site.client, [self._site.own(each) for each in self.scenario.objects])
        await self._warm_up()
        found = []
        for number, step in enumerate(self.scenario.steps, 1):
            figures = await self._step(step, f"s{number}")
            self._reached = figures["per_s"][step.goal] if step.goal != "none" else 0.0
            if step.measure:
                found.append(figures)
        return found

    async def _warm_up(self) -> None:
        """A few pods through everything: leaders are elected, code is loaded. They are gone before the first step."""
        observer, actions = self._observer, self._actions
        count = min(20, self.scenario.pods)
        self._progress.begin("Warm-up", count)
        await actions.create(actions.template(WARM, self._site.place), 0, count)
        goal = self._count("running" if "hollow" in self.scenario.parts else "bound", WARM)
        if not await observer.until(lambda: goal() >= count, NODES_TIMEOUT_S, lambda: self._tick(goal(), "")):
            raise BenchError(f"{goal()} of the first {count} pods are there after {NODES_TIMEOUT_S:.0f} s")
        await actions.delete(list(observer.names.values()))
        await observer.until(lambda: not observer.names, NODES_TIMEOUT_S, lambda: self._tick(0, ""))
        self._progress.end("")

    def _count(self, kind: str, step: str = "") -> Callable[[], int]:
        timeline = self._timeline
        return lambda: timeline.running(step) if kind == "running" else timeline.bound(step)

    def _tick(self, done: int, words: str) -> None:
        if self._site.plane is not None:
            self._site.plane.check()
        self._progress.at(done, words)

    async def _step(self, step: Step, label: str) -> Object:
        timeline, prober = self._timeline, self._prober
        first, gone = len(timeline.lives), len(timeline.gone_at)
        answered = len(prober.reads), len(prober.writes)
        usage, own = self._usage(), os.times()
        total = self._actions.total(step)
        self._progress.begin(f"{self.scenario.name}: {step.title}", total)
        begin = time.monotonic()
        doing = asyncio.create_task(self._actions.do(step, label, step.pods_per_s(self._reached)))
        try:
            goal = self._goal(step, label, gone)
            reached = await self._observer.until(
                lambda: doing.done() and (step.goal == "none" or doing.exception() is not None or goal()[1]),
                step.timeout,
                lambda: self._tick(goal()[0], _rate(goal()[0], begin)),
                lambda: (goal()[0], len(timeline.lives), len(timeline.gone_at)),
            )
            if doing.done():
                doing.result()
            if not reached:
                so_far = f"{goal()[0]} of {total} pods {step.goal}"
                raise BenchError(f"step {step.title}: {so_far}, and nothing moved for {step.timeout:.0f} s")
        finally:
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)
        end = time.monotonic()
        after, own_after = self._usage(), os.times()
        figures = timeline.since(first)
        pods = max(len(figures.created), len(timeline.gone_at) - gone)
        cpu_s = {name: used.cpu_s - usage[name].cpu_s for name, used in after.items() if name in usage}
        cpu_s["client"] = own_after.user + own_after.system - own.user - own.system
        self._progress.end(f"{pods} pods in {end - begin:.1f} s")
        interval_s = max(0.25, (end - begin) / SERIES_MAX)
        return {
            "name": step.title,
            "goal": step.goal,
            "pods": pods,
            "seconds": round(end - begin, 3),
            "per_s": {kind: round(figures.per_s(kind, begin), 1) for kind in ("created", "bound", "running")}
            | {"gone": round((len(timeline.gone_at) - gone) / max(end - begin, 1e-3), 1)},
            "latency_ms": {kind: figures.latencies_ms(kind) for kind in ("bound", "running")},
            "api_ms": prober.since(*answered),
            "cpu_us_per_pod": {name: round(used / max(pods, 1) * 1e6, 1) for name, used in cpu_s.items()},
            "rss_mib": {name: round(used.rss_kib / 1024, 1) for name, used in after.items()},
            "peak_mib": {name: round(used.peak_kib / 1024, 1) for name, used in after.items()},
            "series": figures.series(begin, end, interval_s),
        }

    def _usage(self) -> dict[str, Usage]:
        return self._site.plane.usage() if self._site.plane is not None else {}

    def _goal(self, step: Step, label: str, gone: int) -> Callable[[], tuple[int, bool]]:
        """How many pods are there, and whether that is all that was asked for."""
        timeline, actions = self._timeline, self._actions
        total = actions.total(step)
        everything = actions.target + (total if step.verb in ("create", "deploy") else 0)
        own = self._count(step.goal, label)
        whole = self._count(step.goal)
        match step.verb:
            case "delete":
                left = len(timeline.present) - total
                return lambda: (len(timeline.gone_at) - gone, len(timeline.present) <= left)
            case "create" | "deploy":
                return lambda: (own(), own() >= total)
            case "rollout":
                return lambda: (own(), own() >= total and len(timeline.present) == everything)
            case "churn":
                return lambda: (len(timeline.gone_at) - gone, whole() == len(timeline.present) == everything)
        return lambda: (whole(), bool(timeline.lost_nodes) and whole() >= everything)


def _rate(done: int, begin: float) -> str:
    return f"{done / max(time.monotonic() - begin, 1e-3):,.0f}/s"
