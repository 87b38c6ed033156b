"""The volumes of pods, from the first mount to the last trace."""

import asyncio
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path

from raykube.api.errors import ApiError
from raykube.kubelet.core import imagename, volumespec
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.criconfig import MESSAGE_PATH_DEFAULT
from raykube.kubelet.core.environment import expand, names_in
from raykube.kubelet.core.hosts import hosts_file
from raykube.kubelet.core.ownership import fs_group, only_on_mismatch
from raykube.kubelet.core.payload import PodFacts, payload, token_requests
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.sources import SourceMissing, Sources, joined, references_of, volume_references
from raykube.kubelet.core.volumespec import EMPTY_DIR, IN_MEMORY, OF_OBJECTS, NotUsable, Resolved
from raykube.kubelet.objects import Objects
from raykube.kubelet.volumes import atomicwriter, emptydir, hostpath, mounts, ownership, removal, safepath, subpath
from raykube.kubelet.volumes.claims import Claims
from raykube.kubelet.volumes.failure import VolumeFailed, words
from raykube.kubelet.volumes.places import Places
from raykube.pb import cri_pb2

log = logging.getLogger(__name__)

MACHINE_HOSTS = Path("/etc/hosts")

MESSAGE_BYTES_MAX = 4096


class Volumes:
    """`node` is this machine's Node, whose labels decide on local PersistentVolumes."""

    def __init__(self, root: Path, objects: Objects, node: Callable[[], Object] = dict) -> None:
        self._root = root.resolve()
        self._objects = objects
        self._claims = Claims(objects.client, node)
        self._places = Places()
        self.may_mount = mounts.allowed()
        self.recursive_read_only = False  # whether the runtime can make mounts below a volume read-only
        self.image_volumes = ""  # why the runtime cannot mount images; "" when it can

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
        plugin = OF_OBJECTS.get(volumespec.kind_of(volume), EMPTY_DIR)
        return self.pod_directory(pods.uid(pod)) / "volumes" / plugin / str(volume["name"])

    # -- making

    async def mount(self, pod: Object, facts: PodFacts) -> None:
        """Makes every volume of the pod ready, or current if it was. Raises VolumeFailed and ApiError.

        One that fails does not keep the others from being made; the first failure is raised in the end.
        """
        self._objects.follow(pod)
        volumes = pod["spec"].get("volumes") or ()
        wanted = volume_references(pod)  # each once, however many volumes show it
        reads = (self._objects.sources(pod, {reference}) for reference in wanted)
        read = dict(zip(wanted, await asyncio.gather(*reads, return_exceptions=True), strict=True))
        await self._claims.resolve(pod)
        failure: VolumeFailed | None = None
        for volume in volumes:
            found = self._claims.known(pod, volume)
            try:
                sources = joined(pods.namespace(pod), [read[reference] for reference in sorted(references_of(volume))])
                await self._prepare(pod, volume, found, sources, facts)
            except ApiError as error:
                if error.code >= 500:
                    raise  # nobody answers: nothing is wrong with the volume
                failure = failure or VolumeFailed(f'MountVolume.SetUp failed for volume "{found.name}" : {error}')
            except (SourceMissing, ValueError, OSError, VolumeFailed, NotUsable) as error:
                step = "NewMounter initialization" if found.kind == "local" else "SetUp"
                message = f'MountVolume.{step} failed for volume "{found.name}" : {words(error)}'
                failure = failure or VolumeFailed(message)
        if failure is not None:
            raise failure

    async def _prepare(self, pod: Object, volume: Object, found: Resolved, sources: Sources, facts: PodFacts) -> None:
        group = fs_group(pod) if os.geteuid() == 0 else None
        directory = self._directory(pod, volume)
        if found.kind in OF_OBJECTS:
            tokens = [await self._token(pod, request) for request in token_requests(volume)]
            files = payload(pod, volume, sources, tokens, facts)
            directory.mkdir(parents=True, exist_ok=True)
            if found.kind in IN_MEMORY and self.may_mount:
                mounts.tmpfs(directory)

            def own(place: Path) -> None:
                if group is not None:
                    ownership.give(place, group, read_only=True)

            atomicwriter.write(directory, files, own)
            own(directory)
        elif found.kind == "emptyDir":
            in_memory = volumespec.memory_medium(found.source) and self.may_mount
            size = volumespec.memory_bytes_max(pod, found.source, facts.allocatable) if in_memory else 0
            if emptydir.prepare(directory, in_memory, size) and group is not None:
                ownership.give(directory, group, read_only=False)
        elif found.kind == "hostPath":
            path, kind = found.source["path"], found.source.get("type") or ""
            await self._places.look(path, functools.partial(hostpath.prepare, path, kind))
        elif found.kind == "local":
            path = found.source["path"]
            await self._places.look(path, functools.partial(hostpath.check_local, path, found.block))
            if group is not None and not found.block and not found.read_only:
                await self._give_local(pod, Path(found.source["path"]), group)
        elif found.kind == "image":
            if self.image_volumes:
                raise VolumeFailed(self.image_volumes)
        else:
            raise VolumeFailed(f"{found.kind} volumes are not supported by this kubelet")

    async def _token(self, pod: Object, request: Object) -> str:
        try:
            return await self._objects.token(pod, request)
        except ApiError as error:
            if error.code >= 500:
                raise
            raise VolumeFailed(f"failed to fetch token: {error}") from None

    async def _give_local(self, pod: Object, directory: Path, group: int) -> None:
        """Once for each pod, in a thread: a disk may hold millions of files."""
        mark = self.pod_directory(pods.uid(pod)) / "owned" / str(directory).replace("/", "~")
        if mark.exists():
            return
        if only_on_mismatch(pod):
            differs = functools.partial(ownership.needs_change, directory, group)
            if not await self._places.look(str(directory), differs):
                return
        await asyncio.to_thread(ownership.give, directory, group, False)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def lacks_memory(self, volume: Object) -> bool:
        """Whether an emptyDir that is to be in memory is on disk, because the kubelet may not mount."""
        return (volume.get("emptyDir") or {}).get("medium") == "Memory" and not self.may_mount

    def write_hosts(self, pod: Object, pod_ip: str, cluster_domain: str) -> None:
        # Comments of the machine's file may be in any encoding: its bytes are passed on.
        has_own = pods.on_host_network(pod) and MACHINE_HOSTS.exists()
        own = MACHINE_HOSTS.read_text(errors="surrogateescape") if has_own else ""
        path = self.pod_directory(pods.uid(pod)) / "etc-hosts"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = hosts_file(pod, (pod_ip,) if pod_ip else (), cluster_domain, own)
        path.write_text(text, errors="surrogateescape")
        path.chmod(0o644)

    # -- what a container reads and mounts

    def env_files(self, pod: Object, spec: Object) -> dict[tuple[str, str], str | None]:
        """The files of variables in emptyDirs that a container's environment refers to; None for a missing one.

        Raises OSError, for a path that leads out of its volume, too.
        """
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or () if "emptyDir" in volume}
        found: dict[tuple[str, str], str | None] = {}
        for variable in spec.get("env") or ():
            reference = (variable.get("valueFrom") or {}).get("fileKeyRef")
            if not reference:
                continue
            name, path = reference["volumeName"], reference["path"]
            volume = volumes.get(name)
            found[name, path] = None if volume is None else safepath.text(str(self._directory(pod, volume)), path)
        return found

    async def mounts(
        self, pod: Object, spec: Object, attempt: int, environment: dict[str, str | bytes]
    ) -> list[cri_pb2.Mount]:
        """Raises VolumeFailed."""
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or ()}
        found = []
        for index, wanted in enumerate(spec.get("volumeMounts") or ()):
            volume = volumes.get(wanted["name"])
            if volume is None:
                raise VolumeFailed(f'volume "{wanted["name"]}" of container "{spec["name"]}" is not in the pod')
            try:
                found.append(await self._mount(pod, spec, volume, wanted, index, environment))
            except (NotUsable, imagename.InvalidImageName) as error:
                raise VolumeFailed(str(error)) from None
        taken = {mount.container_path for mount in found}
        if "/etc/hosts" not in taken:
            hosts = self.pod_directory(pods.uid(pod)) / "etc-hosts"
            found.append(cri_pb2.Mount(container_path="/etc/hosts", host_path=str(hosts)))
        message_path = spec.get("terminationMessagePath") or MESSAGE_PATH_DEFAULT
        if message_path not in taken:
            path = self._message_file(pods.uid(pod), spec["name"], attempt)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            path.chmod(0o666)
            found.append(cri_pb2.Mount(container_path=message_path, host_path=str(path)))
        return found

    async def _mount(
        self,
        pod: Object,
        spec: Object,
        volume: Object,
        wanted: Object,
        index: int,
        environment: dict[str, str | bytes],
    ) -> cri_pb2.Mount:
        resolved = self._claims.known(pod, volume)
        given_path = str(wanted["mountPath"])
        container_path = given_path if given_path.startswith("/") else f"/{given_path}"
        texts = {name: value for name, value in environment.items() if isinstance(value, str)}
        path = wanted.get("subPath") or _expanded(wanted, texts)
        if resolved.kind == "image":
            given = resolved.source.get("reference") or ""
            image = cri_pb2.ImageSpec(image=imagename.parse(given).reference, user_specified_image=given)
            return cri_pb2.Mount(container_path=container_path, image=image, image_sub_path=path, readonly=True)
        in_place = resolved.kind in ("hostPath", "local")
        base = str(resolved.source["path"]) if in_place else str(self._directory(pod, volume))
        if path:
            place = self._subpaths(pods.uid(pod)) / resolved.name / spec["name"] / str(index)
            prepare = functools.partial(
                subpath.prepare, base, path, place, self.may_mount, wanted["name"], spec["name"]
            )
            base = await self._places.look(base, prepare)
        return cri_pb2.Mount(
            container_path=container_path,
            host_path=base,
            readonly=bool(wanted.get("readOnly")) or resolved.read_only,
            propagation=volumespec.propagation(wanted),
            recursive_read_only=volumespec.recursive_read_only(wanted, self.recursive_read_only),
        )

    def images(self, pod: Object, spec: Object) -> list[Object]:
        """The image volumes that a container mounts: each has `reference` and `pullPolicy`."""
        wanted = {mount["name"] for mount in spec.get("volumeMounts") or ()}
        volumes = pod["spec"].get("volumes") or ()
        return [volume["image"] for volume in volumes if volume["name"] in wanted and "image" in volume]

    def _subpaths(self, uid: str) -> Path:
        return self.pod_directory(uid) / "volume-subpaths"

    def devices(self, pod: Object, spec: Object) -> list[cri_pb2.Device]:
        """The block devices of a container. Raises VolumeFailed."""
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or ()}
        found = []
        for wanted in spec.get("volumeDevices") or ():
            resolved = self._claims.known(pod, volumes[wanted["name"]])
            if not resolved.block:
                raise VolumeFailed(f'volume "{wanted["name"]}" has volumeMode Filesystem, but is used as a device')
            permissions = "r" if resolved.read_only else "mrw"
            found.append(
                cri_pb2.Device(
                    container_path=wanted["devicePath"], host_path=resolved.source["path"], permissions=permissions
                )
            )
        return found

    # -- termination messages

    def _message_file(self, uid: str, container: str, attempt: int) -> Path:
        return self.pod_directory(uid) / "containers" / container / str(attempt)

    def termination_message(self, uid: str, container: str, attempt: int) -> str:
        """The end of what a run has left: a long message says last what it died of."""
        try:
            with open(self._message_file(uid, container, attempt), "rb") as file:
                file.seek(max(os.fstat(file.fileno()).st_size - MESSAGE_BYTES_MAX, 0))
                return file.read(MESSAGE_BYTES_MAX).decode(errors="replace")
        except OSError:
            return ""

    # -- taking away

    async def unmount(self, pod: Object) -> None:
        """Removes the pod's volumes; its logs and termination messages stay until `remove`."""
        uid = pods.uid(pod)
        self._objects.unfollow(uid)
        self._claims.forget(uid)
        for directory in (self._subpaths(uid), self.pod_directory(uid) / "volumes"):
            await asyncio.to_thread(_clear, directory)

    def remove(self, uid: str, log_directory: Path | None = None) -> None:
        """Removes everything of a pod that is gone. May run in a thread."""
        self._claims.forget(uid)
        _clear(self.pod_directory(uid))
        if log_directory is not None:
            _clear(log_directory)

    def known(self) -> set[str]:
        """The uids of all pods that have a directory."""
        try:
            return set(os.listdir(self.pods_directory))
        except FileNotFoundError:
            return set()

    def known_logs(self) -> dict[Path, str]:
        """The directories of pods' logs, each with the uid of its pod."""
        try:
            names = os.listdir(self.logs_directory)
        except FileNotFoundError:
            return {}
        return {self.logs_directory / name: name.rpartition("_")[2] for name in names}


def _expanded(wanted: Object, environment: dict[str, str]) -> str:
    """The path of a subPathExpr. Raises NotUsable where it names a variable that the container does not have."""
    template = wanted.get("subPathExpr") or ""
    if not template:
        return ""
    for name in names_in(template):
        if name not in environment:
            raise NotUsable(f'missing value for "{name}"')
    path = expand(template, environment)
    if path.startswith("/"):
        raise NotUsable(f"error SubPath `{path}` must not be an absolute path")
    if ".." in path.split("/"):
        raise NotUsable(f"unable to provision SubPath `{path}`: must not contain '..'")
    return path


def _clear(directory: Path) -> None:
    """What cannot be removed now is removed by the next clean-up, or the one after it."""
    try:
        removal.clear(directory)
    except OSError as error:
        log.warning("%s stays for now: %s", directory, error)
