"""The flags of `raykube pod-network`."""

from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from raykube.base.duration import Duration
from raykube.client.config import ApiConfig
from raykube.rpc.listen import split_address

DEFAULT_CNI_DIR = Path("/etc/cni/net.d")


class Config(ApiConfig):
    """Configuration of the pod network on one machine."""

    hostname_override: str = Field("", description="name of this node; default: the host name")
    cluster_cidr: list[str] = Field(
        ["10.244.0.0/16"], description="ranges of all pods' addresses: traffic that leaves them is masqueraded"
    )
    backend: Literal["auto", "direct", "vxlan"] = Field(
        "auto",
        description="how other machines' pods are reached: routes over their addresses, VXLAN, "
        "or auto: routes where they share a segment, VXLAN where not",
    )
    vxlan_vni: int = Field(4096, ge=1, lt=1 << 24, description="number of the VXLAN network")
    vxlan_port: int = Field(4789, ge=1, le=65535, description="UDP port of VXLAN")
    cni_conf_dir: Path = Field(DEFAULT_CNI_DIR, description="where the container runtime looks for CNI configuration")
    cni_bin_dir: list[Path] = Field(
        [Path("/opt/cni/bin"), Path("/usr/lib/cni"), Path("/usr/libexec/cni")],
        description="where the runtime's CNI plug-ins may be: an optional one is used only if it is there",
    )
    cni_data_dir: Path = Field(
        Path("/var/lib/cni/networks"), description="where CNI plug-ins remember which pod has which address"
    )
    cni_plugin: Literal["auto", "bridge", "ptp"] = Field(
        "auto", description="how pods are attached; auto: a bridge, or ptp where the kernel has no br_netfilter"
    )
    bridge: str = Field("raykube0", min_length=1, max_length=15, description="name of the pods' bridge")
    mtu: int = Field(0, ge=0, le=65535, description="MTU of pods' interfaces; 0: from the machine's own interface")
    masquerade: bool = Field(True, description="pods reach what is outside the cluster with their machine's address")
    forward_rules: bool = Field(
        True, description="let pods' packets through where the machine's iptables drop what is forwarded (Docker, ufw)"
    )
    network_policy: bool = Field(True, description="enforce NetworkPolicies")
    min_sync_period: Duration = Field(0.1, ge=0, description="changes of policies and routes are gathered for so long")
    sync_period: Duration = Field(10.0, gt=0, description="how often to look whether somebody removed the rules")
    cleanup: bool = Field(False, description="remove routes, rules and the CNI file of this machine, and end")
    healthz_bind_address: str = Field("", description="host:port of /healthz; empty: not served")

    @field_validator("cluster_cidr")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for text in value:
            ip_network(text)
        return value

    @field_validator("healthz_bind_address")
    @classmethod
    def _address(cls, value: str) -> str:
        if value:
            split_address(value, 10257)
        return value
