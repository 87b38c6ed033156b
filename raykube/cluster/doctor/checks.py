"""What a machine's answers mean: findings, each with what to do. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from raykube.cluster import addresses as at

PYTHON_MIN = (3, 11)
SKEW_S_MAX = 2.0  # certificates are valid from 5 minutes before they were made; leases and elections want less
DISK_BYTES_MIN = 5 << 30
DISK_BYTES_WARN = 15 << 30
DISK_SHARE_WARN, IMAGE_SHARE_WARN = 0.10, 0.15  # the kubelet's nodefs.available and imagefs.available
MEMORY_BYTES_MIN = 1 << 30
OWN_TITLES = ("ray::", "raykube", "gcs_server", "/raylet")
PORTS = {
    6379: "Ray's head",
    at.KV_CLIENT_PORT: "the store",
    at.KV_PEER_PORT: "the store's peers",
    at.API_PORT: "the router",
    at.APISERVER_PORT: "the apiserver",
    at.APISERVER_GRPC_PORT: "the apiserver's gRPC",
    at.API_GRPC_PORT: "the router's gRPC",
    at.KUBELET_PORT: "the kubelet",
    at.KUBE_PROXY_HEALTH_PORT: "kube-proxy",
    at.CONTROLLER_MANAGER_PORT: "the controller-manager",
    at.SCHEDULER_PORT: "the scheduler",
    at.KUBE_PROXY_RELAY_PORT: "kube-proxy's relay",
    at.POD_NETWORK_HEALTH_PORT: "the pod network",
    at.CRI_DOCKER_HEALTH_PORT: "cri-docker",
}


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check of one machine."""

    check: str
    level: Level
    detail: str = ""
    advice: str = ""


class Runtime(BaseModel):
    """A container runtime of a machine. `problem`: why it cannot be used, "" when it can."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    version: str = ""
    problem: str = ""
    is_forbidden: bool = False  # for who asked: only root may talk to it

    @property
    def title(self) -> str:
        told = f"{self.name} {self.version}".strip()
        return f"{told}, through raykube cri-docker" if self.name == "Docker" else told


class Answers(BaseModel):
    """What `probe.py` printed, and what asking showed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    hostname: str
    addresses: list[str]
    python: tuple[int, int, int]
    packages: dict[str, str]
    is_root: bool
    listening: dict[str, str]
    runtimes: list[Runtime]  # the one that a cluster takes first
    cni: list[str]
    programs: list[str]
    default_routes: list[str]
    cgroups: dict[str, Any]
    disk_free_bytes: int
    disk_bytes: int
    image_free_bytes: int
    image_bytes: int
    memory_bytes: int
    cpus: int
    ip_forward: bool
    low_port: int
    ahead_s: float = 0.0  # of the asking machine's clock
    uncertain_s: float = 0.0  # by so much, for the question took its time

    @property
    def usable(self) -> list[Runtime]:
        return [runtime for runtime in self.runtimes if not runtime.problem]


CHECKS = (
    "ssh", "user", "python", "ray", "raykube", "name", "clock", "ports", "runtime", "cni", "cgroups", "route", "tools",
    "disk", "memory",
)  # fmt: skip


def unreachable(reason: str, user_host: str) -> list[Finding]:
    """The one finding about a machine that cannot be asked."""
    text = reason.strip().splitlines()[-1] if reason.strip() else "no answer"
    advice = "is it on, and is sshd running there?"
    if "Permission denied" in reason:
        advice = f"let your key in: ssh-copy-id {user_host}"
    elif "Host key verification failed" in reason:
        advice = f"look at its key and accept it: ssh {user_host} true"
    elif "Could not resolve" in reason:
        advice = "check the name, or give its address"
    elif "not found" in reason:
        advice = "install Python 3.11 or newer there"
    return [Finding("ssh", Level.ERROR, text, advice)]


def judge(all_answers: Mapping[str, Answers], wants_containers: bool) -> dict[str, list[Finding]]:
    """Findings by machine, in the order of CHECKS. `wants_containers`: machines are to run images."""
    return {
        machine: [Finding("ssh", Level.OK), *_alone(answers, wants_containers), *_beside(machine, all_answers)]
        for machine, answers in all_answers.items()
    }


def _alone(it: Answers, wants_containers: bool) -> list[Finding]:
    """What can be said of one machine."""
    return [
        _user(it, wants_containers),
        _python(it),
        _package(it, "ray", "pip install 'raykube[ray]' in the Python that 'bash --login' finds there"),
        _package(it, "raykube", "pip install 'raykube[ray]' in the Python that 'bash --login' finds there"),
        _clock(it),
        _ports(it),
        _runtime(it, wants_containers),
        _cni(it),
        _cgroups(it),
        _route(it),
        _tools(it),
        _disk(it),
        _room("memory", it.memory_bytes, MEMORY_BYTES_MIN, MEMORY_BYTES_MIN, "the control plane needs about 1 GiB"),
    ]


def _user(it: Answers, wants_containers: bool) -> Finding:
    if it.is_root:
        return Finding("user", Level.OK, "root")
    if wants_containers and it.usable:
        advice = "containers and pod networks need root: let Ray run as root there (ssh_user: root, or sudo)"
        return Finding("user", Level.ERROR, "not root", advice)
    return Finding("user", Level.WARNING, "not root", "pods are plain processes, without images and networks")


def _python(it: Answers) -> Finding:
    text = ".".join(map(str, it.python))
    if it.python[:2] < PYTHON_MIN:
        return Finding("python", Level.ERROR, text, "install Python 3.11 or newer, first in the login shell's PATH")
    return Finding("python", Level.OK, text)


def _package(it: Answers, name: str, advice: str) -> Finding:
    found = it.packages.get(name)
    return Finding(name, Level.OK, found) if found else Finding(name, Level.ERROR, "not installed", advice)


def _clock(it: Answers) -> Finding:
    skew_s = max(0.0, abs(it.ahead_s) - it.uncertain_s)
    text = f"{it.ahead_s:+.1f} s"
    if skew_s > SKEW_S_MAX:
        return Finding("clock", Level.ERROR, text, "set it, and keep it right: timedatectl set-ntp true")
    return Finding("clock", Level.OK, text if abs(it.ahead_s) > it.uncertain_s else "right")


def _ports(it: Answers) -> Finding:
    taken = {
        int(port): title
        for port, title in it.listening.items()
        if int(port) in PORTS and not any(own in title for own in OWN_TITLES)
    }
    if not taken:
        return Finding("ports", Level.OK, "free, or a cluster's")
    port = min(taken)
    who = taken[port].split(" ")[0] or "another program"
    advice = f"stop {who}, which has the port of {PORTS[port]}"
    return Finding("ports", Level.ERROR, f"taken: {', '.join(map(str, sorted(taken)))}", advice)


def _runtime(it: Answers, wants_containers: bool) -> Finding:
    flaws = [f"{runtime.name} {runtime.problem}" for runtime in it.runtimes if runtime.problem]
    if it.usable:
        taken = it.usable[0]
        passed_over = [f"{each.name} {each.problem}" for each in it.runtimes[: it.runtimes.index(taken)]]
        return Finding("runtime", Level.OK, "; ".join([taken.title, *passed_over]))
    text = "; ".join(flaws) or "none"
    if flaws:
        advice = f"journalctl -u {it.runtimes[0].name.lower().replace('cri-o', 'crio')} may tell why"
        if "no CRI" in it.runtimes[0].problem:
            advice = 'take "cri" out of disabled_plugins in /etc/containerd/config.toml, and restart containerd'
    elif wants_containers:
        advice = "apt-get install containerd, or CRI-O, or Docker, and start it"
    else:
        advice = "pods are plain processes: install containerd for images"
    return Finding("runtime", Level.ERROR if wants_containers else Level.WARNING, text, advice)


def _cni(it: Answers) -> Finding:
    missing = [name for name in ("bridge", "host-local", "loopback", "portmap") if name not in it.cni]
    if not it.usable or not missing:
        return Finding("cni", Level.OK, "not needed" if not it.usable else "")
    return Finding("cni", Level.ERROR, f"no {missing[0]}", "apt-get install containernetworking-plugins")


def _cgroups(it: Answers) -> Finding:
    controllers = it.cgroups.get("controllers", [])
    missing = [name for name in ("cpu", "memory", "pids") if name not in controllers]
    text = f"v{it.cgroups.get('version')}"
    if missing:
        advice = f"boot with the {missing[0]} controller: cgroup_enable={missing[0]} on the kernel's command line"
        return Finding("cgroups", Level.ERROR if it.usable else Level.WARNING, f"{text}, no {missing[0]}", advice)
    return Finding("cgroups", Level.OK, text)


def _route(it: Answers) -> Finding:
    if it.default_routes:
        return Finding("route", Level.OK, it.default_routes[0])
    advice = "add a default route: without one, connections to Services' addresses fail before any rule sees them"
    return Finding("route", Level.ERROR, "no default route", advice)


def _tools(it: Answers) -> Finding:
    needed = ["rsync"] + (["ip", "nft", "conntrack"] if it.usable and it.is_root else [])
    missing = [name for name in needed if name not in it.programs]
    if not missing:
        return Finding("tools", Level.OK)
    packages = {"nft": "nftables", "ip": "iproute2"}
    names = " ".join(packages.get(name, name) for name in missing)
    return Finding("tools", Level.ERROR, f"no {', '.join(missing)}", f"apt-get install {names}")


def _disk(it: Answers) -> Finding:
    found = _room("disk", it.disk_free_bytes, DISK_BYTES_MIN, DISK_BYTES_WARN, "free space for images and the store")
    if found.level is Level.ERROR:
        return found
    # The second one is often the same.
    for of, free_bytes, size_bytes, least in (
        ("", it.disk_free_bytes, it.disk_bytes, DISK_SHARE_WARN),
        (" of images", it.image_free_bytes, it.image_bytes, IMAGE_SHARE_WARN),
    ):
        if free_bytes < least * size_bytes:
            text = f"{free_bytes / (1 << 30):.1f} GiB{of}, {free_bytes / size_bytes:.0%} free"
            advice = f"a machine's kubelet takes no pods below {least:.0%} (--eviction-hard; a local cluster's does)"
            return Finding("disk", Level.WARNING, text, advice)
    return found


def _room(check: str, found: int, least: int, good: int, why: str) -> Finding:
    text = f"{found / (1 << 30):.1f} GiB"
    if found < least:
        return Finding(check, Level.ERROR, text, f"{why}: at least {least >> 30} GiB")
    return Finding(check, Level.OK if found >= good else Level.WARNING, text, "" if found >= good else why)


def _beside(machine: str, everyone: Mapping[str, Answers]) -> list[Finding]:
    """What can only be said of machines beside each other: Ray wants one version of everything."""
    findings = []
    it = everyone[machine]
    for check, of in (
        ("python", lambda each: ".".join(map(str, each.python[:2]))),
        ("ray", lambda each: each.packages.get("ray", "")),
        ("raykube", lambda each: each.packages.get("raykube", "")),
    ):
        mine = of(it)
        most = mine and Counter(filter(None, map(of, everyone.values()))).most_common(1)[0][0]
        if mine != most:
            findings.append(Finding(check, Level.ERROR, mine, f"others have {most}: install the same on all machines"))
    twins = [other for other, each in everyone.items() if other != machine and each.hostname == it.hostname]
    if twins:
        advice = "give each machine a host name of its own: hostnamectl set-hostname"
        findings.append(Finding("name", Level.WARNING, f"{it.hostname}, as {twins[0]}", advice))
    else:
        findings.append(Finding("name", Level.OK, it.hostname))
    return findings


def worst(findings: Sequence[Finding]) -> dict[str, Finding]:
    """The worst finding of each check."""
    order = list(Level)
    found: dict[str, Finding] = {}
    for finding in findings:
        known = found.get(finding.check)
        if known is None or order.index(finding.level) > order.index(known.level):
            found[finding.check] = finding
    return found
