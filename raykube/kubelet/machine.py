"""Reads what this machine is from /proc, /sys and /etc."""

import os
import platform
import socket
from pathlib import Path

from raykube.kubelet.core.features import Features
from raykube.kubelet.core.nodestatus import MachineFacts

GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _os_image() -> str:
    for line in _text("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def _memory_bytes() -> int:
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cpu() -> tuple[frozenset[str], str]:
    """The flags and the vendor of the first CPU."""
    found: dict[str, str] = {}
    for line in _text("/proc/cpuinfo").splitlines():
        if not line.strip():
            break
        key, _, value = line.partition(":")
        found[key.strip()] = value.strip()
    flags = found.get("flags") or found.get("Features") or ""
    return frozenset(flags.split()), found.get("vendor_id") or found.get("CPU implementer") or ""


def _system() -> tuple[str, str]:
    """Which distribution this is, and which version of it."""
    pairs = dict(line.split("=", 1) for line in _text("/etc/os-release").splitlines() if "=" in line)
    return pairs.get("ID", "").strip("\"'"), pairs.get("VERSION_ID", "").strip("\"'")


def _devices() -> frozenset[str]:
    found = set()
    for device in Path("/sys/bus/pci/devices").glob("*"):
        kind, vendor = _text(f"{device}/class"), _text(f"{device}/vendor")
        found.add(f"{kind[2:6]}_{vendor[2:6]}")
    return frozenset(found)


def _gpus() -> tuple[str, ...]:
    """The models of NVIDIA's GPUs, as its driver tells and Ray counts them."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = (line for path in files for line in _text(str(path)).splitlines())
    return tuple(line.partition(":")[2].strip() for line in lines if line.startswith("Model:"))


def features() -> Features:
    flags, vendor = _cpu()
    system, version = _system()
    return Features(flags, vendor, system, version, _devices(), _gpus())


def read(root: Path) -> MachineFacts:
    """The facts; `root` is on the disk that pods write to."""
    disk = os.statvfs(root)
    boot_id = _text("/proc/sys/kernel/random/boot_id")
    machine_id = _text("/etc/machine-id") or boot_id.replace("-", "")
    return MachineFacts(
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=_memory_bytes(),
        disk_bytes=disk.f_frsize * disk.f_blocks,
        machine_id=machine_id,
        system_uuid=_text("/sys/class/dmi/id/product_uuid") or machine_id,
        boot_id=boot_id,
        kernel=platform.release(),
        os_image=_os_image(),
        architecture=GO_ARCHITECTURES.get(platform.machine(), platform.machine()),
        features=features(),
    )


def own_address(toward: str) -> str:
    """The address this machine has on the way to `host:port`. Sends nothing."""
    host, _, port = toward.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host.strip("[]"), int(port)))
        return str(probe.getsockname()[0])


def has_apparmor() -> bool:
    return _text("/sys/module/apparmor/parameters/enabled") == "Y"
