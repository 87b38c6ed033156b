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
# Container runtimes, the preferred one first: those that serve CRI, then Docker, for which `raykube cri-docker` does.
CRI_SOCKETS = (("containerd", "/run/containerd/containerd.sock"), ("CRI-O", "/run/crio/crio.sock"))
DOCKER_SOCKET = "/var/run/docker.sock"
DOCKER = "docker"  # in place of an endpoint
DOCKER_API_MIN = (1, 41)
SOCKET_TIMEOUT_S = 3.0
CNI_FOLDERS = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
IMAGE_FOLDERS = {"containerd": "/var/lib/containerd", "CRI-O": "/var/lib/containers", "Docker": "/var/lib/docker"}
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


def room_bytes(path: str) -> tuple[int, int]:
    """What is free of the file system that would have `path`, and its size."""
    while path != "/" and not os.path.exists(path):
        path = os.path.dirname(path)
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize


def memory_bytes() -> int:
    """What is available now."""
    for line in read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def cri_request() -> bytes:
    """The shortest call of CRI v1's Version: HTTP/2's preface, no settings, headers in plain literals, no message."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":authority": "localhost",
        ":path": "/runtime.v1.RuntimeService/Version",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b"".join(
        bytes((0, len(name))) + name.encode() + bytes((len(value),)) + value.encode() for name, value in headers.items()
    )
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
    return preface + frame(1, 4, 1, block) + frame(0, 1, 1, bytes(5))


def cri_texts(message: bytes) -> Any:
    """The fields of a VersionResponse, which are texts, by number. Raises IndexError."""
    texts, at = {}, 0
    while at < len(message):
        tag, size = message[at], message[at + 1]
        texts[tag >> 3] = message[at + 2 : at + 2 + size].decode(errors="replace")
        at += 2 + size
    return texts


def cri_version(path: str) -> Any:
    """What listens on a socket says of itself over CRI v1: its name and version. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SOCKET_TIMEOUT_S)
        connection.connect(path)
        connection.sendall(cri_request())
        with connection.makefile("rb") as answers:
            body = b""
            while len(body) < 5 or len(body) < 5 + int.from_bytes(body[1:5], "big"):
                head = answers.read(9)
                payload = answers.read(int.from_bytes(head[:3], "big"))
                if len(head) < 9 or head[3] in (3, 7):  # it ended the stream, or the connection
                    raise OSError("ends the connection")
                if head[3] == 0:
                    body += payload
                elif head[3] == 1 and head[4] & 1:  # an answer without a message: there is no such call
                    raise OSError("serves no CRI v1")
    texts = cri_texts(body[5:])
    return texts.get(2, ""), texts.get(3, "")


def docker_version(path: str) -> Any:
    """Docker's name and version. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SOCKET_TIMEOUT_S)
        connection.connect(path)
        connection.sendall(b"GET /version HTTP/1.0\r\nHost: docker\r\n\r\n")
        with connection.makefile("rb") as answers:
            head, _, body = answers.read().partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise OSError("does not answer as Docker does")
    said = json.loads(body.decode())
    if tuple(map(int, said["ApiVersion"].split("."))) < DOCKER_API_MIN:
        raise OSError(f"{said['Version']} is too old: 20.10 is the first that will do")
    return "docker", said["Version"]


def runtimes() -> Any:
    """The container runtimes that are here, and what keeps one from being used, the preferred one first."""
    found = []
    for name, path in (*CRI_SOCKETS, ("Docker", DOCKER_SOCKET)):
        if not os.path.exists(path):
            continue
        endpoint = DOCKER if path == DOCKER_SOCKET else "unix://" + path
        row = {"name": name, "endpoint": endpoint, "version": "", "problem": "", "is_forbidden": False}
        try:
            row["version"] = (docker_version if endpoint == DOCKER else cri_version)(path)[1]
        except PermissionError:
            row["is_forbidden"] = True
        except TimeoutError:
            row["problem"] = "does not answer"
        except OSError as error:
            row["problem"] = (error.strerror or str(error)).lower() if error.errno else str(error)
        except (ValueError, KeyError, IndexError):
            row["problem"] = "says nothing of sense"
        found.append(row)
    return found


def look(data_dir: str) -> Any:
    """Everything."""
    version, packages = versions(python_of_ray())
    disk_free_bytes, disk_bytes = room_bytes(data_dir)
    found = runtimes()
    taken = next((row["name"] for row in found if not row["problem"]), "")
    image_free_bytes, image_bytes = room_bytes(IMAGE_FOLDERS.get(taken, data_dir))
    return {
        "time": time.time(),
        "hostname": socket.gethostname(),
        "addresses": addresses(),
        "python": version,
        "packages": packages,
        "is_root": os.geteuid() == 0,
        "listening": listening(),
        "runtimes": found,
        "cni": [name for name in CNI_PLUGINS if any(os.path.exists(os.path.join(x, name)) for x in CNI_FOLDERS)],
        "programs": [name for name in PROGRAMS if shutil.which(name)],
        "default_routes": default_routes(),
        "cgroups": cgroups(),
        "disk_free_bytes": disk_free_bytes,
        "disk_bytes": disk_bytes,
        "image_free_bytes": image_free_bytes,
        "image_bytes": image_bytes,
        "memory_bytes": memory_bytes(),
        "cpus": os.cpu_count() or 0,
        "ip_forward": read("/proc/sys/net/ipv4/ip_forward").strip() == "1",
        "low_port": int(read("/proc/sys/net/ipv4/ip_unprivileged_port_start").strip() or 1024),
    }


if __name__ == "__main__":
    sys.stdout.write(MARK + json.dumps(look(sys.argv[1])) + "\n")
