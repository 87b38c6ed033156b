"""RBAC against a brute-force twin, upstream's messages, the bootstrap roles, and the kubelets' own rules."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.api.errors import ApiError
from raykube.apiserver.core.bootstrap_roles import AUTOUPDATE, bootstrap_objects, reconciled
from raykube.apiserver.core.node_authorizer import restriction
from raykube.apiserver.core.rbac import Attributes, Authorizer, Decision, denial, forbidden
from raykube.apiserver.core.rbac_rules import Rule, uncovered
from raykube.apiserver.core.users import UserInfo
from tests.apiserver.rbac_twin import Twin

GROUP = "rbac.authorization.k8s.io"

# A world small enough that random rules, bindings and questions often meet.
NAMESPACES = ("", "a", "b")
NAMES = ("x", "y")
verbs = st.lists(st.sampled_from(("get", "list", "create", "*")), min_size=1, max_size=2)
resource_rules = st.fixed_dictionaries(
    {
        "verbs": verbs,
        "apiGroups": st.lists(st.sampled_from(("", "apps", "*")), min_size=1, max_size=2),
        "resources": st.lists(
            st.sampled_from(("pods", "pods/log", "deployments", "*/scale", "deployments/scale", "*")),
            min_size=1,
            max_size=2,
        ),
    },
    optional={"resourceNames": st.lists(st.sampled_from(NAMES), max_size=2)},
)
url_rules = st.fixed_dictionaries(
    {"verbs": verbs, "nonResourceURLs": st.lists(st.sampled_from(("/api", "/api/*", "*", "/healthz")), min_size=1)}
)
rules = st.lists(st.one_of(resource_rules, resource_rules, url_rules), max_size=3)
labels = st.sets(st.sampled_from("pq")).map(lambda keys: dict.fromkeys(keys, "true"))
selectors = st.lists(st.sampled_from("pq").map(lambda key: {"matchLabels": {key: "true"}}), min_size=1, max_size=2)


@st.composite
def roles(draw: Any) -> dict[str, Any]:
    namespace = draw(st.sampled_from(NAMESPACES))
    role: dict[str, Any] = {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Role" if namespace else "ClusterRole",
        "metadata": {"name": draw(st.sampled_from("rst")), "labels": draw(labels)},
        "rules": draw(rules),
    }
    if namespace:
        role["metadata"]["namespace"] = namespace
    elif draw(st.booleans()):
        role["aggregationRule"] = {"clusterRoleSelectors": draw(selectors)}
    return role


@st.composite
def bindings(draw: Any) -> dict[str, Any]:
    namespace = draw(st.sampled_from(NAMESPACES))
    kind = draw(st.sampled_from(("Role", "ClusterRole"))) if namespace else "ClusterRole"
    subject = st.one_of(
        st.sampled_from(("alice", "bob")).map(lambda name: {"kind": "User", "name": name}),
        st.sampled_from(("dev", "ops")).map(lambda name: {"kind": "Group", "name": name}),
        st.just({"kind": "ServiceAccount", "name": "robot", "namespace": "a"}),
        st.just({"kind": "ServiceAccount", "name": "robot"}),
    )
    binding: dict[str, Any] = {
        "apiVersion": f"{GROUP}/v1",
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": {"name": draw(st.sampled_from("uvw"))},
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": draw(st.sampled_from("rst"))},
        "subjects": draw(st.lists(subject, max_size=2)),
    }
    if namespace:
        binding["metadata"]["namespace"] = namespace
    return binding


users = st.builds(
    UserInfo,
    st.sampled_from(("alice", "bob", "system:serviceaccount:a:robot", "system:serviceaccount:b:robot")),
    st.just(""),
    st.lists(st.sampled_from(("dev", "ops", "system:masters")), max_size=2).map(tuple),
)
questions = st.one_of(
    st.builds(
        Attributes,
        users,
        st.sampled_from(("get", "list", "create", "delete")),
        st.sampled_from(("", "apps")),
        st.sampled_from(("pods", "deployments")),
        st.sampled_from(("", "log", "scale")),
        st.sampled_from(("", *NAMES, "z")),
        st.sampled_from(NAMESPACES),
    ),
    st.builds(
        lambda user, path: Attributes(user, "get", path=path),
        users,
        st.sampled_from(("/api", "/api/v1", "/apiary", "/")),
    ),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.one_of(roles(), bindings())),
        st.tuples(st.just("delete"), st.integers(0, 20)),
        st.tuples(st.just("ask"), questions),
    ),
    max_size=40,
)


def identity(obj: dict[str, Any]) -> tuple[str, str, str]:
    return obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


@settings(max_examples=300, deadline=None)
@given(steps)
def test_every_answer_is_the_twins_while_roles_and_bindings_change(history: list[tuple[str, Any]]) -> None:
    authorizer, objects = Authorizer(), {}
    for step, value in history:
        if step == "set":
            known = identity(value) in objects
            objects[identity(value)] = value
            authorizer.on_event("MODIFIED" if known else "ADDED", value)
        elif step == "delete" and objects:
            key = sorted(objects)[value % len(objects)]
            authorizer.on_event("DELETED", objects.pop(key))
        elif step == "ask":
            expected = Twin(list(objects.values())).allows(value)
            assert authorizer.authorize(value).allowed is expected
            assert authorizer.authorize(value).allowed is expected  # and from the table of verdicts


atoms = st.builds(
    Attributes,
    st.just(UserInfo("u")),
    st.sampled_from(("get", "create")),
    st.sampled_from(("", "apps", "other")),
    st.sampled_from(("pods", "deployments", "other")),
    st.sampled_from(("", "log", "scale")),
    st.sampled_from(NAMES),
    st.just("a"),
)


@settings(max_examples=300, deadline=None)
@given(rules, rules, atoms)
def test_rules_that_cover_others_allow_all_that_they_do(
    held: list[dict[str, Any]], wanted: list[dict[str, Any]], asked: Attributes
) -> None:
    twin = Twin([])
    if not uncovered(map(Rule.of, held), map(Rule.of, wanted)) and any(twin.rule_allows(r, asked) for r in wanted):
        assert any(twin.rule_allows(r, asked) for r in held)


def test_a_right_to_one_object_does_not_cover_another() -> None:
    def pods(*names: str) -> list[Rule]:
        rule = {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}
        return [Rule.of({**rule, "resourceNames": list(names)} if names else rule)]

    assert uncovered(pods("x"), pods("x")) == []
    assert uncovered(pods(), pods("x")) == []
    assert uncovered([*pods("x"), *pods("y")], pods("x", "y")) == []
    assert [rule.names for rule in uncovered(pods("x"), pods("x", "y"))] == [{"y"}]
    assert uncovered(pods("x"), pods()) != []


@given(rules)
def test_rules_cover_themselves(held: list[dict[str, Any]]) -> None:
    assert uncovered(map(Rule.of, held), map(Rule.of, held)) == []


def cluster(*objects: dict[str, Any]) -> Authorizer:
    authorizer = Authorizer()
    for obj in (*bootstrap_objects(), *objects):
        authorizer.on_event("ADDED", obj)
    return authorizer


def role(name: str, *role_rules: dict[str, Any], namespace: str = "") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    kind = "Role" if namespace else "ClusterRole"
    return {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": metadata, "rules": list(role_rules)}


def binding(name: str, role_name: str, user: str, namespace: str = "", kind: str = "ClusterRole") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role_name},
        "subjects": [{"kind": "User", "apiGroup": GROUP, "name": user}],
    }


def person(name: str) -> UserInfo:
    return UserInfo(name, "", ("system:authenticated",))


def test_the_roles_for_people() -> None:
    authorizer = cluster(
        binding("v", "view", "vera", "team"), binding("e", "edit", "ed", "team"), binding("a", "admin", "ada", "team")
    )

    def may(name: str, verb: str, group: str, resource: str, namespace: str = "team") -> bool:
        resource, _, subresource = resource.partition("/")
        return authorizer.authorize(Attributes(person(name), verb, group, resource, subresource, "", namespace)).allowed

    for name in ("vera", "ed", "ada"):
        assert may(name, "list", "", "pods")
        assert may(name, "get", "apps", "deployments/scale")
        assert may(name, "get", "", "pods/log")
        assert not may(name, "list", "", "pods", "other")
        assert not may(name, "list", "", "nodes", "")
    assert not may("vera", "get", "", "secrets")
    assert not may("vera", "create", "", "pods")
    for name in ("ed", "ada"):
        assert may(name, "get", "", "secrets")
        assert may(name, "create", "", "pods/exec")
        assert may(name, "patch", "apps", "deployments")
    assert not may("ed", "create", GROUP, "rolebindings")
    assert may("ada", "create", GROUP, "rolebindings")


def test_the_shown_rules_of_aggregated_roles_are_the_resolved_ones() -> None:
    authorizer = cluster()
    for obj in bootstrap_objects():
        if "aggregationRule" in obj:
            resolved = authorizer.cluster_role_rules(obj["metadata"]["name"])
            assert resolved is not None
            assert set(resolved) == {Rule.of(rule) for rule in obj["rules"]}


def test_a_custom_role_joins_view_by_its_label() -> None:
    custom = role("crontabs", {"apiGroups": ["stable.example"], "resources": ["crontabs"], "verbs": ["get"]})
    custom["metadata"]["labels"] = {f"{GROUP}/aggregate-to-view": "true"}
    authorizer = cluster(custom, binding("a", "admin", "ada", "team"))
    asked = Attributes(person("ada"), "get", "stable.example", "crontabs", "", "c", "team")
    assert authorizer.authorize(asked).allowed
    authorizer.on_event("DELETED", custom)
    assert not authorizer.authorize(asked).allowed


def test_everybody_may_ask_what_they_may_and_nobody_else_sees_more() -> None:
    authorizer = cluster()
    anonymous = UserInfo("system:anonymous", "", ("system:unauthenticated",))
    assert authorizer.authorize(Attributes(anonymous, "get", path="/readyz")).allowed
    assert not authorizer.authorize(Attributes(anonymous, "get", path="/api")).allowed
    assert not authorizer.authorize(Attributes(anonymous, "get", "", "pods", "", "x", "n")).allowed
    bob = person("bob")
    assert authorizer.authorize(Attributes(bob, "get", path="/apis/apps/v1")).allowed
    assert authorizer.authorize(Attributes(bob, "create", "authorization.k8s.io", "selfsubjectaccessreviews")).allowed
    assert not authorizer.authorize(Attributes(bob, "list", "", "pods", "", "", "default")).allowed


@pytest.mark.parametrize(
    ("user", "questions_"),
    [
        (
            "system:kube-scheduler",
            [
                ("create", "", "pods/binding"),
                ("patch", "", "pods/status"),
                ("watch", "", "nodes"),
                ("create", "", "events"),
            ],
        ),
        (
            "system:kube-controller-manager",
            [
                ("create", "", "pods"),
                ("deletecollection", "apps", "deployments"),
                ("update", "apps", "replicasets/status"),
                ("patch", "batch", "jobs/status"),
                ("create", "discovery.k8s.io", "endpointslices"),
                ("create", "", "endpoints"),
                ("create", "", "serviceaccounts"),
                ("update", "", "namespaces/finalize"),
                ("patch", "", "nodes"),
                ("create", "", "configmaps"),
                ("list", "stable.example", "crontabs"),
                ("create", "coordination.k8s.io", "leases"),
            ],
        ),
        (
            "system:kube-proxy",
            [("watch", "", "services"), ("list", "discovery.k8s.io", "endpointslices"), ("patch", "", "nodes")],
        ),
    ],
)
def test_the_components_can_do_their_work(user: str, questions_: list[tuple[str, str, str]]) -> None:
    authorizer = cluster()
    for verb, group, resource in questions_:
        plural, _, subresource = resource.partition("/")
        asked = Attributes(person(user), verb, group, plural, subresource, "x", "kube-system")
        assert authorizer.authorize(asked).allowed, (verb, group, resource)
    assert not authorizer.authorize(Attributes(person(user), "create", GROUP, "clusterrolebindings")).allowed


def test_messages_are_upstreams() -> None:
    user = person("u")
    asked = Attributes(user, "get", "", "pods", "", "x", "n")
    error = forbidden(asked, Decision(False))
    assert error.code == 403
    status = error.status()
    text = 'pods "x" is forbidden: User "u" cannot get resource "pods" in API group "" in the namespace "n"'
    assert status["message"] == text
    assert (status["reason"], status["details"]) == ("Forbidden", {"name": "x", "kind": "pods"})
    asked = Attributes(user, "list", "apps", "deployments", "scale", "", "")
    assert forbidden(asked, Decision(False, "why")).status()["message"] == (
        'deployments.apps is forbidden: User "u" cannot list resource "deployments/scale" in API group "apps" '
        "at the cluster scope: why"
    )
    assert forbidden(Attributes(user, "get", path="/m"), Decision(False)).status()["message"] == (
        'forbidden: User "u" cannot get path "/m"'
    )
    authorizer = cluster(binding("dangling", "nowhere", "u", "n"))
    decision = authorizer.authorize(Attributes(user, "get", "", "pods", "", "x", "n"))
    assert decision.reason == f'RBAC: clusterrole.{GROUP} "nowhere" not found'
    authorizer = cluster(binding("v", "view", "u", "n"))
    decision = authorizer.authorize(Attributes(user, "get", "", "pods", "", "x", "n"))
    assert decision.reason == 'RBAC: allowed by RoleBinding "v/n" of ClusterRole "view" to User "u"'
    assert denial(asked).startswith('User "u" cannot list')


def test_nobody_hands_out_more_than_they_have() -> None:
    authorizer = cluster(
        binding("a", "admin", "ada", "team"),
        role(
            "binder",
            {"apiGroups": [GROUP], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": ["edit"]},
        ),
        binding("b", "binder", "ben"),
        role("climber", {"apiGroups": [GROUP], "resources": ["roles"], "verbs": ["escalate"]}),
        binding("c", "climber", "cleo", "team"),
    )
    ada = person("ada")
    read_pods = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}
    read_nodes = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list"]}
    assert authorizer.escalation(ada, role("ok", read_pods, namespace="team")) == ""
    assert authorizer.escalation(ada, role("no", read_pods, read_nodes, namespace="team")) == (
        'user "ada" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:\n'
        '{APIGroups:[""], Resources:["nodes"], Verbs:["get", "list"]}'
    )
    assert authorizer.escalation(ada, role("no", read_pods, namespace="other")) != ""
    unchanged = role("kept", read_nodes, namespace="team")
    assert authorizer.escalation(ada, copy.deepcopy(unchanged), unchanged) == ""
    assert authorizer.escalation(person("cleo"), role("yes", read_nodes, namespace="team")) == ""
    assert authorizer.escalation(ada, binding("x", "view", "bob", "team")) == ""
    assert "not currently held" in authorizer.escalation(ada, binding("x", "cluster-admin", "bob", "team"))
    assert "not currently held" in authorizer.escalation(ada, binding("x", "view", "bob", "other"))
    assert authorizer.escalation(person("ben"), binding("x", "edit", "bob", "other")) == ""
    assert authorizer.escalation(person("ben"), binding("x", "admin", "bob", "other")) != ""
    with pytest.raises(ApiError) as missing:
        authorizer.escalation(ada, binding("x", "nowhere", "bob", "team"))
    assert missing.value.status()["message"] == f'clusterroles.{GROUP} "nowhere" not found'
    master = UserInfo("root", "", ("system:masters",))
    assert authorizer.escalation(master, binding("x", "cluster-admin", "bob")) == ""
    aggregated = role("all")
    aggregated["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}
    assert authorizer.escalation(ada, aggregated) == "must have cluster-admin privileges to use the aggregationRule"


def test_rules_review() -> None:
    authorizer = cluster(binding("v", "view", "vera", "team"))
    status = authorizer.rules_for(person("vera"), "team")
    assert {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version", "/version/"]} in (
        status["nonResourceRules"]
    )
    assert any("pods/log" in rule["resources"] for rule in status["resourceRules"])
    assert not any(
        "pods/log" in rule["resources"] for rule in authorizer.rules_for(person("vera"), "x")["resourceRules"]
    )
    assert status["incomplete"] is False
    everything = authorizer.rules_for(UserInfo("root", "", ("system:masters",)), "team")
    assert everything["resourceRules"] == [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]


def test_a_start_mends_bootstrap_objects_and_keeps_what_users_added() -> None:
    for wanted in bootstrap_objects():
        assert reconciled(copy.deepcopy(wanted), wanted) is None
        assert wanted["metadata"]["labels"]["kubernetes.io/bootstrapping"] == "rbac-defaults"
    wanted = next(obj for obj in bootstrap_objects() if obj["metadata"]["name"] == "system:discovery")
    stored = copy.deepcopy(wanted)
    mine = {"verbs": ["get"], "nonResourceURLs": ["/mine"]}
    stored["rules"] = [mine]
    mended = reconciled(stored, wanted)
    assert mended is not None
    assert mended["rules"] == [mine, *wanted["rules"]]
    stored["metadata"]["annotations"][AUTOUPDATE] = "false"
    assert reconciled(stored, wanted) is None


# Kubelets


def pod(name: str, node: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "n", "name": name, "labels": {}},
        "spec": {"nodeName": node, "containers": [{"name": "c"}], **spec},
    }


def kubelet(name: str) -> UserInfo:
    return UserInfo(f"system:node:{name}", "", ("system:nodes", "system:authenticated"))


def test_a_kubelet_reads_what_its_pods_name_and_nothing_else() -> None:
    authorizer = cluster()

    def may(node: str, verb: str, resource: str, name: str, namespace: str = "n", group: str = "") -> bool:
        resource, _, subresource = resource.partition("/")
        return authorizer.authorize(
            Attributes(kubelet(node), verb, group, resource, subresource, name, namespace)
        ).allowed

    web = pod(
        "web",
        "one",
        serviceAccountName="sa",
        containers=[
            {
                "name": "c",
                "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}],
                "envFrom": [{"configMapRef": {"name": "from"}}],
            }
        ],
        volumes=[
            {"name": "v", "secret": {"secretName": "vol"}},
            {"name": "p", "projected": {"sources": [{"configMap": {"name": "proj"}}]}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
        ],
        imagePullSecrets=[{"name": "pull"}],
    )
    assert not may("one", "get", "secrets", "env")
    authorizer.on_event("ADDED", web)
    for secret in ("env", "vol", "pull"):
        assert may("one", "get", "secrets", secret)
        assert not may("two", "get", "secrets", secret)
    assert may("one", "watch", "configmaps", "from")
    assert may("one", "get", "configmaps", "proj")
    assert not may("one", "list", "secrets", "")
    assert not may("one", "get", "secrets", "other")
    assert not may("one", "get", "secrets", "env", "elsewhere")
    assert may("one", "create", "serviceaccounts/token", "sa")
    assert not may("one", "create", "serviceaccounts/token", "other")
    assert may("one", "get", "persistentvolumeclaims", "claim")
    assert not may("one", "get", "persistentvolumes", "pv", "")
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"namespace": "n", "name": "claim"}}
    authorizer.on_event("ADDED", {**claim, "spec": {"volumeName": "pv"}})
    assert may("one", "get", "persistentvolumes", "pv", "")
    authorizer.on_event("ADDED", pod("web2", "one", imagePullSecrets=[{"name": "pull"}]))
    authorizer.on_event("DELETED", web)
    assert not may("one", "get", "secrets", "env")
    assert may("one", "get", "secrets", "pull")
    authorizer.on_event("DELETED", pod("web2", "one", imagePullSecrets=[{"name": "pull"}]))
    assert not may("one", "get", "secrets", "pull")
    asked = Attributes(kubelet("one"), "get", "", "secrets", "", "pull", "n")
    assert authorizer.authorize(asked).reason == "no relationship found between node 'one' and this object"


def test_a_kubelet_reads_the_claims_of_its_pods_and_the_slices_of_its_node() -> None:
    authorizer = cluster()

    def may(verb: str, resource: str, name: str, *fields: tuple[str, str]) -> bool:
        namespace = "n" if resource == "resourceclaims" else ""
        asked = Attributes(kubelet("one"), verb, "resource.k8s.io", resource, "", name, namespace, "", fields)
        return authorizer.authorize(asked).allowed

    claims = [{"name": "a", "resourceClaimName": "shared"}, {"name": "b", "resourceClaimTemplateName": "t"}]
    user = pod("web", "one", resourceClaims=claims)
    user["status"] = {"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "web-b"}]}
    assert not may("get", "resourceclaims", "shared")
    authorizer.on_event("ADDED", user)
    assert may("get", "resourceclaims", "shared") and may("get", "resourceclaims", "web-b")
    assert not may("get", "resourceclaims", "other") and not may("update", "resourceclaims", "shared")
    assert may("list", "resourceslices", "", ("spec.nodeName", "one"))
    assert not may("list", "resourceslices", "", ("spec.nodeName", "two")) and not may("list", "resourceslices", "")
    assert may("delete", "resourceslices", "s")
    mine, other = ({"metadata": {"name": "s"}, "spec": {"nodeName": name}} for name in ("one", "two"))
    assert restriction("one", "create", "resourceslices", "", mine, None) == ""
    assert restriction("one", "delete", "resourceslices", "", None, mine) == ""
    for new, old in ((other, None), (None, other), (mine, other), ({"metadata": {"name": "s"}, "spec": {}}, None)):
        assert "same NodeName" in restriction("one", "update", "resourceslices", "", new, old)


def test_a_kubelet_owns_its_node_and_lease() -> None:
    authorizer = cluster()

    def may(verb: str, group: str, resource: str, name: str, namespace: str = "", fields: Any = None) -> bool:
        resource, _, subresource = resource.partition("/")
        asked = Attributes(kubelet("one"), verb, group, resource, subresource, name, namespace, "", fields)
        return authorizer.authorize(asked).allowed

    assert may("patch", "", "nodes/status", "one")
    assert may("create", "", "nodes", "")
    assert not may("patch", "", "nodes/status", "two")
    assert not may("get", "", "nodes", "two")
    assert not may("delete", "", "nodes", "one")
    assert may("update", "coordination.k8s.io", "leases", "one", "kube-node-lease")
    assert not may("update", "coordination.k8s.io", "leases", "two", "kube-node-lease")
    assert not may("update", "coordination.k8s.io", "leases", "kube-scheduler", "kube-system")
    assert may("watch", "", "pods", "", fields=(("spec.nodeName", "one"),))
    assert not may("watch", "", "pods", "", fields=(("spec.nodeName", "two"),))
    assert not may("list", "", "pods", "", fields=())
    assert may("list", "", "services", "")
    assert not may("create", "apps", "deployments", "", "n")
    assert not may("get", "", "pods/exec", "web", "n")


def test_a_kubelet_writes_only_its_own_pods() -> None:
    mine, other = pod("p", "one"), pod("p", "two")
    assert restriction("one", "patch", "pods", "status", mine, mine) == ""
    assert restriction("one", "delete", "pods", "", None, mine) == ""
    assert restriction("one", "create", "pods", "eviction", {"metadata": {"name": "p"}}, mine) == ""
    for verb, subresource in (("patch", "status"), ("delete", ""), ("create", "eviction")):
        assert "with spec.nodeName set to itself" in restriction("one", verb, "pods", subresource, other, other)
    assert "only update the status" in restriction("one", "update", "pods", "", mine, mine)
    relabelled = copy.deepcopy(mine)
    relabelled["metadata"]["labels"] = {"app": "web"}
    assert "cannot update labels" in restriction("one", "update", "pods", "status", relabelled, mine)
    assert "only create mirror pods" in restriction("one", "create", "pods", "", mine, None)
    mirror = copy.deepcopy(mine)
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    assert restriction("one", "create", "pods", "", mirror, None) == ""
    node: dict[str, Any] = {"kind": "Node", "metadata": {"name": "one", "labels": {}}, "spec": {}}
    assert restriction("one", "update", "nodes", "", node, node) == ""
    assert restriction("two", "update", "nodes", "", node, node) != ""
    tainted = {**node, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}
    assert "taints" in restriction("one", "update", "nodes", "", node, tainted)
    labelled = {**node, "metadata": {"name": "one", "labels": {"x.node-restriction.kubernetes.io/y": "1"}}}
    assert "labels" in restriction("one", "create", "nodes", "", labelled, None)


@pytest.mark.parametrize("node", [True, False])
@pytest.mark.parametrize("rbac", [True, False])
def test_only_the_authorizers_that_are_on_allow(node: bool, rbac: bool) -> None:
    authorizer = Authorizer(node=node, rbac=rbac)
    for obj in (*bootstrap_objects(), binding("viewers", "view", "ann")):
        authorizer.on_event("ADDED", obj)
    assert authorizer.authorize(Attributes(person("ann"), "list", "", "pods", "", "", "default")).allowed == rbac
    own_node = Attributes(kubelet("n1"), "update", "", "nodes", "status", "n1")
    assert authorizer.authorize(own_node).allowed == node
    root = UserInfo("root", groups=("system:masters",))
    assert authorizer.authorize(Attributes(root, "delete", "", "nodes", "", "n1")).allowed
