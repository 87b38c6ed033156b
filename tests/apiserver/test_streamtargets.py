"""Where streams and proxied requests go."""

from typing import Any

import pytest
from multidict import MultiDict

from raykube.api.errors import ApiError
from raykube.apiserver.core import streamtargets
from raykube.apiserver.core.streamtargets import Name

POD: dict[str, Any] = {
    "metadata": {"name": "web"},
    "spec": {"containers": [{"ports": [{"containerPort": 8080, "name": "http"}]}, {"ports": [{"containerPort": 90}]}]},
    "status": {"podIP": "10.1.2.3"},
}
SERVICE: dict[str, Any] = {"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 443, "name": "tls"}]}}
SLICE: dict[str, Any] = {
    "ports": [{"name": "http", "port": 8080}, {"name": "tls", "port": 8443}],
    "endpoints": [
        {"addresses": ["10.1.0.1"], "conditions": {"ready": True}},
        {"addresses": ["10.1.0.2"], "conditions": {"ready": False}},
        {"addresses": ["10.1.0.3"]},
    ],
}


def query(text: str) -> MultiDict[str]:
    return MultiDict(part.partition("=")[::2] for part in text.split("&") if part)


def test_the_kubelets_names_of_parameters() -> None:
    asked = query("command=sh&command=a b&stdin=true&stdout=1&stderr=True&container=c")
    assert streamtargets.remote_command_query(asked, command=True) == "command=sh&command=a+b&input=1&output=1&error=1"
    terminal = query("command=sh&stdin=true&stdout=true&stderr=true&tty=true")
    assert streamtargets.remote_command_query(terminal, command=False) == "input=1&output=1&tty=1"
    assert streamtargets.port_forward_query(query("ports=80,443&ports=8080")) == "port=80%2C443%2C8080"
    assert streamtargets.port_forward_query(query("")) == ""


@pytest.mark.parametrize("text", ["command=sh", "command=sh&stdin=maybe", "stdout=true"])
def test_refused_parameters(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        streamtargets.remote_command_query(query(text), command=True)
    assert caught.value.code == 400


def test_names() -> None:
    assert streamtargets.parse_name("web") == Name("", "web", "")
    assert streamtargets.parse_name("web:http") == Name("", "web", "http")
    assert streamtargets.parse_name("https:web:8443") == Name("https", "web", "8443")
    assert streamtargets.parse_name("ftp:web:21") is None
    assert streamtargets.parse_name("a:b:c:d") is None
    assert streamtargets.parse_name(":80") is None


def test_pods() -> None:
    assert streamtargets.pod_url(Name("", "web", ""), POD) == "http://10.1.2.3:8080"
    assert streamtargets.pod_url(Name("https", "web", "90"), POD) == "https://10.1.2.3:90"
    assert streamtargets.pod_url(Name("", "web", "http"), POD) == "http://10.1.2.3:8080"
    assert streamtargets.pod_url(Name("", "web", ""), POD | {"status": {"podIP": "fd00::1"}}) == "http://[fd00::1]:8080"


ELSEWHERE = [
    "127.0.0.1",
    "::1",
    "0:0:0:0:0:0:0:1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "fe80::1",
    "fe80::1%eth0",
    "0.0.0.0",
    "::",
    "::ffff:0.0.0.0",
    "224.0.0.1",
    "239.1.1.1",
    "ff02::1",
    "::ffff:224.0.0.1",
    "",
    "evil.test",
]


@pytest.mark.parametrize("address", ELSEWHERE)
def test_addresses_that_lead_elsewhere(address: str) -> None:
    with pytest.raises(ApiError, match="address not allowed"):
        streamtargets.pod_url(Name("", "web", ""), POD | {"status": {"podIP": address}})


def test_pods_of_a_local_cluster() -> None:
    local = POD | {"status": {"podIP": "127.5.1.2"}}
    assert streamtargets.pod_url(Name("", "web", ""), local) == "http://127.5.1.2:8080"
    mapped = POD | {"status": {"podIP": "::ffff:10.1.2.3"}}
    assert streamtargets.pod_url(Name("", "web", ""), mapped) == "http://10.1.2.3:8080"


def test_services() -> None:
    found = {streamtargets.service_url(Name("", "web", "http"), SERVICE, [SLICE], pick) for pick in range(9)}
    assert found == {"http://10.1.0.1:8080", "http://10.1.0.3:8080"}
    assert streamtargets.service_url(Name("https", "web", "443"), SERVICE, [SLICE], 0) == "https://10.1.0.1:8443"
    one = {"spec": {"ports": [{"port": 80}]}}
    unnamed = {"ports": [{"port": 81}], "endpoints": [{"addresses": ["10.1.0.1"]}]}
    assert streamtargets.service_url(Name("", "web", ""), one, [unnamed], 7) == "http://10.1.0.1:81"
    with pytest.raises(ApiError, match='no endpoints available for service "web"'):
        streamtargets.service_url(Name("", "web", "http"), SERVICE, [], 0)
    with pytest.raises(ApiError, match='no service port 81 found for service "web"'):
        streamtargets.service_url(Name("", "web", "81"), SERVICE, [SLICE], 0)


def test_what_is_behind_the_proxy() -> None:
    assert streamtargets.remainder("/api/v1/namespaces/n/pods/web/proxy/a//b%2Fc", True) == "/a//b%2Fc"
    assert streamtargets.remainder("/api/v1/namespaces/n/pods/web/proxy/", True) == "/"
    assert streamtargets.remainder("/api/v1/namespaces/n/pods/web/proxy", True) == ""
    assert streamtargets.remainder("/api/v1/nodes/n/proxy/pods", False) == "/pods"


def test_secrets_stay_with_the_apiserver() -> None:
    headers = [
        ("Authorization", "Bearer x"),
        ("Impersonate-User", "root"),
        ("Connection", "close, X-Hop"),
        ("X-Hop", "1"),
        ("Accept", "text/html"),
        ("Cookie", "c=1"),
    ]
    assert streamtargets.forwarded_headers(headers, "close, X-Hop") == [("Accept", "text/html"), ("Cookie", "c=1")]
