"""One question for all operations of a request: its answers are those of a question for each."""

from typing import Any

import orjson
import pytest

from raykube.api import resources
from raykube.api.errors import ApiError
from raykube.apiserver.authz import Authorization
from raykube.apiserver.core.feed import Feed
from raykube.apiserver.core.rbac import Attributes
from raykube.apiserver.core.users import NODE_PREFIX, NODES, UserInfo

RBAC = "rbac.authorization.k8s.io"
RULES = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"], "resourceNames": ["a"]},
]
USERS = [
    UserInfo("eve"),
    UserInfo("nobody"),
    UserInfo("root", groups=("system:masters",)),
    UserInfo(f"{NODE_PREFIX}a", groups=(NODES,)),
]
QUESTIONS = [
    ("create", "", "pods", "", "default"),
    ("create", "", "pods", "", "other"),
    ("patch", "", "pods", "status", "default"),
    ("patch", "", "nodes", "status", ""),
    ("create", "", "nodes", "", ""),
    ("create", "coordination.k8s.io", "leases", "", "kube-node-lease"),
]


def authorization() -> Authorization:
    feed = Feed(resources.all_resources(), 100)
    found = Authorization(feed, ["Node", "RBAC"])
    api, place = {"apiVersion": f"{RBAC}/v1"}, {"name": "r", "namespace": "default"}
    subjects = [{"kind": "User", "name": "eve"}]
    objects: dict[str, dict[str, Any]] = {
        "roles": {**api, "kind": "Role", "metadata": place, "rules": RULES},
        "rolebindings": {
            **api, "kind": "RoleBinding", "metadata": place, "subjects": subjects,
            "roleRef": {"kind": "Role", "name": "r"},
        },
    }  # fmt: skip
    for number, (plural, obj) in enumerate(objects.items(), 1):
        feed.apply(f"/registry/{RBAC}/{plural}/default/r", number, orjson.dumps(obj))
    return found


def answer(ask: Any, *asked: Any) -> Any:
    try:
        ask(*asked)
    except ApiError as error:
        return error.status()
    return None


@pytest.mark.parametrize("user", USERS, ids=lambda user: user.username)
def test_a_standing_is_what_each_operation_would_be_told(user: UserInfo) -> None:
    found = authorization()
    standing = found.standing(user)
    for _ in range(2):
        for verb, group, resource, subresource, namespace in QUESTIONS:
            for name in ("", "a", "b"):
                alone = Attributes(user, verb, group, resource, subresource, name, namespace)
                asked = (verb, group, resource, subresource, name, namespace)
                assert answer(standing.require, *asked) == answer(found.require, alone), asked


def test_names_that_a_role_speaks_of_are_told_apart() -> None:
    standing = authorization().standing(UserInfo("eve"))
    standing.require("create", "", "pods", "", "anything", "default")
    standing.require("patch", "", "pods", "status", "a", "default")
    with pytest.raises(ApiError):
        standing.require("patch", "", "pods", "status", "b", "default")


def test_after_a_reload_a_kubelet_reads_what_the_pods_that_are_there_now_name() -> None:
    """Not what others of their names did, which came and went while nobody watched."""
    feed = Feed(resources.all_resources(), 100)
    found = Authorization(feed, ["Node", "RBAC"])

    def load(revision: int, uid: str, secret: str) -> None:
        spec = {"nodeName": "a", "imagePullSecrets": [{"name": secret}]}
        metadata = {"name": "p", "namespace": "default", "uid": uid}
        pod = orjson.dumps({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec})
        feed.load([("/registry/pods/default/p", revision, pod)], revision)

    def may_read() -> list[bool]:
        kubelet = USERS[-1]
        asked = [Attributes(kubelet, "get", "", "secrets", "", secret, "default") for secret in ("old", "new")]
        return [found.decide(each).allowed for each in asked]

    load(1, "1", "old")
    assert may_read() == [True, False]
    load(9, "2", "new")
    assert may_read() == [False, True]
