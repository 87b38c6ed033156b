"""Paths, query parameters, Accept headers and continue tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api.errors import ApiError
from raykube.apiserver.core import continuation, negotiation, options, requestinfo


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/v1/pods", ("list", "", "v1", "pods", "", "", "")),
        ("GET", "/api/v1/namespaces/d/pods", ("list", "", "v1", "pods", "d", "", "")),
        ("GET", "/api/v1/namespaces/d/pods/p", ("get", "", "v1", "pods", "d", "p", "")),
        ("GET", "/api/v1/namespaces/d/pods/p/log/", ("get", "", "v1", "pods", "d", "p", "log")),
        ("POST", "/apis/apps/v1/namespaces/d/deployments", ("create", "apps", "v1", "deployments", "d", "", "")),
        (
            "PUT",
            "/apis/apps/v1/namespaces/d/deployments/w/scale",
            ("update", "apps", "v1", "deployments", "d", "w", "scale"),
        ),
        ("PATCH", "/api/v1/nodes/n/status", ("patch", "", "v1", "nodes", "", "n", "status")),
        ("DELETE", "/api/v1/namespaces/d/pods", ("deletecollection", "", "v1", "pods", "d", "", "")),
        ("DELETE", "/api/v1/namespaces/d", ("delete", "", "v1", "namespaces", "d", "d", "")),
        ("GET", "/api/v1/namespaces", ("list", "", "v1", "namespaces", "", "", "")),
        ("PUT", "/api/v1/namespaces/d/finalize", ("update", "", "v1", "namespaces", "d", "d", "finalize")),
        ("GET", "/api/v1/namespaces/d/status", ("get", "", "v1", "namespaces", "d", "d", "status")),
        ("GET", "/api/v1/watch/pods", ("watch", "", "v1", "pods", "", "", "")),
        ("HEAD", "/api/v1/namespaces/d/pods/p", ("get", "", "v1", "pods", "d", "p", "")),
    ],
)
def test_resource_paths(method, path, expected) -> None:
    info = requestinfo.parse(method, path)
    got = (info.verb, info.group, info.version, info.plural, info.namespace, info.name, info.subresource)
    assert (info.is_resource, got) == (True, expected)


@pytest.mark.parametrize(
    "path",
    ["/", "/api", "/api/v1", "/api/v1/", "/apis", "/apis/apps", "/apis/apps/v1/", "/version", "/openapi/v3/api/v1"],
)
def test_paths_that_are_no_resources(path) -> None:
    info = requestinfo.parse("GET", path)
    assert (info.is_resource, info.verb, info.path) == (False, "get", path)


@given(st.text(alphabet="/abcs", max_size=40), st.sampled_from(["GET", "POST", "DELETE", "OPTIONS"]))
def test_any_path_parses(path, method) -> None:
    requestinfo.parse(method, "/" + path)
    requestinfo.parse(method, "/api/v1/" + path)


def test_booleans_are_gos() -> None:
    assert all(options.parse_bool(text) for text in ("1", "t", "T", "TRUE", "true", "True", ""))
    assert not any(options.parse_bool(text) for text in ("0", "f", "F", "FALSE", "false", "False"))
    with pytest.raises(ApiError, match="ParseBool"):
        options.parse_bool("yes")


@pytest.mark.parametrize(
    ("query", "watch", "code"),
    [
        ({"resourceVersionMatch": "Exact"}, False, 422),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, False, 422),
        ({"resourceVersionMatch": "Sometimes", "resourceVersion": "1"}, False, 422),
        ({"resourceVersionMatch": "NotOlderThan", "resourceVersion": "1", "continue": "x"}, False, 400),
        ({"resourceVersion": "5", "continue": "x"}, False, 400),
        ({"sendInitialEvents": "true"}, False, 422),
        ({"sendInitialEvents": "true"}, True, 422),
        ({"resourceVersionMatch": "NotOlderThan"}, True, 422),
        ({"resourceVersion": "-1"}, False, 400),
        ({"limit": "many"}, False, 400),
    ],
)
def test_refused_list_options(query, watch, code) -> None:
    with pytest.raises(ApiError) as error:
        options.list_options(query, watch)
    assert error.value.code == code


def test_accepted_list_options() -> None:
    query = {"limit": "5", "resourceVersion": "7", "resourceVersionMatch": "Exact", "labelSelector": "a=b"}
    found = options.list_options(query, watch=False)
    assert (found.limit, found.revision, found.match, found.label_selector) == (5, 7, "Exact", "a=b")
    query = {"sendInitialEvents": "1", "resourceVersionMatch": "NotOlderThan", "timeoutSeconds": "30"}
    found = options.list_options(query, watch=True)
    assert (found.initial_events, found.timeout_s, found.bookmarks) == (True, 30.0, False)


KUBECTL = (
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", ("application/json", "")),
        ("*/*", ("application/json", "")),
        (KUBECTL, ("application/json", "Table")),
        ("application/vnd.kubernetes.protobuf,application/json", ("application/json", "")),
        ("application/yaml", ("application/yaml", "")),
        ("application/json;q=0.2, application/yaml;q=0.9", ("application/yaml", "")),
        ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", ("application/json", "")),
        ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", None),
        ("application/vnd.kubernetes.protobuf", None),
        ("text/html", None),
    ],
)
def test_negotiation(accept, expected) -> None:
    form = negotiation.choose(accept, ("Table",))
    assert (None if form is None else (form.media_type, form.kind)) == expected


@given(st.integers(1, 2**62), st.text(min_size=1, max_size=50))
def test_continue_tokens_come_back(revision, start) -> None:
    assert continuation.decode(continuation.encode(revision, start)) == (revision, start)


@given(st.text(max_size=60))
def test_any_other_token_is_a_bad_request(token) -> None:
    try:
        continuation.decode(token)
    except ApiError as error:
        assert error.code == 400


def test_an_expired_token_carries_one_that_goes_on() -> None:
    status = continuation.expired("ns/x")
    assert status["code"] == 410
    metadata = status["metadata"]
    assert isinstance(metadata, dict)
    assert continuation.decode(metadata["continue"]) == (continuation.INCONSISTENT, "ns/x")
