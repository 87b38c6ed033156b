"""A container's configuration → what the shim is to do (its `spec` file)."""

from dataclasses import dataclass
from posixpath import normpath
from typing import Any

from raykube.pb import cri_pb2
from raykube.runtime.core.records import SERVICE_ACCOUNT_PATH, Container, Sandbox

# Mounts that the kubelet makes without being asked: a machine without namespaces runs the container without them.
OPTIONAL_TARGETS = {
    SERVICE_ACCOUNT_PATH,
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/dev/termination-log",
    "/dev/shm",
}
MACHINE_VARIABLE = "RAYKUBE_MACHINE"
CLUSTER_VARIABLE = "RAYKUBE_CLUSTER"
CONTAINER_VARIABLE = "RAYKUBE_CONTAINER"


class Refused(Exception):
    """The runtime cannot do what the configuration asks; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a container's process gets from the machine: markers, the search path, which user the runtime is."""

    node_name: str
    cluster: str
    path: str
    uid: int
    homes: dict[int, str]  # home directory by user id

    def markers(self, container_id: str) -> dict[str, str]:
        """The environment by which leftovers of this machine and cluster are found."""
        return {
            MACHINE_VARIABLE: self.node_name,
            CLUSTER_VARIABLE: self.cluster,
            CONTAINER_VARIABLE: container_id,
        }


def check(config: cri_pb2.ContainerConfig) -> None:
    """Raises Refused for a container that could never start here."""
    if not config.command and not config.args:
        raise Refused(f'the process runtime has no images: set "command" in container "{config.metadata.name}"')
    if not config.command:
        raise Refused(
            f'the process runtime has no images, so "args" alone name no program: '
            f'set "command" in container "{config.metadata.name}"'
        )
    for mount in config.mounts:
        if not mount.container_path.startswith("/"):
            raise Refused(f"mount path {mount.container_path!r} is not absolute")
        if mount.image.image:
            raise Refused("the process runtime has no images, so it cannot mount one")


def mode(config: cri_pb2.ContainerConfig) -> str:
    """The shim's MODE: terminal, input, input once."""
    once = config.stdin and config.stdin_once
    return ("t" if config.tty else "") + ("i" if config.stdin else "") + ("o" if once else "")


def environment(container: Container, sandbox: Sandbox, machine: Machine) -> dict[str, str]:
    uid = user_of(container, sandbox)
    result = {
        "PATH": machine.path,
        "HOME": machine.homes.get(machine.uid if uid is None else uid, "/"),
        "HOSTNAME": sandbox.config.hostname or machine.node_name,
    }
    result |= {entry.key: entry.value.decode(errors="surrogateescape") for entry in container.config.envs}
    if container.config.tty:
        result.setdefault("TERM", "xterm")
    return result | machine.markers(container.id)


def user_of(container: Container, sandbox: Sandbox) -> int | None:
    for context in (container.config.linux.security_context, sandbox.config.linux.security_context):
        if context.HasField("run_as_user"):
            return context.run_as_user.value
    return None


def group_of(container: Container, sandbox: Sandbox) -> int | None:
    for context in (container.config.linux.security_context, sandbox.config.linux.security_context):
        if context.HasField("run_as_group"):
            return context.run_as_group.value
    return None


def working_directory(container: Container) -> str:
    return container.config.working_dir or "/"


def resolver(config: cri_pb2.DNSConfig) -> str:
    """The text of /etc/resolv.conf; "" where the pod resolves names as the machine does."""
    lines = []
    if config.searches:
        lines.append("search " + " ".join(config.searches))
    lines += [f"nameserver {server}" for server in config.servers]
    if config.options:
        lines.append("options " + " ".join(config.options))
    return "".join(f"{line}\n" for line in lines)


def _device(device: cri_pb2.Device) -> cri_pb2.Mount:
    """A device is a file of the machine: it is shown where the container looks for it."""
    return cri_pb2.Mount(
        container_path=device.container_path, host_path=device.host_path, readonly="w" not in device.permissions
    )


def spec(
    container: Container,
    sandbox: Sandbox,
    machine: Machine,
    scratch: str,
    cgroups: list[str],
    resolver_file: str = "",
) -> dict[str, Any]:
    """The content of the spec. `cgroups` are the files that the process writes itself into; `resolver_file` is the
    pod's own /etc/resolv.conf, if it has one."""
    config = container.config
    context = config.linux.security_context
    resources = config.linux.resources
    mounts = [
        {
            "source": mount.host_path,
            "target": normpath(mount.container_path),
            "read_only": mount.readonly,
            "recursive": mount.recursive_read_only,
            "propagation": mount.propagation,
            "optional": normpath(mount.container_path) in OPTIONAL_TARGETS,
        }
        for mount in [*config.mounts, *map(_device, config.devices)]
    ]
    if resolver_file and all(mount["target"] != "/etc/resolv.conf" for mount in mounts):
        mounts.append(
            {
                "source": resolver_file,
                "target": "/etc/resolv.conf",
                "read_only": False,
                "recursive": False,
                "propagation": cri_pb2.PROPAGATION_PRIVATE,
                "optional": True,
            }
        )
    return {
        "arguments": [*config.command, *config.args],
        "environment": environment(container, sandbox, machine),
        "working_directory": working_directory(container),
        "hostname": "" if sandbox.on_host_network else sandbox.config.hostname,
        "user": user_of(container, sandbox),
        "group": group_of(container, sandbox),
        "groups": list(context.supplemental_groups),
        "mounts": mounts,
        "read_only_root": context.readonly_rootfs,
        "no_new_privileges": context.no_new_privs,
        "oom_score_adj": resources.oom_score_adj if config.linux.HasField("resources") else None,
        "scratch": scratch,
        "cgroups": cgroups,
    }
