"""Pods through the real kubelet and the real runtime."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from raykube.api.resources import builtin
from raykube.kubelet.core.observed import ObservedPod
from raykube.kubelet.cri import Cri
from raykube.pb import api_pb2, cri_pb2
from raykube.runtime.containers import Runtime
from tests.kit.waiting import until
from tests.kubelet.conftest import PODS, Node, Object, container, running_node, shell, state

pytestmark = pytest.mark.integration


def runtime_of(node: Node) -> Runtime:
    runtime = node.runtime._runtime
    assert runtime is not None
    return runtime


async def test_a_pod_runs_and_is_deleted(node: Node) -> None:
    await node.pod("web", shell("echo hello from $HOSTNAME; exec sleep 1000"))
    pod = await node.phase("web", "Running")
    status = pod["status"]
    assert status["podIP"] == "127.78.5.1"
    assert status["hostIP"] == "127.78.0.2"
    assert status["qosClass"] == "BestEffort"
    conditions = {one["type"]: one["status"] for one in status["conditions"]}
    assert conditions == dict.fromkeys(
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"], "True"
    )
    one = state(pod)
    assert (one["ready"], one["started"], one["restartCount"]) == (True, True, 0)
    assert one["containerID"].startswith("raykube-process://")
    await until(lambda: node.log("web") == "hello from web\n")
    await node.client.delete(PODS, "default", "web")
    await node.gone("web")
    await until(lambda: not list((node.root / "kubelet" / "pods").iterdir()), 5)
    assert not list(runtime_of(node).sandboxes())
    await node.event("Created", "Container created")
    await node.event("Started", "Container started")
    await node.event("Killing", "Stopping container c")


async def test_events_say_where_in_the_pod_a_container_stands(node: Node) -> None:
    await node.pod("p", shell("exec sleep 1000"), initContainers=[shell("true", name="first")])
    await node.phase("p", "Running")

    def started() -> list[str]:
        events = [obj for key, obj in node.store.objects.items() if key[0] == "events" and obj["reason"] == "Started"]
        return sorted(obj["involvedObject"]["fieldPath"] for obj in events)

    await until(lambda: len(started()) == 2)
    assert started() == ["spec.containers{c}", "spec.initContainers{first}"]


async def test_a_crashing_container_backs_off(node: Node) -> None:
    await node.pod("crash", shell("echo once more; exit 3"))
    pod = await node.sees(
        "crash", lambda pod: state(pod)["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
    )
    one = state(pod)
    assert one["state"]["waiting"]["message"] == (
        f"back-off 10s restarting failed container=c pod=crash_default({pod['metadata']['uid']})"
    )
    assert one["lastState"]["terminated"]["exitCode"] == 3
    assert one["restartCount"] == 1
    assert pod["status"]["phase"] == "Running"
    ready = next(one for one in pod["status"]["conditions"] if one["type"] == "Ready")
    assert (ready["status"], ready["reason"], ready["message"]) == (
        "False",
        "ContainersNotReady",
        "containers with unready status: [c]",
    )


@pytest.mark.parametrize(
    ("policy", "code", "phase", "reason"),
    [
        ("Never", 0, "Succeeded", "Completed"),
        ("OnFailure", 0, "Succeeded", "Completed"),
        ("Never", 4, "Failed", "Error"),
    ],
)
async def test_pods_that_end(node: Node, policy: str, code: int, phase: str, reason: str) -> None:
    await node.pod("job", shell(f"echo why > /dev/termination-log; exit {code}"), restartPolicy=policy)
    pod = await node.phase("job", phase)
    terminated = state(pod)["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"], terminated["message"]) == (code, reason, "why\n")
    await asyncio.sleep(0.3)
    assert state(await node.phase("job", phase))["restartCount"] == 0
    await node.client.delete(PODS, "default", "job")
    await node.gone("job")


async def test_init_containers_run_in_order(node: Node) -> None:
    await node.pod(
        "init",
        shell("cat /scratch/log; exec sleep 1000", volumeMounts=[{"name": "w", "mountPath": "/scratch"}]),
        initContainers=[
            shell("sleep 0.3; echo one >> /scratch/log", "a", volumeMounts=[{"name": "w", "mountPath": "/scratch"}]),
            shell("echo two >> /scratch/log", "b", volumeMounts=[{"name": "w", "mountPath": "/scratch"}]),
        ],
        volumes=[{"name": "w", "emptyDir": {}}],
    )
    pod = await node.phase("init", "Running")
    await until(lambda: node.log("init") == "one\ntwo\n")
    inits = pod["status"]["initContainerStatuses"]
    assert [one["state"]["terminated"]["reason"] for one in inits] == ["Completed", "Completed"]


async def test_a_failing_init_container_fails_the_pod(node: Node) -> None:
    await node.pod("bad", shell("sleep 1000"), initContainers=[shell("exit 5", "a")], restartPolicy="Never")
    pod = await node.phase("bad", "Failed")
    assert state(pod)["state"]["waiting"]["reason"] == "PodInitializing"


async def test_a_sidecar_ends_with_the_job(node: Node) -> None:
    await node.pod(
        "side",
        shell("sleep 0.3; exit 0"),
        initContainers=[
            shell("trap 'exit 0' TERM; while :; do sleep 0.05; done", "proxy") | {"restartPolicy": "Always"}
        ],
        restartPolicy="Never",
    )
    pod = await node.phase("side", "Succeeded")
    assert "terminated" in pod["status"]["initContainerStatuses"][0]["state"]


async def test_no_command(node: Node) -> None:
    await node.pod("nothing", {"name": "web", "image": "nginx"})
    pod = await node.sees(
        "nothing", lambda pod: state(pod)["state"].get("waiting", {}).get("reason") == "CreateContainerError"
    )
    assert state(pod)["state"]["waiting"]["message"] == (
        'the process runtime has no images: set "command" in container "web"'
    )


async def test_environment(node: Node) -> None:
    await node.client.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "cfg", "namespace": "default"},
            "data": {"k": "v", "j": "w"},
        }
    )
    await node.client.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "sec", "namespace": "default"},
            "data": {"p": "c2VjcmV0"},
        }
    )
    await node.pod(
        "env",
        shell(
            "echo $A $B $IP $NODE $K $P $PRE_j $CPU $$HOME",
            env=[
                {"name": "A", "value": "a"},
                {"name": "B", "value": "$(A)$(NOT)$$(A)"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "k"}}},
                {"name": "P", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "p"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            ],
            envFrom=[{"prefix": "PRE_", "configMapRef": {"name": "cfg"}}],
            resources={"limits": {"cpu": "250m"}},
        ),
        restartPolicy="Never",
    )
    await node.phase("env", "Succeeded")
    words = node.log("env").split()
    assert words[:8] == ["a", "a$(NOT)$(A)", "127.78.5.1", "n1", "v", "secret", "w", "250"]


async def test_a_missing_config_map_is_waited_for(node: Node) -> None:
    await node.pod(
        "wait",
        shell("echo $K", env=[{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "k"}}}]),
        restartPolicy="Never",
    )
    pod = await node.sees(
        "wait", lambda pod: state(pod)["state"].get("waiting", {}).get("reason") == "CreateContainerConfigError"
    )
    assert state(pod)["state"]["waiting"]["message"] == 'configmap "cfg" not found'
    await node.client.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "cfg", "namespace": "default"},
            "data": {"k": "late"},
        }
    )
    await node.phase("wait", "Succeeded")
    assert node.log("wait") == "late\n"


async def test_volumes_follow_their_objects(node: Node) -> None:
    config = await node.client.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "cfg", "namespace": "default"},
            "data": {"k": "old"},
        }
    )
    await node.pod(
        "vol",
        shell(
            "cat /token/token /token/ns; until grep -q new /cfg/k; do sleep 0.05; done; echo; cat /cfg/k",
            volumeMounts=[{"name": "cfg", "mountPath": "/cfg"}, {"name": "tok", "mountPath": "/token"}],
        ),
        volumes=[
            {"name": "cfg", "configMap": {"name": "cfg"}},
            {
                "name": "tok",
                "projected": {
                    "sources": [
                        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                        {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
                    ]
                },
            },
        ],
        restartPolicy="Never",
    )
    await node.phase("vol", "Running")
    await node.client.update(config | {"data": {"k": "new"}})
    await node.phase("vol", "Succeeded")
    assert node.log("vol").strip() == "token-of-defaultdefault\nnew"


async def test_readiness_and_liveness(node: Node) -> None:
    flag = node.root / "ready"
    await node.pod(
        "probed",
        shell(
            "exec sleep 1000",
            readinessProbe={"exec": {"command": ["test", "-e", str(flag)]}, "periodSeconds": 1},
            livenessProbe={
                "exec": {"command": ["test", "!", "-e", f"{flag}.dead"]},
                "periodSeconds": 1,
                "failureThreshold": 1,
            },
        ),
        terminationGracePeriodSeconds=1,
    )
    pod = await node.phase("probed", "Running")
    assert not state(pod)["ready"]
    await node.event("Unhealthy", "Readiness probe failed")
    flag.touch()
    await node.sees("probed", lambda pod: state(pod)["ready"])
    Path(f"{flag}.dead").touch()
    await node.sees("probed", lambda pod: state(pod)["restartCount"] == 1)
    os.unlink(f"{flag}.dead")
    await node.sees("probed", lambda pod: "running" in state(pod)["state"] and state(pod)["ready"], 30)
    await node.event("Killing", "Container c failed liveness probe, will be restarted")


async def test_http_probe_and_pod_addresses(node: Node) -> None:
    server = (
        "import http.server,os;"
        "http.server.HTTPServer((os.environ['IP'],8080),http.server.SimpleHTTPRequestHandler).serve_forever()"
    )
    for name in ("h1", "h2"):
        await node.pod(
            name,
            container(
                "python3",
                "-c",
                server,
                env=[{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                ports=[{"name": "http", "containerPort": 8080}],
                readinessProbe={"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 1},
            ),
        )
    for name in ("h1", "h2"):
        await node.sees(name, lambda pod: pod.get("status", {}).get("containerStatuses", [{}])[0].get("ready"))


WAIT = "while :; do sleep 0.05; done"


async def test_hooks_and_grace(node: Node) -> None:
    await node.pod(
        "hooks",
        shell(
            "trap 'echo term; exit 0' TERM; while :; do sleep 0.05; done",
            lifecycle={
                "postStart": {"exec": {"command": ["sh", "-c", f"echo post >> {node.root}/hooks"]}},
                "preStop": {"exec": {"command": ["sh", "-c", f"echo pre >> {node.root}/hooks"]}},
            },
        ),
    )
    await node.phase("hooks", "Running")
    await node.client.delete(PODS, "default", "hooks")
    await node.gone("hooks")
    assert (node.root / "hooks").read_text() == "post\npre\n"


async def test_a_sidecar_is_told_at_once_and_ends_last(node: Node) -> None:
    """The container ends when the sidecar's hook has run, and the sidecar only after it."""
    told, order = node.root / "told", node.root / "order"
    main = shell(f"trap 'until test -e {told}; do sleep 0.05; done; echo main >> {order}; exit 0' TERM; {WAIT}")
    sidecar = shell(
        f"trap 'echo sidecar >> {order}; exit 0' TERM; {WAIT}",
        "side",
        restartPolicy="Always",
        lifecycle={"preStop": {"exec": {"command": ["touch", str(told)]}}},
    )
    await node.pod("mesh", main, initContainers=[sidecar], terminationGracePeriodSeconds=20)
    await node.phase("mesh", "Running")
    await node.client.delete(PODS, "default", "mesh")
    await node.gone("mesh", 60)
    assert order.read_text().split() == ["main", "sidecar"]


async def test_a_second_deletion_shortens_the_grace(node: Node) -> None:
    await node.pod("stubborn", shell("trap '' TERM; while :; do sleep 0.05; done"), terminationGracePeriodSeconds=600)
    await node.phase("stubborn", "Running")
    await asyncio.sleep(0.3)
    await node.client.delete(PODS, "default", "stubborn")
    await asyncio.sleep(0.5)
    await node.client.delete(PODS, "default", "stubborn", grace_period_s=1)
    await node.gone("stubborn", 20)


async def test_forced_deletion(node: Node) -> None:
    await node.pod("forced", shell("trap '' TERM; while :; do sleep 0.05; done"), terminationGracePeriodSeconds=600)
    await node.phase("forced", "Running")
    await node.client.delete(PODS, "default", "forced", grace_period_s=0)
    await until(lambda: not list(runtime_of(node).sandboxes()), 20)


async def test_a_deletion_cuts_a_hook_short(node: Node) -> None:
    await node.pod(
        "hooked",
        shell("exec sleep 1000", lifecycle={"postStart": {"sleep": {"seconds": 600}}}),
        terminationGracePeriodSeconds=1,
    )
    await node.event("Started", "Container started")
    await node.client.delete(PODS, "default", "hooked")
    await node.gone("hooked")


async def test_active_deadline(node: Node) -> None:
    await node.pod("late", shell("exec sleep 1000"), activeDeadlineSeconds=1, terminationGracePeriodSeconds=1)
    pod = await node.phase("late", "Failed")
    assert pod["status"]["reason"] == "DeadlineExceeded"


async def test_a_pod_that_does_not_fit(node: Node) -> None:
    await node.pod("big", shell("true", resources={"requests": {"cpu": "1000"}}))
    pod = await node.phase("big", "Failed")
    assert pod["status"]["reason"] == "OutOfcpu"


async def test_the_kubelet_restarts(node: Node) -> None:
    await node.pod("stays", shell("exec sleep 1000"))
    await node.pod("leaves", shell("exec sleep 1000"))
    first = await node.phase("stays", "Running")
    await node.phase("leaves", "Running")
    await node.kubelet.stop()
    await node.runtime.stop()
    await node.client.delete(PODS, "default", "leaves", grace_period_s=0)
    await node.start_runtime()
    await node.start_kubelet()
    await until(lambda: len(list(runtime_of(node).sandboxes())) == 1, 20)
    pod = await node.phase("stays", "Running")
    assert state(pod)["containerID"] == state(first)["containerID"]
    assert state(pod)["restartCount"] == 0


async def test_containers_restart_while_no_apiserver_answers(node: Node) -> None:
    data = {"metadata": {"name": "cfg", "namespace": "default"}, "data": {"k": "known"}}
    await node.client.create({"apiVersion": "v1", "kind": "ConfigMap"} | data)
    gate = node.root / "gate"
    await node.pod(
        "alone",
        shell(
            f"echo $K; until test -e {gate}; do sleep 0.05; done; rm {gate}; exit 1",
            env=[{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "k"}}}],
        ),
    )
    await node.phase("alone", "Running")
    await node.api.stop()
    gate.touch()
    logs = node.root / "kubelet" / "logs" / "pods"
    await until(lambda: [path for path in logs.glob("*/c/1.log") if "known" in path.read_text()], 20)
    await node.api.start(int(node.address.rpartition(":")[2]))
    await node.sees("alone", lambda pod: state(pod)["restartCount"] == 1)


async def test_foreign_sandboxes_are_left_alone(node: Node) -> None:
    runtime = runtime_of(node)
    foreign = runtime.run_sandbox(
        cri_pb2.PodSandboxConfig(
            metadata=cri_pb2.PodSandboxMetadata(name="foreign", uid="foreign", namespace="x"),
            labels={"io.kubernetes.pod.uid": "foreign", "io.kubernetes.pod.name": "foreign"},
        )
    )
    await node.kubelet.stop()
    await node.start_kubelet()
    await node.pod("own", shell("true"), restartPolicy="Never")
    await node.phase("own", "Succeeded")
    await asyncio.sleep(0.5)
    assert foreign.id in {sandbox.id for sandbox in runtime.sandboxes()}


async def test_the_node(node: Node) -> None:
    await until(lambda: ("leases", "kube-node-lease", "n1") in node.store.objects, 10)
    status = node.store.objects["nodes", "", "n1"]["status"]
    assert {one["type"]: one["status"] for one in status["conditions"]} == {
        "MemoryPressure": "False",
        "DiskPressure": "False",
        "PIDPressure": "False",
        "Ready": "True",
    }
    assert all(
        status["nodeInfo"][name] for name in ("kernelVersion", "osImage", "machineID", "bootID", "kubeletVersion")
    )
    await node.runtime.stop()

    def ready() -> Object:
        conditions = node.store.objects["nodes", "", "n1"]["status"]["conditions"]
        found: Object = next(one for one in conditions if one["type"] == "Ready")
        return found

    await until(lambda: ready()["status"] == "False", 20)
    assert "container runtime is down" in ready()["message"]
    await node.event("NodeNotReady", "Node n1 status is now: NodeNotReady")
    await node.start_runtime()


async def lose(node: Node, name: str, *, everything: bool) -> None:
    """Takes a pod's container out of the runtime, or all that it has of the pod, as if it had never been."""
    runtime = runtime_of(node)
    (sandbox,) = [one for one in runtime.sandboxes() if one.config.metadata.name == name]
    if everything:
        await runtime.remove_sandbox(sandbox.id)
    else:
        for live in runtime.containers_of(sandbox.id):
            await runtime.remove_container(live.record.id)


@pytest.mark.parametrize("everything", [False, True])
async def test_a_container_that_the_runtime_has_lost_counts_as_ended(node: Node, everything: bool) -> None:
    runs = node.root / "runs"
    script = f"echo $0 >> {runs}; exec sleep 1000"
    await node.pod("once", container("sh", "-c", script, "once"), restartPolicy="Never")
    await node.pod("again", container("sh", "-c", script, "again"))
    for name in ("once", "again"):
        await node.phase(name, "Running")
    await until(lambda: runs.exists() and len(runs.read_text().split()) == 2)
    for name in ("once", "again"):
        await lose(node, name, everything=everything)
    ended = state(await node.phase("once", "Failed"))["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "ContainerStatusUnknown")
    one = state(await node.sees("again", lambda pod: state(pod)["restartCount"] == 1 and state(pod)["ready"]))
    assert "running" in one["state"]
    assert sorted(runs.read_text().split()) == ["again", "again", "once"]
    for name in ("once", "again"):
        await node.client.delete(PODS, "default", name)
        await node.gone(name)


async def test_a_status_names_no_container_to_be_removed(node: Node) -> None:
    await node.pod("other", shell("exec sleep 1000"))
    await node.phase("other", "Running")
    await node.pod("ends", shell("exit 0"), restartPolicy="Never")
    await node.phase("ends", "Succeeded")
    foreign = {"name": "x", "containerID": state(await node.client.get(PODS, "default", "other"))["containerID"]}
    change = {"status": {"ephemeralContainerStatuses": [foreign]}}
    await node.client.patch(PODS, "default", "ends", change, api_pb2.MERGE, "status")
    await node.client.delete(PODS, "default", "ends")
    await node.gone("ends")
    (live,) = runtime_of(node).containers()
    assert (live.config.metadata.name, live.state) == ("c", cri_pb2.CONTAINER_RUNNING)


async def test_what_has_ended_stays_so_though_the_runtime_has_lost_it(node: Node) -> None:
    """A kubelet that begins knows by the status alone that the first container is done, and the second was not."""
    runs = node.root / "runs"
    await node.pod("both", shell(f"echo >> {runs}; exit 3"), shell("exec sleep 1000", name="d"), restartPolicy="Never")
    await node.sees("both", lambda pod: "terminated" in state(pod)["state"] and state(pod, 1)["ready"])
    await node.kubelet.stop()
    await lose(node, "both", everything=True)
    await node.start_kubelet()
    pod = await node.phase("both", "Failed")
    assert [state(pod, index)["state"]["terminated"]["exitCode"] for index in (0, 1)] == [3, 137]
    assert len(runs.read_text().splitlines()) == 1


async def test_files_of_the_machine_may_be_in_any_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An administrator's name in a comment keeps no pod from starting."""
    resolver, hosts = tmp_path / "resolv.conf", tmp_path / "hosts"
    resolver.write_bytes(b"# J\xfcrgen\nnameserver 192.0.2.1\n")
    hosts.write_bytes(b"192.0.2.2 old # J\xfcrgen\n")
    monkeypatch.setattr("raykube.kubelet.volumes.pod_volumes.MACHINE_HOSTS", hosts)
    async with running_node(resolv_conf=resolver) as node:
        for name, on_host in (("own", False), ("host", True)):
            await node.pod(name, shell("exec sleep 1000"), hostNetwork=on_host, dnsPolicy="Default")
            await node.phase(name, "Running")
        files = [path.read_bytes() for path in (node.root / "kubelet" / "pods").glob("*/etc-hosts")]
        assert any(b"192.0.2.2 old # J\xfcrgen\n" in data for data in files)


async def test_a_long_termination_message_ends_as_it_was_written(node: Node) -> None:
    script = "printf 'begin%05000d-end' 0 > /dev/termination-log; exit 3"
    await node.pod("failed", shell(script), restartPolicy="Never")
    pod = await node.phase("failed", "Failed")
    message = state(pod)["state"]["terminated"]["message"]
    assert (len(message), message[-4:]) == (4096, "-end")


@pytest.mark.parametrize("flags", [{"capacity": "cpu=1"}])
async def test_what_came_while_the_kubelet_was_away_is_admitted_after_what_runs(
    node: Node, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kubelet that begins knows of a pod that runs by the pod's status, before the runtime has told of it."""
    size = {"resources": {"requests": {"cpu": "600m"}}}
    old = await node.pod("old", shell("exec sleep 1000", **size))
    await node.phase("old", "Running")
    await node.kubelet.stop()
    await node.pod("new", shell("exec sleep 1000", **size))
    observe, judged = Cri.observe, asyncio.Event()

    async def slow(cri: Cri, uid: str) -> ObservedPod:
        if uid == old["metadata"]["uid"]:
            await judged.wait()
        return await observe(cri, uid)

    monkeypatch.setattr(Cri, "observe", slow)
    await node.start_kubelet()
    await node.sees("new", lambda pod: pod.get("status", {}).get("phase") in ("Running", "Failed"))
    judged.set()
    new = await node.client.get(PODS, "default", "new")
    assert new["status"].get("reason") == "OutOfcpu", new["status"]
    await node.phase("old", "Running")


async def test_extended_resources_that_an_administrator_states(node: Node) -> None:
    """What somebody adds to a node's capacity can be asked for, and is gone from both when it is taken away."""
    nodes = builtin("v1", "Node")

    def stated() -> list[str | None]:
        status = node.store.objects["nodes", "", "n1"].get("status", {})
        return [(status.get(kind) or {}).get("example.com/dongle") for kind in ("capacity", "allocatable")]

    def writes() -> int:
        return sum(op.resource.plural == "nodes" for op in node.store.operations)

    await node.client.patch(
        nodes, "", "n1", {"status": {"capacity": {"example.com/dongle": "4"}}}, api_pb2.MERGE, "status"
    )
    await until(lambda: stated() == ["4", "4"], what="the kubelet offers it")
    before = writes()
    for _ in range(3):
        await node.parts.node._report()
    assert writes() == before  # nothing changed
    await node.client.patch(
        nodes, "", "n1", {"status": {"capacity": {"example.com/dongle": None}}}, api_pb2.MERGE, "status"
    )
    await until(lambda: stated() == [None, None], what="the kubelet offers it no more")


async def test_a_node_is_not_written_for_the_order_of_its_conditions(node: Node) -> None:
    """A cloud's or a network's condition may be the first: a patch leaves each where it stands."""
    nodes = builtin("v1", "Node")
    await until(lambda: node.store.objects["nodes", "", "n1"].get("status", {}).get("conditions"))
    conditions = node.store.objects["nodes", "", "n1"]["status"]["conditions"]
    change = {"conditions": [{"type": "NetworkUnavailable", "status": "False"}, *reversed(conditions)]}
    await node.client.patch(nodes, "", "n1", {"status": change}, api_pb2.MERGE, "status")
    for _ in range(2):
        await node.parts.node._report()  # the first may have begun before
        before = sum(op.resource.plural == "nodes" for op in node.store.operations)
    for _ in range(3):
        await node.parts.node._report()
    assert sum(op.resource.plural == "nodes" for op in node.store.operations) == before


async def test_events_of_a_node_that_is_cordoned(node: Node) -> None:
    for is_set in (True, False):
        change = {"spec": {"unschedulable": is_set}}
        await node.client.patch(builtin("v1", "Node"), "", "n1", change, api_pb2.MERGE)
        state = "NodeNotSchedulable" if is_set else "NodeSchedulable"
        await node.event(state, f"Node n1 status is now: {state}", 20)


async def test_events_of_a_node_that_comes_back(node: Node) -> None:
    key = ("nodes", "", "n1")

    def ready() -> bool:
        conditions = node.store.objects.get(key, {}).get("status", {}).get("conditions", ())
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    await until(ready, 20, "the node is ready")
    await node.kubelet.stop()
    # Another boot, and a machine that was silent for a while.
    found = await node.client.get(builtin("v1", "Node"), "", "n1")
    boot = found["status"]["nodeInfo"]["bootID"]
    silent = [one | {"status": "Unknown"} for one in found["status"]["conditions"]]
    change = {"conditions": silent, "nodeInfo": {"bootID": "another"}}
    await node.client.patch(builtin("v1", "Node"), "", "n1", {"status": change}, api_pb2.MERGE, "status")
    for name in [name for name in node.store.objects if name[0] == "events"]:
        del node.store.objects[name]
    await node.start_kubelet()
    await node.event("Rebooted", f"Node n1 has been rebooted, boot id: {boot}")
    for reason in ("NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"):
        await node.event(reason, f"Node n1 status is now: {reason}")
    counts = {obj["reason"]: obj.get("count", 1) for name, obj in node.store.objects.items() if name[0] == "events"}
    assert counts["NodeReady"] == counts["NodeHasNoDiskPressure"] == counts["Rebooted"] == 1
