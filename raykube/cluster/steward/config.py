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
    replace_after: Duration = Field(
        60.0, gt=0, description="how long a machine is lost before its part of the control plane is made anew elsewhere"
    )
    leave_after: Duration = Field(
        600.0,  # a reboot ends Ray on purpose too
        ge=0,
        description="how long a machine whose Ray ended on purpose, but not by 'raykube leave', is waited for",
    )
    forget_after: Duration = Field(
        3600.0, ge=0, description="how long a machine that was lost is waited for before it is forgotten; 0: for ever"
    )
    drain_timeout: Duration = Field(
        300.0, ge=0, description="how long the pods of a machine that leaves are waited for; what is left then ends"
    )
