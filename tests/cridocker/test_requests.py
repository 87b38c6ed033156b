"""CRI's configuration as the Engine API's JSON, what is refused, and how an engine's answers are read."""

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from raykube.cridocker.core import answers, cni, labels, requests
from raykube.cridocker.core.requests import Host, Refused
from raykube.pb import cri_pb2

Object = dict[str, Any]

HOST = Host()


def settings(config: Object, host: Host = HOST) -> Object:
    """HostConfig of a container of the sandbox S."""
    message = ParseDict(config, cri_pb2.ContainerConfig())
    found: Object = requests.container("S", message, "/log", list(message.mounts), host)["HostConfig"]
    return found


def sandbox(config: Object, plugin: str = "bridge", host: Host = HOST) -> Object:
    return requests.sandbox(ParseDict(config, cri_pb2.PodSandboxConfig()), "pause", plugin, host)


def security(**fields: Any) -> Object:
    return {"linux": {"security_context": fields}}


def test_namespaces_of_a_container() -> None:
    pod = settings(security(namespace_options={"pid": "CONTAINER"}))
    assert (pod["NetworkMode"], pod["IpcMode"], pod["PidMode"]) == ("container:S", "container:S", "")
    assert "UTSMode" not in pod
    shared = settings(security(namespace_options={"pid": "POD"}))
    assert shared["PidMode"] == "container:S"
    target = settings(security(namespace_options={"pid": "TARGET", "target_id": "T"}))
    assert target["PidMode"] == "container:T"
    host = settings(security(namespace_options={"pid": "NODE", "ipc": "NODE", "network": "NODE"}))
    assert [host[key] for key in ("NetworkMode", "IpcMode", "PidMode", "UTSMode")] == ["host"] * 4


def test_devices_of_drivers_are_docker_s_to_inject() -> None:
    wanted = settings({"CDI_devices": [{"name": "example.com/gpu=0"}]})["DeviceRequests"]
    assert wanted == [{"Driver": "cdi", "DeviceIDs": ["example.com/gpu=0"]}]
    assert "DeviceRequests" not in settings({})


def test_ports_are_published_on_dockers_bridge_alone() -> None:
    config = {
        "hostname": "h",
        "port_mappings": [{"container_port": 80, "host_port": 8080, "host_ip": "127.0.0.1"}, {"container_port": 90}],
    }
    bridge = sandbox(config)
    assert bridge["Hostname"] == "h"
    assert bridge["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}
    plugged = sandbox(config, "cni")
    assert plugged["HostConfig"]["NetworkMode"] == "none"
    assert "PortBindings" not in plugged["HostConfig"]
    on_host = sandbox(config | security(namespace_options={"network": "NODE"}))
    assert "Hostname" not in on_host
    assert "PortBindings" not in on_host["HostConfig"]


def test_profiles() -> None:
    def options(**fields: Any) -> list[str]:
        found: list[str] = settings(security(**fields), Host(profiles={"/p.json": "{}"}))["SecurityOpt"]
        return found

    assert options() == []  # the first of the enumeration: the runtime's default
    assert options(seccomp={"profile_type": "Unconfined"}) == ["seccomp=unconfined"]
    assert options(seccomp={"profile_type": "Localhost", "localhost_ref": "/p.json"}) == ["seccomp={}"]
    assert options(privileged=True, seccomp={"profile_type": "Localhost", "localhost_ref": "/p.json"}) == []
    assert options(no_new_privs=True, apparmor={"profile_type": "Unconfined"}) == [
        "no-new-privileges",
        "apparmor=unconfined",
    ]


def test_masked_paths_are_whole() -> None:
    assert settings(security(masked_paths=["/proc/kcore"]))["MaskedPaths"] == ["/proc/kcore"]
    assert settings(security())["MaskedPaths"] == []  # procMount: Unmasked
    assert "MaskedPaths" not in settings(security(privileged=True))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (security(run_as_group={"value": "5"}), "runAsGroup is specified without a runAsUser"),
        (security(seccomp={"profile_type": "Localhost", "localhost_ref": "/x"}), "cannot load seccomp profile '/x'"),
        (security(capabilities={"add_ambient_capabilities": ["X"]}), "Docker has no ambient capabilities"),
        (
            security(namespace_options={"userns_options": {"mode": "POD", "uids": [{"length": 1}]}}),
            "Docker has no user namespace of a pod's own (hostUsers: false)",
        ),
        ({"mounts": [{"container_path": "/c", "image": {"image": "i"}}]}, "Docker cannot mount the image i at /c"),
        (
            {"mounts": [{"container_path": "/c", "recursive_read_only": True}]},
            "this Docker has no recursive read-only mounts, as /c is to be",
        ),
        ({"linux": {"resources": {"hugepage_limits": [{"limit": "1"}]}}}, "Docker has no limits of huge pages"),
        ({"envs": [{"key": "K", "value": "/w=="}]}, "Docker cannot take the variable K: it is not UTF-8"),
    ],
)
def test_what_docker_has_not_got_is_refused(config: Object, message: str) -> None:
    with pytest.raises(Refused) as refused:
        settings(config)
    assert str(refused.value) == message


def test_read_only_mounts_by_version() -> None:
    mount = {"mounts": [{"container_path": "/c", "host_path": "/h", "readonly": True, "recursive_read_only": True}]}
    assert settings(mount, Host(api=(1, 44)))["Mounts"][0]["BindOptions"] == {
        "Propagation": "rprivate",
        "ReadOnlyForceRecursive": True,
    }


def test_resources() -> None:
    limits = cri_pb2.LinuxContainerResources(memory_limit_in_bytes=1 << 26, cpu_quota=-1, cpu_shares=2)
    assert requests.resources(limits) == {
        "CpuQuota": -1,
        "CpuShares": 2,
        "Memory": 1 << 26,
        "MemorySwap": 1 << 26,  # no swap
    }
    assert Host(oom_score_adj_min=0).oom_score_adj(-998) == 0
    assert Host().oom_score_adj(-998) == -998
    assert Host("systemd").cgroup_parent("/kubepods.slice/kubepods-pod1.slice") == "kubepods-pod1.slice"
    assert Host().cgroup_parent("/kubepods/pod1") == "/kubepods/pod1"


def test_signals() -> None:
    assert requests.signal_name(cri_pb2.SIGRTMINPLUS1) == "SIGRTMIN+1"
    assert requests.signal_name(cri_pb2.SIGRTMAXMINUS1) == "SIGRTMAX-1"
    assert requests.signal_name(cri_pb2.SIGTERM) == "SIGTERM"


def test_labels_hold_the_configuration_without_secrets() -> None:
    config = ParseDict(
        {"metadata": {"name": "c", "attempt": 3}, "labels": {"a": "b"}, "envs": [{"key": "K", "value": "c2VjcmV0"}]},
        cri_pb2.ContainerConfig(),
    )
    written = labels.of_container("S", config, "/log")
    assert written["a"] == "b"
    read = labels.container_config(written)
    assert (read.metadata.name, read.metadata.attempt, len(read.envs)) == ("c", 3, 0)
    assert labels.container_config({labels.CONFIG: "!"}) == cri_pb2.ContainerConfig()
    pod = cri_pb2.PodSandboxMetadata(name="p", namespace="n", uid="u:1")
    assert labels.name("c", pod, 3) == "k8s_c_p_n_u-1_3"


def inspected(**state: Any) -> Object:
    zero = "0001-01-01T00:00:00Z"
    whole = {"Running": False, "ExitCode": 0, "OOMKilled": False, "Error": "", "StartedAt": zero, "FinishedAt": zero}
    return {
        "Id": "I",
        "Image": "sha256:1",
        "Created": "2026-01-02T03:04:05.5Z",
        "Config": {"Labels": {}},
        "HostConfig": {},
        "State": whole | state,
    }


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, ("CONTAINER_CREATED", 0, "")),
        ({"Running": True, "StartedAt": "2026-01-02T03:04:06Z"}, ("CONTAINER_RUNNING", 0, "")),
        ({"FinishedAt": "2026-01-02T03:04:06Z"}, ("CONTAINER_EXITED", 0, "Completed")),
        ({"FinishedAt": "2026-01-02T03:04:06Z", "ExitCode": 3}, ("CONTAINER_EXITED", 3, "Error")),
        (
            {"FinishedAt": "2026-01-02T03:04:06Z", "ExitCode": 137, "OOMKilled": True},
            ("CONTAINER_EXITED", 137, "OOMKilled"),
        ),
        ({"ExitCode": 127, "Error": "no such file"}, ("CONTAINER_EXITED", 127, "ContainerCannotRun")),
    ],
)
def test_states(state: Object, expected: tuple[str, int, str]) -> None:
    status = answers.container_status(inspected(**state), "ref")
    assert (cri_pb2.ContainerState.Name(status.state), status.exit_code, status.reason) == expected


def test_times_and_references() -> None:
    assert answers.nanoseconds("2026-01-02T03:04:05.000000678Z") == 1767323045_000000678
    assert answers.nanoseconds("2026-01-02T04:04:05.5+01:00") == 1767323045_500000000
    assert answers.nanoseconds("2026-01-02T03:04:05Z") == 1767323045_000000000
    assert answers.nanoseconds("0001-01-01T00:00:00Z") == 0
    assert answers.split_reference("busybox") == ("busybox", "latest")
    assert answers.split_reference("h:5000/a/b:1") == ("h:5000/a/b", "1")
    assert answers.split_reference("h:5000/a/b") == ("h:5000/a/b", "latest")
    assert answers.split_reference("h/a:1@sha256:2") == ("h/a", "sha256:2")


def test_what_plugins_are_given() -> None:
    files = {
        "20-late.conflist": "{}",
        "10-pods.conflist": '{"cniVersion":"0.4.0","name":"pods","plugins":'
        '[{"type":"bridge"},{"type":"portmap","capabilities":{"portMappings":true}}]}',
        "00-notes.txt": "no network",
    }
    network = cni.network(files)
    ports = {"port_mappings": [{"container_port": 80, "host_port": 8080, "protocol": "UDP"}]}
    config = ParseDict(ports, cri_pb2.PodSandboxConfig())
    assert cni.plugin_input(network, 0, config, None) == {"type": "bridge", "name": "pods", "cniVersion": "0.4.0"}
    given = cni.plugin_input(network, 1, config, {"ips": []})
    assert given["prevResult"] == {"ips": []}
    assert given["runtimeConfig"] == {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": ""}]
    }
    assert cni.addresses({"ips": [{"address": "10.0.0.2/24"}, {"address": "fd00::2/64"}]}) == ["10.0.0.2", "fd00::2"]
    for broken in ({}, {"a.conf": "{"}, {"a.conf": '{"name":"x"}'}):
        with pytest.raises(cni.BadNetwork):
            cni.network(broken)
