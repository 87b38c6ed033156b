"""What the steward asks of the apiservers about a machine that leaves: no new pods, the old ones away, no Node."""

from typing import Any

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.client import operations
from raykube.client.api import ApiClient

MIRROR = "kubernetes.io/config.mirror"
ROLE_LABEL = "node-role.kubernetes.io/control-plane"
TIMEOUT_S = 10.0


def stays(pod: dict[str, Any]) -> bool:
    """Whether a pod is left alone when its node is drained: it has ended, is a file on the node, or a DaemonSet's."""
    metadata = pod["metadata"]
    owners = metadata.get("ownerReferences") or []
    return (
        pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
        or MIRROR in (metadata.get("annotations") or {})
        or any(owner.get("kind") == "DaemonSet" and owner.get("controller") for owner in owners)
    )


async def drain(client: ApiClient, node: str) -> int:
    """One try at evicting every pod of `node`, which takes no new ones from now on; returns how many there are still.

    Budgets are kept: a pod whose eviction is refused is tried again next time. Raises ApiError.
    """
    try:
        await client.patch(builtin("v1", "Node"), "", node, {"spec": {"unschedulable": True}})
    except ApiError as error:
        if error.code != 404:
            raise
        return 0
    pods, _ = await client.list(builtin("v1", "Pod"), field_selector=f"spec.nodeName={node}", timeout=TIMEOUT_S)
    moving = [pod for pod in pods if not stays(pod)]
    waiting = [pod for pod in moving if "deletionTimestamp" not in pod["metadata"]]
    # A refusal is an answer of its own for each pod, and nothing to do about.
    await client.write([operations.evict(pod) for pod in waiting])
    return len(moving)


async def show_role(client: ApiClient, node: str, is_control_plane: bool) -> bool:
    """Labels the Node by which kubectl shows that it has a part of the control plane; False: there is none yet.

    Raises ApiError.
    """
    labels = {ROLE_LABEL: "" if is_control_plane else None}
    try:
        await client.patch(builtin("v1", "Node"), "", node, {"metadata": {"labels": labels}})
    except ApiError as error:
        if error.code != 404:
            raise
        return False
    return True


async def delete(client: ApiClient, node: str) -> None:
    """Deletes the Node; its pods follow. It is no error when there is none. Raises ApiError."""
    try:
        await client.delete(builtin("v1", "Node"), "", node)
    except ApiError as error:
        if error.code != 404:
            raise
