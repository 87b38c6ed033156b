"""What a cluster remembers of itself between commands: `<data dir>/cluster.json`.

The store has the objects; this file has only what is needed to find and start the store again.
"""

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

FILE_NAME = "cluster.json"


def scratch_of(cluster_id: str) -> Path:
    """Sockets live here: the paths of unix sockets may have no more than 107 bytes, data directories have more."""
    return Path(f"/tmp/raykube-{cluster_id[:12]}")


class Machine(BaseModel):
    """One machine: its name is its Node's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    address: str
    index: int  # 1, 2, …: also the slice of loopback addresses that its pods take
    control_plane: bool = False
    ray_node_id: str = ""  # joined Ray clusters only: local ones are found by label


class ClusterState(BaseModel):
    """A cluster that exists, running or not."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    name: str
    id: str  # 32 hexadecimal digits; the marker of every process, and the store's cluster token
    subnet: int  # local clusters live in 127.<subnet>.0.0/16
    local: bool
    machines: list[Machine]
    gcs_address: str = ""
    extra_config: dict[str, dict[str, str]] = {}
    kubernetes_service_port: int = 443
    store: list[str] = []  # machines with a member of the store, when they are not those of the control plane any more
    program_path: str = ""  # where containers of the process runtime find their programs

    @property
    def scratch_dir(self) -> Path:
        return scratch_of(self.id)

    @property
    def namespace(self) -> str:
        """The Ray namespace of this cluster's actors."""
        return f"raykube-{self.name}"

    @property
    def control_plane(self) -> list[Machine]:
        return [machine for machine in self.machines if machine.control_plane]

    @property
    def store_machines(self) -> list[Machine]:
        """The machines with a member of the store."""
        return [machine for machine in self.machines if machine.name in self.store] or self.control_plane


def load(data_dir: Path) -> ClusterState | None:
    """The cluster of `data_dir`; None when there is none. Raises ValueError when the file is not one of ours."""
    path = data_dir / FILE_NAME
    try:
        return ClusterState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}: use another --data-dir") from None
    except ValidationError:
        raise ValueError(f"{path} is not a cluster of this version of raykube: use another --data-dir") from None


def save(data_dir: Path, state: ClusterState) -> None:
    """Replaces the file atomically."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = data_dir / FILE_NAME
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        json.dump(state.model_dump(mode="json"), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
