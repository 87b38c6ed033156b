"""Whom the files of a volume belong to: fsGroup and the user that all containers of a pod share."""

import stat

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object

# What the group of the volume may do, in a volume that is written to and in one that is not.
WRITABLE, READABLE, ENTER = 0o660, 0o440, 0o110


def group_mode(mode: int, read_only: bool) -> int:
    """The permission bits of a file or directory after it was given to the group; new files inherit the group."""
    bits = mode & 0o7777
    bits |= READABLE if read_only else WRITABLE
    if stat.S_ISDIR(mode):
        bits |= stat.S_ISGID | ENTER
    return bits


def group_matches(mode: int, gid: int, group: int, read_only: bool) -> bool:
    """Whether a volume's root needs no change (fsGroupChangePolicy OnRootMismatch)."""
    return gid == group and group_mode(mode, read_only) == mode & 0o7777


def fs_group(pod: Object) -> int | None:
    group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
    return None if group is None else int(group)


def only_on_mismatch(pod: Object) -> bool:
    return (pod["spec"].get("securityContext") or {}).get("fsGroupChangePolicy") == "OnRootMismatch"


def fs_user(pod: Object) -> int | None:
    """The user of all containers, when they say and agree: it owns the tokens. None otherwise."""
    outer = (pod["spec"].get("securityContext") or {}).get("runAsUser")
    users = {
        (spec.get("securityContext") or {}).get("runAsUser", outer)
        for spec in [*pods.all_containers(pod), *(pod["spec"].get("ephemeralContainers") or ())]
    }
    user = users.pop() if len(users) == 1 else None
    return None if user is None else int(user)
