"""The flags of `raykube router`."""

from pathlib import Path

from pydantic import Field, model_validator

from raykube.base.duration import Duration
from raykube.client.config import HostPorts, TlsConfig


class Config(TlsConfig):
    """Configuration of one router."""

    bind_addresses: list[str] = Field(["127.0.0.1"], min_length=1, description="addresses to listen on")
    port: int = Field(6443, ge=0, le=65535, description="port for HTTPS clients; 0: any free one")
    grpc_port: int | None = Field(None, ge=0, le=65535, description="port for gRPC clients; none: not served")
    servers: HostPorts = Field([], description="host:port of apiservers' HTTPS, to begin with")
    grpc_servers: HostPorts = Field([], description="host:port of the same apiservers' gRPC APIs, in the same order")
    shared: bool = Field(
        False, description="share the listening ports with the other routers of this computer's cluster (SO_REUSEPORT)"
    )
    tls_cert_file: Path | None = Field(None, description="client certificate for health checks and the endpoint stream")
    tls_private_key_file: Path | None = Field(None, description="key of the client certificate")
    health_check_interval: Duration = Field(1.0, gt=0, description="time between two checks of an apiserver")
    health_check_timeout: Duration = Field(
        2.0, gt=0, description="an apiserver that does not answer for so long is down"
    )
    connect_timeout: Duration = Field(2.0, gt=0, description="how long to try one apiserver before another")
    drain_timeout: Duration = Field(2.0, ge=0, description="how long open connections may end by themselves at a stop")

    @model_validator(mode="after")
    def _reachable(self) -> "Config":
        if not self.servers and not self.grpc_servers:
            raise ValueError("give at least one apiserver with --servers or --grpc-servers")
        return self
