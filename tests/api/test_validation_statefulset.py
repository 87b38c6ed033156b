"""Validation of StatefulSets and ControllerRevisions: the causes upstream gives."""

from typing import Any

import pytest

from tests.api.test_validation import LABELS, TEMPLATE, causes, changed

CLAIM: dict[str, Any] = {
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}
FORBIDDEN = (
    "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
    "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are "
    "forbidden"
)


def spec(**fields: Any) -> dict[str, Any]:
    return {"spec": {"selector": {"matchLabels": LABELS}, "template": TEMPLATE, "serviceName": "s", **fields}}


def mounting(name: str) -> dict[str, Any]:
    mounts = [{"name": name, "mountPath": "/data"}]
    return {
        "metadata": {"labels": LABELS},
        "spec": {"containers": [{"name": "c", "image": "i", "volumeMounts": mounts}]},
    }


def rolling(**fields: Any) -> dict[str, Any]:
    return {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": fields}}


ROLLING = "spec.updateStrategy.rollingUpdate"
RETENTION = "spec.persistentVolumeClaimRetentionPolicy"
NEGATIVE = "Invalid value: -1: must be greater than or equal to 0"
KINDS = 'supported values: "Delete", "Retain"'


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        (
            {"podManagementPolicy": "Odd"},
            "spec.podManagementPolicy",
            "Invalid value: \"Odd\": must be 'OrderedReady' or 'Parallel'",
        ),
        (
            {"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}},
            ROLLING,
            "Invalid value: {\"partition\":1}: only allowed for updateStrategy 'RollingUpdate'",
        ),
        (rolling(partition=-1), f"{ROLLING}.partition", NEGATIVE),
        (rolling(maxUnavailable=0), f"{ROLLING}.maxUnavailable", "Invalid value: 0: cannot be 0"),
        (
            rolling(maxUnavailable="101%"),
            f"{ROLLING}.maxUnavailable",
            'Invalid value: "101%": must not be greater than 100%',
        ),
        (
            {"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Burn"}},
            f"{RETENTION}.whenScaled",
            f'Unsupported value: "Burn": {KINDS}',
        ),
        ({"ordinals": {"start": -1}}, "spec.ordinals.start", NEGATIVE),
        (
            {"template": mounting("other"), "volumeClaimTemplates": [CLAIM]},
            "spec.template.spec.containers[0].volumeMounts[0].name",
            'Not found: "other"',
        ),
        (
            {"volumeClaimTemplates": [{**CLAIM, "spec": {**CLAIM["spec"], "accessModes": []}}]},
            "spec.volumeClaimTemplates[0].spec.accessModes",
            "Required value: at least 1 access mode is required",
        ),
    ],
)
def test_refused_specs(fields: dict[str, Any], field: str, message: str) -> None:
    assert causes("apps/v1", "StatefulSet", **spec(**fields)) == [f"{field}: {message}"]


@pytest.mark.parametrize(
    "fields",
    [{}, rolling(maxUnavailable="50%"), {"template": mounting("data"), "volumeClaimTemplates": [CLAIM]}],
)
def test_good_specs(fields: dict[str, Any]) -> None:
    assert causes("apps/v1", "StatefulSet", **spec(**fields)) == []


def test_names_are_labels() -> None:
    (cause,) = causes("apps/v1", "StatefulSet", metadata={"name": "a.b"}, **spec())
    assert cause.startswith('metadata.name: Invalid value: "a.b": a lowercase RFC 1123 label must consist of')
    (cause,) = causes("apps/v1", "StatefulSet", **spec(serviceName="A.b"))
    assert cause.startswith('spec.serviceName: Invalid value: "A.b": a lowercase RFC 1123 label must consist of')


def test_what_may_change() -> None:
    free = {"replicas": 3, "ordinals": {"start": 2}, "minReadySeconds": 1, "revisionHistoryLimit": 1, **rolling()}
    assert changed("apps/v1", "StatefulSet", spec(), spec(**free)) == []
    for fields in ({"podManagementPolicy": "Parallel"}, {"serviceName": "t"}, {"volumeClaimTemplates": [CLAIM]}):
        assert changed("apps/v1", "StatefulSet", spec(), spec(**fields)) == [FORBIDDEN]


def test_controller_revisions() -> None:
    assert causes("apps/v1", "ControllerRevision", revision=1, data={"a": 1}) == []
    assert causes("apps/v1", "ControllerRevision", revision=1) == ["data: Required value: data is mandatory"]
    assert causes("apps/v1", "ControllerRevision", revision=-1, data={}) == [
        "revision: Invalid value: -1: must be greater than or equal to 0"
    ]
    old, new = {"revision": 1, "data": {"a": 1}}, {"revision": 2, "data": {"a": 1}}
    assert changed("apps/v1", "ControllerRevision", old, new) == []
    (cause,) = changed("apps/v1", "ControllerRevision", old, {**new, "data": {"a": 2}})
    assert cause.startswith("data: Invalid value:") and cause.endswith("field is immutable")
