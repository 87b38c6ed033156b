"""Images built offline, as OCI archives for `ctr images import`: busybox, and a sandbox's pause.

    containerd.import_image(images.busybox())
    containerd.import_image(images.build("example.test/web:1", files={"/index.html": b"hello"}, command=["httpd"]))

The same input gives the same bytes, so digests are stable.
"""

import functools
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kit.require import missing

BUSYBOX_PROGRAM = Path("/bin/busybox")
BUSYBOX = "docker.io/library/busybox:1.36"
PAUSE = "registry.k8s.io/pause:3.10"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True)
class Image:
    """A name and the blobs that it is made of; also what a registry would serve."""

    name: str
    manifest: bytes
    blobs: Mapping[str, bytes] = field(repr=False)  # by digest: configuration and layer

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def config_digest(self) -> str:
        """What a runtime calls the image's id."""
        return str(json.loads(self.manifest)["config"]["digest"])

    def archive(self) -> bytes:
        """An OCI image layout in a tar file."""
        entry = _descriptor(MANIFEST_TYPE, self.manifest)
        entry["annotations"] = {"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": self.name}
        index = {"schemaVersion": 2, "manifests": [entry]}
        files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": _json(index)}
        for digest, data in {**self.blobs, self.digest: self.manifest}.items():
            files[f"blobs/sha256/{digest.removeprefix('sha256:')}"] = data
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, data in files.items():
                _add(archive, name, data, 0o644)
        return buffer.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), mode
    archive.addfile(member, io.BytesIO(data))


@functools.cache
def _busybox_layer() -> tuple[tuple[str, bytes | str], ...]:
    """(path, content or target of a link) of a small system around busybox."""
    if not BUSYBOX_PROGRAM.exists():
        missing("needs busybox-static's /bin/busybox to build images of")
    program = BUSYBOX_PROGRAM.read_bytes()
    applets = subprocess.run([BUSYBOX_PROGRAM, "--list"], capture_output=True, text=True, check=True).stdout.split()
    return (
        ("bin/busybox", program),
        *((f"bin/{name}", "/bin/busybox") for name in applets if name != "busybox"),
        ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000:worker:/home/worker:/bin/sh\n"),
        ("etc/group", b"root:x:0:\nworker:x:1000:\nextra:x:2000:worker\n"),
    )


def build(
    name: str,
    *,
    files: Mapping[str, bytes] | None = None,
    command: Sequence[str] = ("sh",),
    entrypoint: Sequence[str] = (),
    user: str = "",
    env: Sequence[str] = (),
    stop_signal: str = "",
    working_dir: str = "",
) -> Image:
    """An image of busybox and `files` (by absolute path; executable when below a bin folder)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700), ("var", 0o755)):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, mode
            layer.addfile(member)
        for path, content in _busybox_layer():
            if isinstance(content, str):
                member = tarfile.TarInfo(path)
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, content, 0o777
                layer.addfile(member)
            else:
                _add(layer, path, content, 0o755 if path.startswith("bin/") else 0o644)
        for path, data in sorted((files or {}).items()):
            _add(layer, path.lstrip("/"), data, 0o755 if "/bin/" in path else 0o644)
    blob = buffer.getvalue()
    config: dict[str, Any] = {"Env": [f"PATH={PATH}", *env], "Cmd": list(command)}
    settings = {"Entrypoint": list(entrypoint), "User": user, "StopSignal": stop_signal, "WorkingDir": working_dir}
    config |= {key: value for key, value in settings.items() if value}
    description = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest_of(blob)]},
        }
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(CONFIG_TYPE, description),
        "layers": [_descriptor(LAYER_TYPE, blob)],
    }
    return Image(name, _json(manifest), {digest_of(description): description, digest_of(blob): blob})


@functools.cache
def busybox(name: str = BUSYBOX) -> Image:
    """A shell and its tools; users root and worker (1000, also of group 2000)."""
    return build(name)


@functools.cache
def pause(name: str = PAUSE) -> Image:
    """What holds a sandbox's namespaces; as first process it reaps what others leave behind."""
    return build(name, command=(), entrypoint=("/bin/sh", "-c", "trap '' CHLD; exec sleep 2147483647"))
