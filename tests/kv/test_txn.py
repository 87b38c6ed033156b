"""etcd's transactions without a server: what its rules are where one would not guess them."""

import random
from typing import Any

import pytest

from raykube.kv.core.mvcc import txn
from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.core.mvcc.store import Store
from raykube.pb import etcd_pb2

Compare, Operation = etcd_pb2.Compare, etcd_pb2.RequestOp


def put(key: bytes, value: bytes = b"", **fields: Any) -> Any:
    return Operation(request_put=etcd_pb2.PutRequest(key=key, value=value, **fields))


def get(key: bytes, **fields: Any) -> Any:
    return Operation(request_range=etcd_pb2.RangeRequest(key=key, **fields))


def delete(key: bytes, range_end: bytes = b"") -> Any:
    return Operation(request_delete_range=etcd_pb2.DeleteRangeRequest(key=key, range_end=range_end))


def nested(*success: Any, compare: list[Any] | None = None, failure: list[Any] | None = None) -> Any:
    return Operation(request_txn=transaction(*success, compare=compare, failure=failure))


def transaction(*success: Any, compare: list[Any] | None = None, failure: list[Any] | None = None) -> Any:
    return etcd_pb2.TxnRequest(compare=compare or [], success=success, failure=failure or [])


def is_there(key: bytes) -> Any:
    return Compare(target=Compare.VERSION, result=Compare.GREATER, key=key, version=0)


@pytest.fixture
def store() -> Store:
    store = Store()
    store.grant(7, 60)
    txn.put(store, etcd_pb2.PutRequest(key=b"a", value=b"1"))
    return store


def run(store: Store, request: Any) -> Any:
    txn.check_txn(request, 128)
    return txn.transact(store, request)


def test_a_plain_put_does_as_one_that_is_told_what_was_there() -> None:
    draw = random.Random(5)
    plain, asked = Store(), Store()
    for store in (plain, asked):
        store.grant(7, 60)
    for number in range(300):
        fields = {"key": b"%d" % draw.randrange(5), "value": b"%d" % number, "lease": draw.choice([0, 0, 7])}
        revision = txn.put(plain, etcd_pb2.PutRequest(**fields))
        assert revision == txn.put(asked, etcd_pb2.PutRequest(prev_kv=True, **fields)).header.revision
        if draw.random() < 0.3:
            for store in (plain, asked):
                txn.delete_range(store, etcd_pb2.DeleteRangeRequest(key=fields["key"]))
        assert (plain.revision, plain.present, plain.written) == (asked.revision, asked.present, asked.written)
        assert plain.leases == asked.leases
    assert plain.events == asked.events
    assert plain.hash() == asked.hash()
    with pytest.raises(StoreError, match="lease not found"):
        txn.put(plain, etcd_pb2.PutRequest(key=b"a", lease=8))
    assert plain.hash() == asked.hash()


def test_comparisons_of_nested_transactions_see_nothing_of_the_outer_one(store: Store) -> None:
    answer = run(store, transaction(put(b"b"), nested(put(b"c"), compare=[is_there(b"b")], failure=[put(b"d")])))
    assert not answer.responses[1].response_txn.succeeded
    assert [store.get(key) is not None for key in (b"b", b"c", b"d")] == [True, False, True]


def test_reads_see_the_writes_before_them_unless_they_name_a_revision(store: Store) -> None:
    answer = run(store, transaction(get(b"a"), put(b"a", b"2"), get(b"a"), get(b"a", revision=2)))
    shown = [
        (response.response_range.kvs[0].value, response.response_range.header.revision)
        for response in answer.responses
        if response.HasField("response_range")
    ]
    assert shown == [(b"1", 2), (b"2", 3), (b"1", 3)]
    assert answer.header.revision == 3


def test_a_transaction_that_writes_nothing_takes_no_revision(store: Store) -> None:
    answer = run(store, transaction(delete(b"nothing"), get(b"a")))
    assert [answer.header.revision, answer.responses[0].response_delete_range.header.revision] == [2, 2]


@pytest.mark.parametrize(
    "operations",
    [
        (put(b"k"), put(b"k")),
        (put(b"k"), delete(b"k")),
        (delete(b"j", b"l"), put(b"k")),
        (put(b"k"), nested(put(b"k"))),
        (delete(b"k"), nested(put(b"k"))),
        (put(b"k"), nested(delete(b"k"))),
        (nested(put(b"k")), nested(put(b"k"))),
        (nested(delete(b"k")), nested(put(b"k"))),
        (nested(put(b"k")), nested(get(b"a"), failure=[put(b"k")])),
    ],
)
def test_a_key_written_twice_is_refused(store: Store, operations: tuple[Any, ...]) -> None:
    with pytest.raises(StoreError, match="etcdserver: duplicate key given in txn request"):
        run(store, transaction(*operations))
    with pytest.raises(StoreError, match="etcdserver: duplicate key given in txn request"):
        txn.check_txn(transaction(failure=list(operations)), 128)


@pytest.mark.parametrize(
    "operations",
    [
        (nested(put(b"k"), failure=[put(b"k")]),),
        (nested(put(b"k")), nested(delete(b"k"))),
        (delete(b"k"), delete(b"j", b"l")),
        (delete(b"k", b"k"), put(b"k")),
        (delete(b"\0", b"\0"), put(b"k")),  # "up to the last key" is not looked at by etcd
    ],
)
def test_what_etcd_takes_is_taken(store: Store, operations: tuple[Any, ...]) -> None:
    run(store, transaction(*operations))


def test_a_key_put_and_deleted_in_one_revision_shows_both(store: Store) -> None:
    run(store, transaction(nested(put(b"k")), nested(delete(b"k"))))
    assert [(event.key, event.mod, event.value) for event in store.events[-2:]] == [(b"k", 3, b""), (b"k", 3, None)]
    assert store.get(b"k") is None
    run(store, transaction(delete(b"\0", b"\0"), put(b"a", b"2")))
    version = store.get(b"a")
    assert version is not None
    assert (version.create, version.mod, version.number) == (4, 4, 1)


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (Compare(target=Compare.VALUE, key=b"none", value=b""), False),
        (Compare(target=Compare.VALUE, result=Compare.NOT_EQUAL, key=b"none", value=b"x"), False),
        (Compare(target=Compare.VERSION, key=b"none", version=0), True),
        (Compare(target=Compare.MOD, result=Compare.LESS, key=b"none", mod_revision=1), True),
        (Compare(target=Compare.CREATE, key=b"n", range_end=b"o", create_revision=0), True),
        (Compare(target=Compare.CREATE, key=b"n", range_end=b"o", create_revision=5), False),
        (Compare(target=Compare.VALUE, key=b"n", range_end=b"o", value=b""), False),
        (Compare(target=Compare.VALUE, key=b"a", range_end=b"\0", value=b"1"), True),
        (Compare(target=Compare.LEASE, key=b"a", lease=0), True),
        (Compare(target=Compare.LEASE, key=b"a", lease=7), False),
        (Compare(target=9, key=b"a"), True),
        (Compare(target=9, result=Compare.NOT_EQUAL, key=b"a"), False),
        (Compare(target=Compare.VALUE, result=9, key=b"a", value=b"x"), True),
    ],
)
def test_comparisons(store: Store, compare: Any, holds: bool) -> None:
    assert run(store, transaction(compare=[compare])).succeeded is holds


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ((get(b"a", revision=9), put(b"b", lease=5)), "requested lease not found"),
        ((put(b"b", lease=5, ignore_value=True),), "key not found"),
        ((get(b"a", revision=9), nested(put(b"b", ignore_lease=True))), "key not found"),
        ((put(b"b"), get(b"a", revision=9)), "required revision is a future revision"),
    ],
)
def test_a_transaction_that_fails_does_nothing(store: Store, operations: tuple[Any, ...], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        run(store, transaction(*operations))
    assert (store.revision, store.present, len(store.events)) == (2, 2, 1)


def test_what_does_not_run_is_not_checked_against_the_store(store: Store) -> None:
    assert run(store, transaction(get(b"a"), failure=[put(b"b", lease=5)])).succeeded


def test_nested_transactions_share_the_bound(store: Store) -> None:
    puts = [put(b"%d" % number) for number in range(5)]
    txn.check_txn(transaction(nested(*puts[:4])), 5)
    with pytest.raises(StoreError, match="too many operations in txn request"):
        txn.check_txn(transaction(nested(*puts)), 5)


def test_what_a_transaction_takes_from_one_member_alone() -> None:
    own, agreed = get(b"a", serializable=True), get(b"a")
    compare = [is_there(b"a")]
    assert txn.is_serializable(transaction(own, own, compare=compare, failure=[own]))
    assert txn.is_serializable(transaction(failure=[own]))
    for other in (agreed, put(b"a"), delete(b"a"), nested(own)):
        assert not txn.is_serializable(transaction(own, other))
        assert not txn.is_serializable(transaction(own, failure=[other]))
    assert not txn.is_serializable(transaction(compare=compare))


def test_a_target_without_an_order_sorts_what_the_limit_left(store: Store) -> None:
    for key, value in ((b"b", b"9"), (b"c", b"5"), (b"d", b"0")):
        txn.put(store, etcd_pb2.PutRequest(key=key, value=value))
    by_value = etcd_pb2.RangeRequest(key=b"a", range_end=b"z", sort_target=etcd_pb2.RangeRequest.VALUE, limit=2)
    assert [kv.key for kv in txn.read(store, by_value).kvs] == [b"a", b"c"]
    by_value.sort_order = etcd_pb2.RangeRequest.ASCEND
    assert [kv.key for kv in txn.read(store, by_value).kvs] == [b"d", b"a"]
