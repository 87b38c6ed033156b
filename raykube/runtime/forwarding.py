"""Port-forward: connections to a pod's address, each through a pair of a SPDY connection's streams."""

import asyncio
import os

from raykube.pb import cri_pb2
from raykube.rpc import RpcError
from raykube.runtime.containers import Runtime
from raykube.streaming import sessions
from raykube.streaming.link import Link, Stream

CONNECT_S = 10.0


async def serve(runtime: Runtime, request: cri_pb2.PortForwardRequest, link: Link) -> None:
    """Serves until the client leaves. A pod on the machine's network is reached on loopback."""

    async def forward(port: int, data: Stream) -> None:
        try:
            sandbox = runtime.sandbox(request.pod_sandbox_id)
        except RpcError as error:
            raise ConnectionRefusedError(error.message) from None
        host = sandbox.address or "127.0.0.1"
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(host, port)
        except TimeoutError:
            raise ConnectionRefusedError(f"failed to connect to {host}:{port} inside the pod: i/o timeout") from None
        except OSError as error:
            reason = (os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)).lower()
            raise ConnectionRefusedError(f"failed to connect to {host}:{port} inside the pod: {reason}") from None
        await sessions.copy(reader, writer, data)

    await sessions.port_forward(link, forward)
