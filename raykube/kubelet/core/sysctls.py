"""Which kernel parameters a pod may set: those that are its own namespaces', and known to harm nobody else."""

from collections.abc import Iterable

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.status import Verdict

SAFE = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    }
)
_NAMESPACES = {  # by a beginning, or by a whole name
    "kernel.sem": "IPC",
    "kernel.shm*": "IPC",
    "kernel.msg*": "IPC",
    "fs.mqueue.*": "IPC",
    "net.*": "Net",
}


def normalized(name: str) -> str:
    """With dots between its parts, also where it was given with slashes."""
    first = min((name.find(mark) for mark in "./" if mark in name), default=-1)
    if first < 0 or name[first] == ".":
        return name
    return name.translate(str.maketrans("./", "/."))


def _fits(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _namespace(name: str) -> str:
    """The kind of namespace that has this parameter for itself; "" for none."""
    return next((kind for pattern, kind in _NAMESPACES.items() if _fits(name, pattern)), "")


def check_allowed(patterns: Iterable[str]) -> tuple[str, ...]:
    """The flag's patterns: names, or beginnings that end in `*`. Raises ValueError."""
    found = []
    for pattern in patterns:
        name = normalized(pattern)
        if "*" in name[:-1]:
            raise ValueError(f'the sysctl pattern "{pattern}" may have a * at its end only')
        if not _namespace(name.removesuffix("*")):
            raise ValueError(f'the sysctl "{pattern}" belongs to no namespace: pods would share it with the machine')
        found.append(name)
    return tuple(found)


def admit_sysctls(pod: Object, unsafe: Iterable[str]) -> Verdict | None:
    """None for a pod whose sysctls may be set."""
    for sysctl in (pod["spec"].get("securityContext") or {}).get("sysctls") or ():
        name = normalized(sysctl["name"])
        why = ""
        kind = _namespace(name)
        if name not in SAFE and not any(_fits(name, pattern) for pattern in unsafe):
            why = f'"{sysctl["name"]}" not allowlisted'
        elif (kind == "Net" and pods.on_host_network(pod)) or (kind == "IPC" and pod["spec"].get("hostIPC")):
            why = f'"{sysctl["name"]}" not allowed with host {kind.lower()} enabled'
        if why:
            return Verdict("Failed", "SysctlForbidden", f"Pod was rejected: forbidden sysctl: {why}")
    return None
