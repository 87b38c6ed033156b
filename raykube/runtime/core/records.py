"""What the runtime knows of sandboxes and containers, and how that is written down.

A sandbox is ready from its creation until it is stopped: it is an address and a name, no process. A container is
created, then running, then exited; its state follows from which of its facts exist, so that no two can disagree:

    created   neither `started` nor `ended`
    running   `started`
    exited    `ended` (with or without `started`: a program that could not be started has an end only)
"""

from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict

from raykube.pb import cri_pb2

SERVICE_ACCOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(slots=True)
class Sandbox:
    id: str
    config: cri_pb2.PodSandboxConfig
    created_at: int  # nanoseconds since the epoch, like every time here
    address: str  # "" for a pod on the machine's own network
    ready: bool = True

    @property
    def on_host_network(self) -> bool:
        return self.config.linux.security_context.namespace_options.network == cri_pb2.NODE

    def encode(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "created_at": self.created_at,
            "address": self.address,
            "ready": self.ready,
            "config": MessageToDict(self.config, preserving_proto_field_name=True),
        }

    @classmethod
    def decode(cls, record: dict[str, Any]) -> "Sandbox":
        config = ParseDict(record["config"], cri_pb2.PodSandboxConfig(), ignore_unknown_fields=True)
        return cls(record["id"], config, record["created_at"], record["address"], record["ready"])


@dataclass(frozen=True, slots=True)
class Started:
    """A program that runs: its process and the shim's, each with its start time in clock ticks since `boot`."""

    shim_pid: int
    shim_start: int
    boot: str
    pid: int
    start: int
    started_at: int


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    signal: int
    finished_at: int
    reason: str
    message: str


@dataclass(slots=True)
class Container:
    id: str
    sandbox_id: str
    config: cri_pb2.ContainerConfig
    created_at: int
    log_path: str  # "" when nobody wants the output
    started: Started | None = None
    ended: Ended | None = None

    @property
    def state(self) -> cri_pb2.ContainerState:
        if self.ended is not None:
            return cri_pb2.CONTAINER_EXITED
        return cri_pb2.CONTAINER_CREATED if self.started is None else cri_pb2.CONTAINER_RUNNING

    def encode(self) -> dict[str, Any]:
        """The facts of creation only: those of start and end are the shim's files."""
        return {
            "id": self.id,
            "sandbox_id": self.sandbox_id,
            "created_at": self.created_at,
            "log_path": self.log_path,
            "config": MessageToDict(self.config, preserving_proto_field_name=True),
        }

    @classmethod
    def decode(cls, record: dict[str, Any]) -> "Container":
        config = ParseDict(record["config"], cri_pb2.ContainerConfig(), ignore_unknown_fields=True)
        return cls(record["id"], record["sandbox_id"], config, record["created_at"], record["log_path"])
