"""What a runtime says of itself when it answers at last."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

from raykube.kubelet.core.volumespec import image_refusal, makes_recursive_read_only
from raykube.kubelet.cri import Cri
from raykube.rpc import RpcError

log = logging.getLogger(__name__)

RETRY_S_MIN, RETRY_S_MAX = 0.1, 5.0
PROCESS_RUNTIME = "raykube-process"


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    name: str
    cgroup_driver: str  # "" where it does not say
    recursive_read_only: bool  # whether it can make mounts below a volume read-only
    user_namespaces: bool
    image_volumes: str  # why it cannot mount images; "" when it can


async def await_runtime(cri: Cri, endpoint: str, pod_cidr: str) -> RuntimeFacts:
    """However long it takes until one answers on `endpoint`; it is told the node's pod CIDR, where there is one."""
    delay_s = RETRY_S_MIN
    while True:
        try:
            facts = await _ask(cri)
            break
        except RpcError as error:
            if delay_s > RETRY_S_MAX / 2:
                log.warning(
                    "no container runtime answers on %s: %s; start it (raykube runtime, or containerd), or set "
                    "--container-runtime-endpoint",
                    endpoint,
                    error.message,
                )
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RETRY_S_MAX)
    if pod_cidr:
        with suppress(RpcError):  # a runtime with networks of its own need not know
            await cri.set_pod_cidr(pod_cidr)
    return facts


async def _ask(cri: Cri) -> RuntimeFacts:
    version = await cri.version()
    status = await cri.status()
    return RuntimeFacts(
        name=version.runtime_name,
        cgroup_driver=await cri.cgroup_driver(),
        recursive_read_only=makes_recursive_read_only(status),
        user_namespaces=any(one.features.user_namespaces for one in status.runtime_handlers),
        image_volumes=image_refusal(version.runtime_name, version.runtime_version),
    )
