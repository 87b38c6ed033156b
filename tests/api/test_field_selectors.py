"""Field selectors: text, matching, which fields a resource offers."""

import pytest

from raykube.api import resources
from raykube.api.errors import ApiError
from raykube.api.field_selectors import FieldSelector, check_supported, selectable_fields

POD = resources.builtin("v1", "Pod")
EVENT = resources.builtin("v1", "Event")
NEW_EVENT = resources.builtin("events.k8s.io/v1", "Event")
CONFIG_MAP = resources.builtin("v1", "ConfigMap")


def test_matching() -> None:
    pod = {"metadata": {"name": "p", "namespace": "d"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}
    selector = FieldSelector.parse("spec.nodeName=n1,status.phase!=Failed,status.phase!=Succeeded")
    assert selector.matches(selectable_fields(POD, pod))
    assert selector.matches_object(POD, pod)
    assert not FieldSelector.parse("spec.nodeName==n2").matches_object(POD, pod)
    assert FieldSelector.parse("spec.nodeName=").matches_object(POD, {"metadata": {"name": "q"}})
    assert FieldSelector.parse("spec.hostNetwork=false").matches_object(POD, pod)
    assert FieldSelector.parse("").everything
    rest = FieldSelector.parse("status.phase!=Failed,status.phase!=Succeeded")
    assert selector.split(["spec.nodeName", "status.phase"]) == ({"spec.nodeName": "n1"}, rest)


def test_escapes() -> None:
    selector = FieldSelector.parse(r"metadata.name=a\,b\=c\\d")
    assert selector.requirements[0].value == r"a,b=c\d"
    assert FieldSelector.parse(str(selector)) == selector


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("spec.nodeName", "invalid selector: 'spec.nodeName'; can't understand 'spec.nodeName'"),
        ("a=1,b", "invalid selector: 'a=1,b'; can't understand 'b'"),
        (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
        ("a=b=c", "invalid field selector: unescaped character in value: ="),
    ],
)
def test_complaints(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match="invalid") as raised:
        FieldSelector.parse(text)
    assert str(raised.value) == complaint


def test_both_shapes_of_events_are_selected_alike() -> None:
    old = {"involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet"}}
    assert FieldSelector.parse("involvedObject.name=p,source=kubelet").matches_object(EVENT, old)
    assert FieldSelector.parse("regarding.name=p").matches_object(NEW_EVENT, old)


def test_unknown_fields_are_refused() -> None:
    check_supported(POD, FieldSelector.parse("spec.nodeName=n,metadata.name=p"))
    with pytest.raises(ApiError) as raised:
        check_supported(POD, FieldSelector.parse("spec.foo=n"))
    assert (raised.value.code, raised.value.message) == (400, "field label not supported: spec.foo")
    with pytest.raises(ApiError) as raised:
        check_supported(CONFIG_MAP, FieldSelector.parse("data.x=n"))
    assert raised.value.message == (
        '"data.x" is not a known field selector: only "metadata.name", "metadata.namespace"'
    )
