"""Volumes on this machine: makes them, keeps them current, names the mounts of a container, takes them away.

ROOT/pods/UID/volumes/kubernetes.io~empty-dir/NAME
ROOT/pods/UID/volumes/kubernetes.io~configmap/NAME     (~secret, ~downward-api, ~projected)
ROOT/pods/UID/etc-hosts
ROOT/pods/UID/containers/NAME/ATTEMPT                  a run's termination message
ROOT/logs/pods/NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log
"""

import logging
import os
import shutil
import stat
from pathlib import Path

from raykube.kubelet import atomicwriter
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.criconfig import MESSAGE_PATH_DEFAULT, hostname
from raykube.kubelet.core.environment import expand
from raykube.kubelet.core.payload import PodFacts, payload, token_requests
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.sources import SourceMissing, volume_references
from raykube.kubelet.objects import Objects
from raykube.pb import cri_pb2

log = logging.getLogger(__name__)

OF_OBJECTS = {
    "configMap": "kubernetes.io~configmap",
    "secret": "kubernetes.io~secret",
    "downwardAPI": "kubernetes.io~downward-api",
    "projected": "kubernetes.io~projected",
}
EMPTY_DIR = "kubernetes.io~empty-dir"
MESSAGE_BYTES_MAX = 4096
HOSTS_HEAD = """# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""


class VolumeFailed(Exception):
    """A volume cannot be made ready now; the message is for an event."""


def hosts_file(pod: Object, pod_ip: str) -> str:
    own = hostname(pod)
    text = HOSTS_HEAD
    if pod_ip and own:
        text += f"{pod_ip}\t{own}\n"
    aliases = pod["spec"].get("hostAliases") or ()
    if aliases:
        text += "\n# Entries added by HostAliases.\n"
        text += "".join(f"{alias['ip']}\t" + "\t".join(alias.get("hostnames") or ()) + "\n" for alias in aliases)
    return text


_HOST_TYPES = {
    "Directory": (stat.S_ISDIR, "directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "directory"),
    "File": (stat.S_ISREG, "file"),
    "FileOrCreate": (stat.S_ISREG, "file"),
    "Socket": (stat.S_ISSOCK, "socket file"),
    "CharDevice": (stat.S_ISCHR, "character device"),
    "BlockDevice": (stat.S_ISBLK, "block device"),
}


def prepare_host_path(path: str, kind: str) -> None:
    """Checks a hostPath volume, and makes it where its type says so. Raises VolumeFailed."""
    if not kind:
        return
    place = Path(path)
    if kind == "DirectoryOrCreate" and not place.exists():
        place.mkdir(mode=0o755, parents=True)
    if kind == "FileOrCreate" and not place.exists():
        place.touch(mode=0o644)
    check, what = _HOST_TYPES[kind]
    if not place.exists() or not check(place.stat().st_mode):
        raise VolumeFailed(f"hostPath type check failed: {path} is not a {what}")


class Volumes:
    def __init__(self, root: Path, objects: Objects) -> None:
        self._root = root.absolute()
        self._objects = objects

    @property
    def pods_directory(self) -> Path:
        return self._root / "pods"

    @property
    def logs_directory(self) -> Path:
        return self._root / "logs" / "pods"

    def pod_directory(self, uid: str) -> Path:
        return self.pods_directory / uid

    def log_directory(self, pod: Object) -> Path:
        return self.logs_directory / f"{pods.namespace(pod)}_{pods.name(pod)}_{pods.uid(pod)}"

    def _directory(self, pod: Object, volume: Object) -> Path:
        kind = next((plugin for source, plugin in OF_OBJECTS.items() if source in volume), EMPTY_DIR)
        return self.pod_directory(pods.uid(pod)) / "volumes" / kind / str(volume["name"])

    # -- making

    async def mount(self, pod: Object, facts: PodFacts) -> None:
        """Makes every volume of the pod ready, or current if it was. Raises VolumeFailed and ApiError."""
        sources = await self._objects.sources(pods.namespace(pod), volume_references(pod))
        for volume in pod["spec"].get("volumes") or ():
            try:
                if any(kind in volume for kind in OF_OBJECTS):
                    tokens = [await self._objects.token(pod, request) for request in token_requests(volume)]
                    files = payload(pod, volume, sources, tokens, facts)
                    if atomicwriter.write(self._directory(pod, volume), files):
                        self._own(pod, self._directory(pod, volume))
                elif "hostPath" in volume:
                    prepare_host_path(volume["hostPath"]["path"], volume["hostPath"].get("type") or "")
                elif "emptyDir" in volume:
                    directory = self._directory(pod, volume)
                    if not directory.exists():
                        directory.mkdir(parents=True)
                        directory.chmod(0o777)
                        self._own(pod, directory)
                else:
                    kind = next((name for name in volume if name != "name"), "this")
                    raise VolumeFailed(f"{kind} volumes are not supported by this kubelet")
            except (SourceMissing, ValueError, OSError, VolumeFailed) as error:
                raise VolumeFailed(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}') from None

    def _own(self, pod: Object, directory: Path) -> None:
        """Gives a volume to the pod's fsGroup; only root can."""
        group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
        if group is None or os.geteuid() != 0:
            return
        for path, names, files in os.walk(directory):
            for name in [".", *names, *files]:
                place = os.path.join(path, name)
                if os.path.islink(place):
                    continue
                mode = os.stat(place).st_mode
                os.chown(place, -1, group)
                extra = 0o2070 if stat.S_ISDIR(mode) else 0o060 if mode & 0o200 else 0o040
                os.chmod(place, mode | extra)

    def write_hosts(self, pod: Object, pod_ip: str) -> None:
        path = self.pod_directory(pods.uid(pod)) / "etc-hosts"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(hosts_file(pod, pod_ip))
        path.chmod(0o644)

    # -- mounts of a container

    def mounts(
        self, pod: Object, spec: Object, attempt: int, environment: dict[str, str | bytes]
    ) -> list[cri_pb2.Mount]:
        """Raises VolumeFailed."""
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or ()}
        mounts = []
        for wanted in spec.get("volumeMounts") or ():
            volume = volumes.get(wanted["name"])
            if volume is None:
                raise VolumeFailed(f'volume "{wanted["name"]}" of container "{spec["name"]}" is not in the pod')
            host_path = self._host_path(pod, volume, wanted, environment)
            mounts.append(
                cri_pb2.Mount(
                    container_path=wanted["mountPath"],
                    host_path=host_path,
                    readonly=bool(wanted.get("readOnly")) or bool(OF_OBJECTS.keys() & volume.keys()),
                )
            )
        taken = {mount.container_path for mount in mounts}
        if not pods.on_host_network(pod) and "/etc/hosts" not in taken:
            hosts = self.pod_directory(pods.uid(pod)) / "etc-hosts"
            mounts.append(cri_pb2.Mount(container_path="/etc/hosts", host_path=str(hosts)))
        message_path = spec.get("terminationMessagePath") or MESSAGE_PATH_DEFAULT
        if message_path not in taken:
            path = self._message_file(pods.uid(pod), spec["name"], attempt)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            path.chmod(0o666)
            mounts.append(cri_pb2.Mount(container_path=message_path, host_path=str(path)))
        return mounts

    def _host_path(self, pod: Object, volume: Object, wanted: Object, environment: dict[str, str | bytes]) -> str:
        base = Path(volume["hostPath"]["path"]) if "hostPath" in volume else self._directory(pod, volume)
        texts = {name: value for name, value in environment.items() if isinstance(value, str)}
        sub_path = wanted.get("subPath") or expand(wanted.get("subPathExpr") or "", texts)
        if not sub_path:
            return str(base)
        place = (base / sub_path).resolve()
        if ".." in sub_path.split("/") or not place.is_relative_to(base.resolve()):
            raise VolumeFailed(f'subPath "{sub_path}" of volume "{volume["name"]}" leads out of the volume')
        if not place.exists():
            place.mkdir(parents=True, mode=0o750)
            place.chmod(0o777 if "emptyDir" in volume else 0o750)
        return str(place)

    # -- termination messages

    def _message_file(self, uid: str, container: str, attempt: int) -> Path:
        return self.pod_directory(uid) / "containers" / container / str(attempt)

    def termination_message(self, uid: str, container: str, attempt: int) -> str:
        try:
            with open(self._message_file(uid, container, attempt), "rb") as file:
                return file.read(MESSAGE_BYTES_MAX).decode(errors="replace")
        except OSError:
            return ""

    # -- taking away

    def unmount(self, pod: Object) -> None:
        """Removes the pod's volumes; its logs and termination messages stay until `remove`."""
        shutil.rmtree(self.pod_directory(pods.uid(pod)) / "volumes", ignore_errors=True)

    def remove(self, uid: str, log_directory: Path | None = None) -> None:
        """Removes everything of a pod that is gone."""
        shutil.rmtree(self.pod_directory(uid), ignore_errors=True)
        if log_directory is not None:
            shutil.rmtree(log_directory, ignore_errors=True)

    def known(self) -> set[str]:
        """The uids of all pods that have a directory."""
        try:
            return set(os.listdir(self.pods_directory))
        except FileNotFoundError:
            return set()
