"""The flags of `raykube dns`: cluster DNS has no flags upstream; defaults are those of kubeadm's Corefile."""

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from raykube.base.duration import Duration
from raykube.client.config import ApiConfig
from raykube.dns.core.wire import UDP_BYTES_MIN, wire_name
from raykube.rpc.listen import split_address

PRIVATE = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
]


class Config(ApiConfig):
    """Configuration of one DNS server."""

    hostname_override: str = Field("", description="name of this node; default: the host name")
    bind_addresses: list[str] = Field(["127.0.0.1"], min_length=1, description="addresses to answer on")
    port: int = Field(53, ge=0, le=65535, description="port to answer on, UDP and TCP; 0: any free one")
    cluster_domain: str = Field("cluster.local", description="the zone of the cluster")
    cluster_dns: list[str] = Field(
        [],
        description="cluster IPs of the Service kube-system/kube-dns, which is made, and which this server joins; "
        "none: neither",
    )
    forward: list[str] = Field(
        [], description="address[:port] of servers for all other names; default: those of --resolv-conf"
    )
    resolv_conf: Path = Field(Path("/etc/resolv.conf"), description="where this machine's DNS servers are listed")
    pods: Literal["insecure", "disabled"] = Field(
        "insecure", description="names of pods (10-1-2-3.NAMESPACE.pod.ZONE): of any address, or none"
    )
    ttl: int = Field(30, ge=0, le=3600, description="seconds that clients may remember an answer of the zone")
    cache_ttl: int = Field(30, ge=0, description="seconds that upstream's answers are remembered at most")
    cache_size: int = Field(10_000, ge=0, description="how many of upstream's answers are remembered")
    max_concurrent: int = Field(1000, ge=1, description="queries that wait for upstream; more are refused")
    max_concurrent_per_client: int = Field(
        100, ge=1, description="those of one address, unless it is a loopback one, which may be a proxy's"
    )
    allow_networks: list[str] = Field(
        PRIVATE, description="networks of clients that are answered, beside --bind-addresses; others get REFUSED"
    )
    max_udp_size: int = Field(1232, ge=UDP_BYTES_MIN, le=4096, description="longest answer over UDP, in bytes")
    healthz_bind_address: str = Field(
        "127.0.0.1:9153", description="host:port of /health, /ready and /metrics; empty: not served"
    )
    lameduck: Duration = Field(
        5.0, ge=0, description="how long a server that stops still answers after it left the Service"
    )

    @field_validator("bind_addresses", "cluster_dns")
    @classmethod
    def _ips(cls, value: list[str]) -> list[str]:
        return [str(ip_address(text)) for text in value]

    @field_validator("allow_networks")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        return [str(ip_network(text, strict=False)) for text in value]

    @field_validator("forward")
    @classmethod
    def _servers(cls, value: list[str]) -> list[str]:
        for text in value:
            upstream(text)
        return value

    @field_validator("cluster_domain")
    @classmethod
    def _domain(cls, value: str) -> str:
        if len(wire_name(value)) == 1:
            raise ValueError("the zone needs a name")
        return value.lower().removesuffix(".")

    @field_validator("healthz_bind_address")
    @classmethod
    def _address(cls, value: str) -> str:
        if value:
            split_address(value, 9153)
        return value


def upstream(text: str) -> tuple[str, int]:
    """`1.1.1.1`, `1.1.1.1:5353`, `fd00::1` or `[fd00::1]:5353` as address and port. Raises ValueError."""
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    host, port = split_address(text, 53)
    return str(ip_address(host)), port
