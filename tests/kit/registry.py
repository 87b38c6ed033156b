"""A registry of images on loopback, for pulls: anonymous, or for those who know a password.

with Registry(password="secret") as registry:      # in the network namespace of whoever pulls
    name = registry.add(images.build("app:1"))      # 127.0.0.1:PORT/app:1
"""

import base64
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from tests.kit.images import MANIFEST_TYPE, Image


class Registry:
    """`user` may pull where there is a password. `requests`: the paths that were asked for."""

    def __init__(self, user: str = "user", password: str = "") -> None:
        self.user = user
        self.password = password
        self.requests: list[str] = []
        self.gate = threading.Event()  # pulls wait while it is not set
        self.gate.set()
        self._manifests: dict[str, Image] = {}  # "path:tag", and "path@digest"
        self._blobs: dict[str, bytes] = {}
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry._answer(self)

            def do_HEAD(self) -> None:
                registry._answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def add(self, image: Image) -> str:
        """Serves an image whose name is PATH:TAG; returns its whole name."""
        path = image.name.rpartition(":")[0]
        self._manifests[image.name] = self._manifests[f"{path}@{image.digest}"] = image
        self._blobs |= image.blobs
        return f"{self.host}/{image.name}"

    def named(self, image: Image) -> Image:
        """The image under its whole name, as to import it."""
        return replace(image, name=f"{self.host}/{image.name}")

    def pulls(self, path: str) -> int:
        """How often a manifest of `path` was asked for."""
        return sum(f"/{path}/manifests/" in request for request in self.requests)

    def __enter__(self) -> "Registry":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(request.path)
        expected = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if self.password and request.headers.get("Authorization") != expected:
            self._send(request, 401, b"", {"WWW-Authenticate": 'Basic realm="test"'})
            return
        path = request.path.removeprefix("/v2/").rstrip("/")
        if "/manifests/" in path:
            self.gate.wait(30)
            name, _, reference = path.partition("/manifests/")
            image = self._manifests.get(f"{name}{'@' if ':' in reference else ':'}{reference}")
            if image is None:
                self._send(request, 404, b"{}", {})
            else:
                headers = {"Content-Type": MANIFEST_TYPE, "Docker-Content-Digest": image.digest}
                self._send(request, 200, image.manifest, headers)
        elif "/blobs/" in path:
            blob = self._blobs.get(path.partition("/blobs/")[2])
            self._send(request, 404 if blob is None else 200, blob or b"", {"Content-Type": "application/octet-stream"})
        else:
            self._send(request, 200 if path in ("", "/v2") else 404, b"{}", {})

    def _send(self, request: BaseHTTPRequestHandler, code: int, body: bytes, headers: dict[str, str]) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
