"""The way to kubelets: HTTPS with the apiserver's client certificate, to the address that the node reports."""

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.apiserver.config import Config
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.reader import Reader
from raykube.rpc.tls import Tls, client_context
from raykube.streaming.failures import dial_failure

NODES = builtin("v1", "Node")
PODS = builtin("v1", "Pod")
_ADDRESS_TYPES = ("InternalIP", "Hostname", "InternalDNS", "ExternalIP", "ExternalDNS")
_CONNECT_S = 5.0


def url_of(node: Object) -> str:
    """`https://ADDRESS:PORT` of a node's kubelet. Raises ApiError."""
    status = node.get("status") or {}
    addresses = {each.get("type"): each.get("address") for each in reversed(status.get("addresses") or ())}
    address = next((addresses[kind] for kind in _ADDRESS_TYPES if addresses.get(kind)), None)
    if address is None:
        raise ApiError.internal(f"no preferred addresses found; known addresses: {list(addresses.items())}")
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or 10250
    return f"https://[{address}]:{port}" if ":" in address else f"https://{address}:{port}"


class Kubelets:
    """Requests to kubelets."""

    def __init__(self, reader: Reader, config: Config) -> None:
        self._reader = reader
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    def context(self) -> ssl.SSLContext:
        """For connections to kubelets."""
        config = self._config
        ca, certificate = config.kubelet_certificate_authority, config.kubelet_client_certificate
        if ca is not None and certificate is not None and config.kubelet_client_key is not None:
            return client_context(Tls(certificate, config.kubelet_client_key, ca))
        if config.kubelet_certificate_authority is not None:
            context = ssl.create_default_context(cafile=str(config.kubelet_certificate_authority))
        else:
            # As upstream: without a CA the kubelet is not verified, only talked to.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if config.kubelet_client_certificate is not None and config.kubelet_client_key is not None:
            context.load_cert_chain(config.kubelet_client_certificate, config.kubelet_client_key)
        return context

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self.context(), limit=0)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def pod(self, namespace: str, name: str) -> Object:
        return (await self._reader.get(PODS, namespace, name)).decode()

    async def base_url(self, node_name: str) -> str:
        """`https://ADDRESS:PORT` of a node's kubelet. Raises ApiError."""
        return url_of((await self._reader.get(NODES, "", node_name)).decode())

    async def location(self, pod: Object) -> str:
        """The base URL of the kubelet that runs a pod. Raises ApiError."""
        node_name = (pod.get("spec") or {}).get("nodeName")
        if not node_name:
            raise ApiError.bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")
        return await self.base_url(node_name)

    @asynccontextmanager
    async def logs(self, namespace: str, name: str, query: Mapping[str, str]) -> AsyncIterator[AsyncIterable[bytes]]:
        """What `/containerLogs` answers for a pod's container, nothing while the pod is on no node.

        `query` as in the API's `pods/log`. Raises ApiError.
        """
        pod = await self.pod(namespace, name)
        container = container_of(pod, query.get("container", ""))
        if not (pod.get("spec") or {}).get("nodeName"):
            yield _nothing()
            return
        parameters = {key: value for key, value in query.items() if key in _LOG_PARAMETERS and value}
        url = f"{await self.location(pod)}/containerLogs/{namespace}/{name}/{container}"
        try:
            async with self.session().get(url, params=parameters) as response:
                if response.status >= 400:
                    text = (await response.text())[:2000].strip()
                    raise _refused(response.status, text, f'container "{container}" in pod "{name}"')
                yield response.content.iter_any()
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            asked = URL(url).with_query(parameters)
            raise ApiError(500, "", f'Get "{asked}": {dial_failure(url, error)}') from None


async def _nothing() -> AsyncIterator[bytes]:
    empty: tuple[bytes, ...] = ()
    for chunk in empty:
        yield chunk


_LOG_PARAMETERS = frozenset(
    {"follow", "tailLines", "timestamps", "previous", "sinceSeconds", "sinceTime", "limitBytes", "stream"}
)


def _refused(code: int, text: str, what: str) -> ApiError:
    if code == 400:
        return ApiError.bad_request(text or f"{what} has no logs")
    if code == 404:
        return ApiError(404, "NotFound", text or f"{what} not found")
    return ApiError.internal(f"the kubelet answered {code}: {text}")


def container_of(pod: Object, wanted: str) -> str:
    """The container that a request means. Raises ApiError 400."""
    spec, name = pod.get("spec") or {}, pod["metadata"]["name"]
    containers = [each["name"] for each in spec.get("containers") or ()]
    everyone = containers + [
        each["name"] for key in ("initContainers", "ephemeralContainers") for each in spec.get(key) or ()
    ]
    if not wanted:
        annotated = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
        if annotated in containers:
            return str(annotated)
        if len(containers) == 1:
            return str(containers[0])
        inits = [each["name"] for each in spec.get("initContainers") or ()]
        message = f"a container name must be specified for pod {name}, choose one of: [{' '.join(containers)}]"
        if inits:
            message += f" or one of the init containers: [{' '.join(inits)}]"
        raise ApiError.bad_request(message)
    if wanted not in everyone:
        raise ApiError.bad_request(f"container {wanted} is not valid for pod {name}")
    return wanted
