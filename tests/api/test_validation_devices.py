"""Devices that make no sense: claims, templates, classes, slices, and what is written into a claim's status."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from raykube.api.resources import builtin
from raykube.api.validation import validate_create, validate_update
from tests.scheduler.device_objects import DRIVER, claim, device, device_class, exactly, option, resource_slice

Object = dict[str, Any]
Edit = Callable[[Object], Any]


def made(obj: Object) -> Object:
    obj["metadata"] |= {"uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    obj["metadata"].pop("resourceVersion", None)
    return obj


def said(obj: Object) -> list[str]:
    resource = builtin(obj["apiVersion"], obj["kind"])
    return [f"{cause.field}: {cause.message}" for cause in validate_create(resource, made(obj))]


def updated(old: Object, edit: Edit, subresource: str = "") -> list[str]:
    new = copy.deepcopy(made(old))
    edit(new)
    resource = builtin(old["apiVersion"], old["kind"])
    return [f"{cause.field}: {cause.message}" for cause in validate_update(resource, new, old, subresource)]


def template(spec: Object) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "t", "namespace": "d"},
        "spec": {"spec": spec},
    }


def test_what_makes_sense_is_taken() -> None:
    config = {"opaque": {"driver": DRIVER, "parameters": {"kind": "x"}}}
    alternatives = {"name": "any", "firstAvailable": [{"name": "big"} | option(), {"name": "all"} | option(0)]}
    constraints = [{"requests": ["gpu", "any/big"], "matchAttribute": f"{DRIVER}/numa"}]
    full = claim("c", exactly(), alternatives, constraints=constraints, config=[config | {"requests": ["any"]}])
    del full["status"]
    assert said(full) == [] == said(template(full["spec"]))
    assert said(device_class("gpu", 'device.driver == "x"', config=[config])) == []
    devices = [device("gpu-0", {"memory": "40Gi"}, model="A100", index=1)]
    assert said(resource_slice("s", "n1", devices)) == []
    counters = [{"name": "set", "counters": {"memory": {"value": "4"}}}]
    assert said(resource_slice("s", "n1", sharedCounters=counters)) == []


TOLERATION = {"key": "example.com/broken", "operator": "Equal", "value": "yes", "effect": "None"}
NAME_RULE = "name part must consist of alphanumeric characters"
VALUE_RULE = "a valid label must be an empty string or consist of alphanumeric"


def taints(**taint: str) -> Object:
    return resource_slice("s", "n1", [device("d") | {"taints": [{"effect": "NoExecute"} | taint]}])


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (claim("c", exactly(tolerations=[TOLERATION] * 16)), []),
        (claim("c", exactly(tolerations=[{"operator": "Exists"}])), []),
        (
            claim("c", exactly(tolerations=[TOLERATION] * 17)),
            ["tolerations: Too many: 17: must have at most 16 items"],
        ),
        (
            claim("c", exactly(tolerations=[TOLERATION | {"key": "no key", "value": "-"}])),
            [
                f'tolerations[0].key: Invalid value: "no key": {NAME_RULE}',
                f'tolerations[0].value: Invalid value: "-": {VALUE_RULE}',
            ],
        ),
        (
            claim("c", exactly(tolerations=[TOLERATION | {"operator": "Exists", "effect": "Some"}])),
            [
                'tolerations[0].value: Invalid value: "yes": must be empty for operator `Exists`',
                'tolerations[0].effect: Unsupported value: "Some": supported values: "NoExecute", "NoSchedule", "None"',
            ],
        ),
        (taints(key="example.com/broken", value="yes"), []),
        (
            taints(),
            [
                'taints[0].key: Invalid value: "": name part must be non-empty',
                f'taints[0].key: Invalid value: "": {NAME_RULE}',
            ],
        ),
        (
            taints(key="no key", value="-", effect=""),
            [
                f'taints[0].key: Invalid value: "no key": {NAME_RULE}',
                f'taints[0].value: Invalid value: "-": {VALUE_RULE}',
                "taints[0].effect: Required value",
            ],
        ),
    ],
)
def test_keys_and_values_of_taints_are_those_of_labels(obj: Object, expected: list[str]) -> None:
    found = [one.removeprefix(f"{REQUEST}.exactly.").removeprefix("spec.devices[0].") for one in said(obj)]
    assert len(found) == len(expected), found
    for one, words in zip(found, expected, strict=True):
        assert one.startswith(words), one


def limits(default: str | None = "2G", **more: str) -> Object:
    found: Object = {"validRange": {"min": "1G"} | more}
    return found if default is None else found | {"default": default}


VALUES = ["1G", "2G", "4G"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"default": "3G"}, []),
        ({"default": "2G", "validValues": VALUES}, []),
        (limits(max="9G", step="1G"), []),
        (
            limits() | {"validValues": VALUES},
            [': Forbidden: exactly one policy can be specified, cannot specify "validValues" and "validRange" at the'],
        ),
        (limits(None), [".default: Required value: required when validRange is defined"]),
        ({"validValues": VALUES}, [".default: Required value: required when validValues is defined"]),
        (
            {"default": "3G", "validValues": ["2G", "1G", "20G", "20G"]},
            [
                '.validValues[1]: Invalid value: "1G": values must be sorted in ascending order',
                '.validValues[2]: Invalid value: "20G": option is larger than capacity value: 10G',
                '.validValues[3]: Invalid value: "20G": option is larger than capacity value: 10G',
                '.validValues[3]: Duplicate value: "20000000000"',
                '.validValues: Invalid value: "3G": default value is not valid according to the requestPolicy',
            ],
        ),
        (
            {"default": "1", "validValues": [str(number) for number in range(1, 12)]},
            [".validValues: Too many: 11: must have at most 10 items"],
        ),
        ({"default": "1G", "validRange": {"max": "2G"}}, [".validRange.min: Required value: required when validRange"]),
        (
            limits(min="11G"),
            [
                '.validRange.min: Invalid value: "11G": min is larger than capacity value: 10G',
                '.validRange.min: Invalid value: "2G": default is less than min: 11G',
            ],
        ),
        (
            limits("3G", min="2G", max="1G"),
            [
                '.validRange.max: Invalid value: "2G": min is larger than max: 1G',
                '.validRange.max: Invalid value: "3G": default is more than max: 1G',
            ],
        ),
        (limits(max="11G"), ['.validRange.max: Invalid value: "11G": max is larger than capacity value: 10G']),
        (limits(step="0"), ['.validRange.step: Invalid value: "0": must be greater than zero']),
        (limits(step="-1G"), ['.validRange.step: Invalid value: "-1G": must be greater than zero']),
        (
            limits("1G", step="10G"),
            ['.validRange.step: Invalid value: "10G": one step 11G is larger than capacity value: 10G'],
        ),
        (
            limits("2500M", max="4", min="1", step="2"),
            [
                '.validRange.max: Invalid value: "2500M": default is more than max: 4',
                '.validRange.step: Invalid value: "2500M": value is not a multiple of a given step (2) from (1)',
                '.validRange.step: Invalid value: "4": value is not a multiple of a given step (2) from (1)',
            ],
        ),
    ],
)
def test_what_may_be_asked_for_of_a_capacity_that_claims_share(policy: Object, expected: list[str]) -> None:
    shared = device("d", {"bandwidth": "10G"}) | {"allowMultipleAllocations": True}
    shared["capacity"]["bandwidth"]["requestPolicy"] = policy
    found = [one.partition("requestPolicy")[2] for one in said(resource_slice("s", "n1", [shared]))]
    assert len(found) == len(expected), found
    for one, words in zip(found, expected, strict=True):
        assert one.startswith(words), one


REQUEST = "spec.devices.requests[0]"
REFERENCE = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (
            claim("c", {"name": "gpu"}),
            [f"{REQUEST}: Required value: exactly one of `exactly` or `firstAvailable` is required"],
        ),
        (
            claim("c", exactly() | {"firstAvailable": [{"name": "a"} | option()]}),
            [f"{REQUEST}: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple"],
        ),
        (
            claim("c", exactly(), exactly()),
            ['spec.devices.requests[1].name: Duplicate value: "gpu"'],
        ),
        (
            claim("c", exactly(device_class="")),
            [f"{REQUEST}.exactly.deviceClassName: Required value"],
        ),
        (
            claim("c", exactly("gpu", 0) | {"exactly": option(0) | {"count": 2}}),
            [f"{REQUEST}.exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'"],
        ),
        (
            claim("c", exactly() | {"exactly": option() | {"count": -1}}),
            [f"{REQUEST}.exactly.count: Invalid value: -1: must be greater than zero"],
        ),
        (
            claim("c", exactly() | {"exactly": option() | {"allocationMode": "Some"}}),
            [f'{REQUEST}.exactly.allocationMode: Unsupported value: "Some": supported values: "All", "ExactCount"'],
        ),
        (
            claim("c", exactly("gpu", 1, "nobody(1)")),
            [f'{REQUEST}.exactly.selectors[0].cel.expression: Invalid value: "nobody(1)": compilation failed: '],
        ),
        (
            claim("c", exactly("gpu", 1, "'x'")),
            [f"{REQUEST}.exactly.selectors[0].cel.expression: Invalid value: \"'x'\": must evaluate to bool or"],
        ),
        (
            claim("c", exactly("gpu", 1, "[1].all(a, [1].all(b, [1].all(c, [1].all(d, [1].all(e, true)))))")),
            [f"{REQUEST}.exactly.selectors[0].cel.expression: Forbidden: too complex, exceeds cost limit"],
        ),
        (
            claim("c", exactly("gpu", 1, "true" + " " * 10_240)),
            [f"{REQUEST}.exactly.selectors[0].cel.expression: Too long: may not be more than 10240 bytes"],
        ),
        (
            claim("c", exactly(), constraints=[{"requests": ["cpu"], "matchAttribute": "numa"}]),
            [
                f'spec.devices.constraints[0].requests[0]: Invalid value: "cpu": {REFERENCE}',
                'spec.devices.constraints[0].matchAttribute: Invalid value: "numa": must include a domain',
            ],
        ),
        (
            claim("c", exactly(), config=[{"opaque": {"driver": "NO", "parameters": {}}}, {}]),
            [
                'spec.devices.config[0].opaque.driver: Invalid value: "NO": a lowercase RFC 1123 subdomain must',
                "spec.devices.config[1].opaque: Required value",
            ],
        ),
        (
            device_class("gpu") | {"spec": {"selectors": [{}]}},
            ["spec.selectors[0].cel: Required value"],
        ),
        (
            resource_slice("s", devices=[device("d")]),
            ["spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection`"],
        ),
        (
            resource_slice("s", "n1", [device("d")], allNodes=True),
            ['spec: Invalid value: "{`nodeName`, `allNodes`}": exactly one of'],
        ),
        (
            resource_slice("s", "n1", [device("d"), device("d")], count=0, generation=-1),
            [
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
                "spec.pool.generation: Invalid value: -1: must be greater than or equal to zero",
                'spec.devices[1].name: Duplicate value: "d"',
            ],
        ),
        (
            resource_slice("s", "n1", [device("d") | {"nodeName": "n1"}]),
            ["spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if"],
        ),
        (
            resource_slice("s", "n1", [{"name": "d", "attributes": {"1x": {"version": "1.2"}, "y": {}}}]),
            [
                'spec.devices[0].attributes[1x]: Invalid value: "1x": a valid C identifier must start',
                'spec.devices[0].attributes[1x].version: Invalid value: "1.2": must be a string compatible with',
                'spec.devices[0].attributes[y]: Invalid value: "": exactly one value must be specified',
            ],
        ),
        (
            resource_slice("s", "n1", [device("d", **{f"a{number}": 1 for number in range(33)})]),
            ["spec.devices[0]: Invalid value: 33: the total number of attributes and capacities must not exceed 32"],
        ),
    ],
)
def test_what_does_not_is_refused(obj: Object, expected: list[str]) -> None:
    found = said(obj)
    assert len(found) == len(expected), found
    for one, words in zip(found, expected, strict=True):
        assert one.startswith(words), one


def test_what_may_not_change() -> None:
    old = claim("c", exactly())
    (found,) = updated(old, lambda new: new["spec"]["devices"]["requests"][0].update(name="other"))
    assert found.startswith("spec: Invalid value: ") and found.endswith("field is immutable")
    assert updated(old, lambda new: new["metadata"].update(labels={"a": "b"})) == []
    offered = resource_slice("s", "n1", [device("d")])
    assert updated(offered, lambda new: new["spec"]["pool"].update(generation=2)) == []
    assert updated(offered, lambda new: new["spec"].update(nodeName="n2")) == [
        'spec.nodeName: Invalid value: "n2": field is immutable'
    ]


RESULT = {"request": "gpu", "driver": DRIVER, "pool": "n1", "device": "gpu-0"}
USER = {"resource": "pods", "name": "p", "uid": "u1"}


def test_what_may_be_written_into_a_claims_status() -> None:
    old = claim("c", exactly())
    allocation = {"devices": {"results": [RESULT]}}

    def write(before: Object, **status: Any) -> list[str]:
        return updated(before, lambda new: new.update(status=status), "status")

    assert write(old, allocation=allocation, reservedFor=[USER]) == []
    assert write(old, reservedFor=[USER]) == [
        "status.reservedFor: Forbidden: may not be specified when `allocated` is not set"
    ]
    assert write(old, allocation={"devices": {"results": [RESULT | {"request": "cpu"}]}}) == [
        f'status.allocation.devices.results[0].request: Invalid value: "cpu": {REFERENCE}'
    ]
    taken = old | {"status": {"allocation": allocation}}
    other = {"devices": {"results": [RESULT | {"device": "gpu-1"}]}}
    (found,) = write(taken, allocation=other)
    assert found.startswith("status.allocation: Invalid value: ") and found.endswith("field is immutable")
    assert write(taken) == [], "it may be given back"
    assert write(taken, allocation=allocation, reservedFor=[USER, USER]) == [
        'status.reservedFor[1]: Duplicate value: "u1"'
    ]
    assert write(taken, allocation=allocation, reservedFor=[{"resource": "pods"}]) == [
        "status.reservedFor[0].name: Required value",
        "status.reservedFor[0].uid: Required value",
    ]
    leaving = copy.deepcopy(taken)
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    text = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"
    assert write(leaving, allocation=allocation, reservedFor=[USER]) == [f"status.reservedFor: Forbidden: {text}"]
