"""The pods of manifests: from their sources to a worker for each, and the mirrors that show them in the API."""

import asyncio
import functools
import time
from collections.abc import Callable

from raykube.base.clock import rfc3339
from raykube.client.api import ApiClient
from raykube.kubelet.config import Config
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.staticpods import full_name
from raykube.kubelet.manifests import ManifestFiles, ManifestUrl
from raykube.kubelet.mirrors import Mirrors
from raykube.kubelet.settings import Settings
from raykube.kubelet.statuswriter import StatusWriter
from raykube.kubelet.workers import Workers


class StaticPods:
    """`node` is this machine's Node, the owner of the mirrors."""

    def __init__(
        self,
        config: Config,
        settings: Settings,
        workers: Workers,
        client: ApiClient,
        statuses: StatusWriter,
        node: Callable[[], Object],
    ) -> None:
        name, headers = settings.node.name, settings.manifest_headers
        self._workers = workers
        self._pods: dict[str, Object] = {}  # by uid
        self._sources: list[ManifestFiles | ManifestUrl] = []
        if config.pod_manifest_path is not None:
            show = functools.partial(self._on_pods, "file")
            self._sources.append(ManifestFiles(config.pod_manifest_path, name, config.file_check_frequency, show))
        if config.manifest_url:
            show = functools.partial(self._on_pods, "http")
            self._sources.append(ManifestUrl(config.manifest_url, headers, name, config.http_check_frequency, show))
        self.mirrors = Mirrors(client, statuses, self._shown, node)

    async def run(self) -> None:
        """Follows the sources; call once workers have what they need."""
        await asyncio.gather(*(source.run() for source in self._sources))

    async def seen(self) -> None:
        """Returns once every source has told its pods."""
        await asyncio.gather(*(source.seen.wait() for source in self._sources))

    def _on_pods(self, source: str, found: list[Object]) -> None:
        """A source tells all of its pods."""
        wanted = {pods.uid(pod): pod for pod in found}
        for uid, pod in list(self._pods.items()):
            if pod["metadata"]["annotations"][pods.SOURCE] == source and uid not in wanted:
                del self._pods[uid]
                self._end(uid)
        self._pods |= {uid: pod for uid, pod in wanted.items() if uid not in self._pods}
        self.start()

    def _shown(self) -> list[Object]:
        """Those that the API is to show: what runs, until it has ended, and what only waits for its name."""
        running = [worker.pod for worker in self._workers if pods.is_static(worker.pod)]
        names = {full_name(pod) for pod in running}
        return running + [pod for pod in self._pods.values() if full_name(pod) not in names]

    def _end(self, uid: str) -> None:
        worker = self._workers.get(uid)
        if worker is not None:
            stamp = {"deletionTimestamp": rfc3339(time.time()), "deletionGracePeriodSeconds": pods.grace_s(worker.pod)}
            worker.update(worker.pod | {"metadata": worker.pod["metadata"] | stamp})

    def start(self) -> None:
        """Starts those that do not run, unless another of the same name still does."""
        names = {full_name(pod) for pod in self._workers.pods()}
        for uid, pod in self._pods.items():
            if uid not in self._workers and full_name(pod) not in names:
                names.add(full_name(pod))
                self._workers.add(pod)
        self.mirrors.wake()
