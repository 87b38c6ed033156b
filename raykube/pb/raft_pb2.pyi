from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Entry(_message.Message):
    __slots__ = ("term", "index", "kind", "data")
    TERM_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    term: int
    index: int
    kind: int
    data: bytes
    def __init__(self, term: _Optional[int] = ..., index: _Optional[int] = ..., kind: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("kind", "to", "sender", "term", "log_term", "index", "entries", "commit", "reject", "hint", "context", "force")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LOG_TERM_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    REJECT_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    kind: int
    to: int
    sender: int
    term: int
    log_term: int
    index: int
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    commit: int
    reject: bool
    hint: int
    context: int
    force: bool
    def __init__(self, kind: _Optional[int] = ..., to: _Optional[int] = ..., sender: _Optional[int] = ..., term: _Optional[int] = ..., log_term: _Optional[int] = ..., index: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., commit: _Optional[int] = ..., reject: _Optional[bool] = ..., hint: _Optional[int] = ..., context: _Optional[int] = ..., force: _Optional[bool] = ...) -> None: ...

class MessageBatch(_message.Message):
    __slots__ = ("cluster_id", "sender", "to", "messages", "sender_urls", "incarnation")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SENDER_URLS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    cluster_id: int
    sender: int
    to: int
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    sender_urls: _containers.RepeatedScalarFieldContainer[str]
    incarnation: int
    def __init__(self, cluster_id: _Optional[int] = ..., sender: _Optional[int] = ..., to: _Optional[int] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., sender_urls: _Optional[_Iterable[str]] = ..., incarnation: _Optional[int] = ...) -> None: ...

class StreamState(_message.Message):
    __slots__ = ("removed", "replaced")
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    removed: bool
    replaced: bool
    def __init__(self, removed: _Optional[bool] = ..., replaced: _Optional[bool] = ...) -> None: ...

class SnapshotChunk(_message.Message):
    __slots__ = ("cluster_id", "message", "data")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    cluster_id: int
    message: Message
    data: bytes
    def __init__(self, cluster_id: _Optional[int] = ..., message: _Optional[_Union[Message, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class SnapshotAnswer(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("id", "only_ask")
    ID_FIELD_NUMBER: _ClassVar[int]
    ONLY_ASK_FIELD_NUMBER: _ClassVar[int]
    id: int
    only_ask: bool
    def __init__(self, id: _Optional[int] = ..., only_ask: _Optional[bool] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("remaining_s",)
    REMAINING_S_FIELD_NUMBER: _ClassVar[int]
    remaining_s: int
    def __init__(self, remaining_s: _Optional[int] = ...) -> None: ...

class RecallRequest(_message.Message):
    __slots__ = ("cluster_id", "member")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    cluster_id: int
    member: int
    def __init__(self, cluster_id: _Optional[int] = ..., member: _Optional[int] = ...) -> None: ...

class RecallResponse(_message.Message):
    __slots__ = ("is_known", "is_removed")
    IS_KNOWN_FIELD_NUMBER: _ClassVar[int]
    IS_REMOVED_FIELD_NUMBER: _ClassVar[int]
    is_known: bool
    is_removed: bool
    def __init__(self, is_known: _Optional[bool] = ..., is_removed: _Optional[bool] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("peer_urls", "incarnation", "name", "client_urls")
    PEER_URLS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLIENT_URLS_FIELD_NUMBER: _ClassVar[int]
    peer_urls: _containers.RepeatedScalarFieldContainer[str]
    incarnation: int
    name: str
    client_urls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, peer_urls: _Optional[_Iterable[str]] = ..., incarnation: _Optional[int] = ..., name: _Optional[str] = ..., client_urls: _Optional[_Iterable[str]] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("cluster_id", "member_id", "members")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    cluster_id: int
    member_id: int
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, cluster_id: _Optional[int] = ..., member_id: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class ChangeRequest(_message.Message):
    __slots__ = ("cluster_id", "add", "remove", "update", "promote")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    cluster_id: int
    add: AddMember
    remove: RemoveMember
    update: UpdateMember
    promote: PromoteMember
    def __init__(self, cluster_id: _Optional[int] = ..., add: _Optional[_Union[AddMember, _Mapping]] = ..., remove: _Optional[_Union[RemoveMember, _Mapping]] = ..., update: _Optional[_Union[UpdateMember, _Mapping]] = ..., promote: _Optional[_Union[PromoteMember, _Mapping]] = ...) -> None: ...

class AddMember(_message.Message):
    __slots__ = ("peer_urls", "learner")
    PEER_URLS_FIELD_NUMBER: _ClassVar[int]
    LEARNER_FIELD_NUMBER: _ClassVar[int]
    peer_urls: _containers.RepeatedScalarFieldContainer[str]
    learner: bool
    def __init__(self, peer_urls: _Optional[_Iterable[str]] = ..., learner: _Optional[bool] = ...) -> None: ...

class RemoveMember(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class UpdateMember(_message.Message):
    __slots__ = ("id", "peer_urls")
    ID_FIELD_NUMBER: _ClassVar[int]
    PEER_URLS_FIELD_NUMBER: _ClassVar[int]
    id: int
    peer_urls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[int] = ..., peer_urls: _Optional[_Iterable[str]] = ...) -> None: ...

class PromoteMember(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class ChangeResponse(_message.Message):
    __slots__ = ("member_id", "index", "membership")
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    member_id: int
    index: int
    membership: Membership
    def __init__(self, member_id: _Optional[int] = ..., index: _Optional[int] = ..., membership: _Optional[_Union[Membership, _Mapping]] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("id", "name", "peer_urls", "learner")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PEER_URLS_FIELD_NUMBER: _ClassVar[int]
    LEARNER_FIELD_NUMBER: _ClassVar[int]
    id: int
    name: str
    peer_urls: _containers.RepeatedScalarFieldContainer[str]
    learner: bool
    def __init__(self, id: _Optional[int] = ..., name: _Optional[str] = ..., peer_urls: _Optional[_Iterable[str]] = ..., learner: _Optional[bool] = ...) -> None: ...

class Membership(_message.Message):
    __slots__ = ("members", "removed")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    removed: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., removed: _Optional[_Iterable[int]] = ...) -> None: ...

class Attributes(_message.Message):
    __slots__ = ("member_id", "name", "client_urls", "incarnation", "level")
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLIENT_URLS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    member_id: int
    name: str
    client_urls: _containers.RepeatedScalarFieldContainer[str]
    incarnation: int
    level: int
    def __init__(self, member_id: _Optional[int] = ..., name: _Optional[str] = ..., client_urls: _Optional[_Iterable[str]] = ..., incarnation: _Optional[int] = ..., level: _Optional[int] = ...) -> None: ...

class StoreHead(_message.Message):
    __slots__ = ("revision", "compact_revision", "leases", "attributes", "written", "held", "leases_sum", "vouching")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COMPACT_REVISION_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    LEASES_SUM_FIELD_NUMBER: _ClassVar[int]
    VOUCHING_FIELD_NUMBER: _ClassVar[int]
    revision: int
    compact_revision: int
    leases: _containers.RepeatedCompositeFieldContainer[LeaseRecord]
    attributes: _containers.RepeatedCompositeFieldContainer[Attributes]
    written: int
    held: int
    leases_sum: int
    vouching: Vouching
    def __init__(self, revision: _Optional[int] = ..., compact_revision: _Optional[int] = ..., leases: _Optional[_Iterable[_Union[LeaseRecord, _Mapping]]] = ..., attributes: _Optional[_Iterable[_Union[Attributes, _Mapping]]] = ..., written: _Optional[int] = ..., held: _Optional[int] = ..., leases_sum: _Optional[int] = ..., vouching: _Optional[_Union[Vouching, _Mapping]] = ...) -> None: ...

class LeaseRecord(_message.Message):
    __slots__ = ("id", "ttl")
    ID_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    id: int
    ttl: int
    def __init__(self, id: _Optional[int] = ..., ttl: _Optional[int] = ...) -> None: ...

class Check(_message.Message):
    __slots__ = ("voters", "learners")
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    LEARNERS_FIELD_NUMBER: _ClassVar[int]
    voters: _containers.RepeatedScalarFieldContainer[int]
    learners: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, voters: _Optional[_Iterable[int]] = ..., learners: _Optional[_Iterable[int]] = ...) -> None: ...

class Vouch(_message.Message):
    __slots__ = ("member", "index", "digest")
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    member: int
    index: int
    digest: int
    def __init__(self, member: _Optional[int] = ..., index: _Optional[int] = ..., digest: _Optional[int] = ...) -> None: ...

class CheckRecord(_message.Message):
    __slots__ = ("index", "voters", "vouches", "settled")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    VOUCHES_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    index: int
    voters: _containers.RepeatedScalarFieldContainer[int]
    vouches: _containers.RepeatedCompositeFieldContainer[Vouch]
    settled: int
    def __init__(self, index: _Optional[int] = ..., voters: _Optional[_Iterable[int]] = ..., vouches: _Optional[_Iterable[_Union[Vouch, _Mapping]]] = ..., settled: _Optional[int] = ...) -> None: ...

class Fence(_message.Message):
    __slots__ = ("member", "index", "digest", "expected")
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    member: int
    index: int
    digest: int
    expected: int
    def __init__(self, member: _Optional[int] = ..., index: _Optional[int] = ..., digest: _Optional[int] = ..., expected: _Optional[int] = ...) -> None: ...

class Vouching(_message.Message):
    __slots__ = ("checks", "fences", "disputed")
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    FENCES_FIELD_NUMBER: _ClassVar[int]
    DISPUTED_FIELD_NUMBER: _ClassVar[int]
    checks: _containers.RepeatedCompositeFieldContainer[CheckRecord]
    fences: _containers.RepeatedCompositeFieldContainer[Fence]
    disputed: int
    def __init__(self, checks: _Optional[_Iterable[_Union[CheckRecord, _Mapping]]] = ..., fences: _Optional[_Iterable[_Union[Fence, _Mapping]]] = ..., disputed: _Optional[int] = ...) -> None: ...
