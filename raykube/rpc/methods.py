"""What a service descriptor says of its methods, with the message classes looked up."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass


@dataclass(frozen=True, slots=True)
class Method:
    """One method: its path on the wire and its two message classes."""

    name: str
    path: str
    request_type: Any
    response_type: Any
    client_streaming: bool
    server_streaming: bool


def methods_of(service: ServiceDescriptor) -> Iterator[Method]:
    """The methods of `service`, e.g. `etcd_pb2.DESCRIPTOR.services_by_name["KV"]`."""
    for method in service.methods:
        yield Method(
            method.name,
            f"/{service.full_name}/{method.name}",
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
            method.client_streaming,
            method.server_streaming,
        )
