"""gRPC for raykube: servers and clients driven by service descriptors, behind one interface.

Callers name no transport: they hand over a service descriptor of `raykube.pb` and an object (server side), or get an
attribute per method (client side). The transport is grpcio today; a leaner HTTP/2 layer can replace it in this package.

Vocabulary: a *handler* is an object with one coroutine (unary answer) or async generator (streamed answer) per method
of the service, named as in the .proto. A *call* is what a handler learns of its caller. Errors are `RpcError`.
"""

from raykube.rpc.errors import Code, RpcError
from raykube.rpc.tls import Identity, Tls

__all__ = ["Code", "Identity", "RpcError", "Tls"]
