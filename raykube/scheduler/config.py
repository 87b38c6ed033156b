"""The flags of `raykube scheduler`."""

from pathlib import Path

from pydantic import Field

from raykube.client.config import ElectedConfig


class Config(ElectedConfig):
    """Configuration of one scheduler."""

    secure_port: int = Field(
        10259, ge=0, le=65535, description="port for health and metrics (HTTPS with a certificate); 0: any free one"
    )
    leader_elect_resource_name: str = Field("kube-scheduler", description="name of the lease")
    scheduler_name: str = Field(
        "default-scheduler",
        description="schedule the pods whose spec.schedulerName is this; profiles of --config name their own",
    )
    config: Path | None = Field(
        None,
        description="KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1): profiles, plugins and their weights "
        "and arguments; what it says of leader election holds where no flag says otherwise",
    )
    gang_patience: float = Field(
        30.0,
        ge=0,
        description="seconds after which room that becomes free is kept for a gang of pods that waits to be placed",
    )
