"""A client that never stops: it writes objects through the kubeconfig's servers and looks at Nodes.

`python -m tests.testbed.writer KUBECONFIG NAMESPACE`, until stdin ends; the namespace must not exist yet.
A line for each write and each change of a Node:

    {"write": "w-17", "from": 12.3, "to": 12.4, "server": "10.77.0.11:6443", "outcome": 201}     or "TimeoutError"
    {"node": "host2", "ready": "Unknown", "at": 71.9}
    {"found": ["w-1", …]}                                              at the end: what the cluster has

Times are of the monotonic clock, which all hosts of a testbed share. A server that fails is left for the next one.
"""

import base64
import http.client
import json
import select
import ssl
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

TIMEOUT_S = 2.0
PAUSE_S = 0.05
LOOK_S = 0.5
LIST_TIMEOUT_S = 60


class Api:
    """One connection to one of the servers at a time."""

    def __init__(self, kubeconfig: Path) -> None:
        document = yaml.safe_load(kubeconfig.read_text())
        servers = [entry["cluster"]["server"] for entry in document["clusters"]]
        self._servers = list(dict.fromkeys(urlsplit(server).netloc for server in servers))
        user, cluster = document["users"][0]["user"], document["clusters"][0]["cluster"]
        self._tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as pair:
            for part in ("client-certificate-data", "client-key-data"):
                pair.write(base64.b64decode(user[part]))
            pair.flush()
            self._tls.load_cert_chain(pair.name)
        self._connection: http.client.HTTPSConnection | None = None
        self.timeout_s = TIMEOUT_S

    @property
    def server(self) -> str:
        return self._servers[0]

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The answer's code and document. Raises OSError or HTTPException; the next call asks the next server."""
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(self.server, context=self._tls, timeout=self.timeout_s)
        try:
            data = None if body is None else json.dumps(body)
            self._connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            code, document = answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            self.leave()
            raise
        if code >= 500:
            self.leave()
        return code, document

    def leave(self) -> None:
        """Gives the server up for the next one."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._servers.append(self._servers.pop(0))


def say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def write(api: Api, namespace: str, number: int) -> None:
    name = f"w-{number}"
    server, start = api.server, time.monotonic()
    outcome: int | str
    try:
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        outcome, _ = api.request("POST", path, {"metadata": {"name": name}, "data": {"number": str(number)}})
    except (OSError, http.client.HTTPException) as error:
        outcome = type(error).__name__
    say(write=name, **{"from": start, "to": time.monotonic()}, server=server, outcome=outcome)


def look(api: Api, stopped: threading.Event) -> None:
    """Says of each Node whenever its readiness changed."""
    known: dict[str, str] = {}
    while not stopped.wait(LOOK_S):
        with suppress(OSError, http.client.HTTPException):
            code, document = api.request("GET", "/api/v1/nodes")
            for node in document["items"] if code == 200 else []:
                name = node["metadata"]["name"]
                conditions = {each["type"]: each["status"] for each in node["status"].get("conditions", [])}
                if known.get(name) != conditions.get("Ready"):
                    known[name] = conditions.get("Ready", "")
                    say(node=name, ready=known[name], at=time.monotonic())


def found(api: Api, namespace: str) -> list[str]:
    """The names of all objects that there are. Raises OSError at the time-out."""
    deadline = time.monotonic() + LIST_TIMEOUT_S
    api.timeout_s = LIST_TIMEOUT_S
    while True:
        with suppress(OSError, http.client.HTTPException):
            code, document = api.request("GET", f"/api/v1/namespaces/{namespace}/configmaps")
            if code == 200:
                return [item["metadata"]["name"] for item in document["items"]]
        if time.monotonic() > deadline:
            raise OSError("no server lists what was written")
        time.sleep(PAUSE_S)


def main() -> None:
    kubeconfig, namespace = Path(sys.argv[1]), sys.argv[2]
    api, stopped = Api(kubeconfig), threading.Event()
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    threading.Thread(target=look, args=(Api(kubeconfig), stopped), daemon=True).start()
    number = 0
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        number += 1
        write(api, namespace, number)
    stopped.set()
    say(found=found(api, namespace))


if __name__ == "__main__":
    main()
