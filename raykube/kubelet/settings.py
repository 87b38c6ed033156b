"""What the kubelet's flags mean together: checked once, before anything starts."""

from dataclasses import dataclass

from raykube.api import quantity
from raykube.api.version import KUBERNETES_VERSION
from raykube.kubelet import machine
from raykube.kubelet.config import Config
from raykube.kubelet.core import shutdown
from raykube.kubelet.core.nodestatus import NodeConfig, parse_header, parse_pairs, parse_taint
from raykube.kubelet.core.sysctls import check_allowed
from raykube.kubelet.core.thresholds import Threshold, hard_amounts, parse_thresholds
from raykube.rpc import Tls


@dataclass(frozen=True, slots=True)
class Settings:
    node: NodeConfig
    thresholds: tuple[Threshold, ...]
    shutdown_order: tuple[shutdown.Group, ...]
    unsafe_sysctls: tuple[str, ...]
    tls: Tls | None  # towards the apiservers
    manifest_headers: dict[str, str]  # of requests to --manifest-url

    @property
    def address(self) -> str:
        return self.node.addresses[0]


def settings_of(config: Config, name: str) -> Settings:
    """Of the node `name`. Raises ValueError for flags that make no sense, OSError for files that are not there."""
    if not config.api_servers:
        raise ValueError("--api-servers is empty: name at least one apiserver's gRPC address, host:port")
    thresholds = parse_thresholds(
        config.eviction_hard,
        config.eviction_soft,
        config.eviction_soft_grace_period,
        config.eviction_minimum_reclaim,
    )
    if config.image_gc_low_threshold >= config.image_gc_high_threshold:
        raise ValueError("--image-gc-low-threshold must be less than --image-gc-high-threshold")
    order = shutdown.groups(
        config.shutdown_grace_period,
        config.shutdown_grace_period_critical_pods,
        config.shutdown_grace_period_by_pod_priority,
    )
    return Settings(
        node=_node_config(config, name, thresholds),
        thresholds=thresholds,
        shutdown_order=order,
        unsafe_sysctls=check_allowed(config.allowed_unsafe_sysctls),
        tls=_tls(config),
        manifest_headers=dict(parse_header(text) for text in config.manifest_url_header),
    )


def _node_config(config: Config, name: str, thresholds: tuple[Threshold, ...]) -> NodeConfig:
    capacity = parse_pairs(config.capacity)
    reserved, own = parse_pairs(config.system_reserved), parse_pairs(config.kube_reserved)
    for flag, amounts in (("--capacity", capacity), ("--system-reserved", reserved), ("--kube-reserved", own)):
        for resource, text in amounts.items():
            try:
                quantity.parse(text)
            except ValueError as error:
                raise ValueError(f"{flag}: {resource}={text}: {error}") from None
    return NodeConfig(
        name=name,
        addresses=(config.node_ip or machine.own_address(config.api_servers[0]),),
        kubelet_version=KUBERNETES_VERSION,
        port=config.port,
        labels=parse_pairs(config.node_labels),
        taints=tuple(parse_taint(text) for text in config.register_with_taints),
        capacity=capacity,
        reserved=(reserved, own),
        kept_free=hard_amounts(thresholds),
        max_pods=config.max_pods,
        pod_cidr=config.pod_cidr,
    )


def _tls(config: Config) -> Tls | None:
    files = (config.kube_cert_file, config.kube_key_file, config.kube_ca_file)
    if not any(files):
        return None
    if not all(files):
        raise ValueError("--kube-cert-file, --kube-key-file and --kube-ca-file go together")
    for path in files:
        if path is not None and not path.is_file():
            raise OSError(f"cannot read {path}: no such file")
    assert config.kube_cert_file is not None
    assert config.kube_key_file is not None
    assert config.kube_ca_file is not None
    return Tls(config.kube_cert_file, config.kube_key_file, config.kube_ca_file)
