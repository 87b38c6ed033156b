"""A dockerd on a host, as Docker's own packages set it up: no CRI anywhere; with the images that the tests have."""

import json

from tests.kit import docker, images
from tests.kit.require import require_program
from tests.testbed.containerd import require_containerd
from tests.testbed.host import Host

SETTINGS = {"storage-driver": "overlay2", "iptables": False, "ip6tables": False, "bridge": "none"}
# The image that holds a pod's namespaces is not pulled, and root lacks CAP_SYS_RESOURCE here.
FLAGS = (
    *("--extra-config", f"cri-docker.pod-infra-container-image={images.PAUSE}"),
    *("--extra-config", "cri-docker.restrict-oom-score-adj=true"),
)


def install(*hosts: Host) -> None:
    """Configures a dockerd on running hosts, starts it, and loads the images."""
    require_containerd()  # dockerd starts one of its own
    for program in ("dockerd", "docker"):
        require_program(program)
    for host in hosts:
        folder = host.disk / "etc" / "docker"
        folder.mkdir(exist_ok=True)
        (folder / "daemon.json").write_text(json.dumps(SETTINGS))
        (host.disk / "etc" / "cni" / "net.d").mkdir(parents=True, exist_ok=True)
        host.at_boot("setsid dockerd >>/var/log/docker.log 2>&1 </dev/null &")
    for host in hosts:
        host.wait_for("docker version")
        for image in (images.pause(), images.busybox()):
            path = host.disk / "root" / "image.tar"
            path.write_bytes(docker.archive(image))
            host.run("docker load -i /root/image.tar")
            path.unlink()
