"""Preferences between pods, of the one that comes and of those that run."""

from raykube.scheduler.core.arguments import DEFAULTS
from raykube.scheduler.core.cluster import Cluster
from tests.scheduler.objects import Object, node, pod, pod_affinity, pod_term
from tests.scheduler.scores.score_of import cluster, run, scores

NAME = "InterPodAffinity"
WEB, DB = {"app": "web"}, {"app": "db"}


def zones(**more: bool) -> Cluster:
    arguments = DEFAULTS._replace(**more)  # type: ignore[arg-type]
    places = {"a": "1", "b": "1", "c": "2"}
    return cluster(*(node(name, labels={"zone": zone}) for name, zone in places.items()), arguments=arguments)


def near(weight: int, labels: dict[str, str] = DB) -> Object:
    return {"affinity": pod_affinity(near_if=[(weight, pod_term("zone", labels))])}


def away(weight: int, labels: dict[str, str] = DB) -> Object:
    return {"affinity": pod_affinity(away_if=[(weight, pod_term("zone", labels))])}


def test_a_pod_is_drawn_to_the_domain_of_those_it_prefers() -> None:
    found = zones()
    run(found, pod("db", labels=DB), "a")
    assert scores(found, pod("p", **near(5)), NAME) == {"a": 100, "b": 100, "c": 0}
    assert scores(found, pod("p", **away(5)), NAME) == {"a": 0, "b": 0, "c": 100}


def test_each_pod_counts() -> None:
    found = zones()
    for number in range(3):
        run(found, pod(f"db-{number}", labels=DB), "a")
    run(found, pod("db-x", labels=DB), "c")
    both = pod_affinity(near_if=[(10, pod_term("zone", DB))], away_if=[(2, pod_term("kubernetes.io/hostname", DB))])
    # a: 3 x 10 - 3 x 2, b: 3 x 10, c: 1 x 10 - 1 x 2
    assert scores(found, pod("p", affinity=both), NAME) == {"a": round(100 * (24 - 8) / 22, 3), "b": 100, "c": 0}


def test_those_that_run_have_preferences_too() -> None:
    found = zones()
    run(found, pod("db", labels=DB, **near(7, WEB)), "c")
    assert scores(found, pod("p", labels=WEB), NAME) == {"a": 0, "b": 0, "c": 100}
    run(found, pod("db-2", labels=DB, **away(8, WEB)), "c")
    assert scores(found, pod("p", labels=WEB), NAME) == {"a": 100, "b": 100, "c": 0}
    found.on_pod_gone("uid-db-2")
    assert scores(found, pod("p", labels=WEB), NAME) == {"a": 0, "b": 0, "c": 100}
    assert scores(found, pod("p", labels=DB), NAME) == {"a": 0, "b": 0, "c": 0}


def test_required_affinity_of_those_that_run_counts_with_a_weight() -> None:
    def made(weight: int) -> Cluster:
        found = zones(hard_pod_affinity_weight=weight)  # type: ignore[arg-type]
        run(found, pod("db", labels=DB, affinity=pod_affinity(near=[pod_term("zone", WEB)])), "c")
        run(found, pod("db-2", labels=DB, **near(3, WEB)), "a")
        return found

    assert scores(made(1), pod("p", labels=WEB), NAME) == {"a": 100, "b": 100, "c": 0}
    assert scores(made(9), pod("p", labels=WEB), NAME) == {"a": 0, "b": 0, "c": 100}


def test_preferences_of_those_that_run_may_be_ignored() -> None:
    found = zones(ignore_preferred_terms_of_existing_pods=True)
    run(found, pod("db", labels=DB, **near(7, WEB)), "c")
    assert scores(found, pod("p", labels=WEB), NAME) == {"a": 0, "b": 0, "c": 0}
    # Not for a pod that has preferences itself.
    assert scores(found, pod("p", labels=WEB, **near(1)), NAME) == {"a": 0, "b": 0, "c": 100}


def test_a_namespace_s_labels_count_from_then_on() -> None:
    found = zones()
    run(found, pod("db", labels=DB, namespace="e"), "c")
    term = pod_term("zone", DB, namespaceSelector={"matchLabels": {"team": "1"}})
    wanted = pod("p", affinity=pod_affinity(near_if=[(1, term)]))
    assert scores(found, wanted, NAME) == {"a": 0, "b": 0, "c": 0}
    found.on_namespace("e", {"team": "1"})
    assert scores(found, wanted, NAME) == {"a": 0, "b": 0, "c": 100}


def test_pods_whose_node_is_gone_draw_nobody() -> None:
    found = zones()
    found.on_node(node("d", labels={"zone": "2"}))
    run(found, pod("db", labels=DB), "d")
    run(found, pod("db-2", labels=DB), "a")
    found.on_node_gone("d")
    assert scores(found, pod("p", **near(5)), NAME) == {"a": 100, "b": 100, "c": 0}
