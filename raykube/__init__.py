"""raykube: Kubernetes as a distributed actor system on Ray.

`raykube.Client` is the synchronous client for programs and notebooks.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raykube.client.facade import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `raykube --help` and single components need none of it.
    if name == "Client":
        from raykube.client.facade import Client

        return Client
    raise AttributeError(f"module 'raykube' has no attribute {name!r}")
