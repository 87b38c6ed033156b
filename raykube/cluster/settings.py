"""What the operator asks for, with defaults from the environment. The only module that reads the environment.

Everything below `raykube.cluster` gets these values as arguments.
"""

import os
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raykube.cluster.addresses import HOLLOW_NODES_MAX, MACHINES_MAX

DEFAULT_NAME = "raykube"
NAME_PATTERN = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
CONTROL_PLANE_SIZES = (1, 3, 5)
RAY_TOKEN_FILE = Path("~/.ray/auth_token")  # where Ray looks for it

INSECURE_RAY = "use a Ray that asks for no token: who reaches its ports rules its machines, and the cluster"
NO_TOKEN = (
    "Ray without a token lets everybody who reaches its ports run programs, and the cluster's keys pass through it:"
    " put one and the same on all machines (mkdir -p ~/.ray && openssl rand -hex 32 > ~/.ray/auth_token &&"
    " chmod 600 ~/.ray/auth_token), or give --insecure-ray"
)


class Settings(BaseModel):
    """The wish of `raykube up`. Raises ValidationError with a message for the operator."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(DEFAULT_NAME, description="name of the cluster")
    machines: int = Field(1, description="machines (Ray nodes) to start on this computer")
    control_plane: int = Field(1, description="machines that run the control plane: 1, 3 or 5; 0: as it is, or 1")
    data_dir: Path
    kubeconfig: Path
    address: str = Field(
        "", description="GCS address (host:port) of a running Ray cluster to join instead of starting one"
    )
    ray_timeout_s: float = Field(30.0, ge=0, description="how long to wait for Ray at --address")
    existing: bool = Field(
        False, description="the cluster exists: wait for machines that know it, and never make a new one"
    )
    control_plane_selector: dict[str, str] = Field(
        default_factory=dict, description="Ray labels of the machines that may run the control plane"
    )
    container_runtime_endpoint: str = Field(
        "",
        description="container runtime of all machines: unix:///… (CRI), 'docker', 'process' for the embedded one; "
        "none: what is found on each",
    )
    hollow: int | None = Field(
        None, ge=0, le=HOLLOW_NODES_MAX, description="simulated machines; none: as many as there are"
    )
    extra_config: dict[str, dict[str, str]] = Field(default_factory=dict)
    insecure_ray: bool = Field(False, description=INSECURE_RAY)

    @field_validator("name")
    @classmethod
    def _valid_name(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError("must be at most 40 lower-case letters, digits and '-', and not begin or end with '-'")
        return name

    @field_validator("machines")
    @classmethod
    def _enough_machines(cls, machines: int) -> int:
        if not 1 <= machines <= MACHINES_MAX:
            raise ValueError(f"must be 1 to {MACHINES_MAX}")
        return machines

    @model_validator(mode="after")
    def _control_plane_fits(self) -> "Settings":
        if self.control_plane not in CONTROL_PLANE_SIZES and (self.control_plane or not self.address):
            raise ValueError("--control-plane must be 1, 3 or 5: a quorum needs an odd number")
        if not self.address and self.control_plane > self.machines:
            raise ValueError(f"--control-plane {self.control_plane} needs at least as many --machines")
        if not self.address and (self.control_plane_selector or self.container_runtime_endpoint):
            raise ValueError("--control-plane-selector and --container-runtime-endpoint go with --address")
        if self.existing and not self.address:
            raise ValueError("--existing goes with --address")
        endpoint = self.container_runtime_endpoint
        if endpoint not in ("", "docker", "process") and not endpoint.startswith("unix:///"):
            raise ValueError("--container-runtime-endpoint must be unix:///…, 'docker' or 'process'")
        return self


def default_data_dir(name: str) -> Path:
    """`$RAYKUBE_DATA_DIR/NAME`, else `$XDG_DATA_HOME/raykube/NAME`, else `~/.local/share/raykube/NAME`."""
    root = os.environ.get("RAYKUBE_DATA_DIR")
    if root:
        return Path(root) / name
    share = os.environ.get("XDG_DATA_HOME")
    return (Path(share) if share else Path.home() / ".local" / "share") / "raykube" / name


def default_kubeconfig() -> Path:
    """The file kubectl would write to: the first of `$KUBECONFIG`, else `~/.kube/config`."""
    for part in os.environ.get("KUBECONFIG", "").split(os.pathsep):
        if part:
            return Path(part)
    return Path.home() / ".kube" / "config"


def program_path() -> str:
    """The operator's PATH, which containers of plain processes get: the machine's programs are their image."""
    return os.environ.get("PATH", os.defpath)


def ray_authentication(token_file: Path) -> dict[str, str]:
    """Ray's variables for a cluster whose machines share a token in `token_file`; without one, Ray asks for none.

    A choice in this process's environment stands.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return {}
    path = token_file.expanduser()
    if path.exists():
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    return {"RAY_AUTH_MODE": "disabled"}


def has_ray_authentication(token_file: Path) -> bool:
    """Whether there is a token, or this process's environment says how Ray should do without."""
    return ray_authentication(token_file) != {"RAY_AUTH_MODE": "disabled"}


def process_environment(extra: dict[str, str]) -> dict[str, str]:
    """This process's environment with `extra` on top and Ray's own settings taken out."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return inherited | extra


def apply_environment(values: dict[str, str]) -> None:
    """Sets variables of this process. Ray reads its settings from there, once, when it is imported."""
    os.environ.update(values)
