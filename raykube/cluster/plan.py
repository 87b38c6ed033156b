"""The plan: every placement of a cluster with the flags of its component, in boot order. Pure.

Boot order is the order of dependency: store, apiservers, routers, then who decides, then the machines.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Literal

from raykube.cluster import addresses as at
from raykube.cluster import pki
from raykube.cluster.state import DOCKER, ClusterState, Machine
from raykube.dns.config import PRIVATE


@dataclass(frozen=True, slots=True)
class Component:
    """A row of the plan: what runs as an actor of its own, and where."""

    package: str
    title: str  # of its step of `up`
    where: Literal["control-plane", "machines", "shares"]  # shares: as many as there are, spread over the machines
    certificates: tuple[str, ...] = ()  # pairs of the pki folder; {machine} stands for the machine's name
    files: tuple[str, ...] = ()  # other files of it
    rider: tuple[str, str] = ("", "")  # (component, package) that runs in its process, and starts before it
    needs_networks: bool = False  # only where pods have networks of their own
    needs_docker: bool = False  # only where Docker runs the containers
    # Where it says how it is: a port of its machine, and a page there; "grpc" is etcd's own question. Its flags
    # --healthz-bind-address, --secure-port and --port go before the port.
    port: int = 0
    page: str = ""


# This is the boot order. A new component is a row here, and its flags a method of `_Flags`.
COMPONENTS = {
    "kv": Component(
        "raykube.kv",
        "Store",
        "control-plane",
        ("kv", "kv-peer", "apiserver-etcd-client"),  # the last is the steward's
        rider=("steward", "raykube.cluster.steward"),
        port=at.KV_CLIENT_PORT,
        page="grpc",
    ),
    "apiserver": Component(
        "raykube.apiserver",
        "Apiservers",
        "control-plane",
        ("apiserver", "apiserver-etcd-client", "apiserver-kubelet-client"),
        ("sa.key", "sa.pub"),
        port=at.APISERVER_PORT,
        page="https:/readyz",
    ),
    "router": Component("raykube.router", "Routers", "machines", ("router",), port=at.API_PORT, page="https:/readyz"),
    "controller-manager": Component(
        "raykube.controllers",
        "Controller-managers",
        "control-plane",
        ("controller-manager",),
        ("sa.key",),
        port=at.CONTROLLER_MANAGER_PORT,
        page="https:/healthz",
    ),
    "scheduler": Component(
        "raykube.scheduler",
        "Schedulers",
        "control-plane",
        ("scheduler",),
        port=at.SCHEDULER_PORT,
        page="https:/healthz",
    ),
    "pod-network": Component(
        "raykube.podnetwork",
        "Pod networks",
        "machines",
        ("pod-network",),
        needs_networks=True,
        port=at.POD_NETWORK_HEALTH_PORT,
        page="http:/healthz",
    ),
    "cri-docker": Component(
        "raykube.cridocker",
        "CRI for Docker",
        "machines",
        needs_docker=True,
        port=at.CRI_DOCKER_HEALTH_PORT,
        page="http:/healthz",
    ),
    "kubelet": Component(
        "raykube.kubelet",
        "Kubelets",
        "machines",
        ("node-{machine}",),
        rider=("runtime", "raykube.runtime"),
        port=at.KUBELET_PORT,
        page="https:/healthz",
    ),
    "kube-proxy": Component(
        "raykube.kubeproxy",
        "Kube-proxies",
        "machines",
        ("kube-proxy", "dns"),
        rider=("dns", "raykube.dns"),
        port=at.KUBE_PROXY_HEALTH_PORT,
        page="http:/livez",  # /healthz speaks of its node, too
    ),
    "hollow": Component("raykube.hollow", "Hollow machines", "shares", ("hollow",), page="https:/healthz"),
}
PACKAGES = {name: row.package for name, row in COMPONENTS.items()} | dict(
    row.rider for row in COMPONENTS.values() if row.rider[0]
)
CLUSTER_DOMAIN = "cluster.local"
# What the stewards need to make certificates for any machine: with it, the loss of the operator's is no loss.
AUTHORITY = ("ca.crt", "ca.key", "sa.key", "sa.pub", "admin.crt", "admin.key")


def machines_of(state: ClusterState, component: str) -> list[Machine]:
    """The machines that have `component`."""
    row = COMPONENTS[component]
    if row.needs_networks and not state.has_networks:
        return []
    if component == "router" and state.local:
        return state.control_plane  # they share one address of this computer
    if row.where == "control-plane":
        return state.control_plane
    there = [machine for machine in state.machines if machine.phase != "drained"]
    if row.where == "shares":
        return [there[share % len(there)] for share in range(state.hollow_actors if there else 0)]
    return [machine for machine in there if machine.runtime == DOCKER] if row.needs_docker else there


@dataclass(frozen=True, slots=True)
class Placement:
    """One actor: a component on a machine."""

    component: str
    machine: Machine
    services: tuple[tuple[str, dict[str, Any]], ...]  # (package, flags)
    certificates: tuple[str, ...]  # files of the cluster's pki folder that its machine needs
    authority: tuple[str, ...] = ()  # files of it that make its machine another home of the cluster's authority
    share: int = 0  # 1, 2, … of a component of which a machine may have several

    @property
    def name(self) -> str:
        return f"{self.component}-{self.machine.name}" + (f".{self.share}" if self.share else "")

    @property
    def file_name(self) -> str:
        """What its files on the machine are named after."""
        return f"{self.component}-{self.share}" if self.share else self.component

    @property
    def health_address(self) -> str:
        """host:port where it says how it is; "" when its flags keep it from that."""
        row = COMPONENTS[self.component]
        flags = dict(self.services)[row.package]
        if "healthz_bind_address" in flags:
            return str(flags["healthz_bind_address"])
        port = flags.get("secure_port", flags.get("port", row.port))
        return f"{self.machine.address}:{port}"


@dataclass(frozen=True, slots=True)
class Folders:
    """Where things lie on a machine."""

    data_dir: Path
    state: ClusterState
    machine: Machine

    @property
    def home(self) -> Path:
        return self.data_dir / "machines" / self.machine.name

    @property
    def pki(self) -> Path:
        return self.home / "pki"

    @property
    def kv(self) -> Path:
        return self.home / "kv"

    @property
    def runtime_socket(self) -> Path:
        return self.state.scratch_dir / f"{self.machine.name}.sock"

    @property
    def specs(self) -> Path:
        return self.home / "specs"

    @property
    def docker_socket(self) -> Path:
        return self.state.scratch_dir / f"{self.machine.name}.docker.sock"

    def spec(self, file_name: str) -> Path:
        return self.specs / f"{file_name}.json"

    def log(self, file_name: str) -> Path:
        return self.home / "logs" / f"{file_name}.log"


def _endpoints(machines: Iterable[Machine], port: int, scheme: str = "") -> list[str]:
    return [f"{scheme}{machine.address}:{port}" for machine in machines]


class _Flags:
    """The flags of each component on one machine."""

    def __init__(self, state: ClusterState, machine: Machine, data_dir: Path, share: int = 0) -> None:
        self.state = state
        self.machine = machine
        self.share = share
        self.folders = Folders(data_dir, state, machine)

    def _pem(self, name: str) -> str:
        return str(self.folders.pki / name)

    def _client(self, name: str) -> dict[str, Any]:
        return {
            "api_servers": _endpoints(self.state.control_plane, at.APISERVER_GRPC_PORT),
            "tls_cert_file": self._pem(f"{name}.crt"),
            "tls_private_key_file": self._pem(f"{name}.key"),
            "client_ca_file": self._pem("ca.crt"),
        }

    def kv(self) -> dict[str, Any]:
        members = [f"{machine.name}={at.kv_peer_url(machine)}" for machine in self.state.control_plane]
        client_url = f"https://{self.machine.address}:{at.KV_CLIENT_PORT}"
        peer_url = at.kv_peer_url(self.machine)
        return {
            "name": self.machine.name,
            "data_dir": str(self.folders.kv),
            "listen_client_urls": [client_url],
            "advertise_client_urls": [client_url],
            "listen_peer_urls": [peer_url],
            "initial_advertise_peer_urls": [peer_url],
            "initial_cluster": members,
            # Where there is a record there was a store: a member without data asks the others who it is. As a founder
            # it would begin another cluster, of the machines that are the control plane now.
            "initial_cluster_state": "existing" if self.state.generation else "new",
            "initial_cluster_token": self.state.id,
            "auto_compaction_retention": "5m",  # as Kubernetes' apiserver asks of etcd; ours does not ask
            "cert_file": self._pem("kv.crt"),
            "key_file": self._pem("kv.key"),
            "trusted_ca_file": self._pem("ca.crt"),
            "client_cert_auth": True,
            "client_cert_allowed_cn": [pki.STORE_CLIENT],  # what the store holds, only apiservers may hand out
            "peer_cert_file": self._pem("kv-peer.crt"),
            "peer_key_file": self._pem("kv-peer.key"),
            "peer_trusted_ca_file": self._pem("ca.crt"),
            "peer_cert_allowed_cn": [pki.STORE_PEER],
        }

    def steward(self) -> dict[str, Any]:
        return {
            "state": self.state.model_dump(mode="json"),
            "machine": self.machine.name,
            "data_dir": str(self.folders.data_dir),
        }

    def _nearest_first(self) -> list[Machine]:
        """The control plane's machines, this one first: nobody else's loss breaks the way to a member on one's own."""
        return sorted(self.state.control_plane, key=lambda machine: machine.name != self.machine.name)

    def apiserver(self) -> dict[str, Any]:
        return {
            "etcd_servers": _endpoints(self._nearest_first(), at.KV_CLIENT_PORT, "https://"),
            "etcd_cafile": self._pem("ca.crt"),
            "etcd_certfile": self._pem("apiserver-etcd-client.crt"),
            "etcd_keyfile": self._pem("apiserver-etcd-client.key"),
            "bind_address": self.machine.address,
            "advertise_address": self.machine.address,
            "secure_port": at.APISERVER_PORT,
            "grpc_port": at.APISERVER_GRPC_PORT,
            "tls_cert_file": self._pem("apiserver.crt"),
            "tls_private_key_file": self._pem("apiserver.key"),
            "client_ca_file": self._pem("ca.crt"),
            "service_cluster_ip_range": [at.service_range(self.state)],
            "allow_loopback_endpoints": not self.state.has_networks,
            "kubernetes_service_port": self.state.kubernetes_service_port,
            "service_account_issuer": "https://kubernetes.default.svc.cluster.local",
            "service_account_key_file": [self._pem("sa.pub")],
            "service_account_signing_key_file": self._pem("sa.key"),
            "kubelet_client_certificate": self._pem("apiserver-kubelet-client.crt"),
            "kubelet_client_key": self._pem("apiserver-kubelet-client.key"),
            "kubelet_certificate_authority": self._pem("ca.crt"),
        }

    def router(self) -> dict[str, Any]:
        shared = [at.api_address(self.state.subnet)] if self.state.local else []
        return {
            "bind_addresses": [*shared, self.machine.address],
            "port": at.API_PORT,
            "grpc_port": at.API_GRPC_PORT,
            "servers": _endpoints(self.state.control_plane, at.APISERVER_PORT),
            "grpc_servers": _endpoints(self.state.control_plane, at.APISERVER_GRPC_PORT),
            "shared": self.state.local,
            "tls_cert_file": self._pem("router.crt"),
            "tls_private_key_file": self._pem("router.key"),
            "client_ca_file": self._pem("ca.crt"),
        }

    def controller_manager(self) -> dict[str, Any]:
        return self._client("controller-manager") | {
            "bind_address": self.machine.address,
            "secure_port": at.CONTROLLER_MANAGER_PORT,
            "root_ca_file": self._pem("ca.crt"),
            "service_account_private_key_file": self._pem("sa.key"),
        }

    def scheduler(self) -> dict[str, Any]:
        return self._client("scheduler") | {"bind_address": self.machine.address, "secure_port": at.SCHEDULER_PORT}

    def pod_network(self) -> dict[str, Any]:
        return self._client("pod-network") | {
            "hostname_override": self.machine.name,
            "cluster_cidr": [str(at.CLUSTER_RANGE)],
            "healthz_bind_address": f"{self.machine.address}:{at.POD_NETWORK_HEALTH_PORT}",
        }

    def runtime(self) -> dict[str, Any]:
        path = {"container_path": self.state.program_path} if self.state.program_path else {}
        return path | {
            "listen": str(self.folders.runtime_socket),
            "root_dir": str(self.folders.home / "runtime"),
            "pod_cidr": at.pod_range(self.state, self.machine),
            "node_name": self.machine.name,
            "cluster": self.state.id,
        }

    def cri_docker(self) -> dict[str, Any]:
        return {
            "container_runtime_endpoint": f"unix://{self.folders.docker_socket}",
            "root_directory": str(self.folders.home / "cri-docker"),
            "healthz_bind_address": f"{self.machine.address}:{at.CRI_DOCKER_HEALTH_PORT}",
        }

    def _runtime_endpoint(self) -> str:
        if self.machine.runtime == DOCKER:
            return f"unix://{self.folders.docker_socket}"
        return self.machine.runtime or f"unix://{self.folders.runtime_socket}"

    def kubelet(self) -> dict[str, Any]:
        role = "node-role.kubernetes.io/control-plane="
        node = f"node-{self.machine.name}"
        return {
            "hostname_override": self.machine.name,
            "node_ip": self.machine.address,
            "address": self.machine.address,
            "port": at.KUBELET_PORT,
            "root_dir": str(self.folders.home / "kubelet"),
            # How full the disk of its user's computer is is not a local cluster's to judge, and nothing on it is its
            # to remove, as in kind's clusters.
            "shared_disk": self.state.local,
            "container_runtime_endpoint": self._runtime_endpoint(),
            "pod_cidr": at.pod_range(self.state, self.machine),
            "node_labels": ",".join(filter(None, (role * self.machine.control_plane, self.machine.node_labels))),
            "cluster_dns": at.cluster_dns(self.state),
            "cluster_domain": CLUSTER_DOMAIN,
            "api_servers": _endpoints(self.state.control_plane, at.APISERVER_GRPC_PORT),
            "kube_cert_file": self._pem(f"{node}.crt"),
            "kube_key_file": self._pem(f"{node}.key"),
            "kube_ca_file": self._pem("ca.crt"),
            "tls_cert_file": self._pem(f"{node}.crt"),
            "tls_private_key_file": self._pem(f"{node}.key"),
            "client_ca_file": self._pem("ca.crt"),
        }

    def dns(self) -> dict[str, Any]:
        return self._client("dns") | {
            "hostname_override": self.machine.name,
            "bind_addresses": [self.machine.address],
            "port": at.DNS_PORT,
            "cluster_domain": CLUSTER_DOMAIN,
            "cluster_dns": at.cluster_dns(self.state),
            # Pods and Services have private addresses; machines may have public ones.
            "allow_networks": [*PRIVATE, *(machine.address for machine in self.state.machines)],
            "healthz_bind_address": f"{self.machine.address}:{at.DNS_METRICS_PORT}",
            "lameduck": "1s",  # an actor has not long to stop, and kube-proxies hear of it sooner
        }

    def kube_proxy(self) -> dict[str, Any]:
        shared = [at.api_address(self.state.subnet)] if self.state.local else []
        return self._client("kube-proxy") | {
            "hostname_override": self.machine.name,
            "nodeport_addresses": [self.machine.address, *shared],
            "healthz_bind_address": f"{self.machine.address}:{at.KUBE_PROXY_HEALTH_PORT}",
            "relay_port": at.KUBE_PROXY_RELAY_PORT,
            # Loopback addresses are no matter for the kernel's rules: what they stand for differs by machine.
            "proxy_mode": "userspace" if IPv4Network(at.service_range(self.state)).is_loopback else "auto",
            "shared_host": self.state.local,
        }

    def hollow(self) -> dict[str, Any]:
        """A share keeps its machines' numbers and its pods' range wherever it runs."""
        first, end = at.hollow_numbers(self.state, self.share)
        return self._client("hollow") | {
            "name": f"hollow-{self.share}",
            "node_prefix": "hollow",
            "first_node": first,
            "nodes": end - first,
            "pod_cidr": at.hollow_pod_range(self.state, self.share),
            "bind_address": self.machine.address,
            "secure_port": at.HOLLOW_HEALTH_PORT + self.share,
        }


def _placement(
    state: ClusterState,
    machine: Machine,
    component: str,
    data_dir: Path,
    given: Mapping[str, Mapping[str, Any]] = {},
    share: int = 0,
) -> Placement:
    """`given`: flags by service that differ from the plan's."""
    flags = _Flags(state, machine, data_dir, share)
    row = COMPONENTS[component]
    services = [component]
    if row.rider[0] and not (component == "kubelet" and machine.runtime):
        services.insert(0, row.rider[0])
    configured = tuple(
        (
            PACKAGES[name],
            getattr(flags, name.replace("-", "_"))() | extra_flags(state, name) | dict(given.get(name, {})),
        )
        for name in services
    )
    names = [name.format(machine=machine.name) for name in row.certificates]
    pairs = [f"{name}.{suffix}" for name in names for suffix in ("crt", "key")]
    authority = AUTHORITY if component == "kv" else ()
    return Placement(component, machine, configured, ("ca.crt", *pairs, *row.files), authority, share)


def kv_placement(
    state: ClusterState, machine: Machine, data_dir: Path, *, member: int = 0, joins: Sequence[str] = ()
) -> Placement:
    """The store's member on `machine`; with `joins` (name=url of all members), one that was announced as `member`."""
    given: dict[str, dict[str, Any]] = {}
    if joins:
        given = {
            "kv": {"initial_cluster": list(joins), "initial_cluster_state": "existing"},
            "steward": {"member": member},
        }
    return _placement(state, machine, "kv", data_dir, given)


def extra_flags(state: ClusterState, component: str) -> dict[str, Any]:
    """`--extra-config component.flag=value` for one component, names as its Config has them."""
    given = state.extra_config.get(component, {})
    return {flag.replace("-", "_"): value for flag, value in given.items()}


def plan(state: ClusterState, data_dir: Path) -> list[Placement]:
    """All placements of the cluster, in boot order."""
    return [
        _placement(state, machine, component, data_dir, share=number if row.where == "shares" else 0)
        for component, row in COMPONENTS.items()
        for number, machine in enumerate(machines_of(state, component), 1)
    ]
