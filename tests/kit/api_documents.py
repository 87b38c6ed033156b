"""A small HTTP server of discovery and OpenAPI documents alone, for clients that read them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

from raykube.api import discovery, openapi
from raykube.api.errors import ApiError
from raykube.api.resources import Registry


class _Server(ThreadingHTTPServer):
    registry: Registry
    aggregated: bool


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        registry = self.server.registry
        wanted = next((each for each in discovery.AGGREGATED_TYPES if each in self.headers.get("Accept", "")), "")
        kind = "application/json"
        if path in ("api", "apis") and wanted and self.server.aggregated:
            kind = wanted
            document: Any = discovery.aggregated(registry, path == "api", discovery.AGGREGATED_TYPES[wanted])
        else:
            document = self.document(path, registry)
        code = 200
        if document is None:
            code, document = 404, ApiError.unknown_path().status()
        data = document if isinstance(document, bytes) else orjson.dumps(document)
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def document(self, path: str, registry: Registry) -> Any:
        parts = path.split("/")
        match parts:
            case ["api"]:
                return discovery.api_versions("127.0.0.1:0")
            case ["apis"]:
                return discovery.api_group_list(registry)
            case ["apis", group]:
                return discovery.api_group(registry, group)
            case ["api", version]:
                return discovery.api_resource_list(registry, "", version)
            case ["apis", group, version]:
                return discovery.api_resource_list(registry, group, version)
            case ["openapi", "v3"]:
                return openapi.index(registry)
            case ["openapi", "v3", "api", version]:
                return openapi.document(registry, "", version)
            case ["openapi", "v3", "apis", group, version]:
                return openapi.document(registry, group, version)
            case _:
                return None

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve_documents(registry: Registry, aggregated: bool = True) -> Iterator[str]:
    """The URL of a server that lives as long as the context."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.registry, server.aggregated = registry, aggregated
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
