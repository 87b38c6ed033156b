"""What a machine says of itself: asked on the machine, through Ray, before it is taken into a cluster."""

import json
import os
import socket
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from raykube.cluster.doctor.probe import runtimes
from raykube.cluster.plan import AUTHORITY
from raykube.cluster.state import FILE_NAME


class Facts(BaseModel):
    """One machine's answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str  # the one Ray knows it by
    hostname: str
    version: str  # of raykube
    is_root: bool
    runtimes: list[str]  # endpoints of the container runtimes that answer there, the preferred one first
    labels: dict[str, str] = {}  # Ray's
    resources: dict[str, float] = {}  # the same
    record: str = ""  # its copy of the cluster's record
    clusters: list[str] = []  # ids of those that have, or left, something on it in that data directory


def _clusters(data_dir: str) -> set[str]:
    """Whose actors' specs lie here: they go when all that the actors left is gone."""
    found = set()
    for path in Path(data_dir).glob("machines/*/specs/*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found.add(str(json.loads(path.read_bytes())["cluster"]))
    return found - {""}


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
        runtimes=[row["endpoint"] for row in runtimes() if not (row["problem"] or row["is_forbidden"])],
        record=record,
        clusters=sorted(_clusters(data_dir)),
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
