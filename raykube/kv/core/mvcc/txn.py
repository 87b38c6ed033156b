"""etcd's KV requests on a `Store`: range, put, delete-range, and transactions with comparisons and nested operations.

A transaction is checked as a whole before its first write: it is applied entirely or refused entirely.
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from raykube.kv.core.mvcc import errors
from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.mvcc.version import Version, to_kv
from raykube.pb import etcd_pb2

Range = etcd_pb2.RangeRequest
Compare = etcd_pb2.Compare

PIECE_VERSIONS = 1000  # of a large response, encoded at a time
_ORDERS = frozenset(Range.SortOrder.values())
_SORT_FIELDS = {
    Range.KEY: attrgetter("key"),
    Range.VERSION: attrgetter("number"),
    Range.CREATE: attrgetter("create"),
    Range.MOD: attrgetter("mod"),
    Range.VALUE: attrgetter("value"),
}


def header(store: Store) -> etcd_pb2.ResponseHeader:
    """A response header with the revision that a reader is at now; the server fills in who it is."""
    return etcd_pb2.ResponseHeader(revision=store.present)


def check_range(request: etcd_pb2.RangeRequest) -> None:
    """Raises StoreError on a range request that no store could answer."""
    if not request.key:
        raise errors.invalid("key is not provided")
    if request.sort_order not in _ORDERS or request.sort_target not in _SORT_FIELDS:
        raise errors.invalid("invalid sort option")


def check_put(request: etcd_pb2.PutRequest) -> None:
    """Raises StoreError on a put request that no store could apply."""
    if not request.key:
        raise errors.invalid("key is not provided")
    if request.ignore_value and request.value:
        raise errors.invalid("value is provided")
    if request.ignore_lease and request.lease:
        raise errors.invalid("lease is provided")


def check_txn(request: etcd_pb2.TxnRequest, operations_max: int) -> None:
    """Raises StoreError on a transaction that is malformed, too long, or writes a key twice."""
    _check_form(request, operations_max)
    for branch in (request.success, request.failure):
        _check_overlaps(branch)


def _check_form(request: etcd_pb2.TxnRequest, operations_max: int) -> None:
    longest = max(len(request.compare), len(request.success), len(request.failure))
    if longest > operations_max:
        raise errors.invalid("too many operations in txn request")
    for compare in request.compare:
        if not compare.key:
            raise errors.invalid("key is not provided")
    for branch in (request.success, request.failure):
        for operation in branch:
            # What is nested shares the bound with what is around it.
            _check_operation(operation, operations_max - longest)


def _check_operation(operation: etcd_pb2.RequestOp, operations_max: int) -> None:
    match operation.WhichOneof("request"):
        case "request_range":
            check_range(operation.request_range)
        case "request_put":
            check_put(operation.request_put)
        case "request_delete_range":
            if not operation.request_delete_range.key:
                raise errors.invalid("key is not provided")
        case "request_txn":
            _check_form(operation.request_txn, operations_max)
        case _:
            raise errors.invalid("key not found")


_Deletes = list[etcd_pb2.DeleteRangeRequest]


def _check_overlaps(branch: Iterable[etcd_pb2.RequestOp]) -> tuple[set[bytes], _Deletes]:
    """What the operations put and delete. Raises StoreError where etcd finds a key written twice.

    As in etcd, nested transactions are looked at before the puts around them and after the deletions: one nested
    transaction may delete what an earlier one put, and not the other way round.
    """
    deletes = [operation.request_delete_range for operation in branch if operation.HasField("request_delete_range")]
    puts: set[bytes] = set()
    for operation in branch:
        if operation.HasField("request_txn"):
            # The two branches never both run: each is compared with what stands outside.
            first, first_deletes = _check_overlaps(operation.request_txn.success)
            second, second_deletes = _check_overlaps(operation.request_txn.failure)
            _check_once(first | second, puts, deletes)
            puts |= first | second
            deletes += first_deletes + second_deletes
    for operation in branch:
        if operation.HasField("request_put"):
            _check_once({operation.request_put.key}, puts, deletes)
            puts.add(operation.request_put.key)
    return puts, deletes


def _check_once(keys: set[bytes], puts: set[bytes], deletes: _Deletes) -> None:
    if not keys.isdisjoint(puts) or any(_covers(delete, key) for delete in deletes for key in keys):
        raise errors.invalid("duplicate key given in txn request")


def _covers(delete: etcd_pb2.DeleteRangeRequest, key: bytes) -> bool:
    # As in etcd, a deletion "up to the last key" (end \0) overlaps with no put: the operations run in their order.
    if not delete.range_end:
        return bool(delete.key == key)
    return bool(delete.key <= key < delete.range_end)


def read(store: Store, request: etcd_pb2.RangeRequest) -> etcd_pb2.RangeResponse:
    """Answers a range request from what `store` holds."""
    is_bounded = request.min_mod_revision or request.max_mod_revision or request.min_create_revision
    is_plain = not (request.range_end or request.revision or request.keys_only or request.count_only)
    if is_plain and not is_bounded and not request.max_create_revision:
        return _read_key(store, request.key)
    return select(store, request).response()


class Selection(NamedTuple):
    """What a range request found: versions, which never change, so that encoding many of them may take its time."""

    versions: list[Version]
    keys_only: bool
    head: etcd_pb2.RangeResponse  # the response without them

    def response(self) -> etcd_pb2.RangeResponse:
        self.head.kvs.extend([to_kv(version, self.keys_only) for version in self.versions])
        return self.head

    def pieces(self) -> Iterator[bytes]:
        """The encoded response but for its head, which goes before them; each piece takes about a millisecond."""
        for start in range(0, len(self.versions), PIECE_VERSIONS):
            some = self.versions[start : start + PIECE_VERSIONS]
            kvs = [to_kv(version, self.keys_only) for version in some]
            yield etcd_pb2.RangeResponse(kvs=kvs).SerializeToString()


def select(store: Store, request: etcd_pb2.RangeRequest) -> Selection:
    """Finds what a range request asks for. Raises StoreError."""
    order, target = request.sort_order, request.sort_target
    bounds = (
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    )
    # Keys come ordered. What is sorted or filtered must be seen whole before it is cut; as in etcd, a target without an
    # order only sorts what the limit left.
    is_cut_first = not any(bounds) and (order == Range.NONE or (order == Range.ASCEND and target == Range.KEY))
    limit = max(request.limit, 0)
    found, count = store.range(
        request.key,
        request.range_end,
        request.revision,
        limit + 1 if limit and is_cut_first else 0,
        request.count_only,
    )
    if any(bounds):
        found = [version for version in found if _within(version, *bounds)]
    if target == Range.KEY and order == Range.DESCEND:
        found.reverse()
    elif target != Range.KEY:
        found.sort(key=_SORT_FIELDS[target], reverse=order == Range.DESCEND)
    more = 0 < limit < len(found)
    if more:
        del found[limit:]
    head = etcd_pb2.RangeResponse(header=header(store), more=more, count=count)
    return Selection(found, request.keys_only, head)


def _read_key(store: Store, key: bytes) -> etcd_pb2.RangeResponse:
    """One key as it is now, the most frequent read: what `read` would answer."""
    response = etcd_pb2.RangeResponse()
    response.header.revision = store.present
    version = store.get(key)
    if version is not None:
        response.count = 1
        kv = response.kvs.add()
        kv.key, kv.value = version.key, version.value or b""
        kv.create_revision, kv.mod_revision, kv.version = version.create, version.mod, version.number
        kv.lease = version.lease
    return response


def _within(version: Version, min_mod: int, max_mod: int, min_create: int, max_create: int) -> bool:
    return (
        version.mod >= min_mod
        and (not max_mod or version.mod <= max_mod)
        and version.create >= min_create
        and (not max_create or version.create <= max_create)
    )


def put(store: Store, request: etcd_pb2.PutRequest) -> etcd_pb2.PutResponse | int:
    """A put as a transaction of its own. Raises StoreError.

    Where the response would say no more than the revision, it is that number: making a message takes longer than the
    write, and of all members only one has somebody to tell.
    """
    _check_lease(store, request)
    if request.ignore_value or request.ignore_lease or request.prev_kv:
        store.begin()
        _check_key(store, request)
        response = _put(store, request)
        store.commit()
        return response
    return store.put_alone(request.key, request.value, request.lease)


def _check_lease(store: Store, request: etcd_pb2.PutRequest) -> None:
    lease = request.lease
    if lease and lease not in store.leases:
        raise errors.lease_missing()


def _check_key(store: Store, request: etcd_pb2.PutRequest) -> None:
    if (request.ignore_value or request.ignore_lease) and store.get(request.key) is None:
        raise errors.key_missing()


def _put(store: Store, request: etcd_pb2.PutRequest) -> etcd_pb2.PutResponse:
    value, lease = request.value, request.lease
    if request.ignore_value or request.ignore_lease:
        current = store.get(request.key)
        if current is not None:  # it was there before the transaction, which may have deleted it since
            value = (current.value or b"") if request.ignore_value else value
            lease = current.lease if request.ignore_lease else lease
    previous = store.put(request.key, value, lease)
    response = etcd_pb2.PutResponse(header=header(store))
    if request.prev_kv and previous is not None:
        response.prev_kv.CopyFrom(to_kv(previous))
    return response


def delete_range(store: Store, request: etcd_pb2.DeleteRangeRequest) -> etcd_pb2.DeleteRangeResponse:
    """A range deletion as a transaction of its own."""
    store.begin()
    response = _delete_range(store, request)
    store.commit()
    return response


def _delete_range(store: Store, request: etcd_pb2.DeleteRangeRequest) -> etcd_pb2.DeleteRangeResponse:
    removed = [store.delete(key) for key in store.keys_in(request.key, request.range_end)]
    return etcd_pb2.DeleteRangeResponse(
        header=header(store),
        deleted=len(removed),
        prev_kvs=[to_kv(version) for version in removed if version is not None] if request.prev_kv else [],
    )


def transact(store: Store, request: etcd_pb2.TxnRequest) -> etcd_pb2.TxnResponse:
    """A transaction. Raises StoreError, with nothing done."""
    chosen = _choose(store, request)
    _check_chosen(store, chosen)
    store.begin()
    response = _run(store, chosen)
    store.commit()
    response.header.CopyFrom(header(store))
    return response


def is_read_only(request: etcd_pb2.TxnRequest) -> bool:
    """Whether no branch of the transaction writes: it needs no log entry then."""
    return all(
        operation.HasField("request_range")
        or (operation.HasField("request_txn") and is_read_only(operation.request_txn))
        for branch in (request.success, request.failure)
        for operation in branch
    )


def is_serializable(request: etcd_pb2.TxnRequest) -> bool:
    """Whether a read-only transaction takes what this member holds, new or old: all its operations are ranges that do.

    As in etcd, one with a transaction in it is not. Nor is one without operations, which says nothing of the kind.
    """
    operations = (*request.success, *request.failure)
    # What is no range has an empty one, which is not serializable.
    return bool(operations) and all(operation.request_range.serializable for operation in operations)


def puts(request: etcd_pb2.TxnRequest) -> bool:
    """Whether a branch of the transaction, or of one in it, puts something."""
    return any(
        operation.HasField("request_put") or (operation.HasField("request_txn") and puts(operation.request_txn))
        for branch in (request.success, request.failure)
        for operation in branch
    )


class _Chosen(NamedTuple):
    """The branch of a transaction that runs, and those of its nested ones, in the order of their operations."""

    succeeded: bool
    operations: Sequence[etcd_pb2.RequestOp]
    nested: list["_Chosen"]


def _choose(store: Store, request: etcd_pb2.TxnRequest) -> _Chosen:
    """All comparisons, nested ones too, are made before the first write."""
    succeeded = all(_holds(store, compare) for compare in request.compare)
    operations = request.success if succeeded else request.failure
    nested = [_choose(store, operation.request_txn) for operation in operations if operation.HasField("request_txn")]
    return _Chosen(succeeded, operations, nested)


def _operations(chosen: _Chosen) -> Iterator[etcd_pb2.RequestOp]:
    """All that runs, in order, without the nested transactions themselves."""
    nested = iter(chosen.nested)
    for operation in chosen.operations:
        if operation.HasField("request_txn"):
            yield from _operations(next(nested))
        else:
            yield operation


def _check_chosen(store: Store, chosen: _Chosen) -> None:
    # Which error a client gets when there are several is etcd's order.
    for operation in _operations(chosen):
        if operation.HasField("request_put"):
            _check_key(store, operation.request_put)
            _check_lease(store, operation.request_put)
    for operation in _operations(chosen):
        if operation.HasField("request_range"):
            store.check_readable(operation.request_range.revision)


def _run(store: Store, chosen: _Chosen) -> etcd_pb2.TxnResponse:
    response = etcd_pb2.TxnResponse(succeeded=chosen.succeeded)
    nested = iter(chosen.nested)
    for operation in chosen.operations:
        answer = response.responses.add()
        match operation.WhichOneof("request"):
            case "request_range":
                answer.response_range.CopyFrom(read(store, operation.request_range))
            case "request_put":
                answer.response_put.CopyFrom(_put(store, operation.request_put))
            case "request_delete_range":
                answer.response_delete_range.CopyFrom(_delete_range(store, operation.request_delete_range))
            case "request_txn":
                answer.response_txn.CopyFrom(_run(store, next(nested)))
                answer.response_txn.header.SetInParent()  # as in etcd: there, and empty
    return response


def _holds(store: Store, compare: etcd_pb2.Compare) -> bool:
    found, _ = store.range(compare.key, compare.range_end)
    if found:
        return all(_compare(compare, version) for version in found)
    # As in etcd: what is not there has no value to compare, and its numbers are zero.
    return compare.target != Compare.VALUE and _compare(compare, Version(compare.key, 0, 0, 0, 0, b"", 0))


def _compare(compare: etcd_pb2.Compare, version: Version) -> bool:
    actual: int | bytes
    wanted: int | bytes
    match compare.target:
        case Compare.VALUE:
            actual, wanted = version.value or b"", compare.value
        case Compare.CREATE:
            actual, wanted = version.create, compare.create_revision
        case Compare.MOD:
            actual, wanted = version.mod, compare.mod_revision
        case Compare.LEASE:
            actual, wanted = version.lease, compare.lease
        case Compare.VERSION:
            actual, wanted = version.number, compare.version
        case _:  # of a newer client: as etcd, all are alike in what is not known
            actual, wanted = 0, 0
    match compare.result:
        case Compare.EQUAL:
            return actual == wanted
        case Compare.NOT_EQUAL:
            return actual != wanted
        case Compare.GREATER:
            return actual > wanted  # type: ignore[operator] # both are of the target's type
        case Compare.LESS:
            return actual < wanted  # type: ignore[operator] # both are of the target's type
    return True
