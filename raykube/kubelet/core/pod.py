"""Readings of a Pod object: the fields that the kubelet decides by. Objects are never changed here."""

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]

GRACE_DEFAULT_S = 30
TERMINAL_PHASES = ("Succeeded", "Failed")


def uid(pod: Object) -> str:
    return str(pod["metadata"]["uid"])


def namespace(pod: Object) -> str:
    return str(pod["metadata"]["namespace"])


def name(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def full_name(pod: Object) -> str:
    """`name_namespace(uid)`, the way a kubelet names a pod in messages."""
    return f"{name(pod)}_{namespace(pod)}({uid(pod)})"


def containers(pod: Object) -> list[Object]:
    return list(pod["spec"].get("containers") or ())


def init_containers(pod: Object) -> list[Object]:
    return list(pod["spec"].get("initContainers") or ())


def ephemeral_containers(pod: Object) -> list[Object]:
    """Those that were added to look into a running pod; they run once."""
    return list(pod["spec"].get("ephemeralContainers") or ())


def all_containers(pod: Object) -> Iterator[Object]:
    """What belongs to the pod from the start."""
    yield from init_containers(pod)
    yield from containers(pod)


def container(pod: Object, container_name: str) -> Object | None:
    every = (*all_containers(pod), *ephemeral_containers(pod))
    return next((one for one in every if one["name"] == container_name), None)


def field_path(pod: Object, container_name: str) -> str:
    """Where a container stands in the pod, as its events say: `spec.initContainers{wait}`."""
    for place in ("initContainers", "ephemeralContainers"):
        if any(one["name"] == container_name for one in pod["spec"].get(place) or ()):
            return f"spec.{place}{{{container_name}}}"
    return f"spec.containers{{{container_name}}}"


def is_sidecar(spec: Object) -> bool:
    """Of an init container: whether it keeps running beside the others."""
    return spec.get("restartPolicy") == "Always"


def restart_policy(pod: Object) -> str:
    return str(pod["spec"].get("restartPolicy") or "Always")


def on_host_network(pod: Object) -> bool:
    return bool(pod["spec"].get("hostNetwork"))


def phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")


def is_terminal(pod: Object) -> bool:
    return phase(pod) in TERMINAL_PHASES


def was_accepted(pod: Object) -> bool:
    """Whether a kubelet has said that the pod may run on its node, and not that it has ended."""
    return bool((pod.get("status") or {}).get("startTime")) and not is_terminal(pod)


def is_deleted(pod: Object) -> bool:
    return "deletionTimestamp" in pod["metadata"]


SOURCE = "kubernetes.io/config.source"
MIRROR = "kubernetes.io/config.mirror"


def is_static(pod: Object) -> bool:
    """Whether the pod comes from a file or a URL of this machine, not from the API."""
    return (pod["metadata"].get("annotations") or {}).get(SOURCE) in ("file", "http")


def is_mirror(pod: Object) -> bool:
    """Whether an API object only shows a static pod."""
    return MIRROR in (pod["metadata"].get("annotations") or {})


def grace_s(pod: Object) -> int:
    """Seconds that the pod's programs have to end: what the deletion says, else what the pod says."""
    deletion = pod["metadata"].get("deletionGracePeriodSeconds")
    if deletion is not None:
        return int(deletion)
    own = pod["spec"].get("terminationGracePeriodSeconds")
    return GRACE_DEFAULT_S if own is None else int(own)
