"""The flags of `raykube scheduler`."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raykube.base.duration import Duration
from raykube.rpc.listen import split_address


class Config(BaseModel):
    """Configuration of one scheduler."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_servers: list[str] = Field(min_length=1, description="host:port of apiservers' gRPC APIs")
    tls_cert_file: Path | None = Field(
        None, description="certificate to show to the apiservers, and to serve health and metrics with"
    )
    tls_private_key_file: Path | None = Field(None, description="key of the certificate")
    client_ca_file: Path | None = Field(None, description="CA that the apiservers' certificates are signed by")
    bind_address: str = Field("127.0.0.1", description="address to serve health and metrics on")
    secure_port: int = Field(
        10259, ge=0, le=65535, description="port for health and metrics (HTTPS with a certificate); 0: any free one"
    )
    leader_elect: bool = Field(True, description="work only while holding the lease; others stand by")
    leader_elect_lease_duration: Duration = Field(
        15.0, gt=0, description="how long a silent leader is respected by the others"
    )
    leader_elect_renew_deadline: Duration = Field(
        10.0, gt=0, description="a leader that could not renew the lease for so long stops"
    )
    leader_elect_retry_period: Duration = Field(2.0, gt=0, description="time between two attempts at the lease")
    leader_elect_resource_name: str = Field("kube-scheduler", description="name of the lease")
    leader_elect_resource_namespace: str = Field("kube-system", description="namespace of the lease")
    scheduler_name: str = Field("default-scheduler", description="schedule the pods whose spec.schedulerName is this")

    @field_validator("api_servers")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        for text in value:
            split_address(text)
        return value

    @model_validator(mode="after")
    def _complete(self) -> "Config":
        files = (self.tls_cert_file, self.tls_private_key_file, self.client_ca_file)
        if any(files) and not all(files):
            raise ValueError("--tls-cert-file, --tls-private-key-file and --client-ca-file go together")
        if not self.leader_elect_lease_duration > self.leader_elect_renew_deadline:
            raise ValueError("--leader-elect-lease-duration must be longer than --leader-elect-renew-deadline")
        if not self.leader_elect_renew_deadline > 1.2 * self.leader_elect_retry_period:
            raise ValueError("--leader-elect-renew-deadline must be longer than 1.2 times --leader-elect-retry-period")
        return self
