"""Validation: the causes upstream gives, and none for what it takes."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api import defaults, resources, schema, validation
from raykube.api.errors import ApiError
from raykube.api.resources import builtin

LABELS = {"a": "b"}
TEMPLATE = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
NEVER = {"metadata": {"labels": LABELS}, "spec": {**TEMPLATE["spec"], "restartPolicy": "Never"}}
NO_SELECTOR = "`selector` does not match template `labels`"


def made(api_version: str, kind: str, **fields: Any) -> dict[str, Any]:
    row = builtin(api_version, kind)
    metadata = {"name": "x", **({"namespace": "ns"} if row.namespaced else {}), **fields.pop("metadata", {})}
    obj = {"kind": kind, "apiVersion": api_version, "metadata": metadata, **copy.deepcopy(fields)}
    assert schema.conform(row, obj) == []
    defaults.apply_defaults(row, obj)
    return obj


def causes(api_version: str, kind: str, **fields: Any) -> list[str]:
    return [
        str(each) for each in validation.validate_create(builtin(api_version, kind), made(api_version, kind, **fields))
    ]


def pod(**spec: Any) -> list[str]:
    return causes("v1", "Pod", spec={"containers": [{"name": "c", "image": "i"}], **spec})


def container(**fields: Any) -> list[str]:
    return pod(containers=[{"name": "c", "image": "i", **fields}])


def changed(api_version: str, kind: str, old: dict[str, Any], new: dict[str, Any], subresource: str = "") -> list[str]:
    row = builtin(api_version, kind)
    before, after = made(api_version, kind, **old), made(api_version, kind, **new)
    return [str(each) for each in validation.validate_update(row, after, before, subresource)]


GOOD: list[tuple[str, str, dict[str, Any]]] = [
    (
        "v1",
        "Pod",
        {"spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "name": "http"}]}]}},
    ),
    ("apps/v1", "Deployment", {"spec": {"selector": {"matchLabels": LABELS}, "template": TEMPLATE}}),
    ("apps/v1", "ReplicaSet", {"spec": {"selector": {"matchLabels": LABELS}, "template": TEMPLATE}}),
    ("apps/v1", "DaemonSet", {"spec": {"selector": {"matchLabels": LABELS}, "template": TEMPLATE}}),
    (
        "apps/v1",
        "StatefulSet",
        {"spec": {"selector": {"matchLabels": LABELS}, "template": TEMPLATE, "serviceName": "s"}},
    ),
    ("batch/v1", "Job", {"spec": {"selector": {"matchLabels": LABELS}, "template": NEVER}}),
    ("batch/v1", "CronJob", {"spec": {"schedule": "*/5 0-6 * jan mon", "jobTemplate": {"spec": {"template": NEVER}}}}),
    ("v1", "Service", {"spec": {"ports": [{"port": 80}], "selector": LABELS}}),
    ("v1", "Service", {"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}),
    ("v1", "Service", {"spec": {"type": "ExternalName", "externalName": "example.com"}}),
    ("v1", "ConfigMap", {"data": {"a.conf": "x"}, "binaryData": {"b": "YQ=="}}),
    ("v1", "Secret", {"type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}}),
    ("v1", "Namespace", {}),
    ("v1", "Node", {"spec": {"taints": [{"key": "a/b", "effect": "NoSchedule"}]}}),
    ("v1", "ServiceAccount", {}),
    ("v1", "Event", {"involvedObject": {"namespace": "ns"}, "metadata": {"name": "x.17f"}}),
    ("coordination.k8s.io/v1", "Lease", {"spec": {"leaseDurationSeconds": 15}}),
    ("discovery.k8s.io/v1", "EndpointSlice", {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]}),
    (
        "rbac.authorization.k8s.io/v1",
        "ClusterRole",
        {"metadata": {"name": "system:a"}, "rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]},
    ),
    (
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        {"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "Group", "name": "g"}]},
    ),
]


@pytest.mark.parametrize(("api_version", "kind", "fields"), GOOD)
def test_good_objects_pass_and_may_be_written_again(api_version: str, kind: str, fields: dict[str, Any]) -> None:
    row = builtin(api_version, kind)
    obj = made(api_version, kind, **fields)
    assert validation.validate_create(row, obj) == []
    assert validation.validate_update(row, copy.deepcopy(obj), obj) == []


# -- metadata


@pytest.mark.parametrize(
    ("metadata", "start"),
    [
        ({"name": ""}, "metadata.name: Required value: name or generateName is required"),
        ({"name": "A"}, 'metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of'),
        ({"name": "a" * 254}, 'metadata.name: Invalid value: "' + "a" * 254 + '": must be no more than 253 characters'),
        ({"name": "x", "generateName": "A-"}, 'metadata.generateName: Invalid value: "A-": a lowercase RFC 1123'),
        ({"namespace": ""}, "metadata.namespace: Required value"),
        ({"labels": {"a b": "c"}}, 'metadata.labels: Invalid value: "a b": name part must consist of alphanumeric'),
        ({"labels": {"a": "-"}}, 'metadata.labels: Invalid value: "-": a valid label must be an empty string or'),
        ({"annotations": {"/x": ""}}, 'metadata.annotations: Invalid value: "/x": prefix part must be non-empty'),
        ({"annotations": {"x": "y" * 262144}}, "metadata.annotations: Too long: may not be more than 262144 bytes"),
        ({"finalizers": ["mine"]}, 'metadata.finalizers: Invalid value: "mine": name is neither a standard finalizer'),
        (
            {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": ""}]},
            'metadata.ownerReferences[0].uid: Invalid value: "": uid must not be empty',
        ),
    ],
)
def test_metadata(metadata: dict[str, Any], start: str) -> None:
    found = causes("v1", "ConfigMap", metadata=metadata)
    assert len(found) == 1
    assert found[0].startswith(start)


def test_names_of_some_kinds_are_stricter_or_freer() -> None:
    ports = {"ports": [{"port": 1}]}
    assert (
        "a lowercase RFC 1123 label must consist of" in causes("v1", "Service", metadata={"name": "a.b"}, spec=ports)[0]
    )
    assert causes("v1", "Service", metadata={"name": "1a"}, spec=ports) == []
    assert "a lowercase RFC 1123 label must consist of" in causes("v1", "Namespace", metadata={"name": "a.b"})[0]
    assert causes("rbac.authorization.k8s.io/v1", "Role", metadata={"name": "a/b"}) == [
        "metadata.name: Invalid value: \"a/b\": may not contain '/'"
    ]
    assert causes("v1", "Namespace", metadata={"namespace": "x"}) == [
        "metadata.namespace: Forbidden: not allowed on this type"
    ]


def test_metadata_that_never_changes() -> None:
    assert changed("v1", "ConfigMap", {"metadata": {"uid": "1"}}, {"metadata": {"uid": "2"}}) == [
        'metadata.uid: Invalid value: "2": field is immutable'
    ]


# -- pods


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (pod(containers=[]), ["spec.containers: Required value"]),
        (container(name="A_"), ['spec.containers[0].name: Invalid value: "A_": a lowercase RFC 1123 label']),
        (container(name=""), ["spec.containers[0].name: Required value"]),
        (container(image=""), ["spec.containers[0].image: Required value"]),
        (
            pod(containers=[{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]),
            ['spec.containers[1].name: Duplicate value: "c"'],
        ),
        (
            pod(initContainers=[{"name": "c", "image": "i"}]),
            ['spec.initContainers[0].name: Duplicate value: "c"'],
        ),
        (
            pod(initContainers=[{"name": "i", "image": "i", "restartPolicy": "Sometimes"}]),
            [
                (
                    'spec.initContainers[0].restartPolicy: Unsupported value: "Sometimes": supported values: "Always", '
                    '"Never", "OnFailure"'
                )
            ],
        ),
        (
            container(
                restartPolicyRules=[{"action": "Explode", "exitCodes": {"operator": "Like"}}, {"action": "Restart"}]
            ),
            [
                (
                    "spec.containers[0].restartPolicy: Required value: "
                    "must specify restartPolicy when restart rules are used"
                ),
                (
                    'spec.containers[0].restartPolicyRules[0].action: Unsupported value: "Explode": supported values: '
                    '"Restart", "RestartAllContainers"'
                ),
                (
                    'spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: "Like": supported '
                    'values: "In", "NotIn"'
                ),
                "spec.containers[0].restartPolicyRules[1].exitCodes: Required value: must be specified",
            ],
        ),
        (container(restartPolicy="OnFailure"), []),
        (
            container(
                env=[{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "", "path": "a/../b", "key": "K"}}}]
            ),
            [
                "spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Required value",
                "spec.containers[0].env[0].valueFrom.fileKeyRef.path: Invalid value: \"a/../b\": must not contain '..'",
            ],
        ),
        (container(ports=[{}]), ["spec.containers[0].ports[0].containerPort: Required value"]),
        (
            container(ports=[{"containerPort": 70000, "protocol": "tcp"}]),
            [
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and",
                'spec.containers[0].ports[0].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UD',
            ],
        ),
        (container(env=[{"name": "A=B"}]), ['spec.containers[0].env[0].name: Invalid value: "A=B": a valid env']),
        (container(env=[{"value": "x"}]), ["spec.containers[0].env[0].name: Required value"]),
        (
            container(env=[{"name": "A", "value": "b", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
            ['spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty'],
        ),
        (
            container(volumeMounts=[{"name": "v", "mountPath": "/x"}]),
            ['spec.containers[0].volumeMounts[0].name: Not found: "v"'],
        ),
        (
            container(imagePullPolicy="Sometimes"),
            [
                (
                    'spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", '
                    '"IfNotPresent", "Never"'
                )
            ],
        ),
        (
            container(resources={"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
            ['spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1'],
        ),
        (
            container(resources={"requests": {"nvidia.com/gpu": "1"}}),
            ["spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources"],
        ),
        (
            container(resources={"limits": {"cpus": "1"}}),
            [
                "spec.containers[0].resources.limits[cpus]: Invalid value",
                "spec.containers[0].resources.requests[cpus]:",
            ],
        ),
        (
            container(livenessProbe={}),
            ["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
        ),
        (
            container(livenessProbe={"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}, "successThreshold": 2}),
            [
                "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        ),
        (
            pod(restartPolicy="Sometimes"),
            ['spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"'],
        ),
        (pod(volumes=[{"name": "v", "secret": {}}]), ["spec.volumes[0].secret.secretName: Required value"]),
        (
            pod(volumes=[{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]),
            ["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        ),
        (pod(volumes=[{"name": "v"}, {"name": "v"}]), ['spec.volumes[1].name: Duplicate value: "v"']),
        (
            pod(tolerations=[{"operator": "Equal", "value": "x"}]),
            ['spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty'],
        ),
        (
            pod(affinity={"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": ""}]}}),
            [
                (
                    "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required "
                    "value: can not be empty"
                )
            ],
        ),
        (pod(nodeSelector={"a": "b c"}), ['spec.nodeSelector: Invalid value: "b c": a valid label']),
        (pod(activeDeadlineSeconds=0), ["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and"]),
    ],
)
def test_pods(found: list[str], expected: list[str]) -> None:
    assert len(found) == len(expected)
    assert all(text.startswith(start) for text, start in zip(found, expected, strict=True)), found


def test_a_pod_changes_its_image_and_nothing_else() -> None:
    def with_spec(**spec: Any) -> dict[str, Any]:
        return {"spec": {"containers": [{"name": "c", "image": "i"}], **spec}}

    plain = with_spec()
    assert (
        changed(
            "v1", "Pod", plain, {"spec": {"containers": [{"name": "c", "image": "j", "imagePullPolicy": "Always"}]}}
        )
        == []
    )
    assert changed("v1", "Pod", plain, with_spec(tolerations=[{"key": "a", "operator": "Exists"}])) == []
    refused = changed("v1", "Pod", plain, with_spec(nodeName="n"))
    assert len(refused) == 1
    assert refused[0].startswith(
        "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"
    )
    assert '+ nodeName: "n"' in refused[0]
    assert changed(
        "v1", "Pod", plain, {"spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]}}
    ) == ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    ephemeral = with_spec(ephemeralContainers=[{"name": "e", "image": "i"}])
    assert changed("v1", "Pod", plain, ephemeral, "ephemeralcontainers") == []
    assert changed("v1", "Pod", plain, ephemeral) != []
    sized = {"spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}}]}}
    bigger = {"spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "2"}}}]}}
    assert changed("v1", "Pod", sized, bigger, "resize") == []
    assert changed("v1", "Pod", sized, bigger) != []
    assert changed("v1", "Pod", plain, sized, "resize") == [
        'spec: Invalid value: "Burstable": Pod QOS Class may not change as a result of resizing'
    ]
    more = {"limits": {"cpu": "1", "example.test/x": "1"}}
    other = {"spec": {"containers": [{"name": "c", "image": "i", "resources": more}]}}
    assert changed("v1", "Pod", sized, other, "resize") == [
        f"spec.containers[0].resources.{kind}: Forbidden: only cpu and memory resources are mutable"
        for kind in ("limits", "requests")
    ]
    assert changed("v1", "Pod", plain, sized) != []


# -- controllers


def test_deployments() -> None:
    assert causes("apps/v1", "Deployment", spec={"template": TEMPLATE}) == [
        "spec.selector: Required value",
        'spec.template.metadata.labels: Invalid value: {"a":"b"}: ' + NO_SELECTOR,
    ]
    assert causes("apps/v1", "Deployment", spec={"selector": {"matchLabels": {"a": "c"}}, "template": TEMPLATE}) == [
        'spec.template.metadata.labels: Invalid value: {"a":"b"}: ' + NO_SELECTOR
    ]
    assert causes("apps/v1", "Deployment", spec={"selector": {}, "template": TEMPLATE}) == [
        "spec.selector: Invalid value: {}: empty selector is invalid for deployment"
    ]
    selector = {"matchLabels": LABELS}
    assert causes("apps/v1", "Deployment", spec={"selector": selector, "template": NEVER, "replicas": -1}) == [
        "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        'spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"',
    ]
    rolling = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}
    assert causes("apps/v1", "Deployment", spec={"selector": selector, "template": TEMPLATE, "strategy": rolling}) == [
        'spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0'
    ]
    assert (
        causes("apps/v1", "Deployment", spec={"selector": selector})[-1]
        == "spec.template.spec.containers: Required value"
    )
    other = {"matchLabels": {"x": "y"}}
    labelled = {**TEMPLATE, "metadata": {"labels": {**LABELS, "x": "y"}}}
    assert changed(
        "apps/v1",
        "Deployment",
        {"spec": {"selector": selector, "template": labelled}},
        {"spec": {"selector": other, "template": labelled}},
    ) == ['spec.selector: Invalid value: {"matchLabels":{"x":"y"}}: field is immutable']


def test_jobs() -> None:
    selector = {"matchLabels": LABELS}
    assert causes("batch/v1", "Job", spec={"selector": selector, "template": TEMPLATE}) == [
        'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"'
    ]
    job = {"selector": selector, "template": NEVER}
    assert causes("batch/v1", "Job", spec={**job, "completions": -1, "completionMode": "Some"}) == [
        "spec.completions: Invalid value: -1: must be greater than or equal to 0",
        'spec.completionMode: Unsupported value: "Some": supported values: "NonIndexed", "Indexed"',
    ]
    other = {"metadata": {"labels": LABELS}, "spec": {**NEVER["spec"], "nodeName": "n"}}
    assert changed("batch/v1", "Job", {"spec": job}, {"spec": {**job, "completions": 2}}) == [
        "spec.completions: Invalid value: 2: field is immutable"
    ]
    refused = changed("batch/v1", "Job", {"spec": job}, {"spec": {**job, "template": other}})
    assert len(refused) == 1
    assert refused[0].startswith("spec.template: Invalid value: {")
    assert changed("batch/v1", "Job", {"spec": job}, {"spec": {**job, "parallelism": 3, "completions": 1}}) == []


def test_time_zones() -> None:
    def cron(name: str) -> list[str]:
        spec = {"schedule": "@daily", "timeZone": name, "jobTemplate": {"spec": {"template": NEVER}}}
        return causes("batch/v1", "CronJob", spec=spec)

    assert cron("Europe/Paris") == []
    assert cron("Nowhere") == ['spec.timeZone: Invalid value: "Nowhere": unknown time zone Nowhere']
    assert cron("") == ['spec.timeZone: Invalid value: "": timeZone must be nil or non-empty string']
    assert cron("local") == [
        (
            'spec.timeZone: Invalid value: "local": timeZone must be an explicit time zone as defined in '
            "https://www.iana.org/time-zones"
        )
    ]


# -- the rest


def test_config_maps_and_secrets() -> None:
    assert causes("v1", "ConfigMap", data={"a/b": ""})[0].startswith(
        'data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric characters'
    )
    assert causes("v1", "ConfigMap", data={"a": "x" * (2**20 + 1)}) == ["Too long: may not be more than 1048576 bytes"]
    assert causes("v1", "Secret", type="kubernetes.io/tls") == [
        "data[tls.crt]: Required value",
        "data[tls.key]: Required value",
    ]
    assert changed("v1", "Secret", {"type": "a"}, {"type": "b"}) == ['type: Invalid value: "b": field is immutable']
    frozen = {"immutable": True, "data": {"a": "1"}}
    text = "Forbidden: field is immutable when `immutable` is set"
    assert changed("v1", "ConfigMap", frozen, {"data": {"a": "2"}}) == [f"immutable: {text}", f"data: {text}"]


def test_roles() -> None:
    group = "rbac.authorization.k8s.io/v1"
    assert causes(group, "Role", rules=[{"verbs": []}]) == [
        "rules[0].verbs: Required value: verbs must contain at least one value",
        "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
        "rules[0].resources: Required value: resource rules must supply at least one resource",
    ]
    role = {"kind": "Role", "name": "r"}
    assert causes(group, "ClusterRoleBinding", roleRef=role, subjects=[{"kind": "ServiceAccount", "name": "s"}]) == [
        'roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"',
        "subjects[0].namespace: Required value",
    ]
    refused = changed(group, "RoleBinding", {"roleRef": role}, {"roleRef": {**role, "name": "s"}})
    assert refused[0].endswith("cannot change roleRef")


def test_nodes_leases_events() -> None:
    taint = {"key": "a", "effect": "Never"}
    assert causes("v1", "Node", spec={"taints": [taint]})[0].startswith("spec.taints[0].effect: Unsupported value")
    assert causes("coordination.k8s.io/v1", "Lease", spec={"leaseDurationSeconds": 0}) == [
        "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"
    ]
    assert causes("v1", "Event", involvedObject={"namespace": "other"}) == [
        'involvedObject.namespace: Invalid value: "other": does not match event.namespace'
    ]


def test_a_status_write_is_not_judged_by_its_spec() -> None:
    row = builtin("v1", "Pod")
    old = made("v1", "Pod", spec={"containers": []})
    assert validation.validate_update(row, {**old, "status": {"phase": "Failed"}}, old, "status") == []
    assert validation.validate_update(row, {**old, "status": {"phase": "Failed"}}, old) == []


WORDS = st.sampled_from(
    [
        *[
            "containers",
            "name",
            "image",
            "ports",
            "env",
            "volumes",
            "volumeMounts",
            "template",
            "spec",
            "metadata",
            "selector",
        ],
        *["matchLabels", "rules", "verbs", "data", "taints", "tolerations", "resources", "limits", "livenessProbe"],
        *["httpGet", "exec", "strategy", "rollingUpdate", "affinity", "subsets", "endpoints", "type", "replicas"],
    ]
)
JUNK = st.recursive(
    st.integers(-1, 70000) | st.sampled_from(["", "a", "A b", "10%", "Always", "1Gi"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=20,
)


@given(st.sampled_from(resources.all_resources()), st.dictionaries(WORDS, JUNK, max_size=4), JUNK)
def test_no_conforming_object_crashes_validation(row: resources.Resource, fields: dict[str, Any], spec: Any) -> None:
    obj = {**fields, "spec": spec, "kind": row.kind, "apiVersion": row.api_version, "metadata": {"name": "x"}}
    try:
        schema.conform(row, obj)
    except ApiError:
        return
    old = copy.deepcopy(obj)
    defaults.apply_defaults(row, obj)
    validation.validate_create(row, obj)
    validation.validate_update(row, obj, old)
