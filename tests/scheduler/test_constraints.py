"""Random clusters, random changes: every decision is checked against a brute-force twin."""

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.api.quantity import parse
from raykube.scheduler.core.answers import Answers
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.podclass import PodClass
from raykube.scheduler.core.profile import Profile
from raykube.scheduler.core.shares import Shares
from tests.scheduler.objects import Object, affinity, expression, node, pod, pod_affinity, pod_term, spread
from tests.scheduler.oracle import World, reasons, used
from tests.scheduler.score_oracle import totals

MIB = 1 << 20
KEYS, VALUES = ["zone", "disk", "size"], ["1", "2", "x"]
labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES))
taints = st.lists(
    st.tuples(
        st.sampled_from(["k", "l"]),
        st.sampled_from(["", "v"]),
        st.sampled_from(["NoSchedule", "NoExecute", "PreferNoSchedule"]),
    ),
    max_size=2,
)
nodes = st.builds(
    lambda cpu, memory, pods, **more: lambda name: node(name, cpu, memory, pods, **more),
    st.sampled_from(["0", "1", "2500m"]),
    st.sampled_from(["1Gi", "3Gi"]),
    st.sampled_from(["1", "3", "110"]),
    labels=labels,
    taints=taints,
    unschedulable=st.booleans(),
    extra=st.sampled_from([{}, {"example.com/gpu": "2"}]),
    images=st.sampled_from([{}, {}, {"i:latest": 800 * MIB}, {"i:latest": 30 * MIB, "j:1": 2000 * MIB}]),
)
expressions = st.one_of(
    st.builds(expression, st.sampled_from(KEYS), st.sampled_from(["In", "NotIn"]), st.sampled_from(VALUES)),
    st.builds(expression, st.sampled_from(KEYS), st.sampled_from(["Exists", "DoesNotExist"])),
    st.builds(expression, st.sampled_from(KEYS), st.sampled_from(["Gt", "Lt"]), st.sampled_from(["1", "2"])),
)
tolerations = st.lists(
    st.one_of(
        st.just({"operator": "Exists"}),
        st.builds(
            lambda key, value, effect: {"key": key, "value": value, "effect": effect},
            st.sampled_from(["k", "l"]),
            st.sampled_from(["", "v"]),
            st.sampled_from(["", "NoSchedule", "NoExecute", "PreferNoSchedule"]),
        ),
        st.just({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}),
    ),
    max_size=2,
)
constraints = st.lists(
    st.builds(
        lambda key, skew, when, domains, more: spread(
            key,
            skew,
            {"app": "a"},
            when,
            **more | ({"minDomains": domains} if domains and when == "DoNotSchedule" else {}),
        ),
        st.sampled_from(["zone", "kubernetes.io/hostname"]),
        st.integers(1, 2),
        st.sampled_from(["DoNotSchedule", "ScheduleAnyway"]),
        st.sampled_from([0, 0, 3]),
        st.sampled_from(
            [
                {},
                {},
                {"nodeAffinityPolicy": "Ignore"},
                {"nodeTaintsPolicy": "Honor"},
                {"nodeAffinityPolicy": "Ignore", "nodeTaintsPolicy": "Honor", "matchLabelKeys": ["version", "absent"]},
            ]
        ),
    ),
    max_size=2,
    unique_by=lambda item: item["topologyKey"] + item["whenUnsatisfiable"],
)

one_term = st.builds(
    lambda key, labels, more: pod_term(key, labels, **more),
    st.sampled_from(["zone", "kubernetes.io/hostname"]),
    st.sampled_from([None, {}, {"app": "a"}, {"app": "b"}]),
    st.sampled_from(
        [
            {},
            {"namespaces": ["e"]},
            {"namespaceSelector": {}},
            {"namespaceSelector": {"matchLabels": {"team": "1"}}},
            {"namespaces": ["d"], "namespaceSelector": {"matchLabels": {"team": "1"}}},
            {"matchLabelKeys": ["version"]},
            {"mismatchLabelKeys": ["version", "absent"]},
        ]
    ),
)
pod_terms = st.lists(one_term, max_size=2)
weighted_terms = st.lists(st.tuples(st.integers(1, 100), one_term), max_size=2)


@st.composite
def specs(draw: Any) -> dict[str, Any]:
    """The arguments of `pod` for one class."""
    more: dict[str, Any] = {
        "cpu": draw(st.sampled_from(["", "500m", "1"])),
        "memory": draw(st.sampled_from(["", "512Mi", "2Gi"])),
        "labels": draw(st.sampled_from([{}, {"app": "a"}, {"app": "b"}, {"app": "a", "version": "1"}])),
        "image": draw(st.sampled_from(["i", "j:1", "registry:5000/k"])),
        "namespace": draw(st.sampled_from(["d", "d", "e"])),
        "tolerations": draw(tolerations),
    }
    if draw(st.integers(0, 3)) == 0:
        more["extra"] = {"example.com/gpu": "1"}
    if draw(st.integers(0, 3)) == 0:
        more["nodeSelector"] = {draw(st.sampled_from(KEYS)): draw(st.sampled_from(VALUES))}
    if draw(st.integers(0, 2)) == 0:
        terms = draw(st.lists(st.lists(expressions, min_size=1, max_size=2), min_size=1, max_size=2))
        more["affinity"] = affinity(*terms)
        if draw(st.booleans()):
            more["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] = [
                {"weight": 5, "preference": {"matchExpressions": [draw(expressions)]}}
            ]
    if draw(st.integers(0, 3)) == 0:
        rules = pod_affinity(draw(pod_terms), draw(pod_terms), draw(weighted_terms), draw(weighted_terms))
        more["affinity"] = more.get("affinity", {}) | rules
    if draw(st.integers(0, 3)) == 0:
        more["ports"] = [8080]
    if draw(st.booleans()):
        more["topologySpreadConstraints"] = draw(constraints)
    elif draw(st.booleans()):
        more["owner"] = draw(st.sampled_from(["rs-1", "rs-2"]))
    return more


steps = st.lists(
    st.one_of(
        st.tuples(st.just("pod"), st.integers(0, 3)),
        st.tuples(st.just("pod"), st.integers(0, 3)),
        st.tuples(st.just("node"), st.integers(0, 4), nodes),
        st.tuples(st.just("node gone"), st.integers(0, 4)),
        st.tuples(st.just("pod gone"), st.integers(0, 20)),
        st.tuples(st.just("bind fails"), st.integers(0, 20)),
        st.tuples(st.just("pod is bound"), st.integers(0, 20)),
        st.tuples(st.just("relabel"), st.integers(0, 20)),
        st.tuples(st.just("namespace"), st.sampled_from(["d", "e"]), st.sampled_from([{}, {"team": "1"}, None])),
    ),
    max_size=25,
)


class Both:
    """The scheduler and its twin, led through the same changes."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.world = World()
        self.count = 0

    def some_pod(self, number: int) -> str | None:
        uids = list(self.world.pods)
        return uids[number % len(uids)] if uids else None

    def set_node(self, made: Object) -> None:
        self.world.nodes[made["metadata"]["name"]] = made
        self.cluster.on_node(made)

    def remove_node(self, name: str) -> None:
        self.world.nodes.pop(name, None)
        self.cluster.on_node_gone(name)

    def set_namespace(self, name: str, about: dict[str, str] | None) -> None:
        self.world.namespaces.pop(name, None)
        if about is not None:
            self.world.namespaces[name] = about
        self.cluster.on_namespace(name, about)

    def bound(self, uid: str, change: Object | None = None) -> None:
        obj, name = self.world.pods[uid]
        obj = obj | {"spec": obj["spec"] | {"nodeName": name}, "metadata": obj["metadata"] | (change or {})}
        self.world.pods[uid] = obj, name
        self.cluster.on_pod(self.cluster.read_pod(obj))

    def gone(self, uid: str) -> None:
        del self.world.pods[uid]
        self.cluster.on_pod_gone(uid)

    def schedule(self, spec: dict[str, Any]) -> None:
        self.count += 1
        obj = pod(f"p{self.count}", **spec)
        view = self.cluster.read_pod(obj)
        found = self.cluster.schedule(view)
        whys = {name: reasons(self.world, obj, name) for name in self.world.nodes}
        if isinstance(found, Placement):
            assert whys[found.node] == [], (found, whys)
            scores = totals(self.world, obj)
            assert scores[found.node] >= max(scores.values()) - 1e-6, (found, scores)
            self.world.pods[view.uid] = obj, found.node
        else:
            assert all(whys.values()), (found, whys)
            if self.world.nodes:
                counts = Counter(reason for why in whys.values() for reason in why)
                words = ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items()))
                expected = f"0/{len(whys)} nodes are available: {words}."
                assert found.message.split(" no new claims to deallocate, preemption: ")[0] == expected
                assert found.plugins
        self.check_incremental(view)

    def check_incremental(self, view: Pod) -> None:
        """A class kept current row by row equals one that looks at everything anew."""
        kept = self.cluster._classes.of(view.needs)
        kept.catch_up()
        nodes = self.cluster.nodes
        new = PodClass(kept.view._replace(shares=Shares(nodes), answers=Answers(nodes)), Profile())
        new.catch_up()
        assert (kept.suitable == new.suitable).all()
        assert (kept.feasible == new.feasible).all()
        totals = [one.totals(view, one.fitting(view), narrowed=False) for one in (kept, new)]
        assert np.allclose(*totals)

    def check_usage(self) -> None:
        for name, made in self.world.nodes.items():
            row = self.cluster.nodes.rows[name]
            for resource, total in used(self.world, name).items():
                scale = 1000 if resource == "cpu" else 1
                index = self.cluster.nodes.resource_index[resource]
                assert self.cluster.nodes.requested[index, row] == total * scale
                fits = total <= parse(made["status"]["allocatable"].get(resource, "0"))
                assert fits or name in self.shrunk

    shrunk: frozenset[str] = frozenset()


@settings(max_examples=150, deadline=None)
@given(st.lists(nodes, max_size=5), st.lists(specs(), min_size=4, max_size=4), steps)
def test_every_decision_is_right(first: list[Any], classes: list[dict[str, Any]], changes: list[Any]) -> None:
    both = Both()
    for number, make in enumerate(first):
        both.set_node(make(f"n{number}"))
    for change in changes:
        match change:
            case ("pod", int(number)):
                both.schedule(dict(classes[number]))
            case ("node", int(number), make):
                both.set_node(make(f"n{number}"))
                both.shrunk = both.shrunk | {f"n{number}"}  # pods may have been there before it shrank
            case ("node gone", int(number)):
                both.remove_node(f"n{number}")
            case ("pod gone", int(number)) | ("bind fails", int(number)):
                uid = both.some_pod(number)
                if uid is not None and change[0] == "pod gone":
                    both.gone(uid)
                elif uid is not None and both.cluster.forget(uid):
                    del both.world.pods[uid]
            case ("pod is bound" | "relabel", int(number)):
                uid = both.some_pod(number)
                if uid is not None:
                    both.bound(uid, {"labels": {"app": "a"}} if change[0] == "relabel" else None)
            case ("namespace", str(name), about):
                both.set_namespace(name, about)
        both.check_usage()
    # Every pod that is gone has given back what it used.
    for uid in list(both.world.pods):
        both.gone(uid)
    table = both.cluster.nodes
    assert not table.requested.any()
    assert not table.unasked.any()
    assert not table.pod_count.any()
    assert not any(table.ports.values())
    assert not both.cluster._terms.carried
    assert not any(tally.total or tally.counts.any() for tally in both.cluster._terms._followed.values())


companions = st.builds(
    lambda labels, namespace, *rules: {"labels": labels, "namespace": namespace, "affinity": pod_affinity(*rules)},
    st.sampled_from([{"app": "a"}, {"app": "b"}]),
    st.sampled_from(["d", "d", "e"]),
    st.one_of(st.just([]), pod_terms),
    st.one_of(st.just([]), pod_terms),
    st.one_of(st.just([]), weighted_terms),
    st.one_of(st.just([]), weighted_terms),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["", "1", "2", "2"]), min_size=2, max_size=4),
    st.lists(companions, min_size=3, max_size=3),
    st.lists(
        st.one_of(
            st.tuples(st.just("pod"), st.integers(0, 2)),
            st.tuples(st.just("pod"), st.integers(0, 2)),
            st.tuples(st.just("pod gone"), st.integers(0, 9)),
            st.tuples(st.just("relabel"), st.integers(0, 9)),
            st.tuples(st.just("move"), st.integers(0, 3)),
            st.tuples(st.just("namespace"), st.booleans()),
        ),
        min_size=3,
        max_size=12,
    ),
)
def test_pods_that_need_or_avoid_each_other(zones: list[str], classes: list[Object], changes: list[Any]) -> None:
    both = Both()
    for number, zone in enumerate(zones):
        both.set_node(node(f"n{number}", labels={"zone": zone} if zone else {}))
    for change in changes:
        match change:
            case ("pod", int(number)):
                both.schedule(dict(classes[number]))
            case ("move", int(number)):
                both.set_node(node(f"n{number % len(zones)}", labels={"zone": "3"}))
            case ("namespace", about):
                both.set_namespace("e", {"team": "1"} if about else {})
            case (_, int(number)):
                uid = both.some_pod(number)
                if uid is not None and change[0] == "pod gone":
                    both.gone(uid)
                elif uid is not None:
                    both.bound(uid, {"labels": {"app": "b"}})


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(1, 12), st.integers(2, 4))
def test_skew_never_exceeds_its_maximum(skew: int, count: int, zones: int) -> None:
    both = Both()
    for number in range(zones * 2):
        both.set_node(node(f"n{number}", cpu=str(1 + number % 3), labels={"zone": str(number % zones)}))
    constraint = [spread("zone", skew, {"app": "a"})]
    for _ in range(count):
        both.schedule({"cpu": "500m", "labels": {"app": "a"}, "topologySpreadConstraints": constraint})
        per_zone = Counter({str(zone): 0 for zone in range(zones)})
        for _, name in both.world.pods.values():
            per_zone[both.world.nodes[name]["metadata"]["labels"]["zone"]] += 1
        assert max(per_zone.values()) - min(per_zone.values()) <= skew


def test_a_changed_label_counts_from_then_on() -> None:
    both = Both()
    wanted = {"nodeSelector": {"disk": "ssd"}}
    both.set_node(node("a", labels={"disk": "hdd"}))
    both.schedule(dict(wanted))
    assert not both.world.pods
    both.set_node(node("a", labels={"disk": "ssd"}))
    both.schedule(dict(wanted))
    assert len(both.world.pods) == 1
    both.set_node(node("a"))
    both.schedule(dict(wanted))
    assert len(both.world.pods) == 1


def test_only_nodes_that_the_pod_may_use_count_for_its_skew() -> None:
    both = Both()
    both.set_node(node("a", labels={"zone": "1", "disk": "ssd"}))
    both.set_node(node("b", labels={"zone": "2"}))  # empty for ever: were it counted, one pod would be the most
    for _ in range(3):
        both.schedule(
            {
                "labels": {"app": "a"},
                "nodeSelector": {"disk": "ssd"},
                "topologySpreadConstraints": [spread("zone", 1, {"app": "a"})],
            }
        )
    assert len(both.world.pods) == 3


def test_scores_are_rescaled_when_the_most_disliked_node_is_full() -> None:
    both = Both()
    soft = [("k", "v", "PreferNoSchedule")]
    both.set_node(node("worst", cpu="1", taints=[*soft, ("l", "v", "PreferNoSchedule")]))
    both.set_node(node("bad", cpu="4", taints=soft))
    both.set_node(node("good", cpu="1"))
    for _ in range(6):
        both.schedule({"cpu": "1"})
    assert len(both.world.pods) == 6


def test_pods_of_one_owner_are_spread_over_zones_and_hosts() -> None:
    both = Both()
    for number in range(6):
        both.set_node(node(f"n{number}", cpu="64", labels={"topology.kubernetes.io/zone": str(number % 3)}))
    for _ in range(12):
        both.schedule({"cpu": "1", "owner": "rs-1"})
    assert Counter(name for _, name in both.world.pods.values()) == {f"n{number}": 2 for number in range(6)}


def test_pods_on_nodes_that_the_class_may_not_use_cost_nothing() -> None:
    both = Both()
    both.set_node(node("a", labels={"zone": "1", "disk": "ssd"}))
    both.set_node(node("b", labels={"zone": "1", "disk": "hdd"}))
    both.set_node(node("c", labels={"zone": "2", "disk": "ssd"}))
    soft = [spread("zone", 1, {"app": "a"}, "ScheduleAnyway")]
    on_ssd = {"labels": {"app": "a"}, "nodeSelector": {"disk": "ssd"}, "topologySpreadConstraints": soft}
    both.schedule(dict(on_ssd))
    for _ in range(3):
        both.schedule({"labels": {"app": "a"}, "nodeSelector": {"disk": "hdd"}})
    both.schedule(dict(on_ssd))
    assert Counter(name for _, name in both.world.pods.values()) == {"a": 1, "b": 3, "c": 1}
    both.schedule(dict(on_ssd))


def test_taints_are_counted_or_not_as_a_constraint_says() -> None:
    for policy, count in (("Ignore", 1), ("Honor", 3)):
        both = Both()
        both.set_node(node("a", labels={"zone": "1"}))
        both.set_node(node("b", labels={"zone": "2"}, taints=[("k", "v", "NoSchedule")]))  # empty for ever
        constraint = spread("zone", 1, {"app": "a"}, nodeTaintsPolicy=policy)
        for _ in range(3):
            both.schedule({"labels": {"app": "a"}, "topologySpreadConstraints": [constraint]})
        assert len(both.world.pods) == count


def test_revisions_are_spread_each_for_itself() -> None:
    both = Both()
    both.set_node(node("a", cpu="64", labels={"zone": "1"}))
    both.set_node(node("b", cpu="4", labels={"zone": "2"}))
    constraint = spread("zone", 1, {"app": "a"}, matchLabelKeys=["version"])
    for version in "1212":
        labels = {"app": "a", "version": version}
        both.schedule({"cpu": "1", "labels": labels, "topologySpreadConstraints": [constraint]})
    zones = Counter((obj["metadata"]["labels"]["version"], name) for obj, name in both.world.pods.values())
    assert zones == {("1", "a"): 1, ("1", "b"): 1, ("2", "a"): 1, ("2", "b"): 1}


def test_terms_for_pods_of_the_same_value_and_of_another() -> None:
    both = Both()
    for name in "abc":
        both.set_node(node(name, labels={"zone": name}))
    away = {"affinity": pod_affinity(away=[pod_term("zone", {"app": "a"}, mismatchLabelKeys=["tenant"])])}
    near = {"affinity": pod_affinity(near=[pod_term("zone", {"app": "a"}, matchLabelKeys=["tenant"])])}
    for tenant in "1212":
        both.schedule({"labels": {"app": "a", "tenant": tenant}} | away)
    for tenant in "12":
        both.schedule({"labels": {"app": "a", "tenant": tenant}} | near)
    places: dict[str, set[str]] = {}
    for obj, name in both.world.pods.values():
        places.setdefault(name, set()).add(obj["metadata"]["labels"]["tenant"])
    assert all(len(tenants) == 1 for tenants in places.values())
    assert len(both.world.pods) == 6


def test_a_label_may_have_one_of_many_values() -> None:
    cluster = Cluster()
    for number in range(8):
        cluster.on_node(node(f"n{number}", labels={"rack": str(number)} if number else {}))

    def fitting(operator: str, *values: str) -> set[str]:
        view = cluster.read_pod(pod("p", affinity=affinity([expression("rack", operator, *values)])))
        fits = cluster.pod_class(view).fitting(view)
        return {cluster.nodes.names[row] for row in fits.nonzero()[0]}

    for values in (("2",), ("1", "2", "absent"), tuple("1234567")):
        named = {f"n{value}" for value in values if value != "absent"}
        assert fitting("In", *values) == named
        assert fitting("NotIn", *values) == {f"n{number}" for number in range(8)} - named
    assert fitting("In", "absent") == set()


def test_only_nodes_that_fit_are_compared() -> None:
    """The best-liked node is out by other pods: what is left is scaled by the best of the others."""
    both = Both()
    both.set_node(node("liked", cpu="64", labels={"zone": "1", "size": "1"}))
    both.set_node(node("less", cpu="2", labels={"zone": "2", "size": "2"}))
    both.set_node(node("empty", cpu="64", labels={"zone": "3"}))
    preferred = [
        {"weight": weight, "preference": {"matchExpressions": [expression("size", "In", size)]}}
        for weight, size in ((100, "1"), (10, "2"))
    ]
    rules = pod_affinity(away=[pod_term("zone", {"app": "a"})])
    rules["nodeAffinity"] = {"preferredDuringSchedulingIgnoredDuringExecution": preferred}
    for _ in range(2):
        both.schedule({"cpu": "1500m", "labels": {"app": "a"}, "affinity": rules})
    assert [name for _, name in both.world.pods.values()] == ["liked", "less"]
