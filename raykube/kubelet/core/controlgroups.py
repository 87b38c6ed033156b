"""Where a pod's control group is: below that of its quality of service.

cgroupfs   /kubepods/burstable/podUID
systemd    /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice   (no - in a part)
"""

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.qos import qos_class

TOP = "kubepods"
LEVELS = ("", "burstable", "besteffort")


def _path(parts: list[str], driver: str) -> str:
    if driver != "systemd":
        return "/" + "/".join(parts)
    names = [part.replace("-", "_") for part in parts]
    return "".join(f"/{'-'.join(names[: end + 1])}.slice" for end in range(len(names)))


def _parts(root: str) -> list[str]:
    return [part for part in root.split("/") if part]


def cgroup_parent(pod: Object, root: str = "/", driver: str = "cgroupfs") -> str:
    qos = qos_class(pod).lower()
    level = [] if qos == "guaranteed" else [qos]
    return _path([*_parts(root), TOP, *level, f"pod{pods.uid(pod)}"], driver)


def levels(root: str, driver: str = "cgroupfs") -> list[str]:
    """The groups that have pods' groups in them."""
    return [_path([*_parts(root), TOP, *([level] if level else [])], driver) for level in LEVELS]


def pod_uid(name: str) -> str:
    """The uid in the name of a pod's group, with _ for - under systemd; "" when it is none."""
    name = name.removesuffix(".slice").rpartition("-")[2] if name.endswith(".slice") else name
    return name.removeprefix("pod") if name.startswith("pod") else ""
