"""The controllers that there are, by upstream's names, and how they are made from the flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raykube.api.resources import Resource
from raykube.controllers.core.cronjob import CronJobController
from raykube.controllers.core.daemonset import DaemonSetController
from raykube.controllers.core.deployment import DeploymentController
from raykube.controllers.core.device_taint_eviction import DeviceTaintEvictionController
from raykube.controllers.core.disruption import DisruptionController
from raykube.controllers.core.endpoints import EndpointsController
from raykube.controllers.core.endpointslice import EndpointSliceController
from raykube.controllers.core.endpointslice_mirroring import EndpointSliceMirroringController
from raykube.controllers.core.ephemeral_volumes import EphemeralVolumes
from raykube.controllers.core.garbage import GarbageCollector
from raykube.controllers.core.job import JobController
from raykube.controllers.core.namespaces import NamespaceController
from raykube.controllers.core.node_lifecycle import NodeLifecycleController
from raykube.controllers.core.plan import Controller
from raykube.controllers.core.pod_gc import PodGarbageCollector
from raykube.controllers.core.replicaset import REPLICATION_CONTROLLERS, ReplicaSetController
from raykube.controllers.core.resource_claims import ResourceClaimController
from raykube.controllers.core.resource_quota import ResourceQuotaController
from raykube.controllers.core.root_ca import RootCaPublisher
from raykube.controllers.core.serviceaccounts import ServiceAccountsController
from raykube.controllers.core.statefulset import StatefulSetController
from raykube.controllers.core.taint_eviction import TaintEvictionController
from raykube.controllers.core.token_secrets import TokenSecretsController
from raykube.controllers.core.ttl import TtlController
from raykube.controllers.core.volume_binder import VolumeBinder
from raykube.controllers.core.volume_protection import ClaimProtection, VolumeProtection
from raykube.controllers.core.zones import Zones
from raykube.controllers.signing import signer

if TYPE_CHECKING:
    from raykube.controllers.config import Config  # its help text names the controllers

BATCH = 64
BATCH_PER_SYNC = 8  # keys of one round cost one bulk request: eight of them stand for one of upstream's workers


@dataclass(frozen=True, slots=True)
class Part:
    """One controller, what its Events call it, and how many keys it takes in one round."""

    controller: Controller
    component: str
    batch: int = BATCH


Maker = Callable[["Config", Mapping[str, Resource]], Part | None]


def _replicaset(config: Config, _: Mapping[str, Resource]) -> Part:
    return Part(ReplicaSetController(), "replicaset-controller", config.concurrent_replicaset_syncs * BATCH_PER_SYNC)


def _replication_controller(config: Config, _: Mapping[str, Resource]) -> Part:
    controller = ReplicaSetController(REPLICATION_CONTROLLERS)
    return Part(controller, "replication-controller", config.concurrent_rc_syncs * BATCH_PER_SYNC)


def _deployment(config: Config, _: Mapping[str, Resource]) -> Part:
    return Part(DeploymentController(), "deployment-controller", config.concurrent_deployment_syncs * BATCH_PER_SYNC)


def _daemonset(config: Config, _: Mapping[str, Resource]) -> Part:
    return Part(DaemonSetController(), "daemonset-controller", config.concurrent_daemonset_syncs * BATCH_PER_SYNC)


def _statefulset(config: Config, _: Mapping[str, Resource]) -> Part:
    return Part(StatefulSetController(), "statefulset-controller", config.concurrent_statefulset_syncs * BATCH_PER_SYNC)


def _job(config: Config, _: Mapping[str, Resource]) -> Part:
    return Part(JobController(), "job-controller", config.concurrent_job_syncs * BATCH_PER_SYNC)


def _cronjob(config: Config, _: Mapping[str, Resource]) -> Part:
    return Part(CronJobController(), "cronjob-controller", config.concurrent_cron_job_syncs * BATCH_PER_SYNC)


def _endpoints(config: Config, _: Mapping[str, Resource]) -> Part:
    return Part(EndpointsController(), "endpoint-controller", config.concurrent_endpoint_syncs * BATCH_PER_SYNC)


def _endpointslice(config: Config, _: Mapping[str, Resource]) -> Part:
    controller = EndpointSliceController(config.max_endpoints_per_slice)
    return Part(controller, "endpoint-slice-controller", config.concurrent_service_endpoint_syncs * BATCH_PER_SYNC)


def _node_lifecycle(config: Config, _: Mapping[str, Resource]) -> Part:
    zones = Zones(
        config.node_eviction_rate,
        config.secondary_node_eviction_rate,
        config.unhealthy_zone_threshold,
        config.large_cluster_size_threshold,
    )
    controller = NodeLifecycleController(
        config.node_monitor_grace_period,
        config.node_startup_grace_period,
        zones,
        period_s=config.node_monitor_period,
    )
    return Part(controller, "node-controller")


def _token_secrets(config: Config, _: Mapping[str, Resource]) -> Part | None:
    path = config.service_account_private_key_file
    if path is None:
        return None  # as upstream's: without a key there is nothing to sign with
    controller = TokenSecretsController(signer(path), _certificate(config))
    return Part(
        controller, "serviceaccount-token-controller", config.concurrent_serviceaccount_token_syncs * BATCH_PER_SYNC
    )


def _root_ca(config: Config, _: Mapping[str, Resource]) -> Part | None:
    certificate = _certificate(config)
    return Part(RootCaPublisher(certificate), "root-ca-cert-publisher") if certificate else None


def _certificate(config: Config) -> str:
    return config.root_ca_file.read_text() if config.root_ca_file else ""


def _namespaces(config: Config, resources: Mapping[str, Resource]) -> Part:
    return Part(NamespaceController(resources), "namespace-controller", config.concurrent_namespace_syncs)


def _garbage(config: Config, resources: Mapping[str, Resource]) -> Part:
    return Part(
        GarbageCollector(resources), "garbage-collector-controller", config.concurrent_gc_syncs * BATCH_PER_SYNC
    )


def _resource_quota(config: Config, resources: Mapping[str, Resource]) -> Part:
    controller = ResourceQuotaController(resources)
    return Part(controller, "resourcequota-controller", config.concurrent_resource_quota_syncs * BATCH_PER_SYNC)


MAKERS: dict[str, Maker] = {
    "serviceaccount-controller": lambda config, _: Part(ServiceAccountsController(), "serviceaccount-controller"),
    "serviceaccount-token-controller": _token_secrets,
    "root-ca-certificate-publisher-controller": _root_ca,
    "node-lifecycle-controller": _node_lifecycle,
    "taint-eviction-controller": lambda config, _: Part(TaintEvictionController(), "taint-eviction-controller"),
    "replicaset-controller": _replicaset,
    "replicationcontroller-controller": _replication_controller,
    "deployment-controller": _deployment,
    "daemonset-controller": _daemonset,
    "statefulset-controller": _statefulset,
    "job-controller": _job,
    "cronjob-controller": _cronjob,
    "endpoints-controller": _endpoints,
    "endpointslice-controller": _endpointslice,
    "endpointslice-mirroring-controller": lambda config, _: Part(
        EndpointSliceMirroringController(), "endpoint-slice-mirroring-controller"
    ),
    "namespace-controller": _namespaces,
    "resourcequota-controller": _resource_quota,
    "garbage-collector-controller": _garbage,
    "pod-garbage-collector-controller": lambda config, _: Part(
        PodGarbageCollector(config.terminated_pod_gc_threshold), "pod-garbage-collector-controller"
    ),
    "ttl-after-finished-controller": lambda config, _: Part(TtlController(), "ttl-after-finished-controller"),
    "persistentvolume-binder-controller": lambda config, _: Part(VolumeBinder(), "persistentvolume-controller"),
    "persistentvolumeclaim-protection-controller": lambda config, _: Part(
        ClaimProtection(), "persistentvolumeclaim-protection-controller"
    ),
    "persistentvolume-protection-controller": lambda config, _: Part(
        VolumeProtection(), "persistentvolume-protection-controller"
    ),
    "disruption-controller": lambda config, _: Part(DisruptionController(), "controllermanager"),
    "resourceclaim-controller": lambda config, _: Part(ResourceClaimController(), "resource_claim"),
    "device-taint-eviction-controller": lambda config, _: Part(
        DeviceTaintEvictionController(), "device-taint-eviction"
    ),
    "ephemeral-volume-controller": lambda config, _: Part(EphemeralVolumes(), "ephemeral_volume"),
}
NAMES = tuple(MAKERS)


def assemble(config: Config, resources: Mapping[str, Resource]) -> list[Part]:
    """The controllers that the flags ask for. Raises ValueError and OSError for unreadable files."""
    parts = [make(config, resources) for name, make in MAKERS.items() if config.is_enabled(name)]
    return [part for part in parts if part is not None]
