"""Probes of every kind against real servers in real containers."""

import socket
from pathlib import Path

import pytest

from tests.kit.waiting import until
from tests.kubelet.conftest import PODS, Node, Object, container, shell, state

pytestmark = pytest.mark.integration

ADDRESS = {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}

# grpc.health.v1 without generated code: a HealthCheckResponse of one byte says whether the service serves.
HEALTH_SERVER = """
import os, time
from concurrent import futures
import grpc

def check(request, context):
    name = request[2:].decode()
    if name not in ("", "known"):
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return b"\\x08\\x01" if os.path.exists(os.environ["FLAG"]) else b"\\x08\\x02"

handler = grpc.method_handlers_generic_handler(
    "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
)
server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((handler,))
server.add_insecure_port(os.environ["IP"] + ":5000")
server.start()
time.sleep(1000)
"""


def python(script: str, **spec: object) -> Object:
    interpreter = Path(__file__).parents[2] / ".venv" / "bin" / "python"
    return container(str(interpreter), "-c", script, **spec)


async def test_grpc(node: Node) -> None:
    flag = node.root / "serving"
    env = [ADDRESS, {"name": "FLAG", "value": str(flag)}]
    probe = {"grpc": {"port": 5000, "service": "known"}, "periodSeconds": 1, "timeoutSeconds": 2}
    other = {"grpc": {"port": 5000, "service": "other"}, "periodSeconds": 1, "timeoutSeconds": 2}
    await node.pod("health", python(HEALTH_SERVER, env=env, readinessProbe=probe))
    await node.pod("other", python(HEALTH_SERVER, env=env, readinessProbe=other))
    await node.event("Unhealthy", 'Readiness probe failed: service unhealthy (responded with "NOT_SERVING")')
    assert not state(await node.phase("health", "Running"))["ready"]
    flag.touch()
    await node.sees("health", lambda pod: state(pod)["ready"])
    await node.event("Unhealthy", "Readiness probe failed: error: health rpc probe failed: unknown service")
    flag.unlink()
    await node.sees("health", lambda pod: not state(pod)["ready"])
    assert not state(await node.phase("other", "Running"))["ready"]


async def test_tcp(node: Node) -> None:
    gate = node.root / "gate"
    script = (
        "import os,socket,time\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.05)\n"
        "s=socket.create_server((os.environ['IP'],7000))\n"
        "time.sleep(1000)"
    )
    probe = {"tcpSocket": {"port": "data"}, "periodSeconds": 1}
    ports = [{"name": "data", "containerPort": 7000}]
    await node.pod("tcp", container("python3", "-c", script, env=[ADDRESS], ports=ports, readinessProbe=probe))
    pod = await node.phase("tcp", "Running")
    address = pod["status"]["podIP"]
    await node.event("Unhealthy", f"Readiness probe failed: dial tcp {address}:7000: connect: connection refused")
    gate.touch()
    await node.sees("tcp", lambda pod: state(pod)["ready"])


async def test_a_tcp_probe_of_a_host_that_does_not_accept(node: Node) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        taken = [socket.socket() for _ in range(4)]
        for one in taken:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        probe = {"tcpSocket": {"port": port, "host": "127.0.0.1"}, "periodSeconds": 1, "timeoutSeconds": 1}
        await node.pod("full", shell("exec sleep 1000", livenessProbe=probe))
        await node.event("Unhealthy", f"Liveness probe failed: dial tcp 127.0.0.1:{port}: i/o timeout")
        for one in taken:
            one.close()


async def test_a_startup_probe_holds_the_others_back(node: Node) -> None:
    flag, starts, lives = node.root / "started", node.root / "startup", node.root / "liveness"
    startup = f"echo >> {starts}; test -e {flag}"
    liveness = f"test -e {flag} && echo late >> {lives} || echo early >> {lives}"
    await node.pod(
        "slow",
        shell(
            "exec sleep 1000",
            startupProbe={"exec": {"command": ["sh", "-c", startup]}, "periodSeconds": 1, "failureThreshold": 60},
            livenessProbe={"exec": {"command": ["sh", "-c", liveness]}, "periodSeconds": 1},
        ),
    )
    pod = await node.phase("slow", "Running")
    assert (state(pod)["started"], state(pod)["ready"]) == (False, False)
    await node.event("Unhealthy", "Startup probe failed")
    # Three periods of the one are two of the other, had it begun.
    await until(lambda: starts.exists() and len(starts.read_text().splitlines()) > 3, 20)
    flag.touch()
    pod = await node.sees("slow", lambda pod: state(pod)["started"] and state(pod)["ready"])
    assert state(pod)["restartCount"] == 0
    await until(lives.exists, 10)
    assert "early" not in lives.read_text()


async def test_a_kubelet_that_begins_takes_over_what_probes_have_found(node: Node) -> None:
    """Its restart takes no pod out of service, and asks nobody again whether he has started."""
    starting, asked = node.root / "starting", node.root / "asked"
    starting.touch()
    await node.pod(
        "web",
        shell(
            "exec sleep 1000",
            startupProbe={
                "exec": {"command": ["test", "-e", str(starting)]},
                "periodSeconds": 1,
                "failureThreshold": 1,
            },
            readinessProbe={"exec": {"command": ["sh", "-c", f"echo >> {asked}"]}, "periodSeconds": 1},
        ),
    )
    await node.sees("web", lambda pod: state(pod)["ready"])
    await node.kubelet.stop()
    starting.unlink()
    asked.unlink()
    node.store.operations.clear()
    await node.start_kubelet()
    await until(lambda: asked.exists() and len(asked.read_text().splitlines()) > 1, what="it is asked again")
    pod = await node.client.get(PODS, "default", "web")
    assert (state(pod)["ready"], state(pod)["started"], state(pod)["restartCount"]) == (True, True, 0)
    written = [op.body.decode() for op in node.store.operations if op.resource.plural == "pods"]
    assert not [body for body in written if '"ready":false' in body]


async def test_a_container_that_does_not_start_is_restarted(node: Node) -> None:
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    await node.pod("never", shell("exec sleep 1000", startupProbe=probe), terminationGracePeriodSeconds=1)
    await node.event("Killing", "Container c failed startup probe, will be restarted")
    pod = await node.sees("never", lambda pod: state(pod)["restartCount"] == 1)
    assert state(pod)["lastState"]["terminated"]["exitCode"] == 143


async def test_an_empty_dir_in_memory_is_said_to_be_on_disk(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.parts.volumes, "may_mount", False)
    mounts = [{"name": "fast", "mountPath": "/fast"}]
    volumes = [{"name": "fast", "emptyDir": {"medium": "Memory"}}]
    await node.pod("disk", shell("echo x > /fast/x", volumeMounts=mounts), volumes=volumes, restartPolicy="Never")
    await node.event("MediumNotSupported", 'emptyDir volume "fast" is on disk: this kubelet may not mount')
    await node.phase("disk", "Succeeded")
