"""Flags of the process runtime."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: str = Field("unix:///run/raykube/runtime.sock", description="Unix socket on which to serve CRI v1")
    root_dir: Path = Field(
        Path("/var/lib/raykube/runtime"), description="Directory for the state of sandboxes and containers"
    )
    pod_cidr: str = Field(
        "127.0.1.0/24", description="Range of pod addresses; one of 127.0.0.0/8 needs no set-up on Linux"
    )
    node_name: str = Field("", description="Name of this machine; marks its processes as RAYKUBE_MACHINE")
    cluster: str = Field("", description="Name of the cluster; marks its processes as RAYKUBE_CLUSTER")
    container_path: str = Field(
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        description="PATH of containers that set none: there is no image to set it",
    )
    streaming_bind_addr: str = Field(
        "127.0.0.1:0", description="Address on which to serve exec, attach and port-forward, for the kubelet beside it"
    )
    cdi_spec_dirs: list[Path] = Field(
        [Path("/etc/cdi"), Path("/var/run/cdi")], description="Directories of CDI specs, which say what devices need"
    )
    cgroups: bool = Field(True, description="Hold containers to their limits where this user may write control groups")
