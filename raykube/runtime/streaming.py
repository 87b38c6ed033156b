"""Which session of the process runtime answers which request for a stream."""

from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError
from raykube.runtime import attachment, execution, forwarding
from raykube.runtime.containers import Runtime
from raykube.streaming import server
from raykube.streaming.core.tickets import TooMany
from raykube.streaming.link import Link

Request = cri_pb2.ExecRequest | cri_pb2.AttachRequest | cri_pb2.PortForwardRequest


class StreamingServer(server.StreamingServer[Request]):
    """Serves one runtime."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(self._run)
        self._runtime = runtime

    def url(self, kind: str, request: Request) -> str:
        """Raises RpcError."""
        try:
            return super().url(kind, request)
        except TooMany as error:
            raise RpcError(Code.RESOURCE_EXHAUSTED, str(error)) from None

    async def _run(self, request: Request, link: Link) -> None:
        match request:
            case cri_pb2.ExecRequest():
                await execution.serve(self._runtime, request, link)
            case cri_pb2.AttachRequest():
                await attachment.serve(self._runtime, request, link)
            case cri_pb2.PortForwardRequest():
                await forwarding.serve(self._runtime, request, link)
