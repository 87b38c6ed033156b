"""The flags of `raykube controller-manager`."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raykube.base.duration import Duration
from raykube.controllers.catalog import NAMES
from raykube.rpc.listen import split_address


class Config(BaseModel):
    """Configuration of one controller-manager."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_servers: list[str] = Field(min_length=1, description="host:port of apiservers' gRPC APIs")
    tls_cert_file: Path | None = Field(
        None, description="certificate to show to the apiservers, and to serve health and metrics with"
    )
    tls_private_key_file: Path | None = Field(None, description="key of the certificate")
    client_ca_file: Path | None = Field(None, description="CA that the apiservers' certificates are signed by")
    bind_address: str = Field("127.0.0.1", description="address to serve health and metrics on")
    secure_port: int = Field(
        10257, ge=0, le=65535, description="port for health and metrics (HTTPS with a certificate); 0: any free one"
    )
    controllers: list[str] = Field(
        ["*"],
        description=f"which to run: '*' all, 'foo' this one, '-foo' not this one; known: {', '.join(NAMES)}",
    )
    leader_elect: bool = Field(True, description="work only while holding the lease; others stand by")
    leader_elect_lease_duration: Duration = Field(
        15.0, gt=0, description="how long a silent leader is respected by the others"
    )
    leader_elect_renew_deadline: Duration = Field(
        10.0, gt=0, description="a leader that could not renew the lease for so long stops"
    )
    leader_elect_retry_period: Duration = Field(2.0, gt=0, description="time between two attempts at the lease")
    leader_elect_resource_name: str = Field("kube-controller-manager", description="name of the lease")
    leader_elect_resource_namespace: str = Field("kube-system", description="namespace of the lease")
    concurrent_deployment_syncs: int = Field(5, ge=1, description="Deployments reconciled in one round, times 8")
    concurrent_replicaset_syncs: int = Field(5, ge=1, description="ReplicaSets reconciled in one round, times 8")
    concurrent_job_syncs: int = Field(5, ge=1, description="Jobs reconciled in one round, times 8")
    concurrent_endpoint_syncs: int = Field(5, ge=1, description="Endpoints reconciled in one round, times 8")
    concurrent_service_endpoint_syncs: int = Field(
        5, ge=1, description="Services whose EndpointSlices are reconciled in one round, times 8"
    )
    concurrent_namespace_syncs: int = Field(10, ge=1, description="Namespaces reconciled in one round, times 8")
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
        5.0, gt=0, description="changes nothing: a node is looked at when its time comes"
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

    @field_validator("api_servers")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        for text in value:
            split_address(text)
        return value

    @field_validator("controllers")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for text in value:
            if text != "*" and text.removeprefix("-") not in NAMES:
                raise ValueError(f"no controller is called {text.removeprefix('-')!r}; known are {', '.join(NAMES)}")
        return value

    @model_validator(mode="after")
    def _complete(self) -> "Config":
        files = (self.tls_cert_file, self.tls_private_key_file, self.client_ca_file)
        if any(files) and not all(files):
            raise ValueError("--tls-cert-file, --tls-private-key-file and --client-ca-file go together")
        if not self.leader_elect_lease_duration > self.leader_elect_renew_deadline:
            raise ValueError("--leader-elect-lease-duration must be longer than --leader-elect-renew-deadline")
        if not self.leader_elect_renew_deadline > 1.2 * self.leader_elect_retry_period:
            raise ValueError("--leader-elect-renew-deadline must be longer than 1.2 times --leader-elect-retry-period")
        return self

    def is_enabled(self, name: str) -> bool:
        """Whether `--controllers` asks for this controller: its own name decides before '*' does."""
        if f"-{name}" in self.controllers:
            return False
        return name in self.controllers or "*" in self.controllers
