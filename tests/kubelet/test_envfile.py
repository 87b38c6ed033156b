"""Variables out of files that another container left."""

import pytest

from raykube.kubelet.core.envfile import value_in
from tests.kubelet.conftest import Node, shell, state

GOOD = """
# a comment = 'no'
ONE='1'
  TWO='two words' # and a comment
LINES='first
second # still inside
third'
EMPTY= 'not this'
NONE=''
ONE='later'
LAST='end'"""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ONE", "1"),
        ("TWO", "two words"),
        ("LINES", "first\nsecond # still inside\nthird"),
        ("EMPTY", ""),
        ("NONE", ""),
        ("LAST", "end"),
        ("ABSENT", None),
        ("# a comment ", None),
    ],
)
def test_values(key: str, value: str | None) -> None:
    assert value_in(GOOD, key) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("A='1'\nsecret", "line 2: missing '='"),
        ("='1'", "line 1: empty variable name"),
        ("A ='1'", "line 1: whitespace before '=' is not allowed"),
        ("A='x\ny'\nB=secret", "line 3: value must be enclosed in single quotes"),
        ("\n\nB='secret", "line 3: unclosed single quote"),
        ("B='1' secret", "line 1: unexpected content after closing quote"),
    ],
)
def test_what_cannot_be_read(text: str, why: str) -> None:
    with pytest.raises(ValueError, match="invalid environment variable format at ") as failure:
        value_in(text, "KEY")
    assert str(failure.value).endswith(why)
    assert "secret" not in str(failure.value)


@pytest.mark.integration
async def test_an_init_container_says_what_a_container_gets(node: Node) -> None:
    volumes = [{"name": "v", "emptyDir": {}}]
    mounts = [{"name": "v", "mountPath": "/v"}]
    init = shell("echo \"A='from a file'\" > /v/env; ln -s /etc/hostname /v/out", "init", volumeMounts=mounts)

    def variable(name: str, path: str, key: str, optional: bool = False) -> dict[str, object]:
        reference = {"volumeName": "v", "path": path, "key": key, "optional": optional}
        return {"name": name, "valueFrom": {"fileKeyRef": reference}}

    env = [variable("A", "env", "A"), variable("B", "env", "B", True), variable("C", "none", "C", True)]
    main = shell("echo $A $D ${B-unset} ${C-unset}", env=[*env, {"name": "D", "value": "$(A)!"}])
    await node.pod("p", main, initContainers=[init], volumes=volumes, restartPolicy="Never")
    await node.phase("p", "Succeeded")
    assert node.log("p") == "from a file from a file! unset unset\n"
    for name, path, key, why in (
        ("key", "env", "B", 'environment variable key "B" not found in file "env"'),
        ("file", "none", "A", 'environment variable key "A" not found in file "none"'),
        ("out", "out", "A", "out: invalid cross-device link"),
    ):
        main = shell("true", env=[variable("A", path, key)])
        await node.pod(name, main, initContainers=[init], volumes=volumes)
        pod = await node.sees(name, lambda pod: state(pod)["state"].get("waiting", {}).get("message"))
        assert state(pod)["state"]["waiting"] == {"reason": "CreateContainerConfigError", "message": why}
