"""Carries out what a step says: pods are created, deployed, replaced, deleted; machines fall silent."""

import asyncio
import time
from itertools import islice
from typing import Any

from raykube.bench.core import workload
from raykube.bench.core.scenario import Object, Step, of
from raykube.bench.core.workload import STEP_LABEL, PodTemplate
from raykube.bench.observer import Observer
from raykube.bench.plane import PODS, create
from raykube.bench.site import DEPLOYMENTS, LOST, BenchError, Site
from raykube.client import operations
from raykube.pb import api_pb2

BATCH_MAX = 1000
TICK_S = 0.05
_WIRE = operations.wire(PODS)


class Actions:
    """What was done so far: `target` pods are to be there, `deployed` of them by Deployments."""

    def __init__(self, site: Site, observer: Observer) -> None:
        self._site = site
        self._client = site.client
        self._scenario = site.scenario
        self._observer = observer
        self._made: list[str] = []  # Deployments
        # Pods end by their own grace, where somebody is there to end them.
        self._grace_s = None if "hollow" in site.scenario.parts else 0
        self.target = 0
        self.deployed = 0

    def total(self, step: Step) -> int:
        """How many pods a step is about."""
        pods = self._scenario.pods
        match step.verb:
            case "create":
                return of(step.create or 0, pods)
            case "deploy":
                return of(step.deploy or 0, pods)
            case "delete":
                return min(of(step.delete or 0, pods), self.target)
            case "churn":
                return int(of(step.churn or 0, pods) * step.seconds)
            case "rollout":
                return self.deployed
        return self.target

    def template(self, label: str, *patches: Object) -> PodTemplate:
        """The pods of a step that is so labelled."""
        return PodTemplate(label, *patches, namespace=self._site.namespace)

    async def do(self, step: Step, label: str, rate: float) -> None:
        """Carries a step out, with `rate` pods a second, or 0: as fast as it goes. Raises BenchError."""
        site, total = self._site, self.total(step)
        own = self._scenario.templates.get(step.template, {})
        template = self.template(label, site.place, self._scenario.pod, own)
        match step.verb:
            case "create":
                await self.create(template, 0, total, rate)
                self.target += total
            case "deploy":
                deployments = [
                    template.deployment(f"bench-{label}-{index}", replicas, index)
                    for index, replicas in enumerate(workload.shared(total, step.deployments))
                ]
                await create(self._client, [site.own(each) for each in deployments])
                self._made += [each["metadata"]["name"] for each in deployments]
                self.target += total
                self.deployed += total
            case "rollout":
                change = {"spec": {"template": {"metadata": {"labels": {STEP_LABEL: label}}}}}
                patches = [operations.patch(DEPLOYMENTS, site.namespace, name, change) for name in self._made]
                _check(await self._client.write(patches))
            case "delete":
                names = [name for name in self._observer.names.values() if workload.OWN.fullmatch(name)]
                await self.delete(names[:total])
                if total > len(names):
                    deletions = [operations.delete(DEPLOYMENTS, site.namespace, name) for name in self._made]
                    await self._client.write(deletions)
                self.target -= total
            case "churn":
                await self._churn(template, of(step.churn or 0, self._scenario.pods), step.seconds)
            case "fail":
                assert site.plane is not None
                site.plane.kill(LOST)
                self._observer.timeline.lose(site.lost)

    async def create(self, template: PodTemplate, first: int, count: int, rate: float = 0) -> None:
        """Pods with numbers from `first` on: as fast as they are taken, or so many a second."""
        begin, sent = time.monotonic(), 0
        while sent < count:
            room = count - sent
            if rate:
                room = min(room, int((time.monotonic() - begin) * rate) + 1 - sent)
                if room <= 0:
                    await asyncio.sleep(TICK_S)
                    continue
            batch = [self._pod(template, first + sent + index) for index in range(min(room, 4 * BATCH_MAX))]
            sent += len(batch)
            _check(await self._client.write(batch))

    async def delete(self, names: list[str]) -> None:
        """Pods, some of which may be gone already."""
        for index in range(0, len(names), 4 * BATCH_MAX):
            batch = [
                operations.delete(PODS, self._site.namespace, name, grace_period_s=self._grace_s)
                for name in names[index : index + 4 * BATCH_MAX]
            ]
            _check(await self._client.write(batch), allowed=404)

    async def _churn(self, template: PodTemplate, rate: int, seconds: float) -> None:
        """The oldest pods go, new ones come, at `rate` a second."""
        begin, done, total = time.monotonic(), 0, int(rate * seconds)
        gone: set[str] = set()  # those that were deleted here: the watch may not have said so yet
        while done < total:
            count = min(total, int((time.monotonic() - begin) * rate) + 1) - done
            if count <= 0:
                await asyncio.sleep(TICK_S)
                continue
            there = self._observer.names.values()
            names = list(islice((name for name in there if name not in gone and workload.OWN.fullmatch(name)), count))
            gone.update(names)
            await self.delete(names)
            await self.create(template, done, len(names))
            done += len(names)
            if not names:
                await asyncio.sleep(TICK_S)

    def _pod(self, template: PodTemplate, number: int) -> operations.Operation:
        name, body = template.pod(number)
        return operations.Operation(
            verb=api_pb2.CREATE, resource=_WIRE, namespace=self._site.namespace, name=name, body=body
        )


def _check(results: list[Any], allowed: int = 0) -> None:
    for result in results:
        if result.code >= 400 and result.code != allowed:
            raise BenchError(f"refused: {result.body.decode(errors='replace')[:500]}")
