"""A dockerd of a test's own, with raykube's CRI server in front of it, in namespaces of its own.

    with Docker() as docker:
        docker.docker("ps", "-a")                       # the Engine's own client
        kubelet --container-runtime-endpoint=docker.endpoint --cgroup-root=docker.cgroup_root

It is used like a `Containerd`. Process ids are the namespace's; the bridge docker0 is in its network.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress

from tests.kit import containerd, images
from tests.kit.containerd import CNI_PLUGINS, POD_CIDR, TIMEOUT_S, Containerd
from tests.kit.require import require_program


def archive(image: images.Image) -> bytes:
    """An image in the form that `docker load` of every version takes."""
    manifest = json.loads(image.manifest)
    config = manifest["config"]["digest"]
    layers = [layer["digest"] for layer in manifest["layers"]]
    names = {
        digest: f"{digest.removeprefix('sha256:')}.{'json' if digest == config else 'tar'}" for digest in image.blobs
    }
    entry = {
        "Config": names[config],
        "RepoTags": [image.name.removeprefix("docker.io/library/")],
        "Layers": [names[layer] for layer in layers],
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in {
            "manifest.json": json.dumps([entry]).encode(),
            **{names[k]: v for k, v in image.blobs.items()},
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


class Docker(Containerd):
    """`network_plugin`: bridge or cni, as the server's flag. `start` and `kill` are dockerd's."""

    def __init__(self, *, network_plugin: str = "bridge", pod_cidr: str = POD_CIDR) -> None:
        for program in ("dockerd", "docker"):
            require_program(program)
        super().__init__(pod_cidr=pod_cidr)
        self.network_plugin = network_plugin
        self._server: subprocess.Popen[bytes] | None = None

    def _write_configuration(self) -> None:
        (self.folder / "net.d").mkdir()
        (self.folder / "net.d" / "10-pods.conflist").write_text(
            containerd.conflist(self.folder / "ipam", self.pod_cidr)
        )
        gateway, _, bits = self.pod_cidr.partition("/")
        settings = {
            "data-root": str(self.folder / "root"),
            "exec-root": str(self.folder / "state"),
            "pidfile": str(self.folder / "docker.pid"),
            "hosts": [f"unix://{self.folder}/docker.sock"],
            "storage-driver": "overlay2",
            "iptables": False,
            "ip6tables": False,
            "cgroup-parent": self.cgroup_root,
            "shutdown-timeout": 1,
            "runtimes": {"second": {"path": "runc"}},  # for a RuntimeClass to name
        }
        if self.network_plugin == "cni":
            settings["bridge"] = "none"
        else:
            settings["bip"] = f"{gateway.rpartition('.')[0]}.1/{bits}"
        (self.folder / "daemon.json").write_text(json.dumps(settings))

    def start(self) -> None:
        with (self.folder / "docker.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [*self.inside, "dockerd", "--config-file", str(self.folder / "daemon.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._await(self._daemon, lambda: self._docker("version").returncode == 0, "dockerd")
        if self._server is None:
            self.start_server()

    def start_server(self) -> None:
        """raykube cri-docker, as a process."""
        with (self.folder / "docker.log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    *self.inside,
                    *(sys.executable, "-m", "raykube", "cri-docker", "-v=4", "--restrict-oom-score-adj"),
                    f"--container-runtime-endpoint={self.endpoint}",
                    f"--docker-endpoint=unix://{self.folder}/docker.sock",
                    f"--root-directory={self.folder}/cri",
                    f"--pod-infra-container-image={images.PAUSE}",
                    f"--network-plugin={self.network_plugin}",
                    f"--cni-conf-dir={self.folder}/net.d",
                    f"--cni-bin-dir={CNI_PLUGINS}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._await(self._server, lambda: b"serving cri" in self.log().encode().rpartition(b"\0")[2], "cri-docker")

    def kill_server(self, number: int = 9) -> None:
        """Ends the CRI server alone; dockerd and containers go on."""
        assert self._server is not None
        for pid in containerd._children(self._server.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        self._server.wait(TIMEOUT_S)
        self._server = None
        with (self.folder / "docker.log").open("ab") as log:
            log.write(b"\0")  # what stands before it is the former server's

    def _await(self, process: "subprocess.Popen[bytes]", serves: Callable[[], bool], name: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not serves():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{name} does not serve:\n{self.log()[-4000:]}")
            time.sleep(0.05)

    def log(self) -> str:
        return (self.folder / "docker.log").read_text(errors="replace")

    def _docker(self, *arguments: str, stdin: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
        command = ["docker", "--host", f"unix://{self.folder}/docker.sock", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=TIMEOUT_S)

    def docker(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Runs docker's client; returns its output."""
        done = self._docker(*arguments, stdin=stdin)
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout.decode()}{done.stderr.decode()}"
        return done.stdout.decode()

    def import_image(self, image: images.Image) -> None:
        self.docker("load", stdin=archive(image))

    def tasks(self, namespace: str = "") -> dict[str, int]:
        """Process ids of all containers that run, by id; there are no namespaces."""
        ids = self.docker("ps", "--no-trunc", "--quiet").split()
        if not ids:
            return {}
        rows = self.docker("inspect", "--format={{.Id}} {{.State.Pid}}", *ids).splitlines()
        return {row.split()[0]: int(row.split()[1]) for row in rows}

    def close(self) -> None:
        if self._server is not None:
            self._server.kill()
        super().close()
        if self._server is not None:
            self._server.wait(TIMEOUT_S)
            self._server = None
