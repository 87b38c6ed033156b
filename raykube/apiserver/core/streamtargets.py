"""Where a stream or a proxied request goes, read from objects: kubelet paths of exec, attach and port-forward; the
address behind `pods/NAME/proxy` and `services/NAME/proxy`.

The name of a proxied object may carry a scheme and a port: `web`, `web:http`, `https:web:8443`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from multidict import MultiMapping

from raykube.api import addresses
from raykube.api.errors import ApiError
from raykube.apiserver.core import options

Object = dict[str, Any]

# The kubelet's names of the API's parameters.
_STREAMS = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}


def remote_command_query(query: MultiMapping[str], *, command: bool) -> str:
    """The kubelet's parameters of an exec (with a command) or attach. Raises ApiError 400."""
    wanted = {name: options.flag(query, name) for name in _STREAMS}
    if wanted["tty"]:
        wanted["stderr"] = False  # a terminal has one output
    if not (wanted["stdin"] or wanted["stdout"] or wanted["stderr"]):
        raise ApiError.bad_request("you must specify at least 1 of stdin, stdout, stderr")
    parameters = [("command", word) for word in query.getall("command", [])] if command else []
    if command and not parameters:
        raise ApiError.bad_request("you must specify at least one command for the container")
    return urlencode(parameters + [(_STREAMS[name], "1") for name, there in wanted.items() if there])


def port_forward_query(query: MultiMapping[str]) -> str:
    """The kubelet's parameters of a port-forward: ports are named by WebSocket clients only."""
    ports = [port for text in query.getall("ports", []) for port in text.split(",") if port]
    return urlencode({"port": ",".join(ports)}) if ports else ""


@dataclass(frozen=True, slots=True)
class Name:
    """The parts of a proxied object's name."""

    scheme: str
    name: str
    port: str


def parse_name(text: str) -> Name | None:
    """None for what is no such name."""
    parts = text.split(":")
    match parts:
        case [name]:
            found = Name("", name, "")
        case [name, port]:
            found = Name("", name, port)
        case [scheme, name, port] if scheme in ("http", "https", ""):
            found = Name(scheme, name, port)
        case _:
            return None
    return found if found.name else None


def pod_url(wanted: Name, pod: Object) -> str:
    """`SCHEME://ADDRESS:PORT` of a pod. Without a port, the first that a container declares. Raises ApiError."""
    address = str((pod.get("status") or {}).get("podIP") or "")
    if not address:
        raise ApiError.bad_request("address not allowed")
    port = wanted.port
    declared = [one for each in pod["spec"].get("containers") or () for one in each.get("ports") or ()]
    if not port and declared:
        port = str(declared[0]["containerPort"])
    elif port and not port.isdigit():
        named = next((one for one in declared if one.get("name") == port), None)
        if named is None:
            raise ApiError.bad_request(f'no port named "{port}" in pod "{wanted.name}"')
        port = str(named["containerPort"])
    return _url(wanted.scheme, address, port)


def service_url(wanted: Name, service: Object, slices: Iterable[Object], pick: int) -> str:
    """`SCHEME://ADDRESS:PORT` of a ready endpoint; `pick`: any number, to spread by. Raises ApiError."""
    port_name = wanted.port
    declared = list(service["spec"].get("ports") or ())
    if not wanted.port and len(declared) == 1:
        port_name = str(declared[0].get("name") or "")
    elif wanted.port.isdigit():
        found = next((one for one in declared if str(one.get("port")) == wanted.port), None)
        if found is None:
            message = f'no service port {wanted.port} found for service "{wanted.name}"'
            raise ApiError(503, "ServiceUnavailable", message)
        port_name = str(found.get("name") or "")
    targets = [
        (address, port["port"])
        for each in slices
        for port in each.get("ports") or ()
        if (port.get("name") or "") == port_name and port.get("port")
        for endpoint in each.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready", True)
        for address in endpoint.get("addresses") or ()
    ]
    if not targets:
        raise ApiError(503, "ServiceUnavailable", f'no endpoints available for service "{wanted.name}"')
    address, port = sorted(targets)[pick % len(targets)]
    return _url(wanted.scheme, address, str(port))


def _url(scheme: str, address: str, port: str) -> str:
    """Raises ApiError for an address that would lead to the apiserver's own machine or its cloud's metadata."""
    try:
        parsed = addresses.parse(address)
    except ValueError:
        raise ApiError.bad_request("address not allowed") from None
    if not addresses.may_proxy(parsed):
        raise ApiError.bad_request("address not allowed")
    host = f"[{parsed}]" if parsed.version == 6 else str(parsed)
    return f"{scheme or 'http'}://{host}" + (f":{port}" if port else "")


def remainder(path: str, namespaced: bool) -> str:
    """What of a raw path lies behind `…/NAME/proxy`: empty, or with a slash in front."""
    parts = path.split("/")
    return "".join(f"/{part}" for part in parts[8 if namespaced else 6 :])


def forwarded_headers(headers: Iterable[tuple[str, str]], connection: str) -> list[tuple[str, str]]:
    """The headers of a proxied request, without what is of one hop, or was told to the apiserver in trust."""
    dropped = {name.strip().lower() for name in connection.split(",")} | {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "authorization",
        "host",
    }
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in dropped and not name.lower().startswith("impersonate-")
    ]
