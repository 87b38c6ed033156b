"""What a container is given: environment, working directory, volumes, an identity to call the API with."""

import base64
import json
import os
from pathlib import Path

import pytest

from tests.e2e.user import User, until
from tests.kit.require import missing

pytestmark = pytest.mark.integration

SETTINGS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {LEVEL: debug, COLOR: blue, app.ini: "size = 1\\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: login}
stringData: {USER: alice, PASSWORD: "pa ss=w$(x)"}
---
apiVersion: v1
kind: Service
metadata: {name: data-base}
spec:
  selector: {app: none}
  ports: [{name: sql, port: 5432}]
"""

ENVIRONMENT = """
apiVersion: v1
kind: Pod
metadata:
  name: environment
  labels: {tier: worker}
  annotations: {note: "a b"}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: any
    command: [python3, -c, "import json,os,sys; print(json.dumps([dict(os.environ), os.getcwd(), sys.argv[1:]]))"]
    args: [$(GREETING), $$(GREETING), $(MISSING)]
    workingDir: /usr/lib
    resources:
      requests: {cpu: 50m, memory: 16Mi}
      limits: {cpu: 1500m, memory: 64Mi}
    envFrom:
    - configMapRef: {name: settings}
    - prefix: LOGIN_
      secretRef: {name: login}
    - configMapRef: {name: not-there, optional: true}
    env:
    - {name: PLAIN, value: one}
    - {name: GREETING, value: "$(PLAIN) $(LEVEL) $(DATA_BASE_SERVICE_PORT) $$(PLAIN) $(NOWHERE)"}
    - {name: COLOR, value: red}
    - {name: KEY, valueFrom: {configMapKeyRef: {name: settings, key: app.ini}}}
    - {name: ABSENT, valueFrom: {configMapKeyRef: {name: settings, key: none, optional: true}}}
    - {name: PASS, valueFrom: {secretKeyRef: {name: login, key: PASSWORD}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    - {name: TIER, valueFrom: {fieldRef: {fieldPath: "metadata.labels['tier']"}}}
    - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: CPU_MILLI, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
    - {name: MEMORY_MI, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
"""

VOLUMES = """
apiVersion: v1
kind: Pod
metadata:
  name: volumes
  labels: {tier: worker}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: writer
    image: any
    command: [sh, -c, "echo from-writer > /shared/file; exec sleep 1000"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: reader
    image: any
    command:
    - sh
    - -c
    - |
      while ! [ -s /there/file ]; do sleep 0.1; done
      cat /there/file
      ls /etc/settings; cat /etc/settings/app.ini; cat /etc/login/name; echo; stat -Lc %a /etc/login/name
      cat /etc/settings/COLOR; echo
      cat /etc/one.ini
      cat /etc/about/labels; echo
      touch /etc/settings/new 2>/dev/null || echo read-only
      until grep -q 2 /etc/settings/app.ini; do sleep 0.2; done
      cat /etc/settings/app.ini
      cat /etc/one.ini
      exec sleep 1000
    volumeMounts:
    - {name: shared, mountPath: /there, readOnly: true}
    - {name: settings, mountPath: /etc/settings}
    - {name: login, mountPath: /etc/login}
    - {name: settings, mountPath: /etc/one.ini, subPath: app.ini}
    - {name: about, mountPath: /etc/about}
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
  - name: login
    secret: {secretName: login, defaultMode: 0400, items: [{key: USER, path: name}]}
  - name: about
    downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
"""

CALLER = """
import os, ssl, time, urllib.error, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
namespace = open(folder + "namespace").read()
url = f"https://{host}:{port}/api/v1/namespaces/{namespace}/configmaps"
trust = ssl.create_default_context(cafile=folder + "ca.crt")
def code(token):
    request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token} if token else {})
    try:
        return urllib.request.urlopen(request, context=trust, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
token = open(folder + "token").read()
print(code(token + "x"), code(""), code(token), flush=True)
while code(token) != 200:
    time.sleep(0.2)
print("allowed", flush=True)
while code(token) == 200:
    time.sleep(0.2)
print("revoked", flush=True)
"""

CALLER_POD = f"""
apiVersion: v1
kind: ServiceAccount
metadata: {{name: caller}}
---
apiVersion: v1
kind: Pod
metadata: {{name: caller}}
spec:
  serviceAccountName: caller
  restartPolicy: Never
  containers:
  - {{name: main, image: any, command: [python3, -c, {json.dumps(CALLER)}]}}
"""

MISSING = """
apiVersion: v1
kind: Pod
metadata: {name: no-command}
spec:
  containers: [{name: main, image: nginx}]
---
apiVersion: v1
kind: Pod
metadata: {name: no-key}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: any
    command: [sh, -c, "echo $LATE; exec sleep 1000"]
    env: [{name: LATE, valueFrom: {configMapKeyRef: {name: late, key: word}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: no-volume}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: any, command: [cat, /late/word], volumeMounts: [{name: late, mountPath: /late}]}
  volumes: [{name: late, configMap: {name: late}}]
  restartPolicy: Never
---
apiVersion: v1
kind: Pod
metadata: {name: no-program}
spec:
  restartPolicy: Never
  containers: [{name: main, image: any, command: [/no/such/program]}]
"""


@pytest.fixture(scope="module", autouse=True)
def applied(user: User) -> None:
    user.apply(SETTINGS)
    user.apply("---".join((ENVIRONMENT, VOLUMES, CALLER_POD, MISSING)))


def test_the_environment_is_what_the_manifest_says(user: User) -> None:
    user.wait_phase("Succeeded", "environment")
    environment, folder, arguments = json.loads(user("logs", "environment"))
    pod = user.get("pod", "environment")
    service = user.get("service", "data-base")["spec"]["clusterIP"]
    expected = {
        "PLAIN": "one",
        "GREETING": "one debug 5432 $(PLAIN) $(NOWHERE)",
        "LEVEL": "debug",
        "COLOR": "red",
        "LOGIN_USER": "alice",
        "KEY": "size = 1\n",
        "PASS": "pa ss=w$(x)",
        "POD": "environment",
        "NAMESPACE": user.namespace,
        "POD_UID": pod["metadata"]["uid"],
        "TIER": "worker",
        "NOTE": "a b",
        "NODE": pod["spec"]["nodeName"],
        "ACCOUNT": "default",
        "POD_IP": pod["status"]["podIP"],
        "HOST_IP": pod["status"]["hostIP"],
        "CPU": "2",
        "CPU_MILLI": "50",
        "MEMORY_MI": "64",
        "DATA_BASE_SERVICE_HOST": service,
        "DATA_BASE_SERVICE_PORT_SQL": "5432",
        "DATA_BASE_PORT_5432_TCP": f"tcp://{service}:5432",
        "KUBERNETES_SERVICE_PORT": str(user.plane.state.kubernetes_service_port),
        "HOSTNAME": "environment",
    }
    assert {name: environment.get(name) for name in expected} == expected
    assert environment["app.ini"] == "size = 1\n"
    assert "ABSENT" not in environment
    assert folder == "/usr/lib"
    assert arguments == [expected["GREETING"], "$(GREETING)", "$(MISSING)"]


def test_volumes_show_their_sources_and_follow_them(user: User) -> None:
    user.wait("condition=Ready", "pod/volumes")
    before = ["from-writer", "COLOR", "LEVEL", "app.ini", "size = 1", "alice", "400", "blue", "size = 1"]
    before += ['tier="worker"', "read-only"]
    until("first lines", lambda: len(user("logs", "volumes", "-c", "reader").splitlines()) >= len(before))
    assert user("logs", "volumes", "-c", "reader").splitlines() == before
    user("patch", "configmap", "settings", "-p", '{"data":{"app.ini":"size = 2\\n"}}')
    # The volume follows; a subPath is a copy of the moment the container started.
    until("update", lambda: len(user("logs", "volumes", "-c", "reader").splitlines()) >= len(before) + 2)
    assert user("logs", "volumes", "-c", "reader").splitlines() == [*before, "size = 2", "size = 1"]


def test_a_pod_calls_the_api_as_its_service_account(user: User) -> None:
    port = user.plane.state.kubernetes_service_port
    if os.geteuid() and int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > port:
        missing(f"this user may not listen on port {port}, where the API's Service is")
    until("first answers", lambda: user("logs", "caller"))
    assert user("logs", "caller").split() == ["401", "403", "403"]
    user("create", "role", "reader", "--verb=list", "--resource=configmaps")
    user("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={user.namespace}:caller")
    until("permission", lambda: "allowed" in user("logs", "caller"))
    user("delete", "rolebinding", "reader")
    user.wait_phase("Succeeded", "caller")
    assert user("logs", "caller").split()[3:] == ["allowed", "revoked"]
    token = user("create", "token", "caller").strip()
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["sub"] == f"system:serviceaccount:{user.namespace}:caller"


def test_a_container_without_a_command_says_what_to_do(user: User) -> None:
    pod = user.pod_when("no-command", "waiting", lambda pod: "CreateContainerError" in json.dumps(pod["status"]))
    waiting = pod["status"]["containerStatuses"][0]["state"]["waiting"]
    assert waiting["reason"] == "CreateContainerError"
    assert 'the process runtime has no images: set "command" in container "main"' in waiting["message"]
    assert user.row("get", "pod", "no-command")["STATUS"] == "CreateContainerError"
    described = user("describe", "pod", "no-command")
    assert "Failed" in described and "has no images" in described


def test_a_program_that_is_not_there_fails_the_container(user: User) -> None:
    user.wait_phase("Failed", "no-program")
    ended = user.get("pod", "no-program")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["exitCode"] in (127, 128)
    assert "/no/such/program" in ended["message"]


def test_what_is_missing_at_first_is_waited_for(user: User) -> None:
    pod = user.pod_when("no-key", "waiting", lambda pod: "CreateContainerConfigError" in json.dumps(pod["status"]))
    assert pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"] == 'configmap "late" not found'
    described = until("event", lambda: "FailedMount" in (found := user("describe", "pod", "no-volume")) and found)
    assert 'MountVolume.SetUp failed for volume "late" : configmap "late" not found' in described
    assert user.row("get", "pod", "no-volume")["STATUS"] == "ContainerCreating"
    user("create", "configmap", "late", "--from-literal=word=here")
    user.wait_phase("Succeeded", "no-volume")
    user.wait("condition=Ready", "pod/no-key")
    assert user("logs", "no-key") == "here\n"
    assert user("logs", "no-volume") == "here"
