"""Security contexts: a pod's and a container's own, merged into what CRI knows."""

from dataclasses import dataclass

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.pb import cri_pb2

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_PROFILES = {
    "RuntimeDefault": cri_pb2.SecurityProfile.RuntimeDefault,
    "Unconfined": cri_pb2.SecurityProfile.Unconfined,
    "Localhost": cri_pb2.SecurityProfile.Localhost,
}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of an image that is on this machine."""

    name: str  # as the container names it
    reference: str = ""  # what the runtime knows it by
    uid: int | None = None  # the user that the image names, as a number
    username: str = ""  # or by name
    size_bytes: int = 0


def _contexts(pod: Object, spec: Object) -> tuple[Object, Object]:
    return pod["spec"].get("securityContext") or {}, spec.get("securityContext") or {}


def root_refusal(pod: Object, spec: Object, image: ImageFacts) -> str:
    """Why a container that must not run as root would; "" when all is well."""
    outer, own = _contexts(pod, spec)
    if not own.get("runAsNonRoot", outer.get("runAsNonRoot")):
        return ""
    where = f'(pod: "{pods.full_name(pod)}", container: {spec["name"]})'
    user = own.get("runAsUser", outer.get("runAsUser"))
    if user is not None:
        return f"container's runAsUser breaks non-root policy {where}" if user == 0 else ""
    if image.uid is not None:
        return f"container has runAsNonRoot and image will run as root {where}" if image.uid == 0 else ""
    if image.username:
        return (
            f"container has runAsNonRoot and image has non-numeric user ({image.username}), "
            f"cannot verify user is non-root {where}"
        )
    return f"container has runAsNonRoot and image will run as root {where}"


def namespaces(pod: Object, target_id: str = "") -> cri_pb2.NamespaceOption:
    """`target_id`: the container whose processes an ephemeral container is to see."""
    spec = pod["spec"]
    pid = (
        cri_pb2.NODE if spec.get("hostPID") else cri_pb2.POD if spec.get("shareProcessNamespace") else cri_pb2.CONTAINER
    )
    if target_id and pid == cri_pb2.CONTAINER:
        pid = cri_pb2.TARGET
    return cri_pb2.NamespaceOption(
        network=cri_pb2.NODE if pods.on_host_network(pod) else cri_pb2.POD,
        pid=pid,
        ipc=cri_pb2.NODE if spec.get("hostIPC") else cri_pb2.POD,
        target_id=target_id if pid == cri_pb2.TARGET else "",
    )


def supplemental_groups(context: Object) -> list[int]:
    groups = list(context.get("supplementalGroups") or ())
    if context.get("fsGroup") is not None:
        groups.append(context["fsGroup"])
    return groups


def _groups_policy(context: Object) -> cri_pb2.SupplementalGroupsPolicy:
    return cri_pb2.Strict if context.get("supplementalGroupsPolicy") == "Strict" else cri_pb2.Merge


def _seccomp(profile: Object | None, root: str, default: bool) -> cri_pb2.SecurityProfile:
    """`root`: the folder of profiles that are named Localhost."""
    kind = (profile or {}).get("type") or ("RuntimeDefault" if default else "Unconfined")
    result = cri_pb2.SecurityProfile(profile_type=_PROFILES[kind])
    if kind == "Localhost" and profile is not None:
        result.localhost_ref = f"{root}/{profile.get('localhostProfile') or ''}"
    return result


def sandbox_security(pod: Object) -> cri_pb2.LinuxSandboxSecurityContext:
    context = pod["spec"].get("securityContext") or {}
    security = cri_pb2.LinuxSandboxSecurityContext(
        namespace_options=namespaces(pod),
        privileged=any((spec.get("securityContext") or {}).get("privileged") for spec in pods.all_containers(pod)),
        supplemental_groups=supplemental_groups(context),
        supplemental_groups_policy=_groups_policy(context),
        # What holds the namespaces runs no code of the user's.
        seccomp=cri_pb2.SecurityProfile(profile_type=cri_pb2.SecurityProfile.RuntimeDefault),
    )
    if context.get("runAsUser") is not None:
        security.run_as_user.value = context["runAsUser"]
    if context.get("runAsGroup") is not None:
        security.run_as_group.value = context["runAsGroup"]
    return security


def container_security(
    pod: Object, spec: Object, image: ImageFacts, seccomp_root: str, seccomp_default: bool, target_id: str = ""
) -> cri_pb2.LinuxContainerSecurityContext:
    outer, own = _contexts(pod, spec)
    security = cri_pb2.LinuxContainerSecurityContext(
        privileged=bool(own.get("privileged")),
        readonly_rootfs=bool(own.get("readOnlyRootFilesystem")),
        no_new_privs=own.get("allowPrivilegeEscalation") is False,
        namespace_options=namespaces(pod, target_id),
        supplemental_groups=supplemental_groups(outer),
        supplemental_groups_policy=_groups_policy(outer),
        seccomp=_seccomp(own.get("seccompProfile") or outer.get("seccompProfile"), seccomp_root, seccomp_default),
    )
    user = own.get("runAsUser", outer.get("runAsUser"))
    if user is None:
        user = image.uid
    if user is not None:
        security.run_as_user.value = user
    elif image.username:
        security.run_as_username = image.username
    group = own.get("runAsGroup", outer.get("runAsGroup"))
    if group is not None:
        security.run_as_group.value = group
    if own.get("procMount") != "Unmasked":
        security.masked_paths.extend(MASKED_PATHS)
        security.readonly_paths.extend(READONLY_PATHS)
    capabilities = own.get("capabilities") or {}
    security.capabilities.add_capabilities.extend(capabilities.get("add") or ())
    security.capabilities.drop_capabilities.extend(capabilities.get("drop") or ())
    apparmor = own.get("appArmorProfile") or outer.get("appArmorProfile")
    if apparmor:
        kind = _PROFILES[apparmor["type"]]
        security.apparmor.CopyFrom(
            cri_pb2.SecurityProfile(profile_type=kind, localhost_ref=apparmor.get("localhostProfile") or "")
        )
    seen = own.get("seLinuxOptions") or outer.get("seLinuxOptions")
    if seen:
        security.selinux_options.CopyFrom(
            cri_pb2.SELinuxOption(**{name: seen.get(name) or "" for name in ("user", "role", "type", "level")})
        )
    return security
