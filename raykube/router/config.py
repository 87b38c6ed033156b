"""The flags of `raykube router`."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raykube.base.duration import Duration
from raykube.rpc.listen import split_address


class Config(BaseModel):
    """Configuration of one router."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bind_addresses: list[str] = Field(["127.0.0.1"], min_length=1, description="addresses to listen on")
    port: int = Field(6443, ge=0, le=65535, description="port for HTTPS clients; 0: any free one")
    grpc_port: int | None = Field(None, ge=0, le=65535, description="port for gRPC clients; none: not served")
    servers: list[str] = Field([], description="host:port of apiservers' HTTPS, to begin with")
    grpc_servers: list[str] = Field([], description="host:port of the same apiservers' gRPC APIs, in the same order")
    shared: bool = Field(
        False, description="share the listening ports with the other routers of this computer's cluster (SO_REUSEPORT)"
    )
    tls_cert_file: Path | None = Field(None, description="client certificate for health checks and the endpoint stream")
    tls_private_key_file: Path | None = Field(None, description="key of the client certificate")
    client_ca_file: Path | None = Field(None, description="CA that the apiservers' certificates are signed by")
    health_check_interval: Duration = Field(1.0, gt=0, description="time between two checks of an apiserver")
    health_check_timeout: Duration = Field(
        2.0, gt=0, description="an apiserver that does not answer for so long is down"
    )
    connect_timeout: Duration = Field(2.0, gt=0, description="how long to try one apiserver before another")
    drain_timeout: Duration = Field(2.0, ge=0, description="how long open connections may end by themselves at a stop")

    @field_validator("servers", "grpc_servers")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        for text in value:
            split_address(text)
        return value

    @model_validator(mode="after")
    def _complete(self) -> "Config":
        if not self.servers and not self.grpc_servers:
            raise ValueError("give at least one apiserver with --servers or --grpc-servers")
        files = (self.tls_cert_file, self.tls_private_key_file, self.client_ca_file)
        if any(files) and not all(files):
            raise ValueError("--tls-cert-file, --tls-private-key-file and --client-ca-file go together")
        return self
