"""A driver of devices as a process of its own, on grpcio: registers with a kubelet, prepares claims, notes each call.

    python device_driver.py NAME ROOT CDI_DIRECTORY [VERSION]

ROOT is the kubelet's; calls are appended to ROOT/NAME.calls, a line each. While ROOT/NAME.fails exists, preparing fails
with its content.
"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from raykube.pb import dra_pb2, dra_v1beta1_pb2, registration_pb2


class Driver:
    def __init__(self, name: str, root: Path, cdi: Path, version: str) -> None:
        self.name, self.root, self.cdi, self.version = name, root, cdi, version
        self.endpoint = root / f"{name}.sock"

    def note(self, text: str) -> None:
        with (self.root / f"{self.name}.calls").open("a") as file:
            file.write(f"{text}\n")

    def GetInfo(self, request: Any, context: Any) -> Any:
        return registration_pb2.PluginInfo(
            type="DRAPlugin", name=self.name, endpoint=str(self.endpoint), supported_versions=[self.version]
        )

    def NotifyRegistrationStatus(self, request: Any, context: Any) -> Any:
        self.note(f"registered {request.plugin_registered} {request.error}".strip())
        return registration_pb2.RegistrationStatusResponse()

    def NodePrepareResources(self, request: Any, context: Any) -> Any:
        answer = dra_pb2.NodePrepareResourcesResponse()
        fails = self.root / f"{self.name}.fails"
        for claim in request.claims:
            self.note(f"prepare {claim.namespace}/{claim.name}")
            if fails.exists():
                answer.claims[claim.uid].error = fails.read_text()
                continue
            edits = {"env": [f"DEVICE_OF_{claim.name.upper().replace('-', '_')}=gpu-0"]}
            spec = {
                "cdiVersion": "0.6.0",
                "kind": "example.com/gpu",
                "devices": [{"name": claim.uid, "containerEdits": edits}],
            }
            self.cdi.mkdir(exist_ok=True)
            (self.cdi / f"{claim.uid}.json").write_text(json.dumps(spec))
            device = dra_pb2.Device(
                request_names=["gpu"],
                pool_name="n1",
                device_name="gpu-0",
                cdi_device_ids=[f"example.com/gpu={claim.uid}"],
            )
            answer.claims[claim.uid].devices.append(device)
        return answer

    def NodeUnprepareResources(self, request: Any, context: Any) -> Any:
        answer = dra_pb2.NodeUnprepareResourcesResponse()
        for claim in request.claims:
            self.note(f"unprepare {claim.namespace}/{claim.name}")
            (self.cdi / f"{claim.uid}.json").unlink(missing_ok=True)
            answer.claims[claim.uid].SetInParent()
        return answer


def serve(driver: Driver, module: Any, service: str, path: Path) -> Any:
    descriptor = module.DESCRIPTOR.services_by_name[service]
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            getattr(driver, method.name),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
        for method in descriptor.methods
    }
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(descriptor.full_name, handlers),))
    path.unlink(missing_ok=True)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    return server


def main() -> None:
    name, root, cdi = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    version = sys.argv[4] if len(sys.argv) > 4 else "v1.DRAPlugin"
    driver = Driver(name, root, cdi, version)
    module = {"v1.DRAPlugin": dra_pb2, "v1beta1.DRAPlugin": dra_v1beta1_pb2}.get(version, dra_pb2)
    works = serve(driver, module, "DRAPlugin", driver.endpoint)
    # Another name first: whoever sees the socket finds somebody who listens.
    aside = root / "plugins_registry" / f".{name}-{os.getpid()}"
    server = serve(driver, registration_pb2, "Registration", aside)
    aside.rename(root / "plugins_registry" / f"{name}.sock")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server.wait_for_termination()
    works.wait_for_termination()


if __name__ == "__main__":
    main()
