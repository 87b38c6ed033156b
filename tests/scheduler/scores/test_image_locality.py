"""Bytes of images that are there already."""

from tests.scheduler.objects import node, pod
from tests.scheduler.scores.score_of import cluster, run, scores

MIB = 1 << 20
NAME = "ImageLocality"


def test_the_size_counts_by_how_many_nodes_have_it() -> None:
    found = cluster(node("a", images={"app:1": 500 * MIB}), node("b"))
    one_of_two = 100 * (250 - 23) / (1000 - 23)
    assert scores(found, pod("p", image="app:1"), NAME) == {"a": round(one_of_two, 3), "b": 0}
    found.on_node(node("b", images={"app:1": 300 * MIB}))
    both = {"a": round(100 * (500 - 23) / 977, 3), "b": round(100 * (300 - 23) / 977, 3)}
    assert scores(found, pod("p", image="app:1"), NAME) == both


def test_small_and_huge_images_are_cut() -> None:
    found = cluster(node("a", images={"small:1": 20 * MIB, "huge:1": 9000 * MIB}))
    assert scores(found, pod("p", image="small:1"), NAME) == {"a": 0}
    assert scores(found, pod("p", image="huge:1"), NAME) == {"a": 100}


def test_no_tag_is_the_latest_and_a_port_is_no_tag() -> None:
    found = cluster(node("a", images={"host:5000/app:latest": 9000 * MIB}))
    assert scores(found, pod("p", image="host:5000/app"), NAME) == {"a": 100}
    assert scores(found, pod("p", image="host:5000/app:2"), NAME) == {"a": 0}


def test_init_containers_and_image_volumes_count_too() -> None:
    found = cluster(node("a", images={"app:1": 1000 * MIB, "init:1": 1000 * MIB, "data:1": 1000 * MIB}))
    obj = pod("p", image="app:1", initContainers=[{"name": "i", "image": "init:1"}])
    assert scores(found, obj, NAME) == {"a": round(100 * (2000 - 23) / (2000 - 23), 3)}
    obj["spec"]["volumes"] = [{"name": "v", "image": {"reference": "other:1"}}]
    assert scores(found, obj, NAME) == {"a": round(100 * (2000 - 23) / (3000 - 23), 3)}


def test_an_image_that_comes_or_goes_counts_at_once() -> None:
    found = cluster(node("a", cpu="1"), node("b", cpu="1"))
    wanted = pod("p", image="app:1")
    assert scores(found, wanted, NAME) == {"a": 0, "b": 0}
    found.on_node(node("b", cpu="1", images={"app:1": 2000 * MIB}))
    assert scores(found, wanted, NAME) == {"a": 0, "b": 100}
    found.on_node(node("b", cpu="1"))
    assert scores(found, wanted, NAME) == {"a": 0, "b": 0}
    found.on_node(node("b", cpu="1", images={"app:1": 2000 * MIB}))
    found.on_node_gone("b")
    assert scores(found, wanted, NAME) == {"a": 0}


def test_a_node_that_fits_later_has_its_images() -> None:
    found = cluster(node("a", cpu="1", images={"app:1": 2000 * MIB}), node("b", cpu="64"))
    wanted = {"cpu": "600m", "memory": "64Mi", "image": "app:1"}
    run(found, pod("hog", "1"), "a")
    first = found.schedule(found.read_pod(pod("first", **wanted)))
    found.on_pod_gone("uid-hog")
    second = found.schedule(found.read_pod(pod("second", **wanted)))
    assert [first[0], second[0]] == ["b", "a"]  # type: ignore[index]
