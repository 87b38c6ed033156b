"""Security contexts on containerd: who a container is, and what it may."""

import json
from typing import Any

import pytest

from tests.kit import images
from tests.kubelet.conftest import Object, shell, state
from tests.kubelet.containerd.conftest import ContainerdNode

pytestmark = pytest.mark.integration


async def said(
    node: ContainerdNode, name: str, script: str, own: Object, pod: Object | None = None, **more: Any
) -> str:
    """What a container says that runs `script` with the security contexts `own` and `pod`."""
    spec = shell(script, securityContext=own, **more)
    await node.pod(name, spec, securityContext=pod or {}, restartPolicy="Never")
    await node.phase(name, "Succeeded")
    return node.log(name).strip()


async def test_users_and_groups(node: ContainerdNode) -> None:
    assert await said(node, "a", "id", {}) == "uid=0(root) gid=0(root) groups=0(root)"
    assert await said(node, "b", "id -u; id -g", {"runAsUser": 1000}, {"runAsUser": 7, "runAsGroup": 8}) == "1000\n8"
    groups = await said(
        node, "c", "id -G", {"runAsUser": 1000, "runAsGroup": 1000}, {"supplementalGroups": [5], "fsGroup": 6}
    )
    assert {"5", "6"} <= set(groups.split())


async def test_an_image_names_its_user(node: ContainerdNode) -> None:
    for name, user in (("number", "1000"), ("name", "worker"), ("root", "0")):
        node.containerd.import_image(images.build(f"example.test/{name}:1", user=user))
    number = {"image": "example.test/number:1"}
    assert await said(node, "number", "id -u", {"runAsNonRoot": True}, **number) == "1000"
    assert await said(node, "name", "id -u", {}, image="example.test/name:1") == "1000"
    for name, image, own, why in (
        ("asks", images.BUSYBOX, {"runAsUser": 0}, "container's runAsUser breaks non-root policy"),
        ("rooted", "example.test/root:1", {}, "container has runAsNonRoot and image will run as root"),
        ("silent", images.BUSYBOX, {}, "container has runAsNonRoot and image will run as root"),
        (
            "named",
            "example.test/name:1",
            {},
            "container has runAsNonRoot and image has non-numeric user (worker), cannot verify user is non-root",
        ),
    ):
        await node.pod(name, shell("true", image=image, securityContext={"runAsNonRoot": True} | own))
        pod = await node.sees(
            name, lambda pod: "waiting" in state(pod)["state"] and "message" in state(pod)["state"]["waiting"]
        )
        waiting = state(pod)["state"]["waiting"]
        assert waiting["reason"] == "CreateContainerConfigError"
        assert waiting["message"] == f'{why} (pod: "{name}_default({pod["metadata"]["uid"]})", container: c)'
        await node.event("Failed", f"Error: {why}")


def capabilities(text: str) -> int:
    return int(text.split()[-1], 16)


NET_ADMIN, CHOWN = 1 << 12, 1 << 0


async def test_capabilities(node: ContainerdNode) -> None:
    script = "grep CapEff /proc/self/status"
    plain = capabilities(await said(node, "plain", script, {}))
    assert plain & CHOWN
    assert not plain & NET_ADMIN
    changed = {"capabilities": {"add": ["NET_ADMIN"], "drop": ["CHOWN"]}}
    found = capabilities(await said(node, "changed", script, changed))
    assert found == (plain | NET_ADMIN) & ~CHOWN
    assert capabilities(await said(node, "none", script, {"capabilities": {"drop": ["ALL"]}})) == 0


async def test_seccomp(node: ContainerdNode) -> None:
    script = "grep Seccomp: /proc/self/status; mkdir /made 2>/dev/null && echo made || echo refused"
    assert (await said(node, "none", script, {})).split() == ["Seccomp:", "0", "made"]
    runtime = {"seccompProfile": {"type": "RuntimeDefault"}}
    assert (await said(node, "runtime", script, runtime)).split() == ["Seccomp:", "2", "made"]
    assert (await said(node, "inherits", script, {}, runtime)).split() == ["Seccomp:", "2", "made"]
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    folder = node.root / "kubelet" / "seccomp" / "own"
    folder.mkdir(parents=True)
    (folder / "no-mkdir.json").write_text(json.dumps(profile))
    local = {"seccompProfile": {"type": "Localhost", "localhostProfile": "own/no-mkdir.json"}}
    assert (await said(node, "local", script, local)).split() == ["Seccomp:", "2", "refused"]


async def test_no_new_privileges(node: ContainerdNode) -> None:
    script = "grep NoNewPrivs /proc/self/status"
    assert (await said(node, "may", script, {})).split()[-1] == "0"
    assert (await said(node, "not", script, {"allowPrivilegeEscalation": False})).split()[-1] == "1"


async def test_a_read_only_root(node: ContainerdNode) -> None:
    script = "touch /file 2>/dev/null && echo written || echo refused"
    assert await said(node, "open", script, {}) == "written"
    assert await said(node, "closed", script, {"readOnlyRootFilesystem": True}) == "refused"


async def test_privileged(node: ContainerdNode) -> None:
    script = "grep CapEff /proc/self/status; test -w /proc/sys/kernel/hostname; echo $?; ls /dev | wc -l"
    plain = (await said(node, "plain", script, {})).split()
    full = (await said(node, "full", script, {"privileged": True})).split()
    assert int(full[1], 16) > int(plain[1], 16)
    assert int(full[3]) > int(plain[3])


async def test_masked_parts_of_proc(node: ContainerdNode) -> None:
    script = "wc -c < /proc/keys; touch /proc/sys/kernel/domainname 2>/dev/null && echo writable || echo protected"
    masked = (await said(node, "masked", script, {})).split()
    assert masked == ["0", "protected"]
