"""PersistentVolumeClaims of pods: the volumes behind them, asked for by name once and kept as long as the pod."""

import asyncio
from collections.abc import Callable

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.client.api import ApiClient
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.volumespec import NotUsable, Resolved, bound_volume, check_claim, claim_name, plain
from raykube.kubelet.volumes.failure import VolumeFailed

CLAIMS = builtin("v1", "PersistentVolumeClaim")
VOLUMES = builtin("v1", "PersistentVolume")


class Claims:
    def __init__(self, client: ApiClient, node: Callable[[], Object]) -> None:
        self._client = client
        self._node = node
        self._known: dict[str, dict[str, Resolved]] = {}  # uid of the pod → volume → what is behind its claim

    def known(self, pod: Object, volume: Object) -> Resolved:
        """What `resolve` found. Raises VolumeFailed for a claim that was not resolved."""
        if not claim_name(pod, volume):
            return plain(volume)
        found = self._known.get(pods.uid(pod), {}).get(volume["name"])
        if found is None:
            raise VolumeFailed(f'volume "{volume["name"]}" is not ready')
        return found

    async def resolve(self, pod: Object) -> None:
        """Finds what is behind each claim; a bound claim never changes. Raises VolumeFailed and ApiError."""
        known = self._known.setdefault(pods.uid(pod), {})
        wanted = [
            volume
            for volume in pod["spec"].get("volumes") or ()
            if claim_name(pod, volume) and volume["name"] not in known
        ]
        found = await asyncio.gather(*(self._resolve(pod, volume) for volume in wanted), return_exceptions=True)
        failed = {}
        for volume, result in zip(wanted, found, strict=True):
            if isinstance(result, Resolved):
                known[volume["name"]] = result
            elif isinstance(result, NotUsable):
                failed[volume["name"]] = str(result)
            else:
                raise result
        if failed:
            names = " ".join(failed)
            raise VolumeFailed(
                f"Unable to attach or mount volumes: unmounted volumes=[{names}], unattached volumes=[], "
                f"failed to process volumes=[{names}]: {'; '.join(failed.values())}"
            )

    async def _resolve(self, pod: Object, volume: Object) -> Resolved:
        namespace, name = pods.namespace(pod), claim_name(pod, volume)
        try:
            claim = await self._client.get(CLAIMS, namespace, name)
        except ApiError as error:
            if error.code != 404:
                raise
            raise NotUsable(
                f"error processing PVC {namespace}/{name}: failed to fetch PVC from API server: {error}"
            ) from None
        persistent = check_claim(pod, volume, claim)
        try:
            found = await self._client.get(VOLUMES, "", persistent)
        except ApiError as error:
            if error.code != 404:
                raise
            raise NotUsable(f"failed to fetch PV {persistent} from API server: {error}") from None
        node = self._node()
        metadata = node.get("metadata") or {}
        return bound_volume(volume, claim, found, metadata.get("labels") or {}, metadata.get("name") or "")

    def forget(self, uid: str) -> None:
        self._known.pop(uid, None)
