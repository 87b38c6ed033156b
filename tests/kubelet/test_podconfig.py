"""Decisions that become a pod's configuration: names of images, credentials, DNS, hosts, sysctls, sizes, groups."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.kubelet.core import dockerconfig, sysctls
from raykube.kubelet.core.controlgroups import cgroup_parent, levels, pod_uid
from raykube.kubelet.core.criconfig import NodeSettings, container_config, fully_qualified, sandbox_config
from raykube.kubelet.core.dns import Dns, parse_resolv_conf, pod_dns
from raykube.kubelet.core.dockerconfig import Credentials, Keyring
from raykube.kubelet.core.imagename import InvalidImageName, parse
from raykube.kubelet.core.qos import qos_class
from raykube.kubelet.core.security import ImageFacts, root_refusal
from raykube.kubelet.core.sizes import group_limits, oom_score, resources
from raykube.pb import cri_pb2
from tests.kubelet.conftest import Object

SETTINGS = NodeSettings("n1", memory_bytes=1 << 33)


def pod(*containers: Object, **spec: Any) -> Object:
    listed = list(containers) or [{"name": "c"}]
    return {"metadata": {"name": "p", "namespace": "ns", "uid": "u-1"}, "spec": {"containers": listed} | spec}


# -- images


@pytest.mark.parametrize(
    ("given", "repository", "reference"),
    [
        ("busybox", "docker.io/library/busybox", "busybox:latest"),
        ("busybox:1", "docker.io/library/busybox", "busybox:1"),
        ("me/app", "docker.io/me/app", "me/app:latest"),
        ("index.docker.io/app", "docker.io/library/app", "index.docker.io/app:latest"),
        ("localhost/app", "localhost/app", "localhost/app:latest"),
        ("host.test:5000/a/b_c/d--e:1.2-x", "host.test:5000/a/b_c/d--e", "host.test:5000/a/b_c/d--e:1.2-x"),
        (f"app@sha256:{'a' * 64}", "docker.io/library/app", f"app@sha256:{'a' * 64}"),
        (f"app:1@sha256:{'a' * 64}", "docker.io/library/app", f"app:1@sha256:{'a' * 64}"),
    ],
)
def test_names_of_images(given: str, repository: str, reference: str) -> None:
    name = parse(given)
    assert (name.repository, name.reference) == (repository, reference)


@pytest.mark.parametrize("name", ["", ":1", "a b", "a//b", "-a", "a:", "a:b:c", "app@sha256:12", "a" * 256, "ä", "a\n"])
def test_names_that_no_image_has(name: str) -> None:
    with pytest.raises(InvalidImageName, match="couldn't parse image name"):
        parse(name)
    with pytest.raises(InvalidImageName, match="repository name \\(me/App\\) must be lowercase"):
        parse("me/App")
    with pytest.raises(InvalidImageName, match="64-byte hexadecimal"):
        parse("a" * 64)


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        name = parse(text)
    except InvalidImageName:
        return
    assert parse(name.reference).repository == name.repository


# -- credentials


def secret(kind: str, key: str, document: Any) -> Object:
    return {"type": kind, "data": {key: base64.b64encode(json.dumps(document).encode()).decode()}}


def auths(**entries: Any) -> dict[str, Credentials]:
    return dockerconfig.parse(secret(dockerconfig.JSON_TYPE, dockerconfig.JSON_KEY, {"auths": entries}))


def users(keyring: Keyring, repository: str) -> list[str]:
    return [found.username for found in keyring.lookup(repository)]


def test_both_formats_of_credentials() -> None:
    entry = {"auth": base64.b64encode(b"me:pass:word").decode(), "username": "other"}
    new = dockerconfig.parse(secret(dockerconfig.JSON_TYPE, dockerconfig.JSON_KEY, {"auths": {"h.test": entry}}))
    old = dockerconfig.parse(secret(dockerconfig.OLD_TYPE, dockerconfig.OLD_KEY, {"h.test": entry}))
    assert new == old == {"h.test": Credentials("me", "pass:word", "", "h.test")}
    assert dockerconfig.parse({"type": "Opaque", "data": {}}) == {}


@pytest.mark.parametrize(
    "document",
    [[], {"auths": []}, {"auths": {"h": 1}}, {"auths": {"h": {"auth": "?"}}}, {"auths": {"h": {"auth": "bWU="}}}],
)
def test_credentials_that_are_none(document: Any) -> None:
    with pytest.raises(ValueError, match=r"\.dockerconfigjson|the (auth|entry) of h"):
        dockerconfig.parse(secret(dockerconfig.JSON_TYPE, dockerconfig.JSON_KEY, document))


def test_which_credentials_fit() -> None:
    def user(name: str) -> Object:
        return {"username": name, "password": "x"}

    keyring = Keyring(
        [
            auths(**{"h.test": user("host"), "https://h.test/v2/": user("api"), "h.test/team": user("team")}),
            auths(**{"*.wild.test": user("wild"), "h.test:5000": user("port")}),
            auths(**{"https://index.docker.io/v1/": user("hub")}),
        ]
    )
    assert users(keyring, "h.test/team/app") == ["team", "host", "api"]
    assert users(keyring, "h.test/other") == ["host", "api"]
    assert users(keyring, "h.test:5000/app") == ["port"]
    assert users(keyring, "a.wild.test/app") == ["wild"]
    assert users(keyring, "a.b.wild.test/app") == []
    assert users(keyring, "docker.io/library/busybox") == ["hub"]
    assert users(keyring, "elsewhere.test/app") == []
    assert "x" not in repr(keyring.lookup("h.test/other"))  # a password is not for logs


# -- DNS


def test_resolv_conf() -> None:
    text = "# c\nnameserver 1.1.1.1 # x\nsearch old\nsearch a.test. b\noptions ndots:2 rotate\nnameserver ::1\n"
    assert parse_resolv_conf(text) == Dns(("1.1.1.1", "::1"), ("a.test", "b"), ("ndots:2", "rotate"))


def test_dns_options_of_the_pod_win() -> None:
    own = {
        "options": [{"name": "ndots", "value": "1"}, {"name": "rotate"}],
        "searches": ["svc.d"],
        "nameservers": ["9.9.9.9"],
    }
    found = pod_dns(pod(dnsConfig=own), Dns(), ("10.0.0.10",), "d")
    assert found.dns == Dns(("10.0.0.10", "9.9.9.9"), ("ns.svc.d", "svc.d", "d"), ("ndots:1", "rotate"))
    assert found.warnings == []


def test_dns_limits() -> None:
    own = {"nameservers": [f"1.1.1.{n}" for n in range(5)], "searches": [f"{n:03d}{'x' * 90}" for n in range(40)]}
    found = pod_dns(pod(dnsPolicy="None", dnsConfig=own), Dns(), (), "")
    assert found.dns.servers == ("1.1.1.0", "1.1.1.1", "1.1.1.2")
    assert len(" ".join(found.dns.searches)) <= 2048
    assert [reason for reason, _ in found.warnings] == ["DNSConfigForming", "DNSConfigForming"]
    assert found.warnings[1][1].endswith("the applied nameserver line is: 1.1.1.0 1.1.1.1 1.1.1.2")


def test_no_cluster_dns() -> None:
    found = pod_dns(pod(), Dns(("1.1.1.1",)), (), "d")
    assert found.dns == Dns(("1.1.1.1",))
    assert found.warnings[0][0] == "MissingClusterDNS"


def test_names_of_pods() -> None:
    assert fully_qualified(pod(subdomain="s"), "d") == "p.s.ns.svc.d"
    assert fully_qualified(pod(), "d") == ""
    assert sandbox_config(pod(hostNetwork=True), 0, "/l", Dns(), SETTINGS).hostname == ""
    assert sandbox_config(pod(hostname="h" * 62 + "--"), 0, "/l", Dns(), SETTINGS).hostname == "h" * 62


# -- sysctls


def verdict(name: str, unsafe: tuple[str, ...] = (), **spec: Any) -> str:
    context = {"securityContext": {"sysctls": [{"name": name, "value": "1"}]}}
    found = sysctls.admit_sysctls(pod(**context, **spec), unsafe)
    return "" if found is None else found.message.removeprefix("Pod was rejected: forbidden sysctl: ")


def test_sysctls() -> None:
    assert verdict("net.ipv4.tcp_syncookies") == ""
    assert verdict("net/ipv4/tcp_syncookies") == ""
    assert verdict("net.ipv4.tcp_syncookies", hostNetwork=True) == (
        '"net.ipv4.tcp_syncookies" not allowed with host net enabled'
    )
    assert (
        verdict("kernel.shm_rmid_forced", hostIPC=True) == '"kernel.shm_rmid_forced" not allowed with host ipc enabled'
    )
    assert verdict("kernel.msgmax") == '"kernel.msgmax" not allowlisted'
    assert verdict("kernel.msgmax", ("kernel.msg*",)) == ""
    assert verdict("kernel.semaphore", ("kernel.sem",)) == '"kernel.semaphore" not allowlisted'
    assert sysctls.check_allowed(["net/core/*", "kernel.sem"]) == ("net.core.*", "kernel.sem")
    for bad in ("vm.swappiness", "net.*.x"):
        with pytest.raises(ValueError, match="sysctl"):
            sysctls.check_allowed([bad])


# -- sizes


def sized(name: str = "c", limits: Object | None = None, **requests: str) -> Object:
    return {"name": name, "resources": {"requests": requests, "limits": limits or {}}}


def test_sizes_of_containers() -> None:
    found = resources(pod(), sized(limits={"cpu": "1500m", "memory": "1Gi"}, cpu="250m"), 1 << 33)
    assert (found.cpu_shares, found.cpu_quota, found.cpu_period) == (256, 150_000, 100_000)
    assert found.memory_limit_in_bytes == 1 << 30
    assert resources(pod(), sized(), 1).cpu_shares == 2
    assert resources(pod(), sized(limits={"cpu": "1m"}), 1).cpu_quota == 1000
    assert resources(pod(), sized(), 1, unified_hierarchy=True).unified == {"memory.oom.group": "1"}


def test_sizes_of_pods() -> None:
    limited = {"cpu": "500m", "memory": "64Mi"}
    first, second = sized("a", limited, cpu="100m"), sized("b", limited, cpu="300m")
    found = group_limits(pod(first, second, overhead={"cpu": "100m", "memory": "1Mi"}))
    assert (found.cpu_shares, found.cpu_quota_us, found.memory_bytes) == (512, 110_000, 129 << 20)
    # One that is not limited leaves the whole unlimited.
    found = group_limits(pod(first, sized("b", cpu="300m")))
    assert (found.cpu_quota_us, found.memory_bytes) == (0, 0)
    init = sized("i", {"cpu": "2", "memory": "1Gi"}, cpu="2")
    found = group_limits(pod(first, second, initContainers=[init]))
    assert (found.cpu_shares, found.cpu_quota_us, found.memory_bytes) == (2048, 200_000, 1 << 30)
    whole = pod(first, second, resources={"limits": {"cpu": "4"}, "requests": {"cpu": "3"}})
    assert (group_limits(whole).cpu_shares, group_limits(whole).cpu_quota_us) == (3072, 400_000)
    assert qos_class(whole) == "Burstable"


def test_who_is_killed_first() -> None:
    guaranteed = sized(limits={"cpu": "1", "memory": "1Gi"}, cpu="1", memory="1Gi")
    assert oom_score(pod(guaranteed), guaranteed, 1 << 33) == -997
    assert oom_score(pod(), {"name": "c"}, 1 << 33) == 1000
    asks = sized(memory="4Gi")
    assert oom_score(pod(asks), asks, 1 << 33) == 500
    small = sized(memory="1")
    assert oom_score(pod(small), small, 1 << 33) == 999
    all_of_it = sized(memory="8Gi")
    assert oom_score(pod(all_of_it), all_of_it, 1 << 33) == 3
    sidecar = sized("s") | {"restartPolicy": "Always"}
    assert oom_score(pod(asks, initContainers=[sidecar]), sidecar, 1 << 33) == 500
    assert oom_score(pod(priority=2_000_001_000), {"name": "c"}, 1) == -997


def test_control_groups() -> None:
    assert cgroup_parent(pod()) == "/kubepods/besteffort/podu-1"
    assert cgroup_parent(pod(sized(cpu="1")), "/top/a-b") == "/top/a-b/kubepods/burstable/podu-1"
    systemd = cgroup_parent(pod(), "/", "systemd")
    assert systemd == "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podu_1.slice"
    for driver in ("cgroupfs", "systemd"):
        group = cgroup_parent(pod(), "/x", driver)
        above, _, name = group.rpartition("/")
        assert above in levels("/x", driver)
        assert pod_uid(name).replace("_", "-") == "u-1"
    assert pod_uid("burstable") == ""


# -- security


def test_not_as_root() -> None:
    must = {"runAsNonRoot": True}
    where = '(pod: "p_ns(u-1)", container: c)'
    assert root_refusal(pod(), {"name": "c"}, ImageFacts("i", uid=0)) == ""
    assert root_refusal(pod(securityContext=must), {"name": "c"}, ImageFacts("i", uid=5)) == ""
    assert (
        root_refusal(
            pod(securityContext=must), {"name": "c", "securityContext": {"runAsNonRoot": False}}, ImageFacts("i")
        )
        == ""
    )
    named = root_refusal(pod(securityContext=must), {"name": "c"}, ImageFacts("i", username="web"))
    assert (
        named
        == f"container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root {where}"
    )
    zero = {"name": "c", "securityContext": {"runAsUser": 0}}
    assert root_refusal(pod(securityContext=must), zero, ImageFacts("i", uid=5)) == (
        f"container's runAsUser breaks non-root policy {where}"
    )


def test_security_of_containers() -> None:
    def of(own: Object, target: str = "", **spec: Any) -> cri_pb2.LinuxContainerSecurityContext:
        container = {"name": "c", "securityContext": own}
        image = ImageFacts("i", "i:latest", None, "web")
        return container_config(pod(**spec), container, 0, {}, [], image, SETTINGS, target).linux.security_context

    assert of({}).seccomp.profile_type == cri_pb2.SecurityProfile.Unconfined
    local = of({"seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}})
    assert local.seccomp.localhost_ref == "/var/lib/kubelet/seccomp/a/b.json"
    assert (of({}).run_as_username, of({}).HasField("run_as_user")) == ("web", False)
    assert (of({"runAsUser": 5}).run_as_username, of({"runAsUser": 5}).run_as_user.value) == ("", 5)
    assert list(of({}).masked_paths) and not of({"procMount": "Unmasked"}).masked_paths
    assert of({}, securityContext={"supplementalGroupsPolicy": "Strict"}).supplemental_groups_policy == cri_pb2.Strict
    seen = of({}, "target").namespace_options
    assert (seen.pid, seen.target_id) == (cri_pb2.TARGET, "target")
    shared = of({}, "target", shareProcessNamespace=True).namespace_options
    assert (shared.pid, shared.target_id) == (cri_pb2.POD, "")


def test_ports_of_the_machine() -> None:
    def ports(number: int) -> list[Object]:
        return [{"containerPort": number, "hostPort": number + 1, "protocol": "UDP", "hostIP": "127.0.0.1"}]

    spec = {
        "initContainers": [
            {"name": "i", "ports": ports(1)},
            {"name": "s", "restartPolicy": "Always", "ports": ports(3)},
        ]
    }
    mapped = sandbox_config(pod({"name": "c", "ports": ports(5)}, **spec), 0, "/l", Dns(), SETTINGS).port_mappings
    assert [(one.container_port, one.host_port) for one in mapped] == [(3, 4), (5, 6)]
    assert mapped[0].protocol == cri_pb2.UDP
