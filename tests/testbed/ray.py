"""Ray on hosts, as an operator's service unit runs it: `raykube machine`, started at each boot."""

import secrets

from tests.testbed.host import Host

PORT = 6379
TOKEN = "root/.ray/auth_token"
START_TIMEOUT_S = 120


def address(head: Host) -> str:
    """What `raykube up --address` takes."""
    return f"{head.address}:{PORT}"


def start(head: Host, *workers: Host) -> None:
    """Starts Ray on each of the running hosts, and returns when it runs on all of them."""
    token = secrets.token_hex(32)
    for host in (head, *workers):
        path = host.disk / TOKEN
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(token)
        role = "--head" if host is head else f"--address {address(head)}"
        command = f"raykube machine {role} --node-ip-address {host.address} --num-cpus 1"
        host.at_boot(f"setsid {command} >>/var/log/raykube-machine.log 2>&1 </dev/null &")
    for host in (head, *workers):
        host.wait_for(["grep", "-q", "Ray runtime started", "/var/log/raykube-machine.log"], START_TIMEOUT_S)
