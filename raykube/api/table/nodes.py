"""Rows of nodes."""

from typing import Any

from raykube.api.table.ages import object_age
from raykube.api.table.columns import AGE, NAME, NONE, Object, Printer, name_of, spec, status, text

_ROLE_PREFIX = "node-role.kubernetes.io/"
_ROLE_LABEL = "kubernetes.io/role"
_UNKNOWN = "<unknown>"

_COLUMNS = (
    NAME,
    text("Status", "The status of the node"),
    text("Roles", "The roles of the node"),
    AGE,
    text("Version", "core.v1.NodeSystemInfo:kubeletVersion"),
    text("Internal-IP", "core.v1.NodeStatus:addresses", wide=True),
    text("External-IP", "core.v1.NodeStatus:addresses", wide=True),
    text("OS-Image", "core.v1.NodeSystemInfo:osImage", wide=True),
    text("Kernel-Version", "core.v1.NodeSystemInfo:kernelVersion", wide=True),
    text("Container-Runtime", "core.v1.NodeSystemInfo:containerRuntimeVersion", wide=True),
)


def roles(node: Object) -> list[str]:
    """The roles that a node's labels give it, sorted."""
    found = set()
    for key, value in (node.get("metadata", {}).get("labels") or {}).items():
        if key.startswith(_ROLE_PREFIX) and len(key) > len(_ROLE_PREFIX):
            found.add(key.removeprefix(_ROLE_PREFIX))
        elif key == _ROLE_LABEL and value:
            found.add(value)
    return sorted(found)


def _state(node: Object) -> str:
    ready = next((each for each in status(node).get("conditions") or () if each.get("type") == "Ready"), None)
    words = ["Unknown"] if ready is None else ["Ready" if ready.get("status") == "True" else "NotReady"]
    if spec(node).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _address(node: Object, kind: str) -> str:
    addresses = status(node).get("addresses") or ()
    return next((each.get("address", "") for each in addresses if each.get("type") == kind), NONE)


def _cells(node: Object, now: float) -> list[Any]:
    info = status(node).get("nodeInfo") or {}
    return [
        name_of(node),
        _state(node),
        ",".join(roles(node)) or NONE,
        object_age(node, now),
        info.get("kubeletVersion", ""),
        _address(node, "InternalIP"),
        _address(node, "ExternalIP"),
        info.get("osImage") or _UNKNOWN,
        info.get("kernelVersion") or _UNKNOWN,
        info.get("containerRuntimeVersion") or _UNKNOWN,
    ]


PRINTERS = {("", "nodes"): Printer(_COLUMNS, _cells)}
