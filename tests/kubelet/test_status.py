"""Pod statuses on their way to the apiserver, with what goes wrong there."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from raykube.api.errors import ApiError
from raykube.pb import api_pb2
from tests.kit.waiting import until
from tests.kubelet.conftest import PODS, Node, Object, shell

pytestmark = pytest.mark.integration


def ready(pod: Object) -> str:
    conditions = pod.get("status", {}).get("conditions") or []
    return next((one["status"] for one in conditions if one["type"] == "Ready"), "")


async def mark_not_ready(node: Node, name: str, **more: Any) -> None:
    """What the node-lifecycle controller does to the pods of a silent node."""
    pod = await node.client.get(PODS, "default", name)
    conditions = [one | ({"status": "False"} if one["type"] == "Ready" else {}) for one in pod["status"]["conditions"]]
    status = {"conditions": conditions} | more
    await node.client.patch(PODS, "default", name, {"status": status}, api_pb2.MERGE, "status")


async def test_what_another_wrote_is_put_right(node: Node) -> None:
    await node.pod("web", shell("exec sleep 1000"))
    await node.sees("web", lambda pod: ready(pod) == "True")
    for _ in range(3):
        await mark_not_ready(node, "web", hostIP="1.2.3.4")
        pod = await node.sees("web", lambda pod: ready(pod) == "True", 5)
        assert pod["status"]["hostIP"] == "127.78.0.2"


async def test_a_foreign_condition_stays_and_is_not_written_again(node: Node) -> None:
    await node.pod("web", shell("exec sleep 1000"), readinessGates=[{"conditionType": "example.com/gate"}])
    await node.sees("web", lambda pod: pod.get("status", {}).get("phase") == "Running")
    for value, expected in (("True", "True"), ("False", "False"), ("True", "True")):
        pod = await node.client.get(PODS, "default", "web")
        others = [one for one in pod["status"]["conditions"] if one["type"] != "example.com/gate"]
        gate = {"type": "example.com/gate", "status": value}
        status = {"conditions": [*others, gate]}
        await node.client.patch(PODS, "default", "web", {"status": status}, api_pb2.MERGE, "status")

        def settled(pod: Object, value: str = value, expected: str = expected) -> bool:
            gates = [one["status"] for one in pod["status"]["conditions"] if one["type"] == "example.com/gate"]
            return gates == [value] and ready(pod) == expected

        await node.sees("web", settled, 5)
    revision = (await node.client.get(PODS, "default", "web"))["metadata"]["resourceVersion"]
    await asyncio.sleep(1.5)  # longer than a round of the kubelet: nothing may be written in it
    assert (await node.client.get(PODS, "default", "web"))["metadata"]["resourceVersion"] == revision


@pytest.mark.parametrize("plural", ["pods", "nodes"])
async def test_a_condition_that_is_not_seen_yet_is_not_lost(
    node: Node, plural: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain says why a pod goes, a network that a node has it: once, and perhaps just before the kubelet writes."""
    foreign = {"type": "DisruptionTarget" if plural == "pods" else "NetworkUnavailable", "status": "True"}
    write, added = node.store.write, []

    def after_another(op: api_pb2.Operation) -> Object:
        wanted = op.resource.plural == plural and op.subresource == "status" and b'"conditions"' in op.body
        if wanted and not added:
            added.append(op)
            key = (plural, op.namespace, op.name)
            status = node.store.objects[key].get("status", {})
            conditions = [*status.get("conditions", []), foreign]
            node.store.put(key, node.store.objects[key] | {"status": status | {"conditions": conditions}})
        return write(op)

    monkeypatch.setattr(node.store, "write", after_another)
    await node.pod("web", shell("exec sleep 1000"))
    await node.sees("web", lambda pod: ready(pod) == "True")

    def written() -> bool:
        node.parts.node._reported_at = 0.0
        node.parts.node.wake()
        return bool(added)

    await until(written, what="a status is written")
    (found,) = [obj for key, obj in node.store.objects.items() if key[0] == plural]
    assert foreign in found["status"]["conditions"]


@pytest.mark.parametrize("code", [403, 422])
async def test_a_status_that_was_refused_is_written_again(
    node: Node, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An authorizer that has not heard of the pod yet, an admission webhook: the next try may be let in."""
    monkeypatch.setattr("raykube.kubelet.statuswriter.REFUSED_S", 0.1)
    write, refused = node.store.write, []

    def refuses(op: api_pb2.Operation) -> Object:
        if op.resource.plural == "pods" and op.subresource == "status" and len(refused) < 3:
            refused.append(op)
            raise ApiError(code, "Forbidden", "not yet")
        return write(op)

    monkeypatch.setattr(node.store, "write", refuses)
    await node.pod("web", shell("exec sleep 1000"))
    await node.sees("web", lambda pod: ready(pod) == "True")
    assert len(refused) == 3


@pytest.mark.parametrize("lost", [1, 3])
async def test_lost_answers(node: Node, lost: int) -> None:
    await node.pod("web", shell("exec sleep 1000"))
    await node.sees("web", lambda pod: ready(pod) == "True")
    node.api.lose_answers = lost
    with_answer: Callable[[], bool] = lambda: node.api.lose_answers == 0  # noqa: E731 - a name for the condition
    node.store.put(
        ("pods", "default", "web"),
        node.store.objects["pods", "default", "web"] | {"status": {"phase": "Pending"}},
    )
    async with node.store.changed:
        node.store.changed.notify_all()
    await until(with_answer, 20)
    await node.sees("web", lambda pod: ready(pod) == "True" and pod["status"]["phase"] == "Running")
