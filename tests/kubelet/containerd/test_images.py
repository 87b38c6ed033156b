"""Images on containerd: pull policies, credentials, failures and their back-off, names."""

import base64
import json
from collections.abc import Iterator

import pytest

from tests.kit import images
from tests.kit.containerd import Containerd
from tests.kit.registry import Registry
from tests.kit.waiting import until
from tests.kubelet.conftest import Object, shell, state
from tests.kubelet.containerd.conftest import ContainerdNode

pytestmark = pytest.mark.integration


@pytest.fixture
def registry(containerd: Containerd) -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture
def locked(containerd: Containerd) -> Iterator[Registry]:
    with Registry(password="secret") as registry:
        yield registry


def waiting(pod: Object) -> tuple[str, str]:
    found = state(pod)["state"].get("waiting", {})
    return found.get("reason", ""), found.get("message", "")


def sleeper(image: str, policy: str = "IfNotPresent", name: str = "c") -> Object:
    return shell("exec sleep 1000", name, image=image, imagePullPolicy=policy)


async def test_pull_policies(node: ContainerdNode, registry: Registry) -> None:
    name = registry.add(images.build("policy/app:1", files={"/version": b"1"}))
    await node.pod("first", sleeper(name))
    await node.phase("first", "Running")
    await node.event("Pulling", f'Pulling image "{name}"')
    await node.event("Pulled", f'Successfully pulled image "{name}" in ')
    assert registry.pulls("policy/app") > 0
    before = registry.pulls("policy/app")
    await node.pod("second", sleeper(name))
    await node.phase("second", "Running")
    await node.event("Pulled", f'Container image "{name}" already present on machine and can be accessed by the pod')
    assert registry.pulls("policy/app") == before
    # The tag moves: who pulls always gets the new one, who need not keeps what is there.
    registry.add(images.build("policy/app:1", files={"/version": b"2"}))
    script = shell("cat /version", image=name, imagePullPolicy="Always")
    await node.pod("third", script, restartPolicy="Never")
    await node.phase("third", "Succeeded")
    assert node.log("third") == "2\n"
    assert registry.pulls("policy/app") > before


async def test_never(node: ContainerdNode) -> None:
    await node.pod("never", sleeper("example.test/none:1", "Never"))
    pod = await node.sees("never", lambda pod: waiting(pod)[0] == "ErrImageNeverPull")
    message = 'Container image "example.test/none:1" is not present with pull policy of Never'
    assert waiting(pod) == ("ErrImageNeverPull", message)
    assert pod["status"]["phase"] == "Pending"
    await node.event("ErrImageNeverPull", message)
    await node.event("Failed", "Error: ErrImageNeverPull")
    node.containerd.import_image(images.build("example.test/none:1"))
    await node.phase("never", "Running")  # it is looked for again


async def test_an_image_that_is_nowhere(node: ContainerdNode, registry: Registry) -> None:
    name = f"{registry.host}/no/such:1"
    await node.pod("nowhere", sleeper(name))
    pod = await node.sees("nowhere", lambda pod: waiting(pod)[0] == "ErrImagePull")
    why = waiting(pod)[1]
    assert why.startswith("rpc error: code = NotFound desc = failed to pull and unpack image"), why
    pod = await node.sees("nowhere", lambda pod: waiting(pod)[0] == "ImagePullBackOff")
    assert waiting(pod)[1] == f'Back-off pulling image "{name}": ErrImagePull: {why}'
    await node.event("Failed", f'Failed to pull image "{name}": {why}')
    await node.event("Failed", "Error: ErrImagePull")
    await node.event("BackOff", f'Back-off pulling image "{name}"')
    await node.event("Failed", "Error: ImagePullBackOff")
    registry.add(images.build("no/such:1"))
    await node.phase("nowhere", "Running")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Upper/Case", "invalid reference format: repository name (Case) must be lowercase"),
        ("busybox:bad:tag", "invalid reference format"),
    ],
)
async def test_a_name_that_none_can_have(node: ContainerdNode, name: str, why: str) -> None:
    await node.pod("odd", sleeper(name))
    pod = await node.sees("odd", lambda pod: waiting(pod)[0] == "InvalidImageName")
    assert waiting(pod)[1] == f'Failed to apply default image tag "{name}": couldn\'t parse image name "{name}": {why}'


async def secret(node: ContainerdNode, name: str, host: str, user: str, password: str) -> None:
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    document = json.dumps({"auths": {host: {"auth": auth}}}).encode()
    await node.client.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": "default"},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": base64.b64encode(document).decode()},
        }
    )


async def test_pull_secrets(node: ContainerdNode, locked: Registry) -> None:
    name = locked.add(images.build("private/app:1"))
    await node.pod("stranger", sleeper(name), imagePullSecrets=[{"name": "absent"}])
    await node.sees("stranger", lambda pod: waiting(pod)[0] in ("ErrImagePull", "ImagePullBackOff"))
    await node.event(
        "FailedToRetrieveImagePullSecret",
        "Unable to retrieve some image pull secrets (absent); attempting to pull the image may not succeed.",
    )
    await secret(node, "wrong", locked.host, "user", "guess")
    await secret(node, "right", f"https://{locked.host}/v2/", "user", "secret")
    # All that fit are tried: the wrong one does not stand in the way.
    await node.pod("friend", sleeper(name), imagePullSecrets=[{"name": "wrong"}, {"name": "right"}])
    await node.phase("friend", "Running")


async def test_one_image_under_several_names(node: ContainerdNode) -> None:
    image = images.build("docker.io/library/twice:latest", files={"/twice": b"here"})
    node.containerd.import_image(image)
    node.containerd.ctr("-n", "k8s.io", "images", "tag", image.name, "example.test/alias:7")
    for number, name in enumerate(("twice", "library/twice", "docker.io/library/twice:latest", "example.test/alias:7")):
        await node.pod(f"name{number}", shell("cat /twice", image=name, imagePullPolicy="Never"), restartPolicy="Never")
        await node.phase(f"name{number}", "Succeeded")
        assert node.log(f"name{number}") == "here\n"


@pytest.mark.parametrize("flags", [{"serialize_image_pulls": True}, {"serialize_image_pulls": False}])
async def test_pulls_one_after_the_other_or_at_once(node: ContainerdNode, registry: Registry) -> None:
    parallel = not node.flags["serialize_image_pulls"]
    paths = [f"many{parallel:d}/app{number}" for number in range(2)]
    names = [registry.add(images.build(f"{path}:1", files={"/path": path.encode()})) for path in paths]
    registry.gate.clear()
    for number, name in enumerate(names):
        await node.pod(f"p{number}", sleeper(name))
    for number in range(2):
        await node.event("Pulling", f'Pulling image "{names[number]}"')

    def asked() -> int:
        return sum(registry.pulls(path) > 0 for path in paths)

    await until(lambda: asked() == (2 if parallel else 1))
    assert asked() == (2 if parallel else 1)
    registry.gate.set()
    for number in range(2):
        await node.phase(f"p{number}", "Running")


async def test_a_deletion_ends_a_pull(node: ContainerdNode, registry: Registry) -> None:
    name = registry.add(images.build("slow/app:1", files={"/slow": b"1"}))
    registry.gate.clear()
    await node.pod("slow", sleeper(name))
    await node.event("Pulling", f'Pulling image "{name}"')
    await until(lambda: registry.pulls("slow/app") > 0)
    await node.empty()
    assert node.containerd.tasks() == {}
