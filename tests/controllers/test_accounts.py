"""Namespaces and what every one of them has: accounts, token Secrets, the root CA; and Jobs' time to live."""

from base64 import b64decode
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from raykube.base.clock import rfc3339
from raykube.controllers.caches import resource_table
from raykube.controllers.core import kinds
from raykube.controllers.core.namespaces import NamespaceController
from raykube.controllers.core.plan import Obj
from raykube.controllers.core.root_ca import RootCaPublisher
from raykube.controllers.core.serviceaccounts import ServiceAccountsController
from raykube.controllers.core.token_secrets import TokenSecretsController
from raykube.controllers.core.ttl import TtlController
from raykube.controllers.signing import signer
from tests.controllers.model import Cluster, Running


def namespace(cluster: Cluster, name: str) -> Obj:
    return cluster.add(kinds.NAMESPACES, {"metadata": {"name": name}, "spec": {"finalizers": ["kubernetes"]}})


def secret(cluster: Cluster, name: str = "token") -> Obj:
    annotations = {"kubernetes.io/service-account.name": "robot"}
    metadata = {"name": name, "annotations": annotations}
    return cluster.add(kinds.SECRETS, {"metadata": metadata, "type": "kubernetes.io/service-account-token"})


def test_every_namespace_has_a_default_account() -> None:
    cluster = Cluster()
    namespace(cluster, "a")
    running = Running(cluster, [ServiceAccountsController()])
    running.start()
    running.run()
    namespace(cluster, "b")
    running.run()
    accounts = {obj["metadata"]["namespace"] for obj in cluster.all(kinds.SERVICE_ACCOUNTS)}
    assert accounts == {"a", "b"}
    cluster.remove(kinds.SERVICE_ACCOUNTS, "default", "a")
    running.run()
    assert cluster.get(kinds.SERVICE_ACCOUNTS, "a", "default") is not None
    cluster.remove(kinds.NAMESPACES, "b")
    cluster.remove(kinds.SERVICE_ACCOUNTS, "default", "b")
    running.run()
    assert cluster.get(kinds.SERVICE_ACCOUNTS, "b", "default") is None


def test_every_namespace_has_the_root_ca() -> None:
    cluster = Cluster()
    namespace(cluster, "a")
    running = Running(cluster, [RootCaPublisher("PEM")])
    running.start()
    running.run()
    cluster.change(kinds.CONFIG_MAPS, "kube-root-ca.crt", lambda obj: obj.update(data={"x": "y"}), "a")
    running.run()
    found = cluster.get(kinds.CONFIG_MAPS, "a", "kube-root-ca.crt")
    assert found is not None and found["data"] == {"ca.crt": "PEM"}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    key = rsa.generate_private_key(65537, 2048)
    path = tmp_path_factory.mktemp("sa") / "sa.key"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(path)


def test_token_secrets_are_filled_and_go_with_their_account(key_file: str) -> None:
    cluster = Cluster()
    account = cluster.add(kinds.SERVICE_ACCOUNTS, {"metadata": {"name": "robot"}})
    secret(cluster)
    controller = TokenSecretsController(signer(Path(key_file)), "PEM")
    running = Running(cluster, [controller])
    running.start()
    running.run()
    found = cluster.get(kinds.SECRETS, "default", "token")
    assert found is not None
    data = {name: b64decode(value).decode() for name, value in found["data"].items()}
    assert data["ca.crt"] == "PEM" and data["namespace"] == "default"
    public = serialization.load_pem_private_key(Path(key_file).read_bytes(), None).public_key()
    claims = jwt.decode(data["token"], public, ["RS256"])  # type: ignore[arg-type]  # an RSA key
    assert claims["sub"] == "system:serviceaccount:default:robot"
    assert claims["kubernetes.io/serviceaccount/service-account.uid"] == account["metadata"]["uid"]
    cluster.vanish(kinds.SERVICE_ACCOUNTS, account)
    running.run()
    assert not cluster.all(kinds.SECRETS)


def test_a_new_account_of_the_same_name_gets_no_old_token(key_file: str) -> None:
    cluster = Cluster()
    account = cluster.add(kinds.SERVICE_ACCOUNTS, {"metadata": {"name": "robot"}})
    secret(cluster)
    running = Running(cluster, [TokenSecretsController(signer(Path(key_file)), "")])
    running.start()
    running.run()
    cluster.vanish(kinds.SERVICE_ACCOUNTS, account)
    cluster.add(kinds.SERVICE_ACCOUNTS, {"metadata": {"name": "robot"}})
    running.run()
    assert not cluster.all(kinds.SECRETS)


def test_a_deleted_namespace_is_emptied_then_goes() -> None:
    cluster = Cluster()
    namespace(cluster, "a")
    cluster.add(kinds.CONFIG_MAPS, {"metadata": {"name": "c", "namespace": "a"}})
    held = {"name": "d", "namespace": "a", "finalizers": ["example.com/hold"]}
    cluster.add(kinds.CONFIG_MAPS, {"metadata": held})
    cluster.add(kinds.CONFIG_MAPS, {"metadata": {"name": "c", "namespace": "default"}})
    running = Running(cluster, [NamespaceController(resource_table())])
    running.start()
    running.run()
    assert len(cluster.all(kinds.CONFIG_MAPS)) == 3
    cluster.remove(kinds.NAMESPACES, "a")
    running.advance(5)
    (found,) = cluster.all(kinds.NAMESPACES)
    messages = {each["type"]: each["message"] for each in found["status"]["conditions"]}
    assert messages["NamespaceContentRemaining"] == (
        "Some resources are remaining: configmaps. has 1 resource instances"
    )
    assert "example.com/hold in 1 resource instances" in messages["NamespaceFinalizersRemaining"]
    cluster.vanish(kinds.CONFIG_MAPS, cluster.objects[kinds.CONFIG_MAPS]["a", "d"])
    running.advance(5)
    assert not cluster.all(kinds.NAMESPACES)
    assert [obj["metadata"]["namespace"] for obj in cluster.all(kinds.CONFIG_MAPS)] == ["default"]


def test_a_namespace_keeps_all_else_until_its_last_pod_is_gone() -> None:
    cluster = Cluster()
    namespace(cluster, "a")
    cluster.add(kinds.CONFIG_MAPS, {"metadata": {"name": "c", "namespace": "a"}})
    spec = {"nodeName": "n", "containers": []}
    pod = cluster.add(kinds.PODS, {"metadata": {"name": "p", "namespace": "a"}, "spec": spec, "status": {}})
    running = Running(cluster, [NamespaceController(resource_table())])
    running.start()
    cluster.remove(kinds.NAMESPACES, "a")
    running.advance(5)
    (found,) = cluster.all(kinds.PODS)
    assert found["metadata"].get("deletionTimestamp") and cluster.all(kinds.CONFIG_MAPS)
    (room,) = cluster.all(kinds.NAMESPACES)
    messages = {each["type"]: each["message"] for each in room["status"]["conditions"]}
    assert messages["NamespaceContentRemaining"] == "Some resources are remaining: pods. has 1 resource instances"
    cluster.vanish(kinds.PODS, pod)
    running.advance(5)
    assert not cluster.all(kinds.CONFIG_MAPS) and not cluster.all(kinds.NAMESPACES)


def test_finished_jobs_go_after_their_time_to_live() -> None:
    cluster = Cluster()
    stamp = rfc3339(cluster.now)
    done = {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": stamp}]}
    cluster.add(kinds.JOBS, {"metadata": {"name": "done"}, "spec": {"ttlSecondsAfterFinished": 60}, "status": done})
    cluster.add(kinds.JOBS, {"metadata": {"name": "kept"}, "spec": {}, "status": done})
    cluster.add(kinds.JOBS, {"metadata": {"name": "runs"}, "spec": {"ttlSecondsAfterFinished": 0}})
    running = Running(cluster, [TtlController()])
    running.start()
    running.advance(59)
    assert len(cluster.all(kinds.JOBS)) == 3
    running.advance(1)
    assert {obj["metadata"]["name"] for obj in cluster.all(kinds.JOBS)} == {"kept", "runs"}
