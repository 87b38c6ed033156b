"""A stream of another member's messages, as this member takes it: each batch is stepped as it comes."""

from typing import Any

from raykube.kv import wire
from raykube.kv.joins import noted
from raykube.kv.member import Member
from raykube.kv.transport import Transport
from raykube.pb import raft_pb2
from raykube.rpc import Code, RpcError
from raykube.rpc.handlers import Receiver
from raykube.rpc.served_call import Requests


class Incoming(Receiver):
    """One stream. `inbound`: the newest stream of each sender, by its id; only the end of that one means something."""

    def __init__(
        self, member: Member, transport: Transport, inbound: dict[int, "Incoming"], requests: Requests
    ) -> None:
        self._member = member
        self._transport = transport
        self._inbound = inbound
        self._requests = requests
        self._sender = 0

    def on_message(self, batch: Any) -> None:
        """Raises RpcError: it is meant for another member, or this one has stopped."""
        self._member.require_alive()
        self._member.require_cluster(batch.cluster_id)
        if batch.to != self._member.id:
            raise RpcError(Code.FAILED_PRECONDITION, f"this is member {self._member.id:x}, not {batch.to:x}")
        if self._transport.is_removed(batch.sender):
            self.tell_removed()
            return
        if not self._sender:
            known = noted(self._member.replica, batch.sender)
            if known is not None and known != batch.incarnation:
                self._refuse(raft_pb2.StreamState(replaced=True))  # its votes are of one that forgot its promises
                return
            self._sender = batch.sender
            self._inbound[self._sender] = self
            self._transport.on_connected(self._sender, tuple(batch.sender_urls))
            self._requests.send(raft_pb2.StreamState())
        if batch.messages:
            self._member.step([wire.decode(message) for message in batch.messages])

    def tell_removed(self) -> None:
        """The sender is no member any more: it is to stop."""
        self._refuse(raft_pb2.StreamState(removed=True))

    def _refuse(self, state: raft_pb2.StreamState) -> None:
        self._requests.send(state)
        self._requests.end()

    def on_end(self) -> None:
        sender = self._sender
        if sender and self._inbound.get(sender) is self and not self._transport.is_closed:
            del self._inbound[sender]
            self._transport.on_disconnected(sender)
            self._member.replica.node.on_peer_lost(sender)
