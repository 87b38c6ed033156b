"""Who has which address and port. Pure.

A local cluster with subnet C:

    127.C.0.1          the API address: the routers of all machines share it, and NodePorts answer on it too
    127.C.0.2, .3, …   machine 1, 2, …
    127.C.M.0/24       the pods of machine M (1 to 100)
    127.C.128.0/17     Services

On hosts of their own machines have their hosts' addresses. Where their runtimes make networks, machine M's pods have
10.244.M.0/24 and Services 10.96.0.0/12, as kubeadm's do; pods of the process runtime have loopback addresses there too.
"""

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network

from raykube.cluster.state import ClusterState, Machine

KV_CLIENT_PORT = 2379
KV_PEER_PORT = 2380
API_PORT = 6443  # the routers: what a kubeconfig names
API_GRPC_PORT = 6446
APISERVER_PORT = 6444
APISERVER_GRPC_PORT = 6445
KUBELET_PORT = 10250
SCHEDULER_PORT = 10259
CONTROLLER_MANAGER_PORT = 10257
KUBE_PROXY_HEALTH_PORT = 10256
KUBE_PROXY_RELAY_PORT = 10266
POD_NETWORK_HEALTH_PORT = 10267
CRI_DOCKER_HEALTH_PORT = 10268
DNS_PORT = 10053  # of a machine, whose 53 may be taken; clients ask the Service kube-dns, at 53
DNS_METRICS_PORT = 9153
HOLLOW_HEALTH_PORT = 10280  # and the number of the share

HTTPS_PORT = 443  # of the Service `kubernetes`, where ports below 1024 can be served
CLUSTER_RANGE = IPv4Network("10.244.0.0/16")
SERVICE_RANGE = "10.96.0.0/12"
HOLLOW_POD_RANGE = IPv4Network("100.64.0.0/10")  # shared address space (RFC 6598); nothing is reached there
HOLLOW_NODES_MAX = 100_000
HOLLOW_NODES_PER_ACTOR = (500, 5000)  # at most so many, and as few as the first where there are machines for it
MACHINES_MAX = 100  # slices of 127.C.0.0/17 and of CLUSTER_RANGE, both with room to spare


def api_address(subnet: int) -> str:
    return f"127.{subnet}.0.1"


def local_machine_address(subnet: int, index: int) -> str:
    return f"127.{subnet}.0.{index + 1}"


def pod_range(state: ClusterState, machine: Machine) -> str:
    """The addresses of a machine's pods. The process runtime makes no networks: its pods' are loopback ones."""
    if state.has_networks:
        return str(list(CLUSTER_RANGE.subnets(new_prefix=24))[machine.index])
    return f"127.{state.subnet}.{machine.index}.0/24"


def hollow_actors(nodes: int, machines: int) -> int:
    """How many actors play `nodes` hollow machines on so many real ones."""
    few, many = HOLLOW_NODES_PER_ACTOR
    return max(-(-nodes // many), min(machines, -(-nodes // few)))


def hollow_numbers(state: ClusterState, share: int) -> tuple[int, int]:
    """The hollow machines of a share (1, 2, …): the first, and the one behind the last."""
    nodes, actors = state.hollow_nodes, state.hollow_actors
    return nodes * (share - 1) // actors, nodes * share // actors


def hollow_pod_range(state: ClusterState, share: int) -> str:
    """The addresses of a share's pods."""
    bits = (state.hollow_actors - 1).bit_length()
    return str(list(HOLLOW_POD_RANGE.subnets(prefixlen_diff=bits))[share - 1])


def service_range(state: ClusterState) -> str:
    """Beside loopback pods, each machine's kube-proxy answers for the Services on its own loopback."""
    return SERVICE_RANGE if state.has_networks else f"127.{state.subnet}.128.0/17"


def first_service_address(state: ClusterState) -> str:
    network = IPv4Network(service_range(state))
    return str(IPv4Address(int(network.network_address) + 1))


def cluster_dns(state: ClusterState) -> list[str]:
    """What pods have as nameserver: the tenth Service address, as upstream. None where nobody may serve port 53."""
    if state.local and state.kubernetes_service_port != HTTPS_PORT:
        return []
    network = IPv4Network(service_range(state))
    return [str(IPv4Address(int(network.network_address) + 10))]


def kv_peer_url(machine: Machine) -> str:
    """Where the store's member on `machine` listens for the others."""
    return f"https://{machine.address}:{KV_PEER_PORT}"


def api_servers(state: ClusterState, here: Collection[str] = ()) -> dict[str, str]:
    """URLs that a kubeconfig may name, by machine; the first is the best. `here`: addresses of the computer that asks.

    There is a router on every machine, which knows all apiservers: a machine that asks names its own, which lives
    as long as itself.
    """
    if state.local:
        return {"": f"https://{api_address(state.subnet)}:{API_PORT}"}
    own = [machine for machine in state.machines if machine.address in here]
    return {
        machine.name: f"https://{machine.address}:{API_PORT}" for machine in dict.fromkeys([*own, *state.control_plane])
    }


def grpc_servers(state: ClusterState) -> list[str]:
    """The gRPC addresses of all apiservers."""
    return [f"{machine.address}:{APISERVER_GRPC_PORT}" for machine in state.control_plane]
