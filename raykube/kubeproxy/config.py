"""The flags of `raykube kube-proxy`: upstream's names and defaults where upstream has the flag."""

from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from raykube.base.duration import Duration
from raykube.client.config import ApiConfig, HostPorts
from raykube.rpc.listen import split_address


class Config(ApiConfig):
    """Configuration of one kube-proxy."""

    api_servers: HostPorts = Field([], description="host:port of apiservers' gRPC APIs")
    proxy_mode: Literal["auto", "nftables", "userspace"] = Field(
        "auto", description="rules in the kernel, or sockets in user space; auto: nftables where root has it"
    )
    cleanup: bool = Field(False, description="remove this proxy's nftables tables and exit")
    cluster_cidr: list[str] = Field(
        [], description="networks of the cluster's pods, for masquerading; default: this node's pod CIDRs"
    )
    masquerade_all: bool = Field(False, description="masquerade everything that goes to cluster IPs")
    masquerade_bit: int = Field(
        14,
        ge=0,
        le=31,
        description="bit of the packet mark of what is to be masqueraded",
        json_schema_extra={"also": ["iptables-masquerade-bit"]},
    )
    min_sync_period: Duration = Field(
        0.05,
        ge=0,
        description="time between two changes of the rules: the first is made at once, a burst is gathered",
        json_schema_extra={"also": ["iptables-min-sync-period"]},
    )
    sync_period: Duration = Field(
        30.0,
        gt=0,
        description="how often to look whether somebody removed the rules",
        json_schema_extra={"also": ["iptables-sync-period"]},
    )
    hostname_override: str = Field("", description="name of this node; default: the host name")
    tls_cert_file: Path | None = Field(
        None, description="client certificate (user system:kube-proxy); serves the relay too"
    )
    client_ca_file: Path | None = Field(None, description="CA of the cluster")
    nodeport_addresses: list[str] = Field(
        [],
        description="addresses or networks of this node to serve node ports on; primary or none: the node's own",
    )
    healthz_bind_address: str = Field(
        "127.0.0.1:10256", description="host:port of /healthz and /metrics; empty: not served"
    )
    relay: Literal["auto", "always", "never"] = Field(
        "auto", description="reach pods with loopback addresses on other hosts through those hosts' kube-proxies"
    )
    relay_port: int = Field(10266, ge=0, le=65535, description="port for other hosts' kube-proxies")
    relay_bind_address: str = Field("", description="address for other hosts' kube-proxies; default: the node's own")
    shared_host: bool = Field(
        False, description="share addresses with the kube-proxies of this computer's other machines (SO_REUSEPORT)"
    )
    connect_timeout: Duration = Field(1.0, gt=0, description="how long to try one endpoint before another")
    conntrack_udp_timeout: Duration = Field(60.0, gt=0, description="how long a silent UDP flow is remembered")

    @field_validator("cluster_cidr")
    @classmethod
    def _pod_networks(cls, value: list[str]) -> list[str]:
        return [str(ip_network(text, strict=False)) for text in value]

    @field_validator("nodeport_addresses")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for text in value:
            if text != "primary":
                ip_network(text, strict=False)
        return value

    @field_validator("healthz_bind_address")
    @classmethod
    def _address(cls, value: str) -> str:
        if value:
            split_address(value, 10256)
        return value

    @model_validator(mode="after")
    def _of_a_cluster(self) -> "Config":
        if not self.cleanup and not self.api_servers:
            raise ValueError("--api-servers: is required")
        return self

    @model_validator(mode="after")
    def _relayable(self) -> "Config":
        if self.relay == "always" and self.tls is None:
            raise ValueError("--relay=always needs --tls-cert-file, --tls-private-key-file and --client-ca-file")
        return self
