"""A host's disk: a folder of the outside with its /etc, /root and /var. It outlives the host's power cuts."""

import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

SSHD_CONFIG = """\
HostKey /etc/ssh/ssh_host_ed25519_key
ListenAddress 0.0.0.0
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 100
Subsystem sftp internal-sftp
"""
LOGS = ("lastlog", "wtmp", "btmp")  # sshd complains without them
VAR = ("cache", "lib", "log", "spool", "tmp")


class Keys:
    """The testbed's ssh keys: one that opens every host, and one that every host shows."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.user, self.host = folder / "id_ed25519", folder / "ssh_host_ed25519_key"
        for path in (self.user, self.host):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f", str(path)]
            subprocess.run(command, check=True, capture_output=True)


def make(folder: Path, name: str, addresses: Mapping[str, str], keys: Keys, environment: Mapping[str, str]) -> None:
    """Makes the disk of host `name` in `folder`; `addresses`: name → address of all hosts."""
    folder.mkdir(parents=True)
    subprocess.run(["cp", "-a", "/etc", str(folder / "etc")], check=True)
    etc = folder / "etc"
    lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in addresses.items())]
    _write(etc / "hosts", "\n".join(lines) + "\n")
    _write(etc / "hostname", f"{name}\n")
    _write(etc / "machine-id", f"{uuid.uuid4().hex}\n")
    _write(etc / "resolv.conf", "# This network has no name server.\n")
    # Login shells (ray up's are) make a PATH of their own.
    exports = "".join(f"export {key}='{value}'\n" for key, value in environment.items() if key not in ("HOME", "USER"))
    _write(etc / "profile.d" / "testbed.sh", exports)
    _write(etc / "ssh" / "sshd_config", SSHD_CONFIG + _ssh_environment(environment))
    for suffix in ("", ".pub"):
        _copy(keys.host, etc / "ssh", suffix)
    _known_hosts(etc / "ssh" / "ssh_known_hosts", addresses, keys)
    for left_over in ("rc.local", "ssh/ssh_config"):
        (etc / left_over).unlink(missing_ok=True)
    _home(folder / "root", keys)
    _var(folder / "var")


def _ssh_environment(environment: Mapping[str, str]) -> str:
    return "SetEnv " + " ".join(f'"{key}={value}"' for key, value in environment.items() if key != "HOME") + "\n"


def _known_hosts(path: Path, addresses: Mapping[str, str], keys: Keys) -> None:
    names = ",".join(part for pair in addresses.items() for part in pair)
    _write(path, f"{names} {keys.host.with_suffix('.pub').read_text()}")


def _home(folder: Path, keys: Keys) -> None:
    folder.mkdir(mode=0o700)
    (folder / ".bashrc").touch()  # ray up sources it
    ssh = folder / ".ssh"
    ssh.mkdir(mode=0o700)
    for suffix in ("", ".pub"):
        _copy(keys.user, ssh, suffix)
    _write(ssh / "authorized_keys", keys.user.with_suffix(".pub").read_text())


def _var(folder: Path) -> None:
    folder.mkdir()
    for name in VAR:
        (folder / name).mkdir()
    (folder / "tmp").chmod(0o1777)
    for name in LOGS:
        (folder / "log" / name).touch()
    (folder / "run").symlink_to("/run")
    (folder / "lock").symlink_to("/run/lock")


def _copy(source: Path, folder: Path, suffix: str) -> None:
    target = folder / (source.name + suffix)
    target.unlink(missing_ok=True)
    target.touch(mode=0o644 if suffix else 0o600)
    target.write_bytes(source.with_name(source.name + suffix).read_bytes())


def _write(path: Path, text: str) -> None:
    """A file of its own: what was there may be a link that leads elsewhere."""
    path.unlink(missing_ok=True)
    path.write_text(text)
