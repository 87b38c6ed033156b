"""Ray on hosts, as an operator's service unit runs it: `raykube machine`, started at each boot."""

import secrets

from tests.testbed.host import Host

PORT = 6379
TOKEN = "root/.ray/auth_token"
LOG = "/var/log/raykube-machine.log"
START_TIMEOUT_S = 120


def address(head: Host) -> str:
    """What `raykube up --address` takes."""
    return f"{head.address}:{PORT}"


def start(head: Host, *workers: Host, gcs: str = "", head_flags: str = "") -> None:
    """Starts Ray on each of the running hosts, and returns when it runs on all of them.

    `gcs`: where workers find the head, if that is not at its host's own address.
    """
    token = secrets.token_hex(32)
    for host in (head, *workers):
        path = host.disk / TOKEN
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(token)
        at_boot(host, f"--head {head_flags}" if host is head else f"--address {gcs or address(head)}")
    for host in (head, *workers):
        wait(host)


def at_boot(host: Host, role: str) -> None:
    """Starts Ray on a host, now if it runs and at each boot."""
    command = f"raykube machine {role} --node-ip-address {host.address} --num-cpus 1"
    host.at_boot(f"setsid {command} >>{LOG} 2>&1 </dev/null &")


def wait(host: Host, lives: int = 1) -> None:
    """Returns when Ray was started `lives` times on a host, since it has its disk."""
    host.wait_for(f"test $(grep -c 'Ray runtime started' {LOG}) -ge {lives}", START_TIMEOUT_S)


def end(host: Host) -> None:
    """Ends Ray on a host as a service unit does, and no more at boot."""
    host.run("kill $(pgrep -f 'raykube machin[e]')")
    host.wait_for("! pgrep -f 'raykube machin[e]'")
    forget(host)


def forget(host: Host) -> None:
    """Starts no Ray on a host at its boots any more."""
    path = host.disk / "etc" / "rc.local"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "raykube machine" not in line))
