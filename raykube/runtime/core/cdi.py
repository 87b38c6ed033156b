"""Container Device Interface: what a driver's spec files say that a container needs for a device.

A device's name is `vendor/class=device`; a spec is of one `kind` (vendor/class), with edits for all of its devices and
for each. Processes share the machine's /dev, so a device node needs nothing where it keeps its path.

Source: https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""

from collections.abc import Sequence
from typing import Any

from raykube.pb import cri_pb2

Object = dict[str, Any]


class Unresolvable(Exception):
    """A device that no spec knows, or that needs what this runtime has not."""


def inject(config: cri_pb2.ContainerConfig, specs: Sequence[Object]) -> None:
    """Adds what the container's devices need. Later specs win over earlier ones. Raises Unresolvable."""
    names = list(dict.fromkeys(one.name for one in config.CDI_devices))
    found = {name: _find(name, specs) for name in names}
    missing = [name for name, edits in found.items() if edits is None]
    if missing:
        raise Unresolvable(f"unresolvable CDI devices {', '.join(missing)}")
    applied: list[Object] = []
    for edits in found.values():
        applied += [one for one in edits or () if one not in applied]
    for one in applied:
        _apply(config, one)


def _find(name: str, specs: Sequence[Object]) -> list[Object] | None:
    kind, _, device_name = name.partition("=")
    for spec in reversed(specs):
        if spec.get("kind") != kind:
            continue
        for device in spec.get("devices") or ():
            if device.get("name") == device_name:
                return [one for one in (spec.get("containerEdits"), device.get("containerEdits")) if one]
    return None


def _apply(config: cri_pb2.ContainerConfig, edits: Object) -> None:
    if edits.get("hooks"):
        raise Unresolvable("the process runtime runs no CDI hooks")
    for text in edits.get("env") or ():
        name, _, value = text.partition("=")
        config.envs.append(cri_pb2.KeyValue(key=name, value=value.encode()))
    for node in edits.get("deviceNodes") or ():
        path = node["path"]
        source = node.get("hostPath") or path
        if source != path:
            permissions = node.get("permissions") or "rwm"
            config.devices.append(cri_pb2.Device(container_path=path, host_path=source, permissions=permissions))
    for mount in edits.get("mounts") or ():
        readonly = "ro" in (mount.get("options") or ())
        config.mounts.append(
            cri_pb2.Mount(container_path=mount["containerPath"], host_path=mount["hostPath"], readonly=readonly)
        )
