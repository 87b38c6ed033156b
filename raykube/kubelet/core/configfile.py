"""The kubelet's configuration file (kind KubeletConfiguration, kubelet.config.k8s.io/v1beta1): its fields as flags."""

from collections.abc import Callable, Mapping
from typing import Any

import yaml

API_VERSION, KIND = "kubelet.config.k8s.io/v1beta1", "KubeletConfiguration"


class BadConfiguration(ValueError):
    """A file that is no configuration; the message says why."""


def _same(value: Any) -> Any:
    return value


def _pairs(separator: str) -> Callable[[Any], str]:
    def joined(value: Any) -> str:
        if not isinstance(value, Mapping):
            raise TypeError("want a map")
        return ",".join(f"{key}{separator}{text}" for key, text in value.items())

    return joined


def _taint(one: Any) -> str:
    value = f"={one['value']}" if one.get("value") else ""
    return f"{one['key']}{value}:{one['effect']}"


def _taints(value: Any) -> list[str]:
    return [_taint(one) for one in value]


def _headers(value: Any) -> list[str]:
    return [f"{name}:{text}" for name, texts in value.items() for text in texts]


def _priorities(value: Any) -> dict[str, str]:
    return {str(one["priority"]): str(one["shutdownGracePeriodSeconds"]) for one in value}


def _enforced(value: Any) -> str:
    if not set(value) <= {"pods", "none"}:
        raise TypeError("want [pods] or [none]: what is reserved has no control groups of its own here")
    return "pods" if "pods" in value else "none"


# field → (flag of our Config, form)
FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "address": ("address", _same),
    "allowedUnsafeSysctls": ("allowed_unsafe_sysctls", _same),
    "cgroupDriver": ("cgroup_driver", _same),
    "cgroupRoot": ("cgroup_root", _same),
    "clusterDNS": ("cluster_dns", _same),
    "clusterDomain": ("cluster_domain", _same),
    "containerLogMaxFiles": ("container_log_max_files", _same),
    "containerLogMaxSize": ("container_log_max_size", _same),
    "containerLogMonitorInterval": ("container_log_monitor_interval", _same),
    "containerRuntimeEndpoint": ("container_runtime_endpoint", _same),
    "enforceNodeAllocatable": ("enforce_node_allocatable", _enforced),
    "evictionHard": ("eviction_hard", _pairs("<")),
    "evictionMaxPodGracePeriod": ("eviction_max_pod_grace_period", _same),
    "evictionMinimumReclaim": ("eviction_minimum_reclaim", _pairs("=")),
    "evictionPressureTransitionPeriod": ("eviction_pressure_transition_period", _same),
    "evictionSoft": ("eviction_soft", _pairs("<")),
    "evictionSoftGracePeriod": ("eviction_soft_grace_period", _pairs("=")),
    "fileCheckFrequency": ("file_check_frequency", _same),
    "httpCheckFrequency": ("http_check_frequency", _same),
    "imageGCHighThresholdPercent": ("image_gc_high_threshold", _same),
    "imageGCLowThresholdPercent": ("image_gc_low_threshold", _same),
    "imageMaximumGCAge": ("image_maximum_gc_age", _same),
    "imageMinimumGCAge": ("minimum_image_ttl_duration", _same),
    "kubeReserved": ("kube_reserved", _pairs("=")),
    "maxParallelImagePulls": ("max_parallel_image_pulls", _same),
    "maxPods": ("max_pods", _same),
    "nodeLeaseDurationSeconds": ("node_lease_duration_seconds", _same),
    "nodeStatusMaxImages": ("node_status_max_images", _same),
    "nodeStatusReportFrequency": ("node_status_report_frequency", _same),
    "nodeStatusUpdateFrequency": ("node_status_update_frequency", _same),
    "podCIDR": ("pod_cidr", _same),
    "port": ("port", _same),
    "registerNode": ("register_node", _same),
    "registerWithTaints": ("register_with_taints", _taints),
    "resolvConf": ("resolv_conf", _same),
    "runtimeRequestTimeout": ("runtime_request_timeout", _same),
    "seccompDefault": ("seccomp_default", _same),
    "serializeImagePulls": ("serialize_image_pulls", _same),
    "shutdownGracePeriod": ("shutdown_grace_period", _same),
    "shutdownGracePeriodByPodPriority": ("shutdown_grace_period_by_pod_priority", _priorities),
    "shutdownGracePeriodCriticalPods": ("shutdown_grace_period_critical_pods", _same),
    "staticPodPath": ("pod_manifest_path", _same),
    "staticPodURL": ("manifest_url", _same),
    "staticPodURLHeader": ("manifest_url_header", _headers),
    "syncFrequency": ("sync_frequency", _same),
    "systemReserved": ("system_reserved", _pairs("=")),
    "tlsCertFile": ("tls_cert_file", _same),
    "tlsPrivateKeyFile": ("tls_private_key_file", _same),
}


def parse(data: bytes) -> tuple[dict[str, Any], list[str]]:
    """(values by the names of our flags, fields that mean nothing here). Raises BadConfiguration."""
    try:
        document = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError) as error:
        raise BadConfiguration(" ".join(str(error).split())) from None
    if not isinstance(document, dict) or (document.get("apiVersion"), document.get("kind")) != (API_VERSION, KIND):
        raise BadConfiguration(f"want kind {KIND} of {API_VERSION}")
    values: dict[str, Any] = {}
    unknown: list[str] = []
    for name, value in document.items():
        if name in ("apiVersion", "kind") or value is None:
            continue
        if name == "authentication":
            file = _client_ca(value, unknown)
            if file:
                values["client_ca_file"] = file
        elif name in FIELDS:
            flag, form = FIELDS[name]
            try:
                values[flag] = form(value)
            except (TypeError, KeyError, AttributeError) as error:
                raise BadConfiguration(f"{name}: {error}") from None
        else:
            unknown.append(name)
    return values, unknown


def _client_ca(value: Any, unknown: list[str]) -> str:
    """`authentication.x509.clientCAFile`; all else of `authentication` means nothing here."""
    found = ""
    for name, part in (value if isinstance(value, dict) else {}).items():
        if name == "x509" and isinstance(part, dict):
            found = str(part.get("clientCAFile") or "")
            unknown += [f"authentication.x509.{other}" for other in part if other != "clientCAFile"]
        else:
            unknown.append(f"authentication.{name}")
    return found
