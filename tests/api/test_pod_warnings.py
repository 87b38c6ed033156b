"""What pods and templates of pods say in vain, in upstream's words."""

from typing import Any

import pytest

from raykube.api.resources import builtin
from raykube.api.validation.podwarnings import pod_warnings
from tests.api.test_validation import made

NULL = "a null labelSelector results in matching no pod"
LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
SURPRISE = "which can result in surprising behavior; a DNS label is recommended"


def pod(**spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "c", "image": "i"}], **spec}}


def of_container(**fields: Any) -> dict[str, Any]:
    return pod(containers=[{"name": "c", "image": "i", **fields}])


def warned(api_version: str, kind: str, *, is_new: bool = True, **fields: Any) -> list[str]:
    return pod_warnings(builtin(api_version, kind), made(api_version, kind, **fields), is_new=is_new)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (pod(), []),
        (
            pod(nodeSelector={"beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}),
            ['spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead'],
        ),
        (
            pod(
                topologySpreadConstraints=[
                    {
                        "maxSkew": 1,
                        "topologyKey": "failure-domain.beta.kubernetes.io/zone",
                        "whenUnsatisfiable": "DoNotSchedule",
                    }
                ]
            ),
            [
                (
                    "spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is "
                    'deprecated since v1.17; use "topology.kubernetes.io/zone" instead'
                ),
                f"spec.topologySpreadConstraints[0].labelSelector: {NULL}",
            ],
        ),
        (
            pod(volumes=[{"name": "v", "emptyDir": {}}, {"name": "w", "gitRepo": {"repository": "r"}}]),
            ["spec.volumes[1].gitRepo: deprecated in v1.11"],
        ),
        (
            pod(hostAliases=[{"ip": "10.0.0.1", "hostnames": ["a"]}, {"ip": "10.0.0.1", "hostnames": ["b"]}]),
            ['spec.hostAliases[1].ip: duplicate ip "10.0.0.1"'],
        ),
        (
            pod(imagePullSecrets=[{"name": "a"}, {"name": "a"}, {}]),
            [
                'spec.imagePullSecrets[1].name: duplicate name "a"',
                'spec.imagePullSecrets[2].name: invalid empty name ""',
            ],
        ),
        (
            of_container(resources={"requests": {"memory": "128m"}, "limits": {"memory": "128Mi", "cpu": "100m"}}),
            [
                (
                    "spec.containers[0].resources.requests[memory]: "
                    'fractional byte value "128m" is invalid, must be an integer'
                )
            ],
        ),
        (
            of_container(
                env=[
                    {"name": "A", "value": "1"},
                    {"name": "A", "value": "$(A)2"},
                    {"name": "A", "value": "$(A)"},
                    {"name": "A", "value": "3"},
                ]
            ),
            [
                'spec.containers[0].env[2]: hides previous definition of "A", which may be dropped when using apply',
                'spec.containers[0].env[3]: hides previous definition of "A", which may be dropped when using apply',
            ],
        ),
        (
            of_container(
                ports=[{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}, {"containerPort": 80}]
            ),
            ["spec.containers[0].ports[2]: duplicate port definition with spec.containers[0].ports[0]"],
        ),
        (
            of_container(ports=[{"containerPort": 80}, {"containerPort": 80, "hostPort": 8080}]),
            ["spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]"],
        ),
        (
            of_container(
                ports=[
                    {"containerPort": 80, "hostPort": 8080},
                    {"containerPort": 80, "hostPort": 8080, "hostIP": "10.0.0.1"},
                ]
            ),
            ["spec.containers[0].ports[1]: dangerously ambiguous port definition with spec.containers[0].ports[0]"],
        ),
        (
            pod(terminationGracePeriodSeconds=-1),
            ["spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"],
        ),
        (
            pod(
                affinity={
                    "podAntiAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "h"}],
                        "preferredDuringSchedulingIgnoredDuringExecution": [
                            {"weight": 1, "podAffinityTerm": {"topologyKey": "h", "labelSelector": {}}},
                            {"weight": 1, "podAffinityTerm": {"topologyKey": "h"}},
                        ],
                    }
                }
            ),
            [
                "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: "
                + NULL,
                (
                    "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[1].podAffinityTerm."
                    f"labelSelector: {NULL}"
                ),
            ],
        ),
        (
            {
                **pod(),
                "metadata": {
                    "name": "p",
                    "annotations": {
                        "scheduler.alpha.kubernetes.io/critical-pod": "",
                        "seccomp.security.alpha.kubernetes.io/pod": "runtime/default",
                        "container.seccomp.security.alpha.kubernetes.io/d": "another's",
                    },
                },
            },
            [
                (
                    "metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use "
                    'the "priorityClassName" field instead'
                ),
                (
                    "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the "
                    '"seccompProfile" field instead'
                ),
            ],
        ),
    ],
)
def test_pods(fields: dict[str, Any], expected: list[str]) -> None:
    assert warned("v1", "Pod", **fields) == expected


def test_templates_are_told_of_where_they_stand() -> None:
    spec = of_container(ports=[{"containerPort": 80}, {"containerPort": 80}])["spec"]
    template = {"metadata": {"labels": {"a": "b"}}, "spec": spec}
    text = "duplicate port definition with"
    place = "spec.template.spec.containers[0].ports"
    assert warned("apps/v1", "Deployment", spec={"template": template}) == [f"{place}[1]: {text} {place}[0]"]
    place = f"spec.jobTemplate.{place}"
    found = warned("batch/v1", "CronJob", spec={"jobTemplate": {"spec": {"template": template}}})
    assert found == [f"{place}[1]: {text} {place}[0]"]
    assert warned("v1", "ConfigMap") == []


def test_names_that_are_no_labels_are_told_of_once() -> None:
    name = {"metadata": {"name": "a.b"}}
    assert warned("v1", "Pod", **pod(), **name) == [
        f"metadata.name: this is used in the Pod's hostname, {SURPRISE}: [{LABEL}]"
    ]
    assert warned("v1", "Pod", is_new=False, **pod(), **name) == []
    assert warned("apps/v1", "Deployment", spec={}, **name) == [
        f"metadata.name: this is used in Pod names and hostnames, {SURPRISE}: [{LABEL}]"
    ]
    assert warned("apps/v1", "DaemonSet", spec={}, **name) == []
