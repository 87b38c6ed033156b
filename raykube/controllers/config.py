"""The flags of `raykube controller-manager`."""

from pathlib import Path

from pydantic import Field, field_validator

from raykube.base.duration import Duration
from raykube.client.config import ElectedConfig
from raykube.controllers.catalog import NAMES


class Config(ElectedConfig):
    """Configuration of one controller-manager."""

    secure_port: int = Field(
        10257, ge=0, le=65535, description="port for health and metrics (HTTPS with a certificate); 0: any free one"
    )
    leader_elect_resource_name: str = Field("kube-controller-manager", description="name of the lease")
    controllers: list[str] = Field(
        ["*"],
        description=f"which to run: '*' all, 'foo' this one, '-foo' not this one; known: {', '.join(NAMES)}",
    )
    concurrent_deployment_syncs: int = Field(5, ge=1, description="Deployments reconciled in one round, times 8")
    concurrent_replicaset_syncs: int = Field(5, ge=1, description="ReplicaSets reconciled in one round, times 8")
    concurrent_rc_syncs: int = Field(5, ge=1, description="ReplicationControllers reconciled in one round, times 8")
    concurrent_daemonset_syncs: int = Field(2, ge=1, description="DaemonSets reconciled in one round, times 8")
    concurrent_statefulset_syncs: int = Field(5, ge=1, description="StatefulSets reconciled in one round, times 8")
    concurrent_job_syncs: int = Field(5, ge=1, description="Jobs reconciled in one round, times 8")
    concurrent_cron_job_syncs: int = Field(5, ge=1, description="CronJobs reconciled in one round, times 8")
    concurrent_endpoint_syncs: int = Field(5, ge=1, description="Endpoints reconciled in one round, times 8")
    concurrent_service_endpoint_syncs: int = Field(
        5, ge=1, description="Services whose EndpointSlices are reconciled in one round, times 8"
    )
    concurrent_namespace_syncs: int = Field(10, ge=1, description="Namespaces reconciled in one round, times 8")
    concurrent_resource_quota_syncs: int = Field(5, ge=1, description="ResourceQuotas counted in one round, times 8")
    concurrent_gc_syncs: int = Field(
        20, ge=1, description="objects looked at in one round of garbage collection, times 8"
    )
    concurrent_serviceaccount_token_syncs: int = Field(
        5, ge=1, description="ServiceAccounts whose token Secrets are reconciled in one round, times 8"
    )
    max_endpoints_per_slice: int = Field(100, ge=1, le=1000, description="endpoints in one EndpointSlice at most")
    node_monitor_grace_period: Duration = Field(
        50.0, gt=0, description="a node that has not renewed its lease for so long is not ready"
    )
    node_startup_grace_period: Duration = Field(
        60.0, gt=0, description="the same for a node that has not reported anything yet"
    )
    node_monitor_period: Duration = Field(
        5.0, gt=0, description="nodes whose grace period ended are found at multiples of this"
    )
    node_eviction_rate: float = Field(0.1, ge=0, description="nodes a second whose pods are evicted in a healthy zone")
    secondary_node_eviction_rate: float = Field(0.01, ge=0, description="the same in a large unhealthy zone")
    unhealthy_zone_threshold: float = Field(
        0.55, gt=0, le=1, description="part of a zone's nodes that must be not ready for the zone to be unhealthy"
    )
    large_cluster_size_threshold: int = Field(
        50, ge=0, description="zones with no more nodes than this evict nothing while they are unhealthy"
    )
    terminated_pod_gc_threshold: int = Field(12500, ge=0, description="how many ended pods are kept; 0: all")
    root_ca_file: Path | None = Field(
        None, description="CA certificate published to pods as ConfigMap kube-root-ca.crt and in token Secrets"
    )
    service_account_private_key_file: Path | None = Field(
        None, description="key that signs the tokens of Secrets of type kubernetes.io/service-account-token"
    )

    @field_validator("controllers")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for text in value:
            if text != "*" and text.removeprefix("-") not in NAMES:
                raise ValueError(f"no controller is called {text.removeprefix('-')!r}; known are {', '.join(NAMES)}")
        return value

    def is_enabled(self, name: str) -> bool:
        """Whether `--controllers` asks for this controller: its own name decides before '*' does."""
        if f"-{name}" in self.controllers:
            return False
        return name in self.controllers or "*" in self.controllers
