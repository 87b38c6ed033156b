"""What every cluster starts with: namespaces, roles, priority classes, the Service of the apiservers.

Every apiserver makes sure of it at its start; what exists already is left alone, but roles that lack rules get them.
"""

import asyncio
import logging

import orjson

from raykube.api.errors import ApiError
from raykube.api.resources import of
from raykube.apiserver.core import bootstrap_roles, endpoints, planning
from raykube.apiserver.core.planning import Operation
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.reader import Reader
from raykube.apiserver.writer import Writer

log = logging.getLogger(__name__)

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_TRIES = 60
_PAUSE_S = 0.5
_CLUSTER_CRITICAL = (
    "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."
)


def _namespaces() -> list[Object]:
    return [{"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}} for name in NAMESPACES]


def _priority_classes() -> list[Object]:
    described = (
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            _CLUSTER_CRITICAL,
        ),
    )
    return [
        {
            "kind": "PriorityClass",
            "apiVersion": "scheduling.k8s.io/v1",
            "metadata": {"name": name},
            "value": value,
            "description": text,
            "preemptionPolicy": "PreemptLowerPriority",
        }
        for name, value, text in described
    ]


class Bootstrap:
    """Makes sure of the objects that every cluster has."""

    def __init__(self, reader: Reader, writer: Writer, service_address: str, service_port: int) -> None:
        self._reader = reader
        self._writer = writer
        self._service_address = service_address
        self._service_port = service_port

    async def run(self) -> None:
        """Raises OSError when the store does not take the objects."""
        roles = bootstrap_roles.bootstrap_objects()
        for objects in (
            _namespaces(),
            roles,
            [*_priority_classes(), endpoints.service(self._service_address, self._service_port)],
        ):
            await self._ensure(objects)

    async def _ensure(self, objects: list[Object]) -> None:
        message = ""
        for _ in range(_TRIES):
            ops = [op for op in map(self._operation, objects) if op is not None]
            if not ops:
                return
            outcomes = await self._writer.run(ops)
            failures = [outcome for outcome in outcomes if outcome.code >= 400 and outcome.code != 409]
            if not failures:
                return
            # Also what looks final is tried again: another apiserver that starts now may be half-way through the same
            # object, its address taken and the Service not yet there.
            message = orjson.loads(failures[0].body)["message"]
            log.warning("cannot write the first objects yet: %s", message)
            await asyncio.sleep(_PAUSE_S)
        raise OSError(
            f"cannot write the objects that every cluster starts with: {message};"
            " check that a majority of --etcd-servers is up"
        )

    def _operation(self, wanted: Object) -> Operation | None:
        """What is to be done about one object; None: nothing."""
        resource = of(wanted)
        if resource is None:
            raise ApiError.unknown_path()
        metadata = wanted["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        item = self._reader.cache(resource).get(f"{namespace}/{name}" if namespace else name)
        if item is None:
            body = orjson.loads(orjson.dumps(wanted))
            return Operation(planning.CREATE, resource, namespace, body=body, validation="Ignore")
        if not resource.group.startswith("rbac."):
            return None
        mended = bootstrap_roles.reconciled(item.parsed(), wanted)
        if mended is None:
            return None
        return Operation(
            planning.UPDATE, resource, namespace, name, body=orjson.loads(orjson.dumps(mended)), validation="Ignore"
        )
