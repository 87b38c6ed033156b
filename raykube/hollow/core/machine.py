"""The Nodes of hollow machines and their Leases: what is created, compared and written.

Bodies are shared: a renewal is the same bytes for all Leases of a batch, a report the same for all Nodes that are well.
"""

from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import orjson

from raykube.base.clock import rfc3339, rfc3339_micro
from raykube.hollow.core.show import RUNTIME

Object = dict[str, Any]
SET_LABEL = "hollow.raykube.io/set"  # which process plays the Node
TYPE_LABEL = "type"
LEASE_NAMESPACE = "kube-node-lease"
KERNEL = "6.1.0-hollow"
# As a kubelet labels its Node with what it finds out of its machine: the kernel is all that there is of these.
FEATURES = {
    "feature.node.kubernetes.io/kernel-version.full": KERNEL,
    "feature.node.kubernetes.io/kernel-version.major": "6",
    "feature.node.kubernetes.io/kernel-version.minor": "1",
}
KUBELET_PORT = 10247  # nobody listens there: exec and logs of hollow pods are refused at once
# type, status while all is well, reason, message; as a kubelet says it
CONDITIONS = (
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The machines of one process, all alike but for names, addresses and zones. Those are by the machine's number."""

    set_name: str
    prefix: str
    first: int
    count: int
    cidr: str  # their addresses
    capacity: dict[str, str]
    kubelet_version: str
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[Object, ...] = ()
    zones: int = 0
    lease_s: int = 40

    def name(self, number: int) -> str:
        """The Node's name of machine `number`, which counts from `first`."""
        return f"{self.prefix}-{number:05d}"

    @property
    def end(self) -> int:
        """The number behind the last."""
        return self.first + self.count

    @property
    def names(self) -> list[str]:
        """All of them, in order."""
        return [self.name(number) for number in range(self.first, self.end)]

    def address(self, number: int) -> str:
        """A machine's address. The range has room for all (`problem`)."""
        return str(IPv4Address(int(IPv4Network(self.cidr).network_address) + 1 + number))

    @property
    def problem(self) -> str:
        """Why there cannot be such machines; empty when there can."""
        if self.end + 2 > IPv4Network(self.cidr).num_addresses:
            return f"{self.cidr} has not enough addresses for {self.end} machines"
        return ""

    def labels_of(self, number: int) -> dict[str, str]:
        """A Node's labels."""
        name = self.name(number)
        found = {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "beta.kubernetes.io/os": "linux",
            "beta.kubernetes.io/arch": "amd64",
            TYPE_LABEL: "hollow",
            SET_LABEL: self.set_name,
            **FEATURES,
        }
        if self.zones:
            found["topology.kubernetes.io/zone"] = f"zone-{number % self.zones + 1}"
            found["topology.kubernetes.io/region"] = "hollow"
        return found | self.labels

    def node(self, number: int, now: float) -> Object:
        """The Node to create."""
        node: Object = {
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {
                "name": self.name(number),
                "labels": self.labels_of(number),
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            },
            "spec": {"taints": list(self.taints)} if self.taints else {},
            "status": self._status(number) | {"conditions": _conditions(now, transition=True)},
        }
        return node

    def _status(self, number: int) -> Object:
        name = self.name(number)
        ident = sha256(f"hollow/{self.set_name}/{name}".encode()).hexdigest()
        uuid = f"{ident[:8]}-{ident[8:12]}-4{ident[13:16]}-a{ident[17:20]}-{ident[20:32]}"
        return {
            "addresses": [
                {"type": "InternalIP", "address": self.address(number)},
                {"type": "Hostname", "address": name},
            ],
            "capacity": self.capacity,
            "allocatable": self.capacity,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": KUBELET_PORT}},
            "nodeInfo": {
                "machineID": ident[:32],
                "systemUUID": uuid,
                "bootID": f"{uuid[:-12]}{ident[32:44]}",
                "kernelVersion": KERNEL,
                "osImage": "Debian GNU/Linux 12 (bookworm)",
                "containerRuntimeVersion": f"{RUNTIME}://2.1.0",
                "kubeletVersion": self.kubelet_version,
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
        }

    def repair(self, number: int, *, well: bool, now: float) -> Object:
        """A strategic patch of its status and labels that makes a Node of an earlier process this one's."""
        status = self._status(number) | {"conditions": _conditions(now, transition=not well)}
        return {"metadata": {"labels": self.labels_of(number)}, "status": status}

    def lease(self, name: str, uid: str, now: float) -> Object:
        """The Lease to create."""
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}
        return {
            "kind": "Lease",
            "apiVersion": "coordination.k8s.io/v1",
            "metadata": {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]},
            "spec": {
                "holderIdentity": name,
                "leaseDurationSeconds": self.lease_s,
                "renewTime": rfc3339_micro(now),
            },
        }


def _conditions(now: float, *, transition: bool) -> list[Object]:
    """What a node that is well says. Without `transition`, times of transitions stay."""
    times = {"lastHeartbeatTime": rfc3339(now)}
    if transition:
        times["lastTransitionTime"] = rfc3339(now)
    return [
        {"type": kind, "status": status, "reason": reason, "message": message} | times
        for kind, status, reason, message in CONDITIONS
    ]


def renewal(now: float) -> bytes:
    """A merge patch that renews any Lease."""
    return orjson.dumps({"spec": {"renewTime": rfc3339_micro(now)}})


def report(now: float) -> bytes:
    """A strategic patch of the status of any Node that is well and said to be."""
    return orjson.dumps({"status": {"conditions": _conditions(now, transition=False)}})


def recovery(now: float) -> bytes:
    """A strategic patch of the status of a Node that is well and said not to be."""
    return orjson.dumps({"status": {"conditions": _conditions(now, transition=True)}})


def is_well(node: Object) -> bool:
    """Whether the Node says what a hollow machine that is well says."""
    found = {one["type"]: one.get("status") for one in (node.get("status") or {}).get("conditions") or ()}
    return all(found.get(kind) == status for kind, status, _, _ in CONDITIONS)


def slim(text: bytes) -> Object:
    """What is kept of a Node: name, uid, revision, and whether it says that all is well."""
    node = orjson.loads(text)
    metadata = node["metadata"]
    kept = {name: metadata[name] for name in ("name", "uid", "resourceVersion")}
    return {"metadata": kept, "well": is_well(node)}
