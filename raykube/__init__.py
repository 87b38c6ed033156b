"""raykube: Kubernetes as a distributed actor system on Ray.

`raykube.Client` is the synchronous client for programs and notebooks; `raykube.inputs` draws pods to Ray's objects.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raykube.client.facade import Client
    from raykube.cluster.inputs import inputs

__all__ = ["Client", "inputs"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `raykube --help` and single components need none of it.
    if name == "Client":
        from raykube.client.facade import Client

        return Client
    if name == "inputs":
        from raykube.cluster.inputs import inputs

        return inputs
    raise AttributeError(f"module 'raykube' has no attribute {name!r}")
