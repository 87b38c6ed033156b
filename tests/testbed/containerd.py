"""A containerd on a host, where Debian puts it, started at each boot; with the images that the tests have."""

from pathlib import Path

from tests.kit import containerd, images
from tests.kit.require import missing, require_program
from tests.testbed.host import Host

SOCKET = "/run/containerd/containerd.sock"
POD_NETWORK = "10.88"  # a /24 of it for each host


def require_containerd() -> None:
    """Skips the test (fails it in CI) where hosts cannot have a containerd."""
    for program in ("containerd", "ctr", "runc"):
        require_program(program)
    if not (containerd.CNI_PLUGINS / "bridge").exists():
        missing(f"needs the CNI plugins in {containerd.CNI_PLUGINS}")


def install(*hosts: Host) -> None:
    """Configures a containerd on running hosts, starts it, and imports the images. Its CNI folder is left empty."""
    require_containerd()
    for host in hosts:
        etc = host.disk / "etc"
        (etc / "containerd").mkdir(exist_ok=True)
        (etc / "containerd" / "config.toml").write_text(
            containerd.configuration(
                root=Path("/var/lib/containerd"),
                state=Path("/run/containerd"),
                socket=Path(SOCKET),
                networks=Path("/etc/cni/net.d"),
            )
        )
        (etc / "cni" / "net.d").mkdir(parents=True, exist_ok=True)
        host.at_boot("setsid containerd >>/var/log/containerd.log 2>&1 </dev/null &")
    for host in hosts:
        wait(host)
        for image in (images.pause(), images.busybox()):
            import_image(host, image)


def wait(host: Host) -> None:
    """Returns when the host's containerd serves CRI."""
    host.wait_for("ctr plugins ls id==cri | grep -q 'ok *$'")


def import_image(host: Host, image: images.Image) -> None:
    """Makes an image known to a host's containerd."""
    path = host.disk / "root" / "image.tar"
    path.write_bytes(image.archive())
    try:
        host.run(["ctr", "-n", "k8s.io", "images", "import", "/root/image.tar"])
    finally:
        path.unlink()


def pod_cidr(host: Host) -> str:
    return f"{POD_NETWORK}.{host.address.rpartition('.')[2]}.0/24"


def connect_pods(*hosts: Host) -> None:
    """A pod network without a cluster: a bridge on each host, and direct routes between hosts."""
    for host in hosts:
        etc = host.disk / "etc"
        (etc / "cni" / "net.d" / "10-pods.conflist").write_text(
            containerd.conflist(Path("/var/lib/cni"), pod_cidr(host))
        )
        routes = [f"ip route replace {pod_cidr(other)} via {other.address}" for other in hosts if other is not host]
        host.at_boot("; ".join(["echo 1 >/proc/sys/net/ipv4/ip_forward", *routes]))
