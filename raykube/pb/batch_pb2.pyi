from raykube.pb import mvcc_pb2 as _mvcc_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BatchRequest(_message.Message):
    __slots__ = ("id", "writes", "read_index")
    ID_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    READ_INDEX_FIELD_NUMBER: _ClassVar[int]
    id: int
    writes: _containers.RepeatedCompositeFieldContainer[Write]
    read_index: bool
    def __init__(self, id: _Optional[int] = ..., writes: _Optional[_Iterable[_Union[Write, _Mapping]]] = ..., read_index: _Optional[bool] = ...) -> None: ...

class Write(_message.Message):
    __slots__ = ("key", "value", "expected_revision", "lease", "joined")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    expected_revision: int
    lease: int
    joined: bool
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., expected_revision: _Optional[int] = ..., lease: _Optional[int] = ..., joined: _Optional[bool] = ...) -> None: ...

class BatchResponse(_message.Message):
    __slots__ = ("id", "revision", "results", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    revision: int
    results: _containers.RepeatedCompositeFieldContainer[WriteResult]
    error: str
    def __init__(self, id: _Optional[int] = ..., revision: _Optional[int] = ..., results: _Optional[_Iterable[_Union[WriteResult, _Mapping]]] = ..., error: _Optional[str] = ...) -> None: ...

class WriteResult(_message.Message):
    __slots__ = ("applied", "revision", "current")
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    applied: bool
    revision: int
    current: _mvcc_pb2.KeyValue
    def __init__(self, applied: _Optional[bool] = ..., revision: _Optional[int] = ..., current: _Optional[_Union[_mvcc_pb2.KeyValue, _Mapping]] = ...) -> None: ...
