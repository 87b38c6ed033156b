"""What a steward is told when it is made."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from raykube.base.duration import Duration
from raykube.cluster.state import ClusterState


class Config(BaseModel):
    """The steward beside one member of the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: ClusterState = Field(description="the cluster as it was when this actor was made")
    machine: str = Field(description="the machine it runs on")
    data_dir: Path = Field(description="the cluster's data directory, the same path on every machine")
    member: int = Field(0, description="the store's id of the member beside it; 0: a founder")
    replace_after: Duration = Field(60.0, gt=0, description="how long a machine is lost before its member is replaced")
