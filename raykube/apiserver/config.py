"""The flags of `raykube apiserver`: upstream's names and defaults where upstream has the flag."""

from ipaddress import ip_address, ip_network
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from raykube.api.addresses import is_loopback
from raykube.apiserver.core.planning import Networks
from raykube.base.duration import Duration


class Config(BaseModel):
    """Configuration of one apiserver."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    etcd_servers: list[str] = Field(description="host:port of the store's members, comma separated")
    etcd_cafile: Path | None = Field(None, description="CA that the store's certificates are signed by")
    etcd_certfile: Path | None = Field(None, description="client certificate for the store")
    etcd_keyfile: Path | None = Field(None, description="key of the client certificate for the store")
    bind_address: str = Field("0.0.0.0", description="address to listen on")
    advertise_address: str = Field(
        "", description="address that members of the cluster reach this server at; default: the bind address"
    )
    secure_port: int = Field(6443, ge=0, le=65535, description="port of the HTTPS API; 0: any free one")
    grpc_port: int | None = Field(
        None, ge=0, le=65535, description="port of the gRPC API; default: the secure port plus one"
    )
    tls_cert_file: Path | None = Field(None, description="serving certificate")
    tls_private_key_file: Path | None = Field(None, description="key of the serving certificate")
    client_ca_file: Path | None = Field(None, description="CA that client certificates are signed by")
    authorization_mode: list[str] = Field(
        ["Node", "RBAC"],
        description="who may allow a request: Node, RBAC, AlwaysAllow; AlwaysDeny allows nothing."
        " Members of system:masters are always allowed",
    )
    anonymous_auth: bool = Field(True, description="requests without credentials are user system:anonymous")
    service_account_issuer: str = Field(
        "https://kubernetes.default.svc.cluster.local", description="issuer of ServiceAccount tokens"
    )
    service_account_key_file: list[Path] = Field(
        [], description="public keys that ServiceAccount tokens are verified with"
    )
    service_account_signing_key_file: Path | None = Field(
        None, description="private key that ServiceAccount tokens are signed with"
    )
    api_audiences: list[str] = Field([], description="audiences of this API; default: the issuer")
    service_cluster_ip_range: list[str] = Field(
        ["10.96.0.0/12"],
        description="network that Services get their cluster IPs from; two, of different families, for dual stack",
    )
    service_node_port_range: str = Field("30000-32767", description="ports that NodePort Services get theirs from")
    kubelet_client_certificate: Path | None = Field(None, description="client certificate for kubelets")
    kubelet_client_key: Path | None = Field(None, description="key of the client certificate for kubelets")
    kubelet_certificate_authority: Path | None = Field(None, description="CA that kubelets' certificates are signed by")
    kubernetes_service_port: int = Field(
        443,
        gt=0,
        le=65535,
        description="port of the Service default/kubernetes, where it is made; clients in pods"
        " learn it from their environment, so a machine whose kube-proxy may not bind 443 can have another",
    )
    default_not_ready_toleration_seconds: int = Field(
        300, ge=0, description="how long pods that say nothing stay on a node that is not ready"
    )
    default_unreachable_toleration_seconds: int = Field(
        300, ge=0, description="how long pods that say nothing stay on a node that is out of reach"
    )
    allow_loopback_endpoints: bool | None = Field(
        None,
        description="whether Services may lead to 127.0.0.0/8, where the process runtime has its pods;"
        " default: whether this server is reached there itself",
    )
    event_ttl: Duration = Field(3600.0, gt=0, description="how long Events are kept")
    default_watch_cache_size: int = Field(
        16_384, ge=16, description="changes of each resource that watches can resume over"
    )
    max_requests_inflight: int = Field(400, ge=1, description="reads served at the same time; more are answered 429")
    max_mutating_requests_inflight: int = Field(
        200, ge=1, description="writes served at the same time; more are answered 429"
    )
    min_request_timeout: int = Field(
        1800, ge=1, description="seconds that a watch lasts at least when it does not say how long"
    )
    request_timeout: Duration = Field(60.0, gt=0, description="how long a request other than a watch may take")
    apiserver_lease_duration: Duration = Field(
        15.0, gt=0, description="an apiserver that is silent for so long is taken off the endpoints"
    )

    @field_validator("etcd_servers")
    @classmethod
    def _servers(cls, value: list[str]) -> list[str]:
        return [each.removeprefix("https://").removeprefix("http://").rstrip("/") for each in value]

    @field_validator("service_cluster_ip_range", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return value.split(",") if isinstance(value, str) else value  # of --extra-config

    @field_validator("service_cluster_ip_range")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        versions = [ip_network(each).version for each in value]
        if len(versions) not in (1, 2):
            raise ValueError("one network, or one of each family")
        if len(set(versions)) < len(versions):
            raise ValueError("the two networks must be of different IP families")
        return value

    @field_validator("service_node_port_range")
    @classmethod
    def _ports(cls, value: str) -> str:
        first, dash, last = value.partition("-")
        if not dash or not first.isdigit() or not last.isdigit() or not 0 < int(first) <= int(last) < 65536:
            raise ValueError(f"{value!r} is no port range: write it as 30000-32767")
        return value

    @field_validator("advertise_address")
    @classmethod
    def _address(cls, value: str) -> str:
        if value:
            ip_address(value)
        return value

    @field_validator("authorization_mode")
    @classmethod
    def _modes(cls, value: list[str]) -> list[str]:
        unknown = set(value) - {"Node", "RBAC", "AlwaysAllow", "AlwaysDeny"}
        if unknown:
            raise ValueError(
                f"unknown authorization mode {min(unknown)}: choose from Node, RBAC, AlwaysAllow, AlwaysDeny"
            )
        return value

    @property
    def node_ports(self) -> range:
        first, _, last = self.service_node_port_range.partition("-")
        return range(int(first), int(last) + 1)

    @property
    def networks(self) -> Networks:
        """What the planner needs to know of the cluster's networks."""
        families = tuple("IPv6" if ":" in each else "IPv4" for each in self.service_cluster_ip_range)
        loopback = self.allow_loopback_endpoints
        return Networks(families, is_loopback(self.reachable_address) if loopback is None else loopback)

    @property
    def reachable_address(self) -> str:
        """Where others reach this server."""
        if self.advertise_address:
            return self.advertise_address
        return "127.0.0.1" if self.bind_address in ("0.0.0.0", "::", "") else self.bind_address
