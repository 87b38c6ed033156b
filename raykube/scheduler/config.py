"""The flags of `raykube scheduler`."""

from pydantic import Field

from raykube.client.config import ElectedConfig


class Config(ElectedConfig):
    """Configuration of one scheduler."""

    secure_port: int = Field(
        10259, ge=0, le=65535, description="port for health and metrics (HTTPS with a certificate); 0: any free one"
    )
    leader_elect_resource_name: str = Field("kube-scheduler", description="name of the lease")
    scheduler_name: str = Field("default-scheduler", description="schedule the pods whose spec.schedulerName is this")
