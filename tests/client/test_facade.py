"""`raykube.Client` against a real store and apiserver: apply, bulk, read, watch, wait."""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

import raykube
from raykube.api.errors import ApiError
from raykube.client.goals import Unreachable
from raykube.client.kubeconfig import KubeconfigError
from raykube.client.outcomes import BulkError
from raykube.client.waiting import WaitTimeout
from tests.kit import pki
from tests.kit.apiservers import ADMIN, Apiservers

T = TypeVar("T")

WEB = """
apiVersion: v1
kind: ConfigMap
metadata: {name: page, namespace: shop}
data: {index.html: hello}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: "example.com/web:1", command: [serve]}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
"""


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": data}


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Apiservers]:
    async with Apiservers(tmp_path) as servers:
        yield servers


def kubeconfig(folder: Path, address: str) -> Path:
    tls = pki.tls(*ADMIN)
    encode: Callable[[Path], str] = lambda path: base64.b64encode(path.read_bytes()).decode()  # noqa: E731  # short
    extension = {"name": "raykube.io/grpc", "extension": {"servers": [address]}}
    cluster = {
        "server": "https://x",
        "certificate-authority-data": encode(tls.ca_file),
        "extensions": [extension],
    }
    user = {"client-certificate-data": encode(tls.cert_file), "client-key-data": encode(tls.key_file)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(config))
    return path


async def in_thread(servers: Apiservers, work: Callable[[raykube.Client], T]) -> T:
    """Runs `work(client)` beside the servers' event loop, as a program would beside the cluster."""

    def run() -> T:
        with raykube.Client(endpoints=[servers.address("grpc")], tls=pki.tls(*ADMIN)) as client:
            return work(client)

    return await asyncio.to_thread(run)


async def test_apply_makes_what_is_missing_and_changes_what_is_there(servers: Apiservers) -> None:
    def work(client: raykube.Client) -> None:
        applied = client.apply(WEB)
        assert [obj.kind for obj in applied] == ["ConfigMap", "Deployment", "Namespace"]
        uid = applied[1].uid
        (again,) = client.apply(WEB.split("---")[1].replace("replicas: 2", "replicas: 3"))
        assert again.uid == uid
        assert again.get("spec.replicas") == 3
        assert client.scale("deploy/web", replicas=5, namespace="shop").get("spec.replicas") == 5
        assert client.get("deployments.apps", "web", namespace="shop").get("spec.replicas") == 5

    await in_thread(servers, work)


async def test_thousands_in_one_call_and_what_failed_among_them(servers: Apiservers) -> None:
    def work(client: raykube.Client) -> None:
        made = client.create_many(config_map(f"m{number}", n=str(number)) for number in range(3000))
        assert [obj.name for obj in made] == [f"m{number}" for number in range(3000)]
        with pytest.raises(BulkError) as failed:
            client.create_many([config_map("new"), config_map("m7")])
        assert list(failed.value.errors) == [1]
        assert failed.value.objects[0].name == "new"
        with pytest.raises(ApiError, match='configmaps "m7" already exists'):
            client.create_many([config_map("m7")])
        assert len(client.list("cm")) == 3001
        assert client.patch("cm", "m7", {"data": {"x": "y"}}, patch_type="merge").get("data.x") == "y"
        assert client.delete("cm/m7") == 1
        with pytest.raises(ApiError, match='configmaps "m7" not found'):
            client.delete("cm/m7")
        assert client.delete("cm/m7", missing_ok=True) == 0

    await in_thread(servers, work)


async def test_a_watch_ends_in_time_whatever_came_before_and_says_when_it_is_refused(servers: Apiservers) -> None:
    def work(client: raykube.Client) -> None:
        client.create_many([config_map("a")])
        assert [change.object.name for change in client.watch("configmaps", timeout=0.5)] == ["a"]
        with pytest.raises(ApiError) as caught:
            list(client.watch("configmaps", field_selector="spec.nonsense=1", timeout=30))
        assert caught.value.code == 400

    await in_thread(servers, work)


async def test_a_watch_that_is_not_read_ends_at_its_bound(servers: Apiservers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykube.client.watching.CHANGES_MAX", 5)

    def work(client: raykube.Client) -> None:
        client.create_many([config_map(f"before-{number}") for number in range(20)])
        changes = client.watch("configmaps", timeout=30)
        assert next(changes).type == "ADDED"
        client.create_many([config_map(f"after-{number}") for number in range(20)])
        with pytest.raises(BufferError, match="configmaps"):
            list(changes)

    await in_thread(servers, work)


async def test_watch_and_wait(servers: Apiservers) -> None:
    def work(client: raykube.Client) -> None:
        client.create_many([config_map("a")])
        seen = []

        def later() -> None:
            client.create_many([config_map("b")])
            client.delete("cm", "a")

        timer = threading.Timer(0.3, later)
        timer.start()
        for change in client.watch("configmaps", timeout=20):
            seen.append((change.type, change.object.name))
            if change.type == "DELETED":
                break
        timer.join()
        assert seen == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a")]
        timer = threading.Timer(0.3, lambda: client.create_many([config_map("c")]))
        timer.start()
        (found,) = client.wait("cm/c", "exists", timeout=20)
        timer.join()
        assert found.name == "c"
        with pytest.raises(WaitTimeout, match="configmap/nobody"):
            client.wait("cm/nobody", "exists", timeout=0.5)
        for goal in ("Ready", None, lambda obj: True):
            with pytest.raises(ApiError, match='configmaps "nobody" not found'):
                client.wait(["cm/b", "cm/nobody"], goal, timeout=5)
        assert client.wait("cm/nobody", "deleted", timeout=5) == []
        client.wait(["cm/b", "cm/c"], lambda obj: obj.kind == "ConfigMap", timeout=5)
        client.delete("cm", "b")
        assert client.wait("cm/b", "deleted", timeout=5) is not None

    await in_thread(servers, work)


async def test_wait_reads_conditions_and_knows_when_it_is_in_vain(servers: Apiservers) -> None:
    pod_spec = {"restartPolicy": "Never", "containers": [{"name": "m", "image": "i", "command": ["x"]}]}
    job = {
        "kind": "Job",
        "apiVersion": "batch/v1",
        "metadata": {"name": "sums"},
        "spec": {"template": {"spec": pod_spec}},
    }

    def work(client: raykube.Client) -> None:
        client.create_many([job])
        failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "no more"}
        target = {"type": "FailureTarget", "status": "True", "reason": "BackoffLimitExceeded", "message": "no more"}
        timer = threading.Timer(
            0.3,
            lambda: client.patch(
                "job",
                "sums",
                {"status": {"failed": 1, "startTime": "2027-01-15T08:00:00Z", "conditions": [target, failed]}},
                patch_type="merge",
                subresource="status",
            ),
        )
        timer.start()
        with pytest.raises(Unreachable, match="BackoffLimitExceeded"):
            client.wait("job/sums", "Complete", timeout=20)
        timer.join()

    await in_thread(servers, work)


async def test_from_a_kubeconfig_and_its_certificates_are_removed(servers: Apiservers, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, servers.address("grpc"))

    def work() -> Path:
        with raykube.Client(path) as client:
            folder = client._connection.folder
            assert folder is not None
            assert folder.stat().st_mode & 0o777 == 0o700
            assert client.get("ns/default").name == "default"
        return folder

    folder = await asyncio.to_thread(work)
    assert not folder.exists()


def test_what_a_kubeconfig_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(KubeconfigError, match="raykube up"):
        raykube.Client()
    path = kubeconfig(tmp_path, "127.0.0.1:1")
    with pytest.raises(KubeconfigError, match="no context 'other'"):
        raykube.Client(path, "other")
    path.write_text(path.read_text().replace("raykube.io/grpc", "somebody.else/grpc"))
    with pytest.raises(KubeconfigError, match=r"no raykube cluster.*raykube\.io/grpc"):
        raykube.Client(path)


async def test_a_closed_client_says_so(servers: Apiservers) -> None:
    def work(client: raykube.Client) -> None:
        client.close()
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            client.list("pods")

    await in_thread(servers, work)
