"""The controllers that there are, by upstream's names, and how they are made from the flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raykube.api.resources import Resource
from raykube.controllers.core.deployment import DeploymentController
from raykube.controllers.core.endpoints import EndpointsController
from raykube.controllers.core.endpointslice import EndpointSliceController
from raykube.controllers.core.job import JobController
from raykube.controllers.core.plan import Controller
from raykube.controllers.core.replicaset import ReplicaSetController

if TYPE_CHECKING:
    from raykube.controllers.config import Config  # its help text names the controllers

BATCH = 64
BATCH_PER_SYNC = 8


@dataclass(frozen=True, slots=True)
class Part:
    """One controller, what its Events call it, and how many keys it takes in one round."""

    controller: Controller
    component: str
    batch: int = BATCH


Maker = Callable[["Config", Mapping[str, Resource]], Part | None]


def _replicaset(config: Config, _: Mapping[str, Resource]) -> Part:
    return Part(ReplicaSetController(), "replicaset-controller", config.concurrent_replicaset_syncs * BATCH_PER_SYNC)


def _deployment(config: Config, _: Mapping[str, Resource]) -> Part:
    return Part(DeploymentController(), "deployment-controller", config.concurrent_deployment_syncs * BATCH_PER_SYNC)


def _job(config: Config, _: Mapping[str, Resource]) -> Part:
    return Part(JobController(), "job-controller", config.concurrent_job_syncs * BATCH_PER_SYNC)


def _endpoints(config: Config, _: Mapping[str, Resource]) -> Part:
    return Part(EndpointsController(), "endpoint-controller", config.concurrent_endpoint_syncs * BATCH_PER_SYNC)


def _endpointslice(config: Config, _: Mapping[str, Resource]) -> Part:
    controller = EndpointSliceController(config.max_endpoints_per_slice)
    return Part(controller, "endpoint-slice-controller", config.concurrent_service_endpoint_syncs * BATCH_PER_SYNC)


MAKERS: dict[str, Maker] = {
    "replicaset-controller": _replicaset,
    "deployment-controller": _deployment,
    "job-controller": _job,
    "endpoints-controller": _endpoints,
    "endpointslice-controller": _endpointslice,
}
NAMES = tuple(MAKERS)


def assemble(config: Config, resources: Mapping[str, Resource]) -> list[Part]:
    """The controllers that the flags ask for. Raises ValueError and OSError for unreadable files."""
    parts = [make(config, resources) for name, make in MAKERS.items() if config.is_enabled(name)]
    return [part for part in parts if part is not None]
