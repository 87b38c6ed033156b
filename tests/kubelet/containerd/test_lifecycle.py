"""Init and sidecar containers, probes, hooks and grace periods on containerd."""

import sys
from pathlib import Path

import pytest

from tests.kit.waiting import until
from tests.kubelet.conftest import PODS, Object, container, shell, state
from tests.kubelet.containerd.conftest import ContainerdNode

pytestmark = pytest.mark.integration

SCRATCH = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
VOLUMES = [{"name": "scratch", "emptyDir": {}}]


async def test_init_and_sidecar_containers(node: ContainerdNode) -> None:
    sidecar = shell(
        "echo side >> /scratch/log; trap 'echo side ends; exit 0' TERM; while :; do sleep 0.1; done",
        "side",
        restartPolicy="Always",
        startupProbe={"exec": {"command": ["grep", "side", "/scratch/log"]}, "periodSeconds": 1},
        **SCRATCH,
    )
    inits = [shell("echo first >> /scratch/log", "first", **SCRATCH), sidecar]
    inits += [shell("echo last >> /scratch/log", "last", **SCRATCH)]
    main = shell("cat /scratch/log; sleep 1; echo main ends", **SCRATCH)
    await node.pod("job", main, initContainers=inits, volumes=VOLUMES, restartPolicy="Never")
    pod = await node.phase("job", "Succeeded", 40)
    assert node.log("job") == "first\nside\nlast\nmain ends\n"
    assert node.log("job", "side") == "side ends\n"
    reasons = [one["state"]["terminated"]["reason"] for one in pod["status"]["initContainerStatuses"]]
    assert reasons == ["Completed"] * 3


async def test_an_init_container_that_fails_and_then_does_not(node: ContainerdNode) -> None:
    init = shell("echo x >> /scratch/tries; test $(wc -l < /scratch/tries) = 2", "init", **SCRATCH)
    await node.pod("p", shell("exec sleep 1000"), initContainers=[init], volumes=VOLUMES)
    pod = await node.phase("p", "Running", 40)
    (one,) = pod["status"]["initContainerStatuses"]
    assert (one["restartCount"], one["state"]["terminated"]["exitCode"]) == (1, 0)


async def test_crashes_back_off(node: ContainerdNode) -> None:
    await node.pod("crash", shell("exit 3"))
    pod = await node.sees(
        "crash", lambda pod: state(pod)["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
    )
    one = state(pod)
    assert (one["restartCount"], one["lastState"]["terminated"]["exitCode"]) == (1, 3)
    assert one["state"]["waiting"]["message"].startswith(
        "back-off 10s restarting failed container=c pod=crash_default("
    )


def flag(name: str) -> Object:
    """A probe of a file in the container."""
    return {"exec": {"command": ["test", "-e", f"/scratch/{name}"]}, "periodSeconds": 1}


async def test_thresholds(node: ContainerdNode) -> None:
    await node.pod(
        "p",
        shell(
            "exec sleep 1000",
            readinessProbe=flag("ready") | {"failureThreshold": 1},
            livenessProbe=flag("alive") | {"failureThreshold": 2, "initialDelaySeconds": 1},
            startupProbe=flag("started") | {"failureThreshold": 60},
            **SCRATCH,
        ),
        volumes=VOLUMES,
        terminationGracePeriodSeconds=1,
    )
    pod = await node.phase("p", "Running")
    folder = next((node.root / "kubelet" / "pods" / pod["metadata"]["uid"] / "volumes").glob("*/scratch"))
    assert (state(pod)["started"], state(pod)["ready"]) == (False, False)
    await node.event("Unhealthy", "Startup probe failed: ")
    (folder / "alive").touch()
    (folder / "started").touch()
    await node.sees("p", lambda pod: state(pod)["started"] and not state(pod)["ready"])
    (folder / "ready").touch()
    await node.sees("p", lambda pod: state(pod)["ready"])
    (folder / "ready").unlink()
    await node.sees("p", lambda pod: not state(pod)["ready"])
    (folder / "alive").unlink()
    pod = await node.sees("p", lambda pod: state(pod)["restartCount"] == 1)
    await node.event("Killing", "Container c failed liveness probe, will be restarted")
    assert state(pod)["lastState"]["terminated"]["exitCode"] == 137


async def test_a_probe_has_a_grace_period_of_its_own(node: ContainerdNode) -> None:
    deaf = shell(
        "trap '' TERM; touch /scratch/alive; while :; do sleep 0.1; done",
        livenessProbe=flag("alive")
        | {"failureThreshold": 1, "initialDelaySeconds": 1, "terminationGracePeriodSeconds": 1},
        **SCRATCH,
    )
    await node.pod("p", deaf, volumes=VOLUMES, terminationGracePeriodSeconds=600)
    pod = await node.sees("p", lambda pod: "running" in state(pod)["state"])
    volumes = node.root / "kubelet" / "pods" / pod["metadata"]["uid"] / "volumes"
    alive = next(volumes.glob("*/scratch")) / "alive"
    await until(alive.exists)
    alive.unlink()
    pod = await node.sees("p", lambda pod: state(pod)["restartCount"] == 1, 40)
    assert state(pod)["lastState"]["terminated"]["exitCode"] == 137  # it was told, and did not listen


async def test_probes_reach_into_the_pods_network(node: ContainerdNode) -> None:
    web = "mkdir /www; echo ok > /www/ok; exec httpd -f -p 8080 -h /www"

    def probed(name: str, probe: Object) -> Object:
        ports = [{"name": "web", "containerPort": 8080}]
        return shell(web, ports=ports, readinessProbe=probe | {"periodSeconds": 1, "failureThreshold": 1})

    await node.pod("http", probed("http", {"httpGet": {"port": "web", "path": "/ok"}}))
    await node.pod("tcp", probed("tcp", {"tcpSocket": {"port": 8080}}))
    await node.pod("none", probed("none", {"httpGet": {"port": 8080, "path": "/none"}}))
    await node.pod("shut", probed("shut", {"tcpSocket": {"port": 8081}}))
    await node.sees("http", lambda pod: state(pod)["ready"])
    await node.sees("tcp", lambda pod: state(pod)["ready"])
    await node.event("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 404")
    pod = await node.phase("shut", "Running")
    address = pod["status"]["podIP"]
    await node.event("Unhealthy", f"Readiness probe failed: dial tcp {address}:8081: connect: connection refused")
    assert not state(await node.phase("shut", "Running"))["ready"]


HEALTH = """
import grpc, sys
from concurrent import futures
def check(request, context):
    return b"\\x08\\x01" if request in (b"", b"\\x0a\\x04good") else b"\\x08\\x02"
methods = {"Check": grpc.unary_unary_rpc_method_handler(check)}
handler = grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods)
server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(handler,))
server.add_insecure_port("0.0.0.0:9000")
server.start()
server.wait_for_termination()
"""


async def test_grpc_probes(node: ContainerdNode) -> None:
    # The machine's own Python, with its root directory read-only inside of the container.
    mounts = {"volumeMounts": [{"name": "host", "mountPath": "/host", "readOnly": True}]}
    volumes = [{"name": "host", "hostPath": {"path": "/"}}]
    for name, service in (("good", "good"), ("bad", "bad")):
        probe = {"grpc": {"port": 9000, "service": service}, "periodSeconds": 1, "failureThreshold": 1}
        server = container("chroot", "/host", sys.executable, "-c", HEALTH, readinessProbe=probe, **mounts)
        await node.pod(name, server, volumes=volumes, terminationGracePeriodSeconds=1)
    await node.sees("good", lambda pod: state(pod)["ready"], 40)
    await node.event("Unhealthy", "Readiness probe failed: service unhealthy (responded with", 40)
    assert not state(await node.phase("bad", "Running"))["ready"]


async def test_hooks(node: ContainerdNode, tmp_path: Path) -> None:
    out = node.root / "hooks"
    out.mkdir()
    mounts = {"volumeMounts": [{"name": "out", "mountPath": "/out"}]}
    await node.pod(
        "hooks",
        shell(
            "trap 'echo term >> /out/log; exit 0' TERM; while :; do sleep 0.1; done",
            lifecycle={
                "postStart": {"exec": {"command": ["sh", "-c", "echo post >> /out/log"]}},
                "preStop": {"exec": {"command": ["sh", "-c", "echo pre >> /out/log"]}},
            },
            **mounts,
        ),
        volumes=[{"name": "out", "hostPath": {"path": str(out)}}],
    )
    await node.phase("hooks", "Running")
    await node.client.delete(PODS, "default", "hooks")
    await node.gone("hooks")
    assert (out / "log").read_text() == "post\npre\nterm\n"


async def test_a_hook_that_fails(node: ContainerdNode) -> None:
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "echo no good; exit 4"]}}}
    await node.pod("bad", shell("exec sleep 1000", lifecycle=hook), terminationGracePeriodSeconds=1)
    await node.event("FailedPostStartHook", "PostStartHook failed")
    await node.sees("bad", lambda pod: state(pod)["restartCount"] >= 1)


async def test_who_does_not_listen_is_killed_after_its_grace(node: ContainerdNode) -> None:
    await node.pod("deaf", shell("trap '' TERM; while :; do sleep 0.1; done"), terminationGracePeriodSeconds=600)
    await node.phase("deaf", "Running")
    await node.client.delete(PODS, "default", "deaf")
    await node.event("Killing", "Stopping container c")
    await node.client.delete(PODS, "default", "deaf", grace_period_s=1)  # a second deletion shortens it
    await node.gone("deaf")


async def test_a_sandbox_that_dies_is_made_anew(node: ContainerdNode) -> None:
    await node.pod("p", shell("exec sleep 1000"), terminationGracePeriodSeconds=1)
    pod = await node.phase("p", "Running")
    tasks = node.containerd.tasks()
    own = state(pod)["containerID"].removeprefix("containerd://")
    (pause,) = [pid for name, pid in tasks.items() if name != own]
    node.containerd.run("kill", "-9", str(pause))
    pod = await node.sees("p", lambda pod: state(pod)["restartCount"] == 1 and "running" in state(pod)["state"])
    await node.event("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
    await until(lambda: len(node.containerd.tasks()) == 2)


async def test_no_restart_for_who_is_done(node: ContainerdNode) -> None:
    await node.pod("once", shell("exit 0", "a"), shell("exit 5", "b"), restartPolicy="Never")
    pod = await node.phase("once", "Failed")
    codes = [state(pod, number)["state"]["terminated"]["exitCode"] for number in range(2)]
    assert codes == [0, 5]
    await node.pod(
        "retry",
        shell("test -e /scratch/x || { touch /scratch/x; exit 1; }", **SCRATCH),
        volumes=VOLUMES,
        restartPolicy="OnFailure",
    )
    pod = await node.phase("retry", "Succeeded")
    assert state(pod)["restartCount"] == 1
