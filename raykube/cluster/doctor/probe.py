"""Looks at the machine it runs on and prints one line of JSON. Sent over ssh to machines that may have nothing of ours.

So: the standard library alone, any Python from 3.6 on, and no failure: what cannot be found out is left out.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from typing import Any

MARK = "raykube-probe:"
SOCKETS = ("/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/docker.sock")
CNI_FOLDERS = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
PROGRAMS = ("rsync", "nft", "conntrack", "ip")


def read(path: str) -> str:
    """A small file's text, "" when there is none."""
    try:
        with open(path) as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return ""


def versions(python: str) -> Any:
    """Of that Python, and of the packages in it."""
    script = (
        "import json, sys\nfrom importlib.metadata import distributions\n"
        "print(json.dumps([sys.version_info[:3], {d.metadata['Name']: d.version for d in distributions()}]))"
    )
    try:
        output = subprocess.check_output([python, "-c", script], stderr=subprocess.DEVNULL)
        version, packages = json.loads(output.decode())
    except (OSError, ValueError, subprocess.CalledProcessError):
        return list(sys.version_info[:3]), {}
    return version, {name: packages[name] for name in ("ray", "raykube") if name in packages}


def python_of_ray() -> str:
    """The Python of the command that a login shell finds: it need not be the shell's own."""
    for name in ("raykube", "ray"):
        path = shutil.which(name)
        first = read(path).split("\n")[0] if path else ""
        if first.startswith("#!") and "python" in first:
            return first[2:].split()[0]
    return sys.executable


def listening() -> Any:
    """TCP ports that something listens on, with the program's title where it can be seen."""
    by_inode = {}
    for name in ("tcp", "tcp6"):
        for line in read("/proc/net/" + name).splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                by_inode[fields[9]] = int(fields[1].rpartition(":")[2], 16)
    titles = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        for link in links:
            inode = link[8:-1] if link.startswith("socket:[") else ""
            if inode in by_inode:
                titles[by_inode[inode]] = read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()[:200]
    return {str(port): titles.get(port, "") for port in by_inode.values()}


def default_routes() -> Any:
    """Interfaces with a default route."""
    rows = [line.split() for line in read("/proc/net/route").splitlines()[1:]]
    return [row[0] for row in rows if row[1] == "00000000" and row[7] == "00000000"]


def addresses() -> Any:
    """This machine's IPv4 addresses but loopback ones."""
    try:
        output = subprocess.check_output(["ip", "-4", "-o", "addr", "show"], stderr=subprocess.DEVNULL).decode()
    except (OSError, subprocess.CalledProcessError):
        return []
    words = [line.split() for line in output.splitlines()]
    return [row[3].split("/")[0] for row in words if len(row) > 3 and not row[3].startswith("127.")]


def cgroups() -> Any:
    """The version of control groups, and the controllers that pods' limits need."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return {"version": 2, "controllers": read("/sys/fs/cgroup/cgroup.controllers").split()}
    rows = [line.split() for line in read("/proc/cgroups").splitlines()[1:]]
    return {"version": 1, "controllers": [row[0] for row in rows if len(row) > 3 and row[3] == "1"]}


def free_bytes(path: str) -> int:
    """Room on the file system that would have `path`."""
    while path != "/" and not os.path.exists(path):
        path = os.path.dirname(path)
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize


def memory_bytes() -> int:
    """What is available now."""
    for line in read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def look(data_dir: str) -> Any:
    """Everything."""
    version, packages = versions(python_of_ray())
    return {
        "time": time.time(),
        "hostname": socket.gethostname(),
        "addresses": addresses(),
        "python": version,
        "packages": packages,
        "is_root": os.geteuid() == 0,
        "listening": listening(),
        "sockets": [path for path in SOCKETS if os.path.exists(path)],
        "cni": [name for name in CNI_PLUGINS if any(os.path.exists(os.path.join(x, name)) for x in CNI_FOLDERS)],
        "programs": [name for name in PROGRAMS if shutil.which(name)],
        "default_routes": default_routes(),
        "cgroups": cgroups(),
        "disk_free_bytes": free_bytes(data_dir),
        "memory_bytes": memory_bytes(),
        "cpus": os.cpu_count() or 0,
        "ip_forward": read("/proc/sys/net/ipv4/ip_forward").strip() == "1",
        "low_port": int(read("/proc/sys/net/ipv4/ip_unprivileged_port_start").strip() or 1024),
    }


if __name__ == "__main__":
    sys.stdout.write(MARK + json.dumps(look(sys.argv[1])) + "\n")
