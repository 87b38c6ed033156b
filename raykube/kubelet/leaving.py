"""What a machine does that is no node any more: it ends its pods and takes their volumes off."""

import asyncio
import logging
from collections.abc import Iterable

from raykube.kubelet.config import Config
from raykube.kubelet.core import criconfig
from raykube.kubelet.cri import Cri
from raykube.kubelet.volumes import mounts
from raykube.pb import cri_pb2
from raykube.rpc import RpcError

log = logging.getLogger(__name__)

GRACE_S = 5


async def end_pods(config: Config, node: str, runtime_ends_pods: bool) -> None:
    """Raises RuntimeError when some may still run; those keep their volumes.

    `runtime_ends_pods`: a runtime that is gone has left nothing that runs, for who stopped it ends its processes.
    """
    cri = Cri(config.container_runtime_endpoint, node, config.runtime_request_timeout)
    try:
        sandboxes, containers = await asyncio.gather(cri.sandboxes(), cri.containers())
        results = await asyncio.gather(
            *(_end_sandbox(cri, item.id, containers) for item in sandboxes), return_exceptions=True
        )
    except RpcError as error:
        if not runtime_ends_pods:
            raise RuntimeError(f"the runtime does not tell which pods run: {error.message}") from error
        sandboxes, results = [], []
    finally:
        await cri.close()
    failed = {item.id: result for item, result in zip(sandboxes, results, strict=True) if result is not None}
    stay = {item.labels.get(criconfig.POD_UID, "") for item in sandboxes if item.id in failed}
    if len(sandboxes) > len(failed):
        log.info("%d pods ended", len(sandboxes) - len(failed))
    await asyncio.to_thread(mounts.detach_pods, config.root_dir, stay)
    if failed:
        reasons = "; ".join(f"{item.metadata.name}: {failed[item.id]}" for item in sandboxes if item.id in failed)
        raise RuntimeError(f"{len(failed)} pods may still run: {reasons}")


async def _end_sandbox(cri: Cri, sandbox_id: str, containers: Iterable[cri_pb2.Container]) -> None:
    """Raises RpcError. A container that does not stop in time is killed with its sandbox."""
    running = [item for item in containers if item.pod_sandbox_id == sandbox_id]
    stops = (cri.stop_container(item.id, GRACE_S) for item in running if item.state == cri_pb2.CONTAINER_RUNNING)
    for result in await asyncio.gather(*stops, return_exceptions=True):
        if isinstance(result, BaseException):
            log.warning("a container of the sandbox %s does not stop: %s", sandbox_id, result)
    await cri.stop_sandbox(sandbox_id)
    await cri.remove_sandbox(sandbox_id)
