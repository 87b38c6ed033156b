"""What DaemonSets and StatefulSets share of ControllerRevisions."""

from typing import Any

from raykube.controllers.core import controller_revisions as revisions


def revision(number: int, image: str = "web:1", created: str = "2030-01-01T00:00:00Z") -> dict[str, Any]:
    name = f"web-{number}-{image}"
    return {
        "metadata": {"name": name, "creationTimestamp": created},
        "revision": number,
        "data": revisions.template_patch(owner(image)),
    }


def owner(image: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "web"},
        "spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}},
    }


def test_equal_templates_have_equal_hashes_until_a_name_is_taken() -> None:
    data = revisions.template_patch(owner("web:1"))
    turned = {"spec": {"template": dict(reversed(data["spec"]["template"].items()))}}
    assert revisions.hash_of(data, 0) == revisions.hash_of(turned, 0)
    assert len({revisions.hash_of(data, collisions) for collisions in range(4)}) == 4
    assert revisions.hash_of(data, 0) != revisions.hash_of(revisions.template_patch(owner("web:2")), 0)


def test_names_leave_room_for_the_hash() -> None:
    long = {"metadata": {"name": "w" * 253}}
    assert revisions.name_of(owner("web:1"), "abc") == "web-abc"
    assert len(revisions.name_of(long, "b" * 10)) <= 253


def test_order_is_by_number_then_age() -> None:
    newer, older, first = revision(2), revision(2, "web:2", "2029-01-01T00:00:00Z"), revision(1)
    assert revisions.in_order([newer, first, older]) == [first, older, newer]
    assert revisions.next_number([newer, first]) == 3 and revisions.next_number([]) == 1
    assert revisions.with_data([newer, first, older], first["data"]) == [first, newer]


def test_the_oldest_idle_revisions_expire() -> None:
    history = [revision(number) for number in (3, 1, 2)]
    live = {history[1]["metadata"]["name"]}
    assert [revisions.number_of(each) for each in revisions.expired(history, 1, live)] == [2]
    assert revisions.expired(history, -1, ()) == []
