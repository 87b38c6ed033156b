"""Records → CRI messages, and CRI's filters."""

from collections.abc import Mapping

from raykube.pb import cri_pb2
from raykube.runtime.core.records import Container, Sandbox


def image_id(name: str) -> str:
    """There are no images: a name stands for itself, and is always present."""
    return f"process://{name}"


def sandbox_status(sandbox: Sandbox) -> cri_pb2.PodSandboxStatus:
    status = cri_pb2.PodSandboxStatus(
        id=sandbox.id,
        metadata=sandbox.config.metadata,
        state=cri_pb2.SANDBOX_READY if sandbox.ready else cri_pb2.SANDBOX_NOTREADY,
        created_at=sandbox.created_at,
        network=cri_pb2.PodSandboxNetworkStatus(ip=sandbox.address if sandbox.ready else ""),
        labels=sandbox.config.labels,
        annotations=sandbox.config.annotations,
    )
    status.linux.namespaces.options.CopyFrom(sandbox.config.linux.security_context.namespace_options)
    return status


def sandbox_item(sandbox: Sandbox) -> cri_pb2.PodSandbox:
    return cri_pb2.PodSandbox(
        id=sandbox.id,
        metadata=sandbox.config.metadata,
        state=cri_pb2.SANDBOX_READY if sandbox.ready else cri_pb2.SANDBOX_NOTREADY,
        created_at=sandbox.created_at,
        labels=sandbox.config.labels,
        annotations=sandbox.config.annotations,
    )


def container_status(container: Container) -> cri_pb2.ContainerStatus:
    config, ended = container.config, container.ended
    status = cri_pb2.ContainerStatus(
        id=container.id,
        metadata=config.metadata,
        state=container.state,
        created_at=container.created_at,
        image=config.image,
        image_ref=image_id(config.image.image),
        image_id=image_id(config.image.image),
        labels=config.labels,
        annotations=config.annotations,
        mounts=config.mounts,
        log_path=container.log_path,
        resources=cri_pb2.ContainerResources(linux=config.linux.resources),
        stop_signal=config.stop_signal,
    )
    if container.started is not None:
        status.started_at = container.started.started_at
    if ended is not None:
        status.finished_at = ended.finished_at
        status.exit_code = ended.code
        status.reason = ended.reason
        status.message = ended.message
        if container.started is None:
            status.started_at = ended.finished_at
    return status


def container_item(container: Container) -> cri_pb2.Container:
    config = container.config
    return cri_pb2.Container(
        id=container.id,
        pod_sandbox_id=container.sandbox_id,
        metadata=config.metadata,
        image=config.image,
        image_ref=image_id(config.image.image),
        image_id=image_id(config.image.image),
        state=container.state,
        created_at=container.created_at,
        labels=config.labels,
        annotations=config.annotations,
    )


def attributes(container: Container) -> cri_pb2.ContainerAttributes:
    config = container.config
    return cri_pb2.ContainerAttributes(
        id=container.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
    )


def _labels_match(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())


def sandbox_matches(sandbox: Sandbox, wanted: cri_pb2.PodSandboxFilter) -> bool:
    if wanted.id and not sandbox.id.startswith(wanted.id):
        return False
    if wanted.HasField("state") and sandbox.ready != (wanted.state.state == cri_pb2.SANDBOX_READY):
        return False
    return _labels_match(wanted.label_selector, sandbox.config.labels)


def container_matches(container: Container, wanted: cri_pb2.ContainerFilter | cri_pb2.ContainerStatsFilter) -> bool:
    if wanted.id and not container.id.startswith(wanted.id):
        return False
    if wanted.pod_sandbox_id and container.sandbox_id != wanted.pod_sandbox_id:
        return False
    if (
        isinstance(wanted, cri_pb2.ContainerFilter)
        and wanted.HasField("state")
        and container.state != wanted.state.state
    ):
        return False
    return _labels_match(wanted.label_selector, container.config.labels)
