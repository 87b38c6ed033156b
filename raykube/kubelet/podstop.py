"""Stops all that runs of a pod: containers first, sidecars after them in reverse order, then the sandboxes."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.observed import ObservedContainer, ObservedPod, State
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.status import pod_address
from raykube.kubelet.tools import Tools
from raykube.rpc import RpcError


async def stop(tools: Tools, pod: Object, observed: ObservedPod, grace_s: int, hooks: bool = True) -> None:
    """`grace_s` is for all of it. Raises RpcError.

    preStop hooks of sidecars run at once, like all others: who drains needs the time while the pod's containers end.
    """
    address = pod_address(observed, pod, tools.facts)

    def kill(run: ObservedContainer, before: list["asyncio.Task[None]"]) -> "asyncio.Task[None]":
        async def turn(left_s: float) -> None:
            if before:
                await asyncio.wait(before, timeout=max(left_s, 0))

        spec = pods.container(pod, run.name) or {"name": run.name}
        killing = tools.containers.kill(pod, spec, run, address, grace_s, "", hooks=hooks, turn=turn)
        return asyncio.get_running_loop().create_task(killing)

    order = {spec["name"]: index for index, spec in enumerate(pods.init_containers(pod)) if pods.is_sidecar(spec)}
    alive = [run for run in observed.containers if run.state in (State.RUNNING, State.UNKNOWN)]
    tasks = [kill(run, []) for run in alive if run.name not in order]
    for run in sorted((run for run in alive if run.name in order), key=lambda one: -order[one.name]):
        tasks.append(kill(run, [*tasks]))
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    for sandbox in observed.sandboxes:
        if sandbox.ready:
            await tools.cri.stop_sandbox(sandbox.id)


async def stop_with_patience(
    tools: Tools,
    pod: Callable[[], Object],
    observed: ObservedPod,
    grace_s: Callable[[], int],
    woken: asyncio.Event,
    tell: Callable[[ObservedPod], object],
) -> None:
    """Stops everything within a grace period that a second deletion may shorten meanwhile.

    `pod` and `grace_s` say what they are now, `woken` that they may have changed; `tell` writes the pod's status.
    """
    begun = time.time()
    most = grace_s()
    stopping = asyncio.ensure_future(stop(tools, pod(), observed, most))
    waking = asyncio.ensure_future(woken.wait())
    try:
        while True:
            await asyncio.wait({stopping, waking}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                await stopping
                return
            woken.clear()
            waking = asyncio.ensure_future(woken.wait())
            shorter = grace_s()
            if shorter < most:
                most = shorter
                stopping.cancel()
                await asyncio.wait({stopping})
                left = max(int(begun + most - time.time()), 0)
                stopping = asyncio.ensure_future(stop(tools, pod(), observed, left, hooks=False))
            else:
                with suppress(RpcError):
                    tell(await tools.cri.observe(pods.uid(pod())))
    finally:
        stopping.cancel()
        waking.cancel()
