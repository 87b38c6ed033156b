"""Upstream's defaults of a pod spec, for pods and for the templates of pods."""

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]

_MODE = 0o644
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_VOLUME_MODES = ("secret", "configMap", "downwardAPI", "projected")


def default_pod(spec: Object) -> None:
    """A pod itself: what a template does not get until a pod is made of it comes on top."""
    for container in (*_list(spec, "containers"), *_list(spec, "initContainers")):
        resources: Object = container.get("resources") or {}
        limits = resources.get("limits")
        if limits:
            requests = resources.setdefault("requests", {})
            for name, quantity in limits.items():
                requests.setdefault(name, quantity)
    spec.setdefault("enableServiceLinks", True)
    default_pod_spec(spec)


def default_pod_spec(spec: Object) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    spec.setdefault("terminationGracePeriodSeconds", 30)
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account  # the second is the old name of the first
    for container in containers_of(spec):
        default_container(container)
        if spec.get("hostNetwork"):
            for port in _list(container, "ports"):
                if port.get("containerPort") and not port.get("hostPort"):
                    port["hostPort"] = port["containerPort"]
    for volume in _list(spec, "volumes"):
        _default_volume(volume)


def default_template(owner_spec: Object) -> None:
    """The `template` of a controller's spec: it is there even if nobody wrote it."""
    template = owner_spec.setdefault("template", {})
    template.setdefault("metadata", {})
    default_pod_spec(template.setdefault("spec", {}))


def containers_of(spec: Object) -> Iterator[Object]:
    for group in ("containers", "initContainers", "ephemeralContainers"):
        yield from _list(spec, group)


def _list(owner: Object, name: str) -> list[Object]:
    items: list[Object] = owner.get(name) or []
    return items


def default_container(container: Object) -> None:
    if not container.get("imagePullPolicy"):
        container["imagePullPolicy"] = pull_policy(container.get("image", ""))
    container.setdefault("resources", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    for port in _list(container, "ports"):
        port.setdefault("protocol", "TCP")
    for variable in _list(container, "env"):
        _default_field_ref(variable.get("valueFrom") or {})
    for name in _PROBES:
        if name in container:
            _default_probe(container[name])
    for hook in (container.get("lifecycle") or {}).values():
        if isinstance(hook, dict):
            _default_http_get(hook)


def pull_policy(image: str) -> str:
    """`Always` for a tag of `latest`, said or unsaid; a digest or any other tag is only pulled if absent."""
    if "@" in image:
        return "IfNotPresent"
    tag = image.rpartition("/")[2].partition(":")[2]
    return "Always" if tag in ("", "latest") else "IfNotPresent"


def _default_field_ref(source: Object) -> None:
    if "fieldRef" in source:
        source["fieldRef"].setdefault("apiVersion", "v1")
    resource = source.get("resourceFieldRef")
    if isinstance(resource, dict):
        # Upstream always writes it; clients that read and write templates would otherwise change their hash.
        resource.setdefault("divisor", "0")


def _default_http_get(handler: Object) -> None:
    request = handler.get("httpGet")
    if isinstance(request, dict):
        if not request.get("path"):
            request["path"] = "/"
        if not request.get("scheme"):
            request["scheme"] = "HTTP"


def _default_probe(probe: Object) -> None:
    for name, number in (
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ):
        if not probe.get(name):
            probe[name] = number
    if "grpc" in probe:
        probe["grpc"].setdefault("service", "")
    _default_http_get(probe)


def _default_volume(volume: Object) -> None:
    if set(volume) <= {"name"}:
        volume["emptyDir"] = {}
    for name in _VOLUME_MODES:
        if name in volume:
            volume[name].setdefault("defaultMode", _MODE)
    if "hostPath" in volume:
        volume["hostPath"].setdefault("type", "")
    for item in _list(volume.get("downwardAPI") or {}, "items"):
        _default_field_ref(item)
    for source in _list(volume.get("projected") or {}, "sources"):
        for item in _list(source.get("downwardAPI") or {}, "items"):
            _default_field_ref(item)
        if "serviceAccountToken" in source:
            source["serviceAccountToken"].setdefault("expirationSeconds", 3600)
    claim = ((volume.get("ephemeral") or {}).get("volumeClaimTemplate") or {}).get("spec")
    if isinstance(claim, dict):
        claim.setdefault("volumeMode", "Filesystem")
