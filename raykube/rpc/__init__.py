"""gRPC for raykube, servers and clients: a small HTTP/2 layer of its own, wire compatible with every other gRPC.

Callers name no transport: they hand over a service descriptor of `raykube.pb` and an object (server side), or get an
attribute per method (client side). What is decided is in `core/`, without sockets, tasks and clocks; the shells carry
bytes and time. Both write once per turn of the event loop, whatever became ready in it, or when they are told to
(`Server.flush`); what is pushed goes at once.

Vocabulary: a *handler* is an object with one coroutine (unary answer) or async generator (streamed answer) per method
of the service, named as in the .proto; where the answer is unary, a plain function may return the response or a
`Pending` of it, and where the client streams, a *receiver*, which takes messages as they come. A *call* is one request
with its answer, and what a handler learns of its caller; a *pushed* call gets its requests one by one. Errors are
`RpcError`. A *link* is a client's connection; a *channel* makes links to one address as needed.

    server.py    addresses, start, stop        channel.py   stubs, reconnecting         errors.py  status codes
      serving.py   a connection                  link.py      a connection                tls.py     files, identities
      served_call.py  a call under way           answers.py   its calls                   listen.py  binding
      handlers.py  methods and their functions   methods.py   what a descriptor says      health.py  health, metrics
      steps.py     coroutines without a task     pushed.py    calls without a task        pipe.py    joined connections
      pending.py   answers without either        turn.py      what a turn writes
      local_socket.py  for this user alone                                      folder_lock.py  a service's folder
    core/        HTTP/2 and gRPC as a pure machine for both roles
"""

from raykube.rpc.errors import Code, RpcError, Unprocessed
from raykube.rpc.tls import Identity, Tls

__all__ = ["Code", "Identity", "RpcError", "Tls", "Unprocessed"]
