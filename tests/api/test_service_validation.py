"""What a Service, Endpoints or an EndpointSlice may not say, in upstream's words."""

from typing import Any

import pytest

from raykube.api import validation
from raykube.api.resources import builtin
from raykube.api.validation.servicewarnings import service_warnings
from tests.api.test_validation import causes, changed, made

PORTS = [{"port": 80}]
LOOPBACK = "may not be in the loopback range (127.0.0.0/8, ::1/128)"
NOT_SUPPORTED = "Unsupported value"
BALANCERS_ONLY = "Forbidden: may only be used when `type` is 'LoadBalancer'"


def service(**spec: Any) -> list[str]:
    metadata = spec.pop("metadata", {})
    return causes("v1", "Service", metadata=metadata, spec={"ports": PORTS, **spec})


def balanced(**spec: Any) -> list[str]:
    return service(type="LoadBalancer", **spec)


def updated(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return changed("v1", "Service", {"spec": {"ports": PORTS, **old}}, {"spec": {"ports": PORTS, **new}})


def test_services() -> None:
    assert causes("v1", "Service", spec={}) == ["spec.ports: Required value"]
    assert causes("v1", "Service", spec={"ports": [{"port": 0}, {"port": 0, "name": "b"}]}) == [
        "spec.ports[0].name: Required value",
        "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
        "spec.ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        "spec.ports[1].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
        'spec.ports[1]: Duplicate value: {"protocol":"TCP","port":0}',
    ]
    assert causes("v1", "Service", spec={"type": "Some", "ports": [{"port": 1}]}) == [
        (
            'spec.type: Unsupported value: "Some": supported values: "ClusterIP", "ExternalName", "LoadBalancer", '
            '"NodePort"'
        )
    ]
    ports = [{"port": 1}]
    before = {"spec": {"ports": ports, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}}
    after = {"spec": {"ports": ports, "clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}}
    assert changed("v1", "Service", before, after) == [
        'spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set'
    ]


@pytest.mark.parametrize(
    ("ip", "why"),
    [
        ("10.1.2.3", ""),
        ("2001:db8::7", ""),
        ("x", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        ("010.1.2.3", "must not have leading 0s"),
        ("fe80::1%eth0", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        ("::ffff:10.1.2.3", "must not be an IPv4-mapped IPv6 address"),
        ("0.0.0.0", "may not be unspecified (0.0.0.0)"),
        ("127.5.1.2", LOOPBACK),
        ("::1", LOOPBACK),
        ("169.254.169.254", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        ("ff02::1", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ],
)
def test_where_a_service_may_lead(ip: str, why: str) -> None:
    assert service(externalIPs=[ip]) == ([f'spec.externalIPs[0]: Invalid value: "{ip}": {why}'] if why else [])
    found = causes("v1", "Endpoints", subsets=[{"addresses": [{"ip": ip}]}])
    assert found == ([f'subsets[0].addresses[0].ip: Invalid value: "{ip}": {why}'] if why else [])
    family = "IPv6" if ":" in ip else "IPv4"
    found = causes("discovery.k8s.io/v1", "EndpointSlice", addressType=family, endpoints=[{"addresses": [ip]}])
    assert len(found) == bool(why)
    if why.startswith("may"):
        assert found == [f'endpoints[0].addresses[0]: Invalid value: "{ip}": {why}']


def test_where_pods_have_loopback_addresses_services_may_lead_there() -> None:
    objects = [
        made("v1", "Service", spec={"ports": PORTS, "externalIPs": ["127.5.1.2", "::1", "169.254.1.1"]}),
        made("v1", "Endpoints", subsets=[{"addresses": [{"ip": "127.5.1.2"}, {"ip": "::1"}, {"ip": "169.254.1.1"}]}]),
    ]
    for obj in objects:
        row = builtin(obj["apiVersion"], obj["kind"])
        found = validation.validate_create(row, obj, loopback=True)
        assert ["::1" in str(found[0]), "169.254.1.1" in str(found[1])] == [True, True]
        assert len(found) == 2
        assert validation.validate_update(row, obj, obj | {"x": 1}, loopback=True) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.0/8", ""),
        (" 192.0.2.0/24 ", ""),
        ("2001:db8::/32", ""),
        ("10.0.0.0", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
        ("10.0.0.0/33", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
        ("", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
        ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
        ("010.0.0.0/8", "must not have leading 0s in IP or prefix length"),
        ("10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
        ("::ffff:10.0.0.0/104", "must not have an IPv4-mapped IPv6 address"),
    ],
)
def test_source_ranges(text: str, why: str) -> None:
    place, shown = "spec.LoadBalancerSourceRanges", text.strip()
    assert balanced(loadBalancerSourceRanges=[text]) == (
        [f'{place}[0]: Invalid value: "{shown}": {why}'] if why else []
    )
    assert f"{place}: {BALANCERS_ONLY}" in service(loadBalancerSourceRanges=[text])
    key = "service.beta.kubernetes.io/load-balancer-source-ranges"
    found = balanced(metadata={"annotations": {key: f"10.1.0.0/16,{text}"}})
    assert found == ([f'metadata.annotations[{key}]: Invalid value: "{shown}": {why}'] if why else [])
    assert f"metadata.annotations[{key}]: {BALANCERS_ONLY}" in service(metadata={"annotations": {key: text}})


def test_cluster_ips_and_families() -> None:
    both = {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}
    assert service(**both, ipFamilies=["IPv4", "IPv6"], ipFamilyPolicy="RequireDualStack") == []
    cases: list[tuple[dict[str, Any], str]] = [
        ({"clusterIPs": ["10.0.0.1"]}, "must be empty when `clusterIP` is not specified"),
        ({"clusterIP": "10.0.0.1"}, "spec.clusterIPs: Required value"),
        ({**both, "clusterIP": "10.0.0.2"}, "first value must match `clusterIP`"),
        (
            {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]},
            "may specify no more than one IP for each IP family",
        ),
        ({"clusterIP": "10.0.0.1", "clusterIPs": [*both["clusterIPs"], "10.0.0.3"]}, "may only hold up to 2 values"),
        ({"clusterIP": "None", "clusterIPs": ["None", "10.0.0.1"]}, "'None' must be the first and only value"),
        ({**both, "ipFamilies": ["IPv6"]}, "expected an IPv6 value as indicated by `ipFamilies[0]`"),
        ({"ipFamilies": ["IPv4", "IPv4"]}, 'spec.ipFamilies[1]: Duplicate value: "IPv4"'),
        ({"ipFamilies": ["IPv5"]}, f'spec.ipFamilies[0]: {NOT_SUPPORTED}: "IPv5": supported values: "IPv4", "IPv6"'),
        (
            {"ipFamilyPolicy": "Some"},
            (
                f'spec.ipFamilyPolicy: {NOT_SUPPORTED}: "Some": supported values: "PreferDualStack", '
                '"RequireDualStack", "SingleStack"'
            ),
        ),
        ({**both, "type": "NodePort", "clusterIP": "x", "clusterIPs": ["x"]}, "must be a valid IP address"),
    ]
    for spec, why in cases:
        (found,) = service(**spec)
        assert why in found, spec


def test_external_names() -> None:
    assert service(type="ExternalName", ports=[], externalName="db.example.com.") == []
    assert service(type="ExternalName") == ["spec.externalName: Required value"]
    (found,) = service(type="ExternalName", externalName="no_name")
    assert found.startswith('spec.externalName: Invalid value: "no_name": a lowercase RFC 1123 subdomain must consist')
    spec = {
        "clusterIP": "10.0.0.1",
        "clusterIPs": ["10.0.0.1"],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
    }
    assert service(type="ExternalName", externalName="a", **spec) == [
        f"spec.{name}: Forbidden: may not be set for ExternalName services"
        for name in ("clusterIPs", "ipFamilies", "ipFamilyPolicy")
    ]


def test_policies_of_traffic() -> None:
    assert service(externalIPs=["192.0.2.1"]) == []
    assert service(externalTrafficPolicy="Local") == [
        'spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services'
    ]
    supported = 'supported values: "Cluster", "Local"'
    assert service(type="NodePort", externalTrafficPolicy="Some") == [
        f'spec.externalTrafficPolicy: {NOT_SUPPORTED}: "Some": {supported}'
    ]
    assert service(internalTrafficPolicy="Some") == [
        f'spec.internalTrafficPolicy: {NOT_SUPPORTED}: "Some": {supported}'
    ]
    for distribution in ("PreferClose", "PreferSameZone", "PreferSameNode"):
        assert service(trafficDistribution=distribution) == []
    assert service(trafficDistribution="Near") == [
        (
            f'spec.trafficDistribution: {NOT_SUPPORTED}: "Near": supported values: "PreferClose", "PreferSameNode", '
            '"PreferSameZone"'
        )
    ]
    assert balanced(externalTrafficPolicy="Local", healthCheckNodePort=30123) == []
    assert balanced(healthCheckNodePort=30123) == [
        (
            "spec.healthCheckNodePort: Invalid value: 30123: "
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        )
    ]
    assert balanced(externalTrafficPolicy="Local", healthCheckNodePort=65536) == [
        "spec.healthCheckNodePort: Invalid value: 65536: must be between 1 and 65535, inclusive"
    ]


def test_what_only_load_balancers_have() -> None:
    assert service(allocateLoadBalancerNodePorts=True) == [f"spec.allocateLoadBalancerNodePorts: {BALANCERS_ONLY}"]
    assert service(loadBalancerClass="a/b") == [f"spec.loadBalancerClass: {BALANCERS_ONLY}"]
    (found,) = balanced(loadBalancerClass="a b")
    assert found.startswith('spec.loadBalancerClass: Invalid value: "a b": name part must consist of')
    assert balanced(ports=[{"port": 10250}]) == [
        "spec.ports[0]: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet"
    ]
    headless = {"clusterIP": "None", "clusterIPs": ["None"]}
    for kind in ("LoadBalancer", "NodePort"):
        assert service(type=kind, **headless) == [
            f"spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for {kind} services"
        ]


def test_affinity_and_ports() -> None:
    config = {"clientIP": {"timeoutSeconds": 86401}}
    assert service(sessionAffinity="ClientIP", sessionAffinityConfig=config) == [
        (
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: "
            "must be greater than 0 and less than 86400"
        )
    ]
    assert service(sessionAffinity="None", sessionAffinityConfig=config) == []  # a default takes it off
    assert service(ports=[{"port": 80, "nodePort": 30001}]) == [
        "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"
    ]
    twice = [{"name": name, "port": port, "nodePort": 30001} for name, port in (("a", 1), ("b", 2))]
    assert service(type="NodePort", ports=twice) == ["spec.ports[1].nodePort: Duplicate value: 30001"]
    (found,) = service(ports=[{"port": 80, "appProtocol": "a b"}])
    assert found.startswith('spec.ports[0].appProtocol: Invalid value: "a b": name part must consist of')


def test_what_a_service_keeps() -> None:
    one = {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}
    two = {
        "clusterIP": "10.0.0.1",
        "clusterIPs": ["10.0.0.1", "fd00::1"],
        "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "PreferDualStack",
    }
    other = {
        "clusterIP": "10.0.0.2",
        "clusterIPs": ["10.0.0.2"],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
    }
    assert updated(one, two) == updated(two, one) == []
    assert updated(one, other) == ['spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set']
    assert updated(two, other) == ['spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set']
    assert updated(two, one | {"ipFamilyPolicy": "PreferDualStack"}) == [
        'spec.ipFamilyPolicy: Invalid value: "PreferDualStack": '
        f"must be set to 'SingleStack' when releasing the secondary {what}"
        for what in ("clusterIP", "ipFamily")
    ]
    six = {"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"}
    assert updated(one, six) == [
        'spec.clusterIPs[0]: Invalid value: ["fd00::1"]: may not change once set',
        'spec.ipFamilies[0]: Invalid value: ["IPv6"]: may not change once set',
    ]
    assert updated(one, {"type": "ExternalName", "externalName": "a", "ports": []}) == []
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", **one}
    assert updated({**local, "healthCheckNodePort": 30001}, {**local, "healthCheckNodePort": 30002}) == [
        "spec.healthCheckNodePort: Forbidden: field is immutable"
    ]
    assert updated({**local, "loadBalancerClass": "a/b"}, {**local, "loadBalancerClass": "a/c"}) == [
        'spec.loadBalancerClass: Invalid value: "a/c": may not change once set'
    ]


def test_the_status_of_load_balancers() -> None:
    def judged(kind: str, *ingress: dict[str, Any]) -> list[str]:
        old = {"spec": {"ports": PORTS, "type": kind}}
        return changed("v1", "Service", old, {**old, "status": {"loadBalancer": {"ingress": list(ingress)}}}, "status")

    place = "status.loadBalancer.ingress"
    assert judged("LoadBalancer", {"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "a.example.com"}) == []
    assert judged("NodePort", {"ip": "192.0.2.1"}) == [
        f"{place}: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"
    ]
    assert judged("LoadBalancer", {"ip": "x"}, {"hostname": "192.0.2.1"}, {"ip": "192.0.2.1", "ipMode": "Some"}) == [
        f'{place}[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)',
        f'{place}[1].hostname: Invalid value: "192.0.2.1": must be a DNS name, not an IP address',
        f'{place}[2].ipMode: {NOT_SUPPORTED}: "Some": supported values: "Proxy", "VIP"',
    ]


def test_slices() -> None:
    kind = ("discovery.k8s.io/v1", "EndpointSlice")
    assert causes(*kind, addressType="IPv4", endpoints=[{"addresses": ["x", "::1"]}]) == [
        'endpoints[0].addresses[0]: Invalid value: "x": must be an IPv4 address',
        'endpoints[0].addresses[1]: Invalid value: "::1": must be an IPv4 address',
    ]
    hidden = ["0:0:0:0:0:0:0:1", "::", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe"]
    assert len(causes(*kind, addressType="IPv6", endpoints=[{"addresses": [*hidden, "fd00::1"]}])) == len(hidden)

    def endpoint(**fields: Any) -> list[str]:
        return causes(*kind, addressType="IPv4", endpoints=[{"addresses": ["10.1.2.3"], **fields}])

    assert endpoint(hints={"forZones": [{"name": "a"}], "forNodes": [{"name": "m1"}]}) == []
    many = [{"name": f"n{number}"} for number in range(9)]
    assert endpoint(hints={"forZones": many, "forNodes": many}) == [
        f"endpoints[0].hints.{name}: Too many: 9: must have at most 8 items" for name in ("forZones", "forNodes")
    ]
    found = endpoint(hints={"forZones": [{"name": "a"}, {"name": "a"}], "forNodes": [{"name": "M_1"}]})
    assert found[0] == 'endpoints[0].hints.forZones[1].name: Duplicate value: "a"'
    assert found[1].startswith('endpoints[0].hints.forNodes[0].name: Invalid value: "M_1": a lowercase RFC 1123')
    assert endpoint(hostname="a.b")[0].startswith('endpoints[0].hostname: Invalid value: "a.b": a lowercase RFC 1123')
    assert endpoint(nodeName="M_1")[0].startswith('endpoints[0].nodeName: Invalid value: "M_1": a lowercase RFC 1123')
    assert changed(*kind, {"addressType": "IPv4", "endpoints": []}, {"addressType": "IPv6", "endpoints": []}) == [
        'addressType: Invalid value: "IPv6": field is immutable'
    ]


def test_warnings() -> None:
    def warned(**spec: Any) -> list[str]:
        return service_warnings(made("v1", "Service", spec={"ports": PORTS, **spec}))

    assert warned(externalIPs=["192.0.2.1", "fd00::1"], sessionAffinity="ClientIP") == []
    headless = {"clusterIP": "None", "clusterIPs": ["None"]}
    assert warned(**headless) == []
    assert warned(**headless, sessionAffinity="ClientIP", externalIPs=["192.0.2.1"]) == [
        "spec.externalIPs is ignored for headless services",
        "spec.SessionAffinity is ignored for headless services",
    ]
    assert warned(type="ExternalName", externalName="a", externalIPs=["192.0.2.1"]) == [
        'spec.externalIPs is ignored when spec.type is "ExternalName"'
    ]
    assert warned(externalName="a") == ['spec.externalName is ignored when spec.type is not "ExternalName"']
    assert warned(trafficDistribution="PreferClose") == [
        'spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"'
    ]
    assert warned(clusterIP="fd00::0001", clusterIPs=["fd00::0001"]) == [
        'spec.clusterIPs[0]: IPv6 address "fd00::0001" should be in RFC 5952 canonical format ("fd00::1")'
    ]
    assert warned(type="LoadBalancer", loadBalancerSourceRanges=["10.0.0.0/8", "FD00::/8"]) == [
        (
            'spec.loadBalancerSourceRanges[1]: IPv6 CIDR value "FD00::/8" should be in RFC 5952 canonical format '
            '("fd00::/8")'
        )
    ]
