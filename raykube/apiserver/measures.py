"""The apiserver's metrics, by upstream's names."""

from raykube.apiserver.core.requestinfo import RequestInfo
from raykube.base.metrics import Registry

_SECONDS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)


class Measures:
    """Counters that the shells add to."""

    def __init__(self) -> None:
        self.registry = Registry()
        place = ("verb", "group", "version", "resource", "subresource", "scope")
        self._requests = self.registry.counter(
            "apiserver_request_total", "Requests by verb, place and HTTP code.", (*place, "code", "dry_run")
        )
        self._seconds = self.registry.histogram(
            "apiserver_request_duration_seconds", "Response latency.", place, _SECONDS
        )
        self.watch_events = self.registry.counter(
            "apiserver_watch_events_total", "Events sent to watchers.", ("group", "version", "kind")
        )
        self.inflight = self.registry.gauge(
            "apiserver_current_inflight_requests", "Requests being served.", ("request_kind",)
        )
        self.long_running = self.registry.gauge(
            "apiserver_longrunning_requests",
            "Watches and streams being served.",
            ("verb", "group", "version", "resource"),
        )
        self.objects = self.registry.gauge("apiserver_storage_objects", "Stored objects.", ("resource",))
        self.revision = self.registry.gauge("apiserver_watch_cache_resource_version", "Revision that the caches hold.")
        self.batch_operations = self.registry.counter(
            "raykube_batch_operations_total", "Operations of the bulk API.", ("verb", "resource", "code")
        )

    def request(self, info: RequestInfo, method: str, code: int, seconds: float) -> None:
        """Counts one REST request."""
        scope = "resource" if info.name else "namespace" if info.namespace else "cluster"
        verb = info.verb.upper() if info.is_resource else method
        place = (verb, info.group, info.version, info.plural, info.subresource, scope if info.is_resource else "")
        self._requests.add((*place, str(code), ""))
        if info.verb != "watch":
            self._seconds.observe(place, seconds)
