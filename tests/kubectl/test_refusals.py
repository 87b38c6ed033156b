"""What the API refuses: exact words and exit codes, and the store untouched."""

import json
import subprocess

import pytest

from tests.kit.require import require_program
from tests.kubectl.conftest import Kubectl
from tests.kubectl.manifests import CONFIG_MAP, DEPLOYMENT, POD

pytestmark = pytest.mark.integration

HEAD = 'Error from server (BadRequest): error when creating "STDIN": '


def refused(kubectl: Kubectl, manifest: str, *flags: str) -> str:
    return kubectl.fails("create", "-f", "-", *flags, stdin=manifest)


def test_not_found(kubectl: Kubectl) -> None:
    assert kubectl.fails("get", "pod", "x") == 'Error from server (NotFound): pods "x" not found\n'
    assert kubectl.fails("get", "deploy", "x") == 'Error from server (NotFound): deployments.apps "x" not found\n'
    assert kubectl.fails("delete", "svc", "x") == 'Error from server (NotFound): services "x" not found\n'


def test_unknown_kind(kubectl: Kubectl) -> None:
    assert kubectl.fails("get", "foo") == 'error: the server doesn\'t have a resource type "foo"\n'
    message = refused(kubectl, "apiVersion: v1\nkind: Foo\nmetadata: {name: x}\n")
    assert 'no matches for kind "Foo" in version "v1"' in message


def test_already_exists(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    assert refused(kubectl, DEPLOYMENT) == (
        'Error from server (AlreadyExists): error when creating "STDIN": deployments.apps "web" already exists\n'
    )


def test_unknown_field(kubectl: Kubectl) -> None:
    bad = DEPLOYMENT.replace("  replicas: 2\n", "  replicas: 2\n  foo: 1\n")
    assert refused(kubectl, bad) == (
        HEAD + 'Deployment in version "v1" cannot be handled as a Deployment: '
        'strict decoding error: unknown field "spec.foo"\n'
    )
    assert "NotFound" in kubectl.fails("get", "deployment", "web")
    done = kubectl.run("create", "-f", "-", "--validate=warn", stdin=bad)
    assert (done.stdout, done.stderr) == ("deployment.apps/web created\n", 'Warning: unknown field "spec.foo"\n')
    done = kubectl.run("patch", "deployment", "web", "-p", '{"spec":{"foo":1}}')  # asks for no validation: warnings
    assert (done.stdout, done.stderr) == (
        "deployment.apps/web patched (no change)\n",
        'Warning: unknown field "spec.foo"\n',
    )


def test_unknown_field_of_a_patch(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    message = kubectl.fails(
        "apply", "-f", "-", stdin=DEPLOYMENT.replace("  replicas: 2\n", "  replicas: 2\n  foo: 1\n")
    )
    assert message.startswith('The request is invalid: patch: Invalid value: "map[metadata:map[annotations:map[')
    assert message.endswith('strict decoding error: unknown field "spec.foo"\n')


def test_duplicate_field(kubectl: Kubectl) -> None:
    text = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"1","a":"2"}}'
    path = f"/api/v1/namespaces/{kubectl.namespace}/configmaps?fieldValidation=Strict"
    message = kubectl.fails("create", "--raw", path, "-f", "-", stdin=text)
    assert 'strict decoding error: duplicate field "data.a"' in message


def test_wrong_type(kubectl: Kubectl) -> None:
    bad = DEPLOYMENT.replace("replicas: 2", "replicas: two")
    assert refused(kubectl, bad) == (
        HEAD + 'Deployment in version "v1" cannot be handled as a Deployment: '
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32\n"
    )
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    assert kubectl.fails("patch", "deployment", "web", "-p", '{"spec":{"replicas":"two"}}') == (
        'The request is invalid: patch: Invalid value: "map[spec:map[replicas:two]]": unrecognized type: int32\n'
    )


def test_missing_required_fields(kubectl: Kubectl) -> None:
    message = refused(kubectl, "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: []}\n")
    assert message == 'The Pod "p" is invalid: spec.containers: Required value\n'
    message = refused(kubectl, DEPLOYMENT.replace("selector: {matchLabels: {app: web}}", "selector: {}"))
    assert message.startswith('The Deployment "web" is invalid: ')
    assert "spec.selector: Invalid value" in message


def test_invalid_names(kubectl: Kubectl) -> None:
    message = refused(kubectl, CONFIG_MAP.replace("name: cm", "name: Bad_Name"))
    assert message == (
        'The ConfigMap "Bad_Name" is invalid: metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain '
        "must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric "
        "character (e.g. 'example.com', regex used for validation is "
        r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')" + "\n"
    )


def test_immutable_fields(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    message = kubectl.fails(
        "patch", "deployment", "web", "--type=merge", "-p", '{"spec":{"selector":{"matchLabels":{"app":"other"}}}}'
    )
    assert message.startswith('The Deployment "web" is invalid: ')
    assert "field is immutable" in message


def test_selector_must_match_template(kubectl: Kubectl) -> None:
    message = refused(kubectl, DEPLOYMENT.replace("matchLabels: {app: web}", "matchLabels: {app: other}"))
    assert message == (
        'The Deployment "web" is invalid: spec.template.metadata.labels: Invalid value: {"app":"web"}: '
        "`selector` does not match template `labels`\n"
    )


def test_stale_resource_version(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=CONFIG_MAP)
    obj = json.loads(kubectl("get", "configmap", "cm", "-o", "json"))
    kubectl("label", "configmap", "cm", "a=1")
    assert kubectl.fails("replace", "-f", "-", stdin=json.dumps(obj)) == (
        'Error from server (Conflict): error when replacing "STDIN": Operation cannot be fulfilled on configmaps "cm": '
        "the object has been modified; please apply your changes to the latest version and try again\n"
    )
    assert json.loads(kubectl("get", "configmap", "cm", "-o", "json"))["metadata"]["labels"] == {"a": "1"}


def test_json_patch_that_does_not_fit(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=CONFIG_MAP)
    patch = '[{"op":"test","path":"/data/a","value":"9"}]'
    assert kubectl.fails("patch", "configmap", "cm", "--type=json", "-p", patch) == (
        "The request is invalid: the server rejected our request due to an error in our request\n"
    )


def test_selectors_that_do_not_parse(kubectl: Kubectl) -> None:
    assert kubectl.fails("get", "pods", "-l", "a=b=c") == (
        'Error from server (BadRequest): Unable to find "/v1, Resource=pods" that match label selector "a=b=c", '
        "field selector \"\": unable to parse requirement: found '=', expected: ',' or 'end of string'\n"
    )
    assert kubectl.fails("get", "pods", "--field-selector", "spec.foo=x").endswith(
        "field label not supported: spec.foo\n"
    )


def test_a_namespace_that_is_not(kubectl: Kubectl) -> None:
    done = kubectl.plane.kubectl_run("-n", "nowhere", "create", "-f", "-", stdin=CONFIG_MAP)
    assert (done.returncode, done.stderr) == (
        1,
        'Error from server (NotFound): error when creating "STDIN": namespaces "nowhere" not found\n',
    )


def curl(
    kubectl: Kubectl, path: str, body: bytes, content_type: str = "application/json"
) -> tuple[int, dict[str, object]]:
    """A raw request as the administrator: (HTTP code, answer)."""
    tls = kubectl.plane.tls()
    run = subprocess.run(
        [
            *(require_program("curl"), "-sS", "-w", "\n%{http_code}", "-X", "POST", "--data-binary", "@-"),
            *("-H", f"Content-Type: {content_type}", "-H", "Expect:"),
            *("--cert", str(tls.cert_file), "--key", str(tls.key_file), "--cacert", str(tls.ca_file)),
            kubectl.plane.server + path,
        ],
        input=body,
        capture_output=True,
        timeout=60,
        check=False,
    )
    answer, _, code = run.stdout.decode().rpartition("\n")
    return int(code), json.loads(answer)


def test_malformed_json(kubectl: Kubectl) -> None:
    code, status = curl(kubectl, f"/api/v1/namespaces/{kubectl.namespace}/configmaps", b'{"kind":')
    assert (code, status["kind"], status["reason"]) == (400, "Status", "BadRequest")
    assert "unexpected end of JSON input" in str(status["message"]) or "unexpected EOF" in str(status["message"])


def test_a_body_too_large(kubectl: Kubectl) -> None:
    body = json.dumps(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "x" * 3_200_000}}
    )
    code, status = curl(kubectl, f"/api/v1/namespaces/{kubectl.namespace}/configmaps", body.encode())
    assert (code, status["reason"]) == (413, "RequestEntityTooLarge")
    assert status["message"] == "Request entity is too large: limit is 3145728"
    assert "NotFound" in kubectl.fails("get", "configmap", "x")


def test_a_media_type_nobody_knows(kubectl: Kubectl) -> None:
    code, status = curl(kubectl, f"/api/v1/namespaces/{kubectl.namespace}/configmaps", b"x", "text/html")
    assert (code, status["reason"]) == (415, "UnsupportedMediaType")


def test_a_pod_is_mostly_immutable(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=POD)
    message = kubectl.fails("patch", "pod", "p", "-p", '{"spec":{"nodeName":"n"}}')
    assert message.startswith('The Pod "p" is invalid: spec: Forbidden: pod updates may not change fields other than')


CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: c}
spec: {accessModes: [ReadWriteOnce], storageClassName: "", resources: {requests: {storage: 1Gi}}}
"""


def test_a_claim_grows_only_where_its_class_lets_it(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=CLAIM)
    more = '{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}'
    bound = '{"status":{"phase":"Bound","capacity":{"storage":"1Gi"}}}'
    assert "spec is immutable after creation" in kubectl.fails("patch", "pvc", "c", "-p", more)
    kubectl("patch", "pvc", "c", "--subresource=status", "-p", bound)
    assert kubectl.fails("patch", "pvc", "c", "-p", more) == (
        'Error from server (Forbidden): persistentvolumeclaims "c" is forbidden: only dynamically provisioned pvc can '
        "be resized and the storageclass that provisions the pvc must support resize\n"
    )


def test_a_template_is_warned_of_when_it_changes(kubectl: Kubectl) -> None:
    twice = DEPLOYMENT.replace("name: a,", "name: a, env: [{name: A, value: one}, {name: A, value: two}],")
    warning = (
        'Warning: spec.template.spec.containers[0].env[1]: hides previous definition of "A", which may be dropped '
        "when using apply\n"
    )
    assert kubectl.run("create", "-f", "-", stdin=twice).stderr == warning
    assert kubectl.run("annotate", "deployment", "web", "a=b").stderr == ""
    assert kubectl.run("scale", "deployment", "web", "--replicas=1").stderr == ""
    assert kubectl.run("set", "image", "deployment/web", "*=other").stderr == warning
