"""Who has which address and port. Pure.

A local cluster with subnet C:

    127.C.0.1          the API address: the routers of all machines share it, and NodePorts answer on it too
    127.C.0.2, .3, …   machine 1, 2, …
    127.C.M.0/24       the pods of machine M (1 to 100)
    127.C.128.0/17     Services
"""

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
DNS_PORT = 10053  # of a machine, whose 53 may be taken; clients ask the Service kube-dns, at 53
DNS_METRICS_PORT = 9153

HTTPS_PORT = 443  # of the Service `kubernetes`, where ports below 1024 can be served
DEFAULT_SERVICE_RANGE = "10.96.0.0/12"


def api_address(subnet: int) -> str:
    return f"127.{subnet}.0.1"


def local_machine_address(subnet: int, index: int) -> str:
    return f"127.{subnet}.0.{index + 1}"


def pod_range(state: ClusterState, machine: Machine) -> str:
    """The addresses of the process runtime's pods: loopback ones on every host, since it makes no networks."""
    return f"127.{state.subnet}.{machine.index}.0/24"


def service_range(state: ClusterState) -> str:
    """Loopback on real hosts too: each machine's kube-proxy answers for the Services on its own loopback."""
    return f"127.{state.subnet}.128.0/17"


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


def api_server(state: ClusterState) -> str:
    """The URL that a kubeconfig names."""
    host = api_address(state.subnet) if state.local else state.control_plane[0].address
    return f"https://{host}:{API_PORT}"


def grpc_servers(state: ClusterState) -> list[str]:
    """The gRPC addresses of all apiservers."""
    return [f"{machine.address}:{APISERVER_GRPC_PORT}" for machine in state.control_plane]
