"""Server-side apply: ownership, conflicts, what goes away, and its laws."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api import fieldsets, resources
from raykube.api.apply import apply, check_declared, track_update
from raykube.api.errors import ApiError
from raykube.api.shapes import root_shape

DEPLOYMENT = resources.builtin("apps/v1", "Deployment")
CONFIG_MAP = resources.builtin("v1", "ConfigMap")
SERVICE = resources.builtin("v1", "Service")
NOW = 1_800_000_000.0


def config_map(data: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", **metadata}, "data": data}


def deployment(containers: list[dict[str, Any]], **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": containers}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "default"},
        "spec": {**spec, "template": template},
    }


def applied(resource: Any, live: dict[str, Any] | None, patch: dict[str, Any], manager: str, **more: Any) -> Any:
    return apply(resource, copy.deepcopy(live), patch, manager=manager, **{"force": False, "now": NOW, **more})


def owners(obj: dict[str, Any]) -> dict[str, Any]:
    return {f"{each['manager']}/{each['operation']}": each["fieldsV1"] for each in obj["metadata"]["managedFields"]}


def test_the_first_apply_owns_what_it_says() -> None:
    obj = applied(CONFIG_MAP, None, config_map({"a": "1"}, labels={"l": "m"}), "alice")
    assert obj["metadata"]["managedFields"] == [
        {
            "manager": "alice",
            "operation": "Apply",
            "apiVersion": "v1",
            "time": "2027-01-15T08:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {"f:a": {}}, "f:metadata": {"f:labels": {"f:l": {}}}},
        }
    ]


def test_items_of_keyed_lists_are_owned_by_their_keys() -> None:
    obj = applied(
        DEPLOYMENT, None, deployment([{"name": "a", "image": "x", "ports": [{"containerPort": 80}]}]), "alice"
    )
    assert owners(obj)["alice/Apply"]["f:spec"]["f:template"]["f:spec"] == {
        "f:containers": {
            'k:{"name":"a"}': {
                ".": {},
                "f:image": {},
                "f:name": {},
                "f:ports": {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}},
            }
        }
    }


def test_what_is_no_longer_applied_goes_away() -> None:
    first = applied(DEPLOYMENT, None, deployment([{"name": "a"}, {"name": "b"}], replicas=3, paused=True), "alice")
    first["spec"]["minReadySeconds"] = 5  # nobody's: a default
    second = applied(DEPLOYMENT, first, deployment([{"name": "a"}]), "alice")
    assert [each["name"] for each in second["spec"]["template"]["spec"]["containers"]] == ["a"]
    assert "replicas" not in second["spec"]
    assert "paused" not in second["spec"]
    assert second["spec"]["minReadySeconds"] == 5


def test_what_another_owns_stays() -> None:
    first = applied(CONFIG_MAP, None, config_map({"a": "1", "b": "1"}), "alice")
    both = applied(CONFIG_MAP, first, config_map({"a": "1"}), "bob")
    after = applied(CONFIG_MAP, both, config_map({}), "alice")
    assert after["data"] == {"a": "1"}
    assert owners(after) == {"bob/Apply": {"f:data": {"f:a": {}}}, "alice/Apply": {"f:data": {}}}


def test_one_conflict() -> None:
    live = applied(CONFIG_MAP, None, config_map({"a": "1"}), "alice")
    with pytest.raises(ApiError) as raised:
        applied(CONFIG_MAP, live, config_map({"a": "2"}), "bob")
    error = raised.value
    assert (error.code, error.reason) == (409, "Conflict")
    assert error.message == 'Apply failed with 1 conflict: conflict with "alice": .data.a'
    assert error.status()["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "alice"', "field": ".data.a"}
    ]


def test_many_conflicts_with_updaters_and_items() -> None:
    live = applied(DEPLOYMENT, None, deployment([{"name": "a", "image": "x"}]), "alice")
    changed = copy.deepcopy(live)
    changed["spec"]["replicas"] = 7
    track_update(DEPLOYMENT, live, changed, manager="scaler", now=NOW, subresource="scale")
    with pytest.raises(ApiError) as raised:
        applied(DEPLOYMENT, changed, deployment([{"name": "a", "image": "y"}], replicas=1), "bob")
    assert raised.value.message == (
        "Apply failed with 2 conflicts: "
        'conflicts with "alice":\n- .spec.template.spec.containers[name="a"].image\n'
        'conflicts with "scaler" with subresource "scale" using apps/v1:\n- .spec.replicas'
    )


def test_force_takes_over() -> None:
    live = applied(CONFIG_MAP, None, config_map({"a": "1", "b": "1"}), "alice")
    after = applied(CONFIG_MAP, live, config_map({"a": "2"}), "bob", force=True)
    assert after["data"] == {"a": "2", "b": "1"}
    assert owners(after) == {"alice/Apply": {"f:data": {"f:b": {}}}, "bob/Apply": {"f:data": {"f:a": {}}}}


def test_equal_values_are_shared_without_conflict() -> None:
    live = applied(CONFIG_MAP, None, config_map({"a": "1"}), "alice")
    after = applied(CONFIG_MAP, live, config_map({"a": "1"}), "bob")
    assert set(owners(after)) == {"alice/Apply", "bob/Apply"}


def test_an_object_nobody_owns_belonged_to_someone_before() -> None:
    live = config_map({"a": "1", "b": "1"})
    with pytest.raises(ApiError, match=r'conflict with "before-first-apply" using v1: \.data\.a'):
        applied(CONFIG_MAP, live, config_map({"a": "2"}), "alice")
    after = applied(CONFIG_MAP, live, config_map({"a": "2"}), "alice", force=True)
    assert owners(after)["before-first-apply/Update"]["f:data"] == {"f:b": {}}


def test_kubectl_moves_from_client_side_to_server_side_without_conflict() -> None:
    note = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"1"}}'
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": note}
    live = config_map({"a": "1", "b": "1"}, annotations=annotations)
    after = applied(CONFIG_MAP, live, config_map({"a": "2"}), "kubectl")
    assert after["data"] == {"a": "2", "b": "1"}
    assert '"a":"2"' in after["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]
    with pytest.raises(ApiError, match=r"\.data\.b"):
        applied(CONFIG_MAP, live, config_map({"a": "1", "b": "2"}), "kubectl")


def test_an_update_takes_what_it_changes() -> None:
    live = applied(CONFIG_MAP, None, config_map({"a": "1", "b": "1"}), "alice")
    new = copy.deepcopy(live)
    new["data"] = {"a": "9", "c": "1"}
    track_update(CONFIG_MAP, live, new, manager="ed", now=NOW + 60)
    assert owners(new) == {"ed/Update": {"f:data": {"f:a": {}, "f:c": {}}}}
    assert new["metadata"]["managedFields"][0]["time"] == "2027-01-15T08:01:00Z"


def test_a_client_that_forgets_managed_fields_loses_nothing() -> None:
    live = applied(CONFIG_MAP, None, config_map({"a": "1"}), "alice")
    new = config_map({"a": "1"})
    track_update(CONFIG_MAP, live, new, manager="ed", now=NOW)
    assert new["metadata"]["managedFields"] == live["metadata"]["managedFields"]
    new["metadata"]["managedFields"] = [{}]
    track_update(CONFIG_MAP, live, new, manager="ed", now=NOW)
    assert "managedFields" not in new["metadata"]


def test_status_is_owned_only_through_its_door() -> None:
    live = applied(
        SERVICE, None, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {}}, "alice"
    )
    new = {**live, "spec": {"type": "NodePort"}, "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}}
    new["metadata"] = dict(live["metadata"])
    track_update(SERVICE, live, new, manager="lb", now=NOW, subresource="status")
    rows = {each["manager"]: each for each in new["metadata"]["managedFields"]}
    assert rows["lb"]["subresource"] == "status"
    assert set(rows["lb"]["fieldsV1"]) == {"f:status"}


def test_updaters_are_bounded() -> None:
    obj = applied(CONFIG_MAP, None, config_map({"a": "1"}), "alice")
    for number in range(30):
        new = copy.deepcopy(obj)
        new["data"][f"k{number}"] = "1"
        track_update(CONFIG_MAP, obj, new, manager=f"m{number}", now=NOW + number)
        obj = new
    rows = obj["metadata"]["managedFields"]
    assert len([each for each in rows if each["operation"] == "Update"]) == 10
    ancient = next(each for each in rows if each["manager"] == "ancient-changes")
    assert "f:k0" in ancient["fieldsV1"]["f:data"]


@pytest.mark.parametrize(
    ("containers", "message"),
    [
        ([{"image": "x"}], 'omits key field "name"'),
        ([{"name": "a"}, {"name": "a"}], r'duplicate entries for key \[name="a"\]'),
    ],
)
def test_items_that_cannot_be_told_apart(containers: list[Any], message: str) -> None:
    with pytest.raises(ApiError, match=message) as raised:
        applied(DEPLOYMENT, None, deployment(containers), "alice")
    assert raised.value.code == 500
    assert "(default/d; apps/v1, Kind=Deployment)" in raised.value.message


def test_managed_fields_may_not_be_applied() -> None:
    with pytest.raises(ApiError, match=r"metadata\.managedFields must be nil"):
        applied(CONFIG_MAP, None, config_map({}, managedFields=[{"manager": "x"}]), "alice")


@pytest.mark.parametrize(
    ("live", "patch", "merged"),
    [
        ("abc", "ca", "bca"),
        ("abcd", "ca", "bcda"),
        ("x", "n", "xn"),
        ("xs", "ns", "xns"),
        ("abc", "abc", "abc"),
        ("", "ab", "ab"),
        ("ab", "", "ab"),
    ],
)
def test_order_of_merged_lists(live: str, patch: str, merged: str) -> None:
    shape = root_shape("apps", "v1", "Deployment").child("spec").child("template").child("spec").child("containers")
    names = fieldsets.merge(shape, [{"name": each} for each in live], [{"name": each} for each in patch])
    assert "".join(each["name"] for each in names) == merged


KEYS = st.sampled_from("abc")
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": KEYS}, optional={"image": st.sampled_from("xy"), "args": st.lists(KEYS, max_size=2)}
    ),
    min_size=1,  # a keyed list that becomes empty vanishes
    max_size=3,
    unique_by=lambda each: each["name"],
)
OBJECTS = st.builds(
    lambda containers, spec: deployment(containers, **spec),
    CONTAINERS,
    st.fixed_dictionaries(
        {}, optional={"replicas": st.integers(0, 2), "selector": st.just({"matchLabels": {"a": "b"}})}
    ),
)


@given(OBJECTS, OBJECTS)
def test_applying_again_changes_nothing(first: dict[str, Any], second: dict[str, Any]) -> None:
    live = applied(DEPLOYMENT, None, first, "alice")
    once = applied(DEPLOYMENT, live, second, "bob", force=True)
    again = applied(DEPLOYMENT, once, second, "bob", now=NOW + 9)
    assert again == once


@given(OBJECTS, OBJECTS)
def test_an_only_applier_gets_what_it_asks_for(first: dict[str, Any], second: dict[str, Any]) -> None:
    live = applied(DEPLOYMENT, None, first, "alice")
    after = applied(DEPLOYMENT, live, second, "alice")
    only = applied(DEPLOYMENT, None, second, "alice")
    assert after == only


@given(OBJECTS)
def test_sets_survive_their_stored_form(obj: dict[str, Any]) -> None:
    shape = root_shape("apps", "v1", "Deployment")
    fields = fieldsets.owned(shape, obj) | fieldsets.everything(shape, obj)
    assert fieldsets.decode(fieldsets.encode(fields)) == fields


@given(OBJECTS, OBJECTS)
def test_tracking_leaves_each_field_one_updater(first: dict[str, Any], second: dict[str, Any]) -> None:
    old = applied(DEPLOYMENT, None, first, "alice")
    new = copy.deepcopy(second)
    track_update(DEPLOYMENT, old, new, manager="ed", now=NOW)
    rows = new["metadata"].get("managedFields", [])
    shape = root_shape("apps", "v1", "Deployment")
    present = fieldsets.everything(shape, second)
    for row in rows:
        fields = fieldsets.decode(row["fieldsV1"])
        assert all(path in present for path in fields), "somebody owns what is not there"


def test_fields_that_the_kind_has_not_are_named() -> None:
    obj = deployment([{"name": "a", "imaeg": "x"}], replcias=1)
    with pytest.raises(ApiError) as raised:
        check_declared(DEPLOYMENT, obj)
    assert raised.value.message == (
        "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): errors:\n"
        "  .spec.replcias: field not declared in schema\n"
        '  .spec.template.spec.containers[name="a"].imaeg: field not declared in schema'
    )
    check_declared(DEPLOYMENT, deployment([{"name": "a", "image": "x"}]))
