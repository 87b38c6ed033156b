"""Flags of the CRI server for Docker; cri-dockerd's names where it has them."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from raykube.rpc.listen import split_address

HEALTHZ_PORT = 10268


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    container_runtime_endpoint: str = Field(
        "unix:///run/raykube/cri-docker.sock", description="Unix socket on which to serve CRI v1"
    )
    docker_endpoint: str = Field("unix:///var/run/docker.sock", description="Unix socket of the Docker daemon")
    root_directory: Path = Field(
        Path("/var/lib/raykube/cri-docker"),
        description="Directory for resolv.conf files, CNI results and log positions",
    )
    pod_infra_container_image: str = Field(
        "registry.k8s.io/pause:3.10", description="Image of the containers that hold a pod's namespaces"
    )
    network_plugin: Literal["cni", "bridge"] = Field(
        "cni",
        description="Who connects pods: 'cni', the plugins that --cni-conf-dir names, or 'bridge', Docker's own, "
        "which reaches the pods of this machine only",
    )
    cni_conf_dir: Path = Field(Path("/etc/cni/net.d"), description="Directory of CNI configuration files")
    cni_bin_dir: list[str] = Field(
        ["/opt/cni/bin", "/usr/lib/cni"], description="Directories in which to look for CNI plugins"
    )
    streaming_bind_addr: str = Field(
        "127.0.0.1:0", description="Address on which to serve exec, attach and port-forward, for the kubelet beside it"
    )
    restrict_oom_score_adj: bool = Field(
        False, description="Ask for no lower OOM score than this process has: for a root without CAP_SYS_RESOURCE"
    )
    healthz_bind_address: str = Field("", description="host:port of /healthz; empty: not served")

    @field_validator("healthz_bind_address")
    @classmethod
    def _address(cls, value: str) -> str:
        if value:
            split_address(value, HEALTHZ_PORT)
        return value
