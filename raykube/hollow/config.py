"""The flags of `raykube hollow`."""

import re
from ipaddress import IPv4Network
from pathlib import Path

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from raykube.api import quantity
from raykube.api.version import KUBERNETES_VERSION
from raykube.base.duration import Duration
from raykube.client.config import ApiConfig
from raykube.hollow.core import lifecycle
from raykube.hollow.core.lifecycle import Lifecycle
from raykube.hollow.core.machine import Fleet

_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?")
_TAINT = re.compile(r"([^=:]+)(?:=([^:]*))?:(NoSchedule|PreferNoSchedule|NoExecute)")
NODES_MAX = 100_000
DEFAULT_CAPACITY = {"cpu": "32", "memory": "256Gi", "ephemeral-storage": "1Ti"}


def _pairs(value: dict[str, str]) -> dict[str, str]:
    for key, text in value.items():
        if not key:
            raise ValueError(f"invalid pair {key}={text}: want key=value")
    return value


class Config(ApiConfig):
    """Configuration of the hollow machines of one process."""

    nodes: int = Field(100, ge=1, le=NODES_MAX, description="how many machines to play")
    name: str = Field("hollow", description="name of this set: its Nodes are those labelled hollow.raykube.io/set=NAME")
    node_prefix: str = Field("", description="Nodes are PREFIX-00000, PREFIX-00001, …; default: the set's name")
    first_node: int = Field(0, ge=0, le=NODES_MAX, description="number of the first Node")
    capacity: dict[str, str] = Field(
        default_factory=dict,
        description="what each machine has, e.g. cpu=64,nvidia.com/gpu=8; more than cpu=32,memory=256Gi,…",
    )
    max_pods: int = Field(110, ge=0, description="pods that each machine takes")
    node_labels: dict[str, str] = Field(default_factory=dict, description="further labels, key=value,…")
    register_with_taints: list[str] = Field([], description="taints of new Nodes, key=value:Effect,…")
    zones: int = Field(0, ge=0, description="zones that the machines are in, in turn; 0: none")
    node_cidr: str = Field(
        "127.64.0.0/10", description="addresses of the machines; loopback, so that whoever calls one is refused at once"
    )
    pod_cidr: str = Field("100.64.0.0/10", description="addresses of the pods; nothing is reached there")
    lifecycle_file: Path | None = Field(None, description="stages of pods' lives (YAML) in place of the built-in ones")
    seed: int = Field(0, description="chance falls by it: equal seeds draw equal delays and fates for equal names")
    pod_events: bool = Field(True, description="write the Events that a kubelet writes about pods")
    node_lease_duration_seconds: int = Field(40, ge=4, description="of the Leases; they are renewed after a quarter")
    node_status_report_frequency: Duration = Field(300.0, gt=0, description="time between two reports of a Node")
    bind_address: str = Field("127.0.0.1", description="address to serve health and metrics on")
    secure_port: int = Field(
        0, ge=0, le=65535, description="port for health and metrics (HTTPS with a certificate); 0: any free one"
    )

    @field_validator("capacity", "node_labels", "register_with_taints", mode="before")
    @classmethod
    def _from_text(cls, value: object, info: ValidationInfo) -> object:
        """As a text where all flags are texts: in `--extra-config`."""
        if not isinstance(value, str):
            return value
        parts = [part for part in value.split(",") if part]
        if info.field_name == "register_with_taints":
            return parts
        pairs = [part.partition("=") for part in parts]
        return {key: text for key, _, text in pairs}

    @field_validator("name", "node_prefix")
    @classmethod
    def _valid_name(cls, value: str) -> str:
        if value and not _PREFIX.fullmatch(value):
            raise ValueError("must be at most 50 lower-case letters, digits and '-', and not begin or end with '-'")
        return value

    @field_validator("capacity")
    @classmethod
    def _amounts(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in _pairs(value).items():
            if quantity.parse(text) < 0:
                raise ValueError(f"{name}={text}: must not be negative")
        return value

    @field_validator("node_labels")
    @classmethod
    def _labels(cls, value: dict[str, str]) -> dict[str, str]:
        return _pairs(value)

    @field_validator("register_with_taints")
    @classmethod
    def _taints(cls, value: list[str]) -> list[str]:
        for text in value:
            if not _TAINT.fullmatch(text):
                raise ValueError(
                    f"invalid taint {text!r}: want key=value:Effect, "
                    "Effect being NoSchedule, PreferNoSchedule or NoExecute"
                )
        return value

    @field_validator("node_cidr", "pod_cidr")
    @classmethod
    def _ranges(cls, value: str) -> str:
        IPv4Network(value)
        return value

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if problem := self.fleet.problem:
            raise ValueError(f"--node-cidr: {problem}")
        return self

    @property
    def fleet(self) -> Fleet:
        """The machines."""
        amounts = DEFAULT_CAPACITY | self.capacity | {"pods": str(self.max_pods)}
        return Fleet(
            set_name=self.name,
            prefix=self.node_prefix or self.name,
            first=self.first_node,
            count=self.nodes,
            cidr=self.node_cidr,
            capacity=amounts,
            kubelet_version=KUBERNETES_VERSION,
            labels=self.node_labels,
            taints=tuple(map(_taint, self.register_with_taints)),
            zones=self.zones,
            lease_s=self.node_lease_duration_seconds,
        )

    def lifecycles(self) -> tuple[Lifecycle, ...]:
        """The stages of pods. Raises OSError or ValueError with a line for the user."""
        path = self.lifecycle_file or Path(__file__).with_name("lifecycle.yaml")
        try:
            return lifecycle.parse(yaml.safe_load(path.read_text()))
        except OSError as error:
            raise OSError(f"--lifecycle-file: cannot read {path}: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise ValueError(f"--lifecycle-file: {path} is no YAML: {error}") from None
        except ValueError as error:
            raise ValueError(f"--lifecycle-file: {path}: {error}") from None


def _taint(text: str) -> dict[str, str]:
    found = _TAINT.fullmatch(text)
    assert found is not None  # validated
    key, value, effect = found.groups()
    return {"key": key, "effect": effect} | ({"value": value} if value is not None else {})
