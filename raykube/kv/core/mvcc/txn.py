"""etcd's KV requests on a `Store`: range, put, delete-range, and transactions with comparisons and nested operations.

A transaction is checked as a whole before its first write: it is applied entirely or refused entirely.
"""

from collections.abc import Iterable
from operator import attrgetter

from raykube.kv.core.mvcc import errors
from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.mvcc.version import Version, to_kv
from raykube.pb import etcd_pb2

Range = etcd_pb2.RangeRequest
Compare = etcd_pb2.Compare

_SORT_FIELDS = {
    Range.KEY: attrgetter("key"),
    Range.VERSION: attrgetter("number"),
    Range.CREATE: attrgetter("create"),
    Range.MOD: attrgetter("mod"),
    Range.VALUE: attrgetter("value"),
}


def header(store: Store) -> etcd_pb2.ResponseHeader:
    """A response header with the store's revision; the server fills in who it is."""
    return etcd_pb2.ResponseHeader(revision=store.revision)


def check_range(request: etcd_pb2.RangeRequest) -> None:
    """Raises StoreError on a range request that no store could answer."""
    if not request.key:
        raise errors.invalid("key is not provided")
    if request.sort_order not in Range.SortOrder.values() or request.sort_target not in Range.SortTarget.values():
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
    if max(len(request.compare), len(request.success), len(request.failure)) > operations_max:
        raise errors.invalid("too many operations in txn request")
    for compare in request.compare:
        if not compare.key:
            raise errors.invalid("key is not provided")
    for branch in (request.success, request.failure):
        puts: set[bytes] = set()
        deletes: list[etcd_pb2.DeleteRangeRequest] = []
        for operation in branch:
            _check_operation(operation, operations_max)
        for operation in branch:
            _collect(operation, puts, deletes)
        for delete in deletes:
            if any(_covers(delete, key) for key in puts):
                raise errors.invalid("duplicate key given in txn request")


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
            check_txn(operation.request_txn, operations_max)
        case _:
            raise errors.invalid("key not found")


def _collect(operation: etcd_pb2.RequestOp, puts: set[bytes], deletes: list[etcd_pb2.DeleteRangeRequest]) -> None:
    if operation.HasField("request_put"):
        if operation.request_put.key in puts:
            raise errors.invalid("duplicate key given in txn request")
        puts.add(operation.request_put.key)
    elif operation.HasField("request_delete_range"):
        deletes.append(operation.request_delete_range)
    elif operation.HasField("request_txn"):
        # The two branches of a nested transaction never both run: each is compared with what stands outside it.
        before = set(puts)
        for branch in (operation.request_txn.success, operation.request_txn.failure):
            inner = set(before)
            for nested in branch:
                _collect(nested, inner, deletes)
            puts |= inner


def _covers(delete: etcd_pb2.DeleteRangeRequest, key: bytes) -> bool:
    if not delete.range_end:
        return bool(delete.key == key)
    return bool(delete.key <= key and (delete.range_end == b"\0" or key < delete.range_end))


def read(store: Store, request: etcd_pb2.RangeRequest) -> etcd_pb2.RangeResponse:
    """Answers a range request from what `store` holds."""
    order, target = request.sort_order, request.sort_target
    bounds = (
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    )
    # Keys come ordered; anything else must see them all before it can cut.
    in_key_order = not any(bounds) and (order == Range.NONE or (order == Range.ASCEND and target == Range.KEY))
    limit = request.limit if request.limit > 0 else 0
    found, count = store.range(
        request.key, request.range_end, request.revision, limit if in_key_order else 0, request.count_only
    )
    if not in_key_order:
        found = [version for version in found if _within(version, *bounds)]
        if order != Range.NONE or target != Range.KEY:
            found.sort(key=_SORT_FIELDS[target], reverse=order == Range.DESCEND)
        if limit:
            del found[limit:]
    keys_only = request.keys_only
    return etcd_pb2.RangeResponse(
        header=header(store),
        kvs=[to_kv(version, keys_only) for version in found],
        more=bool(limit) and not request.count_only and count > limit,
        count=count,
    )


def _within(version: Version, min_mod: int, max_mod: int, min_create: int, max_create: int) -> bool:
    return (
        version.mod >= min_mod
        and (not max_mod or version.mod <= max_mod)
        and version.create >= min_create
        and (not max_create or version.create <= max_create)
    )


def put(store: Store, request: etcd_pb2.PutRequest) -> etcd_pb2.PutResponse:
    """A put as a transaction of its own. Raises StoreError."""
    _check_put_state(store, request)
    store.begin()
    response = _put(store, request)
    store.commit()
    response.header.CopyFrom(header(store))
    return response


def _check_put_state(store: Store, request: etcd_pb2.PutRequest) -> None:
    if request.lease and request.lease not in store.leases:
        raise errors.lease_missing()
    if (request.ignore_value or request.ignore_lease) and store.get(request.key) is None:
        raise errors.key_missing()


def _put(store: Store, request: etcd_pb2.PutRequest) -> etcd_pb2.PutResponse:
    value, lease = request.value, request.lease
    if request.ignore_value or request.ignore_lease:
        current = store.get(request.key)
        if current is not None:  # checked before the transaction; a delete inside it cannot overlap
            value = (current.value or b"") if request.ignore_value else value
            lease = current.lease if request.ignore_lease else lease
    previous = store.put(request.key, value, lease)
    response = etcd_pb2.PutResponse()
    if request.prev_kv and previous is not None:
        response.prev_kv.CopyFrom(to_kv(previous))
    return response


def delete_range(store: Store, request: etcd_pb2.DeleteRangeRequest) -> etcd_pb2.DeleteRangeResponse:
    """A range deletion as a transaction of its own."""
    store.begin()
    response = _delete_range(store, request)
    store.commit()
    response.header.CopyFrom(header(store))
    return response


def _delete_range(store: Store, request: etcd_pb2.DeleteRangeRequest) -> etcd_pb2.DeleteRangeResponse:
    removed = [store.delete(key) for key in store.keys_in(request.key, request.range_end)]
    return etcd_pb2.DeleteRangeResponse(
        deleted=len(removed),
        prev_kvs=[to_kv(version) for version in removed if version is not None] if request.prev_kv else [],
    )


def transact(store: Store, request: etcd_pb2.TxnRequest) -> etcd_pb2.TxnResponse:
    """A transaction. Raises StoreError, with nothing done."""
    _check_branch(store, request)
    store.begin()
    response = _run(store, request)
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


def _chosen(store: Store, request: etcd_pb2.TxnRequest) -> tuple[bool, Iterable[etcd_pb2.RequestOp]]:
    succeeded = all(_holds(store, compare) for compare in request.compare)
    return succeeded, request.success if succeeded else request.failure


def _check_branch(store: Store, request: etcd_pb2.TxnRequest) -> None:
    for operation in _chosen(store, request)[1]:
        if operation.HasField("request_range"):
            store.check_readable(operation.request_range.revision)
        elif operation.HasField("request_put"):
            _check_put_state(store, operation.request_put)
        elif operation.HasField("request_txn"):
            # A nested comparison may see the outer writes, so both branches must be able to run.
            _check_nested(store, operation.request_txn)


def _check_nested(store: Store, request: etcd_pb2.TxnRequest) -> None:
    for branch in (request.success, request.failure):
        for operation in branch:
            if operation.HasField("request_range"):
                store.check_readable(operation.request_range.revision)
            elif operation.HasField("request_put"):
                _check_put_state(store, operation.request_put)
            elif operation.HasField("request_txn"):
                _check_nested(store, operation.request_txn)


def _run(store: Store, request: etcd_pb2.TxnRequest) -> etcd_pb2.TxnResponse:
    succeeded, branch = _chosen(store, request)
    response = etcd_pb2.TxnResponse(succeeded=succeeded)
    for operation in branch:
        answer = response.responses.add()
        match operation.WhichOneof("request"):
            case "request_range":
                answer.response_range.CopyFrom(read(store, operation.request_range))
            case "request_put":
                answer.response_put.CopyFrom(_put(store, operation.request_put))
            case "request_delete_range":
                answer.response_delete_range.CopyFrom(_delete_range(store, operation.request_delete_range))
            case "request_txn":
                answer.response_txn.CopyFrom(_run(store, operation.request_txn))
    return response


def _holds(store: Store, compare: etcd_pb2.Compare) -> bool:
    if compare.range_end:
        found, _ = store.range(compare.key, compare.range_end)
        # As in etcd: a comparison over an empty range holds, except that there is no value to compare.
        if not found:
            return compare.target != Compare.VALUE
        return all(_compare(compare, version) for version in found)
    version = store.get(compare.key)
    if version is None:
        if compare.target == Compare.VALUE:
            return False
        version = Version(compare.key, 0, 0, 0, 0, b"", 0)
    return _compare(compare, version)


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
        case _:
            actual, wanted = version.number, compare.version
    match compare.result:
        case Compare.EQUAL:
            return actual == wanted
        case Compare.NOT_EQUAL:
            return actual != wanted
        case Compare.GREATER:
            return actual > wanted  # type: ignore[operator] # both are of the target's type
        case _:
            return actual < wanted  # type: ignore[operator] # both are of the target's type
