"""Services: who answers at a ClusterIP, a NodePort, and who does not."""

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial

import pytest

from tests.e2e.user import KILL, Object, User, container_pids, until

pytestmark = pytest.mark.integration

# Each pod answers with its name; it is ready while /tmp-like volume has no file "sick".
WEB = """
apiVersion: v1
kind: ConfigMap
metadata: {name: server}
data:
  server.py: |
    import http.server, os
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            sick = os.path.exists("/state/sick")
            if self.path == "/sick":
                open("/state/sick", "w").close()
            if self.path == "/well" and sick:
                os.unlink("/state/sick")
            body = os.environ["NAME"].encode()
            self.send_response(503 if sick and self.path == "/ready" else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *args):
            pass
    http.server.ThreadingHTTPServer((os.environ["POD_IP"], 8080), Handler).serve_forever()
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: server
        image: any
        command: [python3, /srv/server.py]
        ports: [{name: http, containerPort: 8080}]
        env:
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        readinessProbe:
          httpGet: {path: /ready, port: http}
          periodSeconds: 1
          failureThreshold: 1
        volumeMounts: [{name: code, mountPath: /srv}, {name: state, mountPath: /state}]
      volumes: [{name: code, configMap: {name: server}}, {name: state, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 8080, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  selector: {app: web}
  sessionAffinity: ClientIP
  ports: [{port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  selector: {app: nobody}
  ports: [{port: 8080}]
"""


@pytest.fixture(scope="module", autouse=True)
def applied(user: User) -> None:
    user.apply(WEB)
    user("rollout", "status", "deployment/web", "--timeout=60s")


def fetch(address: str, port: int, path: str = "/") -> str:
    with urllib.request.urlopen(f"http://{address}:{port}{path}", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def answering(address: str, port: int, times: int = 12) -> set[str]:
    """Who answers; empty if a connection failed."""
    try:
        return {fetch(address, port) for _ in range(times)}
    except OSError:
        return set()


def address(user: User, service: str) -> str:
    found: str = user.get("service", service)["spec"]["clusterIP"]
    return found


def pods(user: User) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in user.items("pods", "-l", "app=web")}


def endpoints(user: User, service: str, wanted: Callable[[Object], bool] = lambda one: True) -> set[str]:
    slices = user.items("endpointslices", "-l", f"kubernetes.io/service-name={service}")
    return {
        one["targetRef"]["name"]
        for found in slices
        for one in found.get("endpoints") or ()
        if wanted(one["conditions"])
    }


def ready(user: User, service: str = "web") -> set[str]:
    return endpoints(user, service, lambda conditions: bool(conditions["ready"]))


def test_every_pod_answers_at_the_cluster_ip(user: User) -> None:
    names = set(pods(user))
    assert len(names) == 3
    until("all three answer", lambda: answering(address(user, "web"), 8080) == names)
    assert ready(user) == names
    row = user.row("get", "endpoints", "web")
    assert row["ENDPOINTS"].count(":8080") == 3
    described = user("describe", "service", "web")
    assert "TargetPort:               http/TCP" in described and ":8080" in described


def _all_answer(host: str, port: int, names: set[str]) -> bool:
    return answering(host, port) == names


def test_a_node_port_answers_on_every_machine(user: User) -> None:
    names = set(pods(user))
    port = user.get("service", "web")["spec"]["ports"][0]["nodePort"]
    assert 30000 <= port <= 32767
    for machine in user.plane.state.machines:
        until(f"all three answer at {machine.name}", partial(_all_answer, machine.address, port, names))
    assert f"8080:{port}/TCP" in user("get", "service", "web")


def test_a_client_sticks_to_one_pod(user: User) -> None:
    until("answers", lambda: answering(address(user, "sticky"), 8080, 1))
    assert len(answering(address(user, "sticky"), 8080)) == 1


def test_a_headless_service_has_endpoints_and_no_address(user: User) -> None:
    assert user.row("get", "service", "headless")["CLUSTER-IP"] == "None"
    assert ready(user, "headless") == set(pods(user))


def test_a_service_without_pods_refuses(user: User) -> None:
    with pytest.raises(urllib.error.URLError, match="refused"):
        fetch(address(user, "nobody"), 8080)
    assert user.row("get", "endpoints", "nobody")["ENDPOINTS"] == "<none>"


def test_an_unready_pod_gets_no_traffic_and_is_not_restarted(user: User) -> None:
    names = set(pods(user))
    sick = min(names)
    own = pods(user)[sick]["status"]["podIP"]
    fetch(own, 8080, "/sick")
    until("out of the endpoints", lambda: ready(user) == names - {sick})
    assert endpoints(user, "web") == names, "it stays in the slice, as not ready"
    until("out of the traffic", lambda: answering(address(user, "web"), 8080) == names - {sick})
    assert user.row("get", "pod", sick)["READY"] == "0/1"
    assert user.row("get", "pod", sick)["RESTARTS"] == "0"
    assert "Readiness probe failed: HTTP probe failed with statuscode: 503" in user("describe", "pod", sick)
    fetch(own, 8080, "/well")
    until("traffic again", lambda: answering(address(user, "web"), 8080) == names)


def test_a_killed_server_heals_behind_its_service(user: User) -> None:
    names = set(pods(user))
    victim = max(names)
    for pid in container_pids(user, victim):
        os.kill(pid, KILL)
    user.pod_when(victim, "restarted", lambda pod: pod["status"]["containerStatuses"][0]["restartCount"] == 1)
    until("all three answer", lambda: answering(address(user, "web"), 8080) == names)


def test_a_changed_service_is_followed(user: User) -> None:
    before = address(user, "web")
    user(
        "patch",
        "service",
        "web",
        "-p",
        '{"spec":{"ports":[{"name":"http","port":8080,"$patch":"delete"},'
        '{"name":"http","port":9090,"targetPort":"http"}]}}',
    )
    until("the new port answers", lambda: answering(before, 9090))
    until("the old one does not", lambda: not answering(before, 8080, 1))
    user("scale", "deployment/web", "--replicas=0")
    until("nobody answers", lambda: not answering(before, 9090, 1) and not endpoints(user, "web"))
    user("delete", "service", "web")
    until("no slices", lambda: not user.items("endpointslices", "-l", "kubernetes.io/service-name=web"))
