"""What a machine says of itself: asked on the machine, through Ray, before it is taken into a cluster."""

import os
import socket
import stat
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from raykube.cluster.plan import AUTHORITY
from raykube.cluster.state import FILE_NAME

# Where the runtimes that the kubelet knows listen, the preferred one first.
RUNTIME_SOCKETS = ("/run/containerd/containerd.sock", "/run/crio/crio.sock")


class Facts(BaseModel):
    """One machine's answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str  # the one Ray knows it by
    hostname: str
    version: str  # of raykube
    is_root: bool
    runtimes: list[str]  # endpoints of CRI runtimes that are there
    labels: dict[str, str] = {}  # Ray's
    record: str = ""  # its copy of the cluster's record


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def look(address: str, data_dir: str) -> str:
    """This machine's Facts as JSON. `data_dir`: where a copy of the cluster's record would be."""
    try:
        record = Path(data_dir, FILE_NAME).read_text()
    except (OSError, UnicodeDecodeError):
        record = ""
    return Facts(
        address=address,
        hostname=socket.gethostname(),
        version=version("raykube"),
        is_root=os.geteuid() == 0,
        runtimes=[f"unix://{path}" for path in RUNTIME_SOCKETS if _is_socket(path)],
        record=record,
    ).model_dump_json()


def authority(data_dir: str) -> dict[str, bytes]:
    """The files here from which the cluster's certificates are made; those that are missing are left out."""
    found = {}
    for name in AUTHORITY:
        try:
            found[name] = Path(data_dir, "pki", name).read_bytes()
        except OSError:
            continue
    return found
