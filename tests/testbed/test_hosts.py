"""The hosts are what real machines would be: sealed off, reachable, and lost and found again."""

import subprocess
from pathlib import Path

import pytest

from tests.testbed import OUTSIDE, Testbed, init

pytestmark = pytest.mark.integration


def _reaches(bed: Testbed, source: str, target: str) -> bool:
    return bed.run(source, ["ping", "-c1", "-W1", target], check=False).returncode == 0


def test_each_host_has_its_own_name_address_processes_and_files(bed: Testbed) -> None:
    for name in ("host1", "host2", OUTSIDE):
        assert bed.run(name, "hostname; cat /etc/hostname").stdout.split() == [name, name]
        assert bed.addresses[name] in bed.run(name, "ip -4 -o addr show dev eth0").stdout
        commands = bed.run(name, "ps -e -o comm=").stdout.split()
        assert "sshd" in commands
        assert len(commands) < 10, "sees processes that are not its own"
        bed.run(name, f"echo {name} | tee /root/mine /var/lib/mine /etc/mine /tmp/mine /run/mine /dev/shm/mine")
    for name in ("host1", "host2", OUTSIDE):
        found = bed.run(name, "cat /root/mine /var/lib/mine /etc/mine /tmp/mine /run/mine /dev/shm/mine").stdout
        assert set(found.split()) == {name}
    for folder in ("root", "var/lib", "etc", "tmp", "run", "dev/shm"):
        assert not Path("/", folder, "mine").exists(), "a host wrote to the machine"


def test_hosts_reach_each_other_by_name_and_over_ssh(bed: Testbed) -> None:
    assert _reaches(bed, "host1", "host2")
    assert _reaches(bed, OUTSIDE, "host1")
    shown = bed.ssh(OUTSIDE, "host2", "hostname; bash --login -c 'python -m raykube --help | head -1'")
    assert shown.stdout.split()[:2] == ["host2", "Usage:"]
    refused = bed.run("host1", "ssh -o BatchMode=yes -i /dev/null -o IdentitiesOnly=yes host2 true", check=False)
    assert "Permission denied" in refused.stderr


def test_the_machine_is_out_of_reach(bed: Testbed) -> None:
    links = [line.split(":")[1].strip() for line in bed.run("host1", "ip -o link").stdout.splitlines()]
    assert [link.partition("@")[0] for link in links] == ["lo", "eth0"]
    for path in ("/", "/usr/bin", "/opt", init.__file__, *bed.hosts["host1"].shared):
        refusal = bed.run("host1", f'touch "{path}" || touch "{path}/x"; rm -rf "{path}/no-such-thing"', check=False)
        if Path(path).exists():
            assert "Read-only file system" in refusal.stderr, path


@pytest.mark.parametrize(
    "path", ["/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/pid_max", "/sys/kernel/mm/ksm/run"]
)
def test_settings_of_the_whole_machine_are_read_only(bed: Testbed, path: str) -> None:
    if not Path(path).exists():
        pytest.skip(f"this kernel has no {path}")
    assert "Read-only" in bed.run("host1", f'echo "$(cat {path})" > {path}', check=False).stderr


def test_settings_of_its_network_are_a_hosts_own(bed: Testbed) -> None:
    setting = "/proc/sys/net/ipv4/ip_forward"
    before = Path(setting).read_text()
    for value in ("1", "0"):
        bed.run("host1", f"echo {value} > {setting}")
        assert bed.run("host1", ["cat", setting]).stdout.strip() == value
        assert Path(setting).read_text() == before


def test_a_host_limits_processes_in_control_groups_of_its_own(bed: Testbed) -> None:
    assert "/raykube-testbed" not in bed.run("host1", ["cat", "/proc/self/cgroup"]).stdout
    bed.run("host1", "mkdir -p /sys/fs/cgroup/pids/kubepods/pod1 2>/dev/null || mkdir -p /sys/fs/cgroup/kubepods/pod1")
    there = [path for group in bed.hosts["host1"].groups for path in Path(group).glob("kubepods/pod1")]
    assert there, "the group is not below the host's own"
    assert not [path for group in bed.hosts["host2"].groups for path in Path(group).glob("kubepods/pod1")]


def test_boot_refuses_what_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert init.writable([str(tmp_path), str(file), "/proc/sys", "/no/such"]) == [str(tmp_path), str(file)]
    assert list(tmp_path.iterdir()) == [file], "trying left something behind"
    with pytest.raises(init.Refused, match="can be written"):
        init.check_sealed([str(tmp_path)])


def test_a_host_that_cannot_seal_the_outside_does_not_boot(bed: Testbed, tmp_path: Path) -> None:
    sabotaged = tmp_path / "init.py"
    source = Path(init.__file__).read_text()
    honest = "flags=MS_BIND | MS_REMOUNT | MS_RDONLY | kept"
    assert honest in source
    sabotaged.write_text(source.replace(honest, "flags=MS_BIND | MS_REMOUNT | kept"))
    (tmp_path / "rootfs").mkdir()
    host = bed.hosts["host1"]
    spec = f'{{"name": "x", "root": "{tmp_path}/rootfs", "disk": "{host.disk}", "shared": [], "shm_bytes": 1048576}}'
    spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--propagation", "private"]
    done = subprocess.run(
        ["unshare", *spaces, "--fork", "--kill-child", "python3", "-I", "-S", "-B", str(sabotaged), spec],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.startswith("refused: ")
    assert "/usr of the outside can be written" in done.stdout or "/usr, /usr/bin" in done.stdout


def test_a_cut_off_host_runs_on_alone(bed: Testbed) -> None:
    pid = bed.hosts["host2"].pid
    assert _reaches(bed, "host1", "host2")
    bed.cut("host2")
    assert not _reaches(bed, "host1", "host2")
    assert not _reaches(bed, "host2", OUTSIDE)
    assert _reaches(bed, "host1", OUTSIDE)
    bed.run("host2", ["true"])
    bed.mend("host2")
    bed.hosts["host1"].wait_for(["ping", "-c1", "-W1", "host2"])
    assert bed.hosts["host2"].pid == pid


def test_a_killed_host_comes_back_with_its_disk_and_nothing_else(bed: Testbed) -> None:
    host = bed.hosts["host2"]
    host.run("echo kept > /var/lib/kept; echo lost > /run/lost; setsid sleep 1000 >/dev/null 2>&1 &")
    host.run("printf '#!/bin/sh\\necho $PATH >> /var/lib/booted\\n' > /etc/rc.local; chmod +x /etc/rc.local")
    bed.kill("host2")
    assert not host.running
    assert not _reaches(bed, "host1", "host2")
    bed.boot("host2")
    assert _reaches(bed, "host1", "host2")
    assert host.run(["cat", "/var/lib/kept"]).stdout == "kept\n"
    host.wait_for(["test", "-s", "/var/lib/booted"])
    assert host.run("ls /run/lost", check=False).returncode != 0
    assert "sleep" not in host.run("ps -e -o comm=").stdout
    assert bed.ssh("host1", "host2", "cat /etc/hostname").stdout == "host2\n"
