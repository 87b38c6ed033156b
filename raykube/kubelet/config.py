"""Flags of the kubelet."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from raykube.base.duration import Duration


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    config: Path | None = Field(None, description="File of kind KubeletConfiguration; flags that are given win")
    hostname_override: str = Field("", description="Name of the node; the machine's host name when empty")
    node_ip: str = Field("", description="Address of the node; found by its route to the apiservers when empty")
    root_dir: Path = Field(Path("/var/lib/kubelet"), description="Directory for pods' volumes and container logs")
    container_runtime_endpoint: str = Field(
        "unix:///run/containerd/containerd.sock", description="Unix socket of the CRI runtime"
    )
    runtime_request_timeout: Duration = Field(
        120.0, description="How long a call to the runtime may take, beyond what it waits for on purpose"
    )
    cgroup_root: str = Field("/", description="Control group below which pods get theirs")
    cgroup_driver: Literal["cgroupfs", "systemd"] = Field(
        "cgroupfs", description="Who makes control groups, where the runtime does not say"
    )
    serialize_image_pulls: bool = Field(True, description="Pull one image after the other")
    max_parallel_image_pulls: int = Field(
        0, ge=0, description="Pulls at once, with --serialize-image-pulls=false; 0 for any number"
    )
    seccomp_default: bool = Field(False, description="Containers that name no seccomp profile get RuntimeDefault")
    allowed_unsafe_sysctls: list[str] = Field(
        default_factory=list, description="Sysctls, or patterns ending in *, that pods may set beyond the safe ones"
    )
    resolv_conf: Path | None = Field(
        Path("/etc/resolv.conf"), description="The machine's resolv.conf, for pods that resolve names as it does"
    )

    address: str = Field("0.0.0.0", description="Address on which to serve logs and metrics")
    port: int = Field(10250, description="Port on which to serve logs and metrics; 0 for any free one")
    tls_cert_file: Path | None = Field(None, description="Certificate to serve with; without one there is no server")
    tls_private_key_file: Path | None = Field(None, description="Key of --tls-cert-file")
    client_ca_file: Path | None = Field(None, description="CA that clients of this server must be signed by")

    streaming_connection_idle_timeout: Duration = Field(
        4 * 3600.0, description="How long an exec, attach or port-forward may carry nothing; 0 for ever"
    )

    api_servers: list[str] = Field(default_factory=list, description="gRPC addresses of apiservers, host:port")
    kube_cert_file: Path | None = Field(None, description="Client certificate, of the user system:node:NAME")
    kube_key_file: Path | None = Field(None, description="Key of --kube-cert-file")
    kube_ca_file: Path | None = Field(None, description="CA of the apiservers")

    register_node: bool = Field(True, description="Create the Node object")
    node_labels: str = Field("", description="Labels of the node when it registers: key=value,…")
    register_with_taints: list[str] = Field(
        default_factory=list, description="Taints of the node when it registers: key=value:Effect"
    )
    capacity: str = Field(
        "", description="What the node offers instead of what the machine has: cpu=2,memory=4Gi,pods=110"
    )
    system_reserved: str = Field("", description="What is kept from pods for the machine itself: cpu=200m,memory=1Gi")
    kube_reserved: str = Field("", description="What is kept from pods for Kubernetes' own parts: cpu=100m,memory=1Gi")
    enforce_node_allocatable: Literal["pods", "none"] = Field(
        "pods", description="Whether all pods together are held to what is not reserved"
    )
    max_pods: int = Field(110, description="How many pods may run here")
    pod_cidr: str = Field("", description="Range of pod addresses, passed to the runtime; the Node's own when empty")

    node_status_update_frequency: Duration = Field(10.0, description="How often the node's state is looked at")
    node_status_report_frequency: Duration = Field(300.0, description="How often it is reported when nothing changed")
    node_lease_duration_seconds: int = Field(40, description="Life of the node's Lease; renewed four times as often")
    sync_frequency: Duration = Field(60.0, description="How often ConfigMaps, Secrets and each pod are looked at again")

    housekeeping_interval: Duration = Field(
        10.0, description="How often memory, disks and pods' limits on disk are looked at"
    )
    eviction_hard: str = Field(
        "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%",
        description="What must stay free: below it, pods are evicted at once",
    )
    eviction_soft: str = Field("", description="What must stay free: below it for its grace period, pods are evicted")
    eviction_soft_grace_period: str = Field("", description="Grace periods of --eviction-soft: SIGNAL=1m30s,…")
    eviction_minimum_reclaim: str = Field("", description="What eviction frees beyond the threshold: SIGNAL=AMOUNT,…")
    eviction_max_pod_grace_period: int = Field(
        0, description="Seconds that a pod has to end when a soft threshold evicts it"
    )
    eviction_pressure_transition_period: Duration = Field(
        300.0, description="How long a pressure condition stays after it was last seen"
    )
    shared_disk: bool = Field(
        False, description="The disk has other users: pods are not evicted, nor images removed, for how full it is"
    )
    image_gc_high_threshold: int = Field(
        85, ge=0, le=100, description="Percent of the images' disk in use above which unused images go; 100 for never"
    )
    image_gc_low_threshold: int = Field(80, ge=0, le=100, description="Percent in use down to which images go")
    minimum_image_ttl_duration: Duration = Field(120.0, description="Age before an unused image may go")
    image_maximum_gc_age: Duration = Field(0.0, description="Age at which an unused image goes anyway; 0 for never")
    node_status_max_images: int = Field(50, description="Images that the Node lists, the largest first; -1 for all")

    shutdown_grace_period: Duration = Field(
        0.0, description="How long a shutdown of the machine waits for pods to end; 0 for not at all"
    )
    shutdown_grace_period_critical_pods: Duration = Field(
        0.0, description="How much of --shutdown-grace-period is for critical pods, which end last"
    )
    shutdown_grace_period_by_pod_priority: dict[str, str] = Field(
        default_factory=dict, description="Instead of the two: PRIORITY=SECONDS,… for pods of that priority and more"
    )

    pod_manifest_path: Path | None = Field(None, description="File, or folder of files, with manifests of static pods")
    file_check_frequency: Duration = Field(
        20.0, description="How often manifests are read whether or not they seem changed; changed ones are read at once"
    )
    manifest_url: str = Field("", description="URL of a manifest of static pods")
    manifest_url_header: list[str] = Field(
        default_factory=list, description="Headers for --manifest-url: name:value (repeatable)"
    )
    http_check_frequency: Duration = Field(20.0, description="How often --manifest-url is read")

    cluster_dns: list[str] = Field(default_factory=list, description="Addresses of the cluster's DNS")
    cluster_domain: str = Field("cluster.local", description="Domain of the cluster")

    container_log_max_size: str = Field("10Mi", description="Size at which a container's log is rotated")
    container_log_max_files: int = Field(5, description="Log files that a container may have")
    container_log_monitor_interval: Duration = Field(10.0, description="How often the size of logs is looked at")
    minimum_container_ttl_duration: Duration = Field(0.0, description="Age before an ended container is removed")
    maximum_dead_containers_per_container: int = Field(1, description="Ended runs of a container that are kept")
