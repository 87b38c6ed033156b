"""CRI configuration → the Engine API's JSON for a new container (Engine API 1.41, ContainerCreate)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raykube.cridocker.core import labels
from raykube.pb import cri_pb2

Object = dict[str, Any]

SANDBOX_OOM_SCORE_ADJ = -998  # upstream's: a pod's namespaces are the last to go
SANDBOX_CPU_SHARES = 2
# Docker keeps these only until they are in the kubelet's file; what a follower was away for must still be there.
LOG_CONFIG: Object = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
_PROPAGATION = {
    cri_pb2.PROPAGATION_PRIVATE: "rprivate",
    cri_pb2.PROPAGATION_HOST_TO_CONTAINER: "rslave",
    cri_pb2.PROPAGATION_BIDIRECTIONAL: "rshared",
}


class Refused(Exception):
    """The configuration asks for what makes no sense, or what Docker has not got."""


@dataclass(frozen=True, slots=True)
class Host:
    """What of the machine and its Docker shapes a request."""

    cgroup_driver: str = "cgroupfs"
    api: tuple[int, int] = (1, 41)
    oom_score_adj_min: int | None = None  # None: any can be set
    profiles: Mapping[str, str] | None = None  # content of seccomp profiles by path

    def oom_score_adj(self, wanted: int) -> int:
        return wanted if self.oom_score_adj_min is None else max(wanted, self.oom_score_adj_min)

    def cgroup_parent(self, path: str) -> str:
        """With systemd's driver Docker takes a slice's name, not its path."""
        return path.rstrip("/").rpartition("/")[2] if self.cgroup_driver == "systemd" else path


def sandbox(config: cri_pb2.PodSandboxConfig, image: str, plugin: str, host: Host) -> Object:
    """The container that holds a pod's namespaces. `plugin`: cni, or bridge for Docker's own network."""
    security = config.linux.security_context
    options = security.namespace_options
    _check_namespaces(options)
    on_host = options.network == cri_pb2.NODE
    settings: Object = {
        "NetworkMode": "host" if on_host else "none" if plugin == "cni" else "default",
        "IpcMode": "host" if options.ipc == cri_pb2.NODE else "shareable",
        "PidMode": "host" if options.pid == cri_pb2.NODE else "",
        "CgroupParent": host.cgroup_parent(config.linux.cgroup_parent),
        "CpuShares": SANDBOX_CPU_SHARES,
        "OomScoreAdj": host.oom_score_adj(SANDBOX_OOM_SCORE_ADJ),
        "ReadonlyRootfs": security.readonly_rootfs,
        "SecurityOpt": ["no-new-privileges", *_seccomp(security.seccomp, host), *_selinux(security.selinux_options)],
        "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"},
        "Sysctls": dict(config.linux.sysctls),
    }
    request: Object = {"Image": image, "Labels": labels.of_sandbox(config), "HostConfig": settings}
    if on_host:
        settings["UTSMode"] = "host"
    else:
        request["Hostname"] = config.hostname
        if plugin == "bridge":
            request["ExposedPorts"], settings["PortBindings"] = _ports(config)
    return request


def _ports(config: cri_pb2.PodSandboxConfig) -> tuple[Object, Object]:
    exposed: Object = {}
    bindings: Object = {}
    for one in config.port_mappings:
        if one.host_port <= 0:
            continue
        key = f"{one.container_port}/{cri_pb2.Protocol.Name(one.protocol).lower()}"
        exposed[key] = {}
        bindings.setdefault(key, []).append({"HostIp": one.host_ip, "HostPort": str(one.host_port)})
    return exposed, bindings


def container(
    sandbox_id: str, config: cri_pb2.ContainerConfig, log_path: str, mounts: list[cri_pb2.Mount], host: Host
) -> Object:
    """A container of a pod; `mounts`: its own, and those that this server adds. Raises Refused."""
    security = config.linux.security_context
    options = security.namespace_options
    _check_namespaces(options)
    if security.capabilities.add_ambient_capabilities:
        raise Refused("Docker has no ambient capabilities")
    joined = f"container:{sandbox_id}"
    settings: Object = {
        "NetworkMode": "host" if options.network == cri_pb2.NODE else joined,
        "IpcMode": "host" if options.ipc == cri_pb2.NODE else joined,
        "PidMode": _pid_mode(options, joined),
        "Mounts": [_mount(one, host) for one in mounts],
        "Devices": [
            {
                "PathOnHost": one.host_path,
                "PathInContainer": one.container_path,
                "CgroupPermissions": one.permissions,
            }
            for one in config.devices
        ],
        "CapAdd": list(security.capabilities.add_capabilities),
        "CapDrop": list(security.capabilities.drop_capabilities),
        "Privileged": security.privileged,
        "ReadonlyRootfs": security.readonly_rootfs,
        "GroupAdd": [str(group) for group in security.supplemental_groups],
        "SecurityOpt": _security_options(security, host),
        "OomScoreAdj": host.oom_score_adj(config.linux.resources.oom_score_adj),
        "LogConfig": LOG_CONFIG,
        "RestartPolicy": {"Name": "no"},
        **resources(config.linux.resources),
    }
    if config.CDI_devices:
        settings["DeviceRequests"] = [{"Driver": "cdi", "DeviceIDs": [one.name for one in config.CDI_devices]}]
    if options.network == cri_pb2.NODE:
        settings["UTSMode"] = "host"
    if not security.privileged:
        # Lists of CRI are whole: an empty one masks nothing (procMount: Unmasked).
        settings["MaskedPaths"] = list(security.masked_paths)
        settings["ReadonlyPaths"] = list(security.readonly_paths)
    request: Object = {
        "Image": config.image.image,
        "Env": [_variable(one) for one in config.envs],
        "WorkingDir": config.working_dir,
        "User": _user(security),
        "OpenStdin": config.stdin,
        "StdinOnce": config.stdin_once,
        "Tty": config.tty,
        "Labels": labels.of_container(sandbox_id, config, log_path),
        # A probe of the image's own would run beside the kubelet's.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": settings,
    }
    if config.command:
        request["Entrypoint"] = list(config.command)
    if config.args:
        request["Cmd"] = list(config.args)
    if config.stop_signal:
        request["StopSignal"] = signal_name(config.stop_signal)
    return request


def signal_name(number: cri_pb2.Signal) -> str:
    """SIGRTMINPLUS1 is CRI's spelling of SIGRTMIN+1."""
    return cri_pb2.Signal.Name(number).replace("PLUS", "+").replace("MINUS", "-")


def resources(wanted: cri_pb2.LinuxContainerResources) -> Object:
    """The limits in the words of ContainerCreate and ContainerUpdate; what is not set is left out. Raises Refused."""
    if any(one.limit for one in wanted.hugepage_limits):
        raise Refused("Docker has no limits of huge pages")
    swap = wanted.memory_swap_limit_in_bytes or wanted.memory_limit_in_bytes  # of memory and swap: equal is no swap
    values: Object = {
        "CpuPeriod": wanted.cpu_period,
        "CpuQuota": wanted.cpu_quota,
        "CpuShares": wanted.cpu_shares,
        "Memory": wanted.memory_limit_in_bytes,
        "MemorySwap": swap,
        "CpusetCpus": wanted.cpuset_cpus,
        "CpusetMems": wanted.cpuset_mems,
    }
    return {key: value for key, value in values.items() if value}


def _check_namespaces(options: cri_pb2.NamespaceOption) -> None:
    if options.userns_options.mode == cri_pb2.POD and (options.userns_options.uids or options.userns_options.gids):
        raise Refused("Docker has no user namespace of a pod's own (hostUsers: false)")


def _pid_mode(options: cri_pb2.NamespaceOption, joined: str) -> str:
    match options.pid:
        case cri_pb2.NODE:
            return "host"
        case cri_pb2.POD:
            return joined
        case cri_pb2.TARGET:
            return f"container:{options.target_id}"
    return ""


def _mount(mount: cri_pb2.Mount, host: Host) -> Object:
    if mount.image.image:
        raise Refused(f"Docker cannot mount the image {mount.image.image} at {mount.container_path}")
    if mount.uidMappings or mount.gidMappings:
        raise Refused(f"Docker cannot map the owners of {mount.container_path}")
    options: Object = {"Propagation": _PROPAGATION[mount.propagation]}
    if host.api >= (1, 44):
        if mount.recursive_read_only:
            options["ReadOnlyForceRecursive"] = True
        elif mount.readonly:
            options["ReadOnlyNonRecursive"] = True
    elif mount.recursive_read_only:
        raise Refused(f"this Docker has no recursive read-only mounts, as {mount.container_path} is to be")
    return {
        "Type": "bind",
        "Source": mount.host_path,
        "Target": mount.container_path,
        "ReadOnly": mount.readonly,
        "BindOptions": options,
    }


def _variable(variable: cri_pb2.KeyValue) -> str:
    try:
        return f"{variable.key}={variable.value.decode()}"
    except UnicodeDecodeError:
        raise Refused(f"Docker cannot take the variable {variable.key}: it is not UTF-8") from None


def _user(security: cri_pb2.LinuxContainerSecurityContext) -> str:
    user = security.run_as_username
    if security.HasField("run_as_user"):
        user = str(security.run_as_user.value)
    if not security.HasField("run_as_group"):
        return user
    if not user:
        raise Refused("runAsGroup is specified without a runAsUser")
    return f"{user}:{security.run_as_group.value}"


def _seccomp(profile: cri_pb2.SecurityProfile, host: Host) -> list[str]:
    match profile.profile_type:
        case cri_pb2.SecurityProfile.Localhost:
            content = (host.profiles or {}).get(profile.localhost_ref)
            if content is None:
                raise Refused(f"cannot load seccomp profile {profile.localhost_ref!r}")
            return [f"seccomp={content}"]
        case cri_pb2.SecurityProfile.RuntimeDefault:
            return []
    return ["seccomp=unconfined"]


def _selinux(options: cri_pb2.SELinuxOption) -> list[str]:
    pairs = (("user", options.user), ("role", options.role), ("type", options.type), ("level", options.level))
    return [f"label={key}:{value}" for key, value in pairs if value]


def _security_options(security: cri_pb2.LinuxContainerSecurityContext, host: Host) -> list[str]:
    found = [*_selinux(security.selinux_options)]
    if security.privileged:
        return found  # neither seccomp nor AppArmor
    found += _seccomp(security.seccomp, host)
    match security.apparmor.profile_type if security.HasField("apparmor") else None:
        case cri_pb2.SecurityProfile.Unconfined:
            found.append("apparmor=unconfined")
        case cri_pb2.SecurityProfile.Localhost:
            found.append(f"apparmor={security.apparmor.localhost_ref}")
    return ["no-new-privileges", *found] if security.no_new_privs else found
