"""Services through real kubectl: what it prints, what it is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.require import require_program
from tests.kubectl.conftest import Kubectl

pytestmark = pytest.mark.integration


def manifest(kind: str = "Service", name: str = "web", version: str = "v1", **fields: Any) -> str:
    return json.dumps({"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields})


def service(name: str = "web", **spec: Any) -> str:
    return manifest(name=name, spec={"ports": [{"port": 80}], **spec})


def refused(kubectl: Kubectl, text: str) -> str:
    return kubectl.fails("create", "-f", "-", stdin=text)


def test_refusals(kubectl: Kubectl) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.1/8"]},
            (
                'spec.LoadBalancerSourceRanges[0]: Invalid value: "10.0.0.1/8": '
                "must not have bits set beyond the prefix length"
            ),
        ),
        (
            {"loadBalancerSourceRanges": ["10.0.0.0/8"]},
            "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            {"externalIPs": ["169.254.169.254"]},
            (
                'spec.externalIPs[0]: Invalid value: "169.254.169.254": '
                "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
            ),
        ),
        (
            {"ipFamilyPolicy": "RequireDualStack"},
            (
                'spec.ipFamilyPolicy: Invalid value: "RequireDualStack": '
                "this cluster is not configured for dual-stack services"
            ),
        ),
        ({"ipFamilies": ["IPv6"]}, 'spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster'),
        (
            {"trafficDistribution": "Near"},
            (
                'spec.trafficDistribution: Unsupported value: "Near": supported values: "PreferClose", '
                '"PreferSameNode", "PreferSameZone"'
            ),
        ),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}},
            (
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: "
                "must be greater than 0 and less than 86400"
            ),
        ),
        ({"type": "ExternalName"}, "spec.externalName: Required value"),
        (
            {"healthCheckNodePort": 31234, "type": "LoadBalancer"},
            (
                "spec.healthCheckNodePort: Invalid value: 31234: may only be set when `type` is 'LoadBalancer' and "
                "`externalTrafficPolicy` is 'Local'"
            ),
        ),
    ]
    for spec, why in cases:
        assert refused(kubectl, service(**spec)) == f'The Service "web" is invalid: {why}\n'
    assert kubectl("get", "services", "-o", "name") == ""


def test_what_another_service_has(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=service("first", type="NodePort"))
    spec = json.loads(kubectl("get", "service", "first", "-o", "json"))["spec"]
    ip, port = spec["clusterIP"], spec["ports"][0]["nodePort"]
    text = service("second", type="NodePort", ports=[{"port": 80, "nodePort": port}])
    assert refused(kubectl, text) == (
        f'The Service "second" is invalid: spec.ports[0].nodePort: Invalid value: {port}: '
        "provided port is already allocated\n"
    )
    assert refused(kubectl, service("second", clusterIP=ip)) == (
        f'The Service "second" is invalid: spec.clusterIPs: Invalid value: ["{ip}"]: failed to allocate IP {ip}: '
        "provided IP is already allocated\n"
    )
    kubectl("delete", "service", "first")
    kubectl(
        "create",
        "-f",
        "-",
        stdin=service("second", clusterIP=ip, type="NodePort", ports=[{"port": 80, "nodePort": port}]),
    )


def test_what_cannot_change(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=service())
    (ip,) = json.loads(kubectl("get", "service", "web", "-o", "json"))["spec"]["clusterIPs"]
    other = ip.rpartition(".")[0] + (".7" if not ip.endswith(".7") else ".8")
    assert kubectl.fails("patch", "service", "web", "-p", json.dumps({"spec": {"clusterIP": other}})) == (
        f'The Service "web" is invalid: spec.clusterIPs[0]: Invalid value: ["{other}"]: may not change once set\n'
    )
    # What is left out stays, also through `replace`; what the new type has no use for goes.
    kubectl("replace", "-f", "-", stdin=service(type="NodePort"))
    spec = json.loads(kubectl("get", "service", "web", "-o", "json"))["spec"]
    assert (spec["clusterIPs"], spec["ports"][0]["nodePort"] > 0) == ([ip], True)
    kubectl("patch", "service", "web", "-p", '{"spec": {"type": "ClusterIP"}}')
    spec = json.loads(kubectl("get", "service", "web", "-o", "json"))["spec"]
    assert "nodePort" not in spec["ports"][0] and "externalTrafficPolicy" not in spec
    kubectl("patch", "service", "web", "-p", '{"spec": {"type": "ExternalName", "externalName": "a.example.com"}}')
    row = kubectl.rows("get", "service", "web")[1]
    assert row[:4] == ["web", "ExternalName", "<none>", "a.example.com"]


def test_a_load_balancer_that_keeps_clients_addresses(kubectl: Kubectl) -> None:
    text = service(type="LoadBalancer", externalTrafficPolicy="Local", loadBalancerSourceRanges=["192.0.2.0/24"])
    kubectl("create", "-f", "-", stdin=text)
    described = " ".join(kubectl("describe", "service", "web").split())
    assert "External Traffic Policy: Local" in described
    assert "LoadBalancer Source Ranges: 192.0.2.0/24" in described
    port = json.loads(kubectl("get", "service", "web", "-o", "json"))["spec"]["healthCheckNodePort"]
    assert f"HealthCheck NodePort: {port}" in described
    refusal = kubectl.fails("patch", "service", "web", "-p", json.dumps({"spec": {"healthCheckNodePort": port ^ 1}}))
    assert refusal == 'The Service "web" is invalid: spec.healthCheckNodePort: Forbidden: field is immutable\n'
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.300"}]}}}
    refusal = kubectl.fails("patch", "service", "web", "--subresource=status", "-p", json.dumps(status))
    assert 'status.loadBalancer.ingress[0].ip: Invalid value: "192.0.2.300": must be a valid IP address' in refusal


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A cluster whose apiserver holds machines and pods for ones with real addresses, and Services of both families."""
    require_program("kubectl")
    flags = {"allow-loopback-endpoints": "false", "service-cluster-ip-range": "10.96.0.0/16,fd96::/112"}
    folder = tmp_path_factory.mktemp("real")
    with ControlPlane(folder, extra_config={"apiserver": flags}) as running:
        running.start("kv", "apiserver")
        yield running


def test_no_service_leads_to_loopback_addresses(real: ControlPlane, tmp_path: Path) -> None:
    kubectl = Kubectl(real, "default", tmp_path)
    loopback = "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    endpoints = [{"addresses": ["10.1.2.3"]}, {"addresses": ["127.5.1.2"]}]
    slices = manifest("EndpointSlice", "web", "discovery.k8s.io/v1", addressType="IPv4", endpoints=endpoints)
    assert refused(kubectl, slices) == (
        f'The EndpointSlice "web" is invalid: endpoints[1].addresses[0]: Invalid value: "127.5.1.2": {loopback}\n'
    )
    text = manifest("Endpoints", subsets=[{"addresses": [{"ip": "127.5.1.2"}]}])
    assert f'subsets[0].addresses[0].ip: Invalid value: "127.5.1.2": {loopback}' in refused(kubectl, text)
    assert f'spec.externalIPs[0]: Invalid value: "127.5.1.2": {loopback}' in refused(
        kubectl, service(externalIPs=["127.5.1.2"])
    )


def test_where_pods_have_them_services_lead_there(kubectl: Kubectl) -> None:
    endpoints = [{"addresses": ["127.5.1.2"]}]
    slices = manifest("EndpointSlice", "web", "discovery.k8s.io/v1", addressType="IPv4", endpoints=endpoints)
    kubectl("create", "-f", "-", stdin=slices)


def test_two_families(real: ControlPlane, tmp_path: Path) -> None:
    kubectl = Kubectl(real, "default", tmp_path)
    kubectl("create", "-f", "-", stdin=service("both", ipFamilyPolicy="PreferDualStack"))
    four, six = json.loads(kubectl("get", "service", "both", "-o", "json"))["spec"]["clusterIPs"]
    described = " ".join(kubectl("describe", "service", "both").split())
    assert f"IP Family Policy: PreferDualStack IP Families: IPv4,IPv6 IP: {four} IPs: {four},{six}" in described
    policy = '{"spec": {"ipFamilyPolicy": "SingleStack"}}'
    kubectl("patch", "service", "both", "-p", policy)
    assert json.loads(kubectl("get", "service", "both", "-o", "json"))["spec"]["clusterIPs"] == [four]
    kubectl("create", "-f", "-", stdin=service("again", clusterIP=six))


def test_what_is_said_in_vain(kubectl: Kubectl) -> None:
    text = service(trafficDistribution="PreferClose", externalName="a.example.com")
    done = kubectl.run("create", "-f", "-", stdin=text)
    assert (done.returncode, done.stdout) == (0, "service/web created\n")
    assert done.stderr.splitlines() == [
        'Warning: spec.externalName is ignored when spec.type is not "ExternalName"',
        'Warning: spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"',
    ]
