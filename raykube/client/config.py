"""The flags that components share: where the apiservers are, with which certificate, and how a leader is elected.

    TlsConfig               certificate, key, CA: all or none
      ApiConfig             + the apiservers' addresses
        ElectedConfig       + health port and lease: components of which one works and the others stand by

A component's Config declares a field again to give it a description or default of its own; its place among the flags
stays.
"""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from raykube.base.duration import Duration
from raykube.rpc import Tls
from raykube.rpc.listen import split_address


def _host_ports(value: list[str]) -> list[str]:
    for text in value:
        split_address(text)
    return value


HostPorts = Annotated[list[str], AfterValidator(_host_ports)]


class TlsConfig(BaseModel):
    """The certificate of a component; without one it speaks plain TCP, for tests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tls_cert_file: Path | None = Field(
        None, description="certificate to show to the apiservers, and to serve health and metrics with"
    )
    tls_private_key_file: Path | None = Field(None, description="key of the certificate")
    client_ca_file: Path | None = Field(None, description="CA that the apiservers' certificates are signed by")

    @model_validator(mode="after")
    def _together(self) -> "TlsConfig":
        files = (self.tls_cert_file, self.tls_private_key_file, self.client_ca_file)
        if any(files) and not all(files):
            raise ValueError("--tls-cert-file, --tls-private-key-file and --client-ca-file go together")
        return self

    @property
    def tls(self) -> Tls | None:
        """The three files, or None without them."""
        if self.tls_cert_file is None or self.tls_private_key_file is None or self.client_ca_file is None:
            return None
        return Tls(self.tls_cert_file, self.tls_private_key_file, self.client_ca_file)


class ApiConfig(TlsConfig):
    """A client of the apiservers."""

    api_servers: HostPorts = Field(min_length=1, description="host:port of apiservers' gRPC APIs")


class ElectedConfig(ApiConfig):
    """A component of which only the holder of a lease works."""

    bind_address: str = Field("127.0.0.1", description="address to serve health and metrics on")
    secure_port: int = Field(
        0, ge=0, le=65535, description="port for health and metrics (HTTPS with a certificate); 0: any free one"
    )
    leader_elect: bool = Field(True, description="work only while holding the lease; others stand by")
    leader_elect_lease_duration: Duration = Field(
        15.0, gt=0, description="how long a silent leader is respected by the others"
    )
    leader_elect_renew_deadline: Duration = Field(
        10.0, gt=0, description="a leader that could not renew the lease for so long stops"
    )
    leader_elect_retry_period: Duration = Field(2.0, gt=0, description="time between two attempts at the lease")
    leader_elect_resource_name: str = Field("", description="name of the lease")
    leader_elect_resource_namespace: str = Field("kube-system", description="namespace of the lease")

    @model_validator(mode="after")
    def _electable(self) -> "ElectedConfig":
        if not self.leader_elect_lease_duration > self.leader_elect_renew_deadline:
            raise ValueError("--leader-elect-lease-duration must be longer than --leader-elect-renew-deadline")
        if not self.leader_elect_renew_deadline > 1.2 * self.leader_elect_retry_period:
            raise ValueError("--leader-elect-renew-deadline must be longer than 1.2 times --leader-elect-retry-period")
        return self
