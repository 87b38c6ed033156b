"""What a cluster remembers of itself: its record.

The record in the store is the one that counts (`record.py`). Every machine with a member of the store has a copy of it,
`<data dir>/cluster.json`, with which any of them can find and start the store again, as `up` does. Of two copies, the
one of the higher generation is the newer.
"""

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

FILE_NAME = "cluster.json"
DOCKER = "docker"  # in place of an endpoint


def scratch_of(cluster_id: str) -> Path:
    """Sockets live here: the paths of unix sockets may have no more than 107 bytes, data directories have more."""
    return Path(f"/tmp/raykube-{cluster_id[:12]}")


class Machine(BaseModel):
    """One machine: its name is its Node's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    address: str
    index: int  # 1, 2, …: also the slice of addresses that its pods take
    control_plane: bool = False
    eligible: bool = True  # may have a part of the control plane
    phase: Literal["", "draining", "drained"] = ""  # of a machine that leaves
    runtime: str = ""  # endpoint of its CRI runtime; DOCKER: Docker, through cri-docker; "": the process runtime
    node_labels: str = ""  # key=value,… that its kubelet registers with


class ClusterState(BaseModel):
    """A cluster that exists, running or not."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    generation: int = 0  # grows with every change of the record in the store
    name: str
    id: str  # 32 hexadecimal digits; the marker of every process, and the store's cluster token
    subnet: int  # local clusters live in 127.<subnet>.0.0/16
    local: bool
    machines: list[Machine]
    freed_indexes: list[int] = []  # of machines that were forgotten, the longest ago first
    control_plane_size: int = 0  # machines of the control plane that the operator asked for; 0: those there are
    control_plane_selector: dict[str, str] = {}  # Ray labels of the machines that may have a part of it
    runtime_endpoint: str = (
        ""  # what the operator gave: an endpoint, DOCKER, "process", or "": as found on each machine
    )
    has_networks: bool = False  # pods have networks of their own, with real ranges
    gcs_address: str = ""
    extra_config: dict[str, dict[str, str]] = {}
    kubernetes_service_port: int = 443
    hollow_nodes: int = 0  # simulated machines
    hollow_actors: int = 0  # that play them
    program_path: str = ""  # where containers of the process runtime find their programs

    @model_validator(mode="before")
    @classmethod
    def _former(cls, value: Any) -> Any:
        """Reads what raykube 0.2 wrote: the store's machines were a list of their own."""
        if isinstance(value, dict) and (store := value.get("store")) is not None:
            value = {key: item for key, item in value.items() if key != "store"}
            for machine in value.get("machines", []):
                machine.pop("ray_node_id", None)
                machine["control_plane"] = machine["name"] in store if store else machine.get("control_plane", False)
        return value

    @property
    def scratch_dir(self) -> Path:
        return scratch_of(self.id)

    @property
    def namespace(self) -> str:
        """The Ray namespace of this cluster's actors."""
        return f"raykube-{self.name}"

    @property
    def control_plane(self) -> list[Machine]:
        """The machines with a member of the store, an apiserver, and all that decides."""
        return [machine for machine in self.machines if machine.control_plane]

    @property
    def members_wanted(self) -> int:
        return self.control_plane_size or len(self.control_plane)

    def machine(self, name: str) -> Machine:
        """The machine `name`. Raises KeyError."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise KeyError(name)


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
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("w") as file:
        json.dump(state.model_dump(mode="json"), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
