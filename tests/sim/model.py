"""What the store must be, written a second time and as plainly as possible: the log's commands, one after the other.

The simulator's clients send no more than what is here: of etcd's transactions only comparisons of version, value and
mod revision, and puts, deletions and ranges without nesting. (The whole of etcd's semantics is tested elsewhere.)
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from raykube.kv.core.mvcc.machine import Command
from raykube.kv.core.mvcc.version import Version
from raykube.pb import batch_pb2, etcd_pb2, mvcc_pb2

Compare = etcd_pb2.Compare


@dataclass(frozen=True, slots=True)
class Mark:
    """What the model was after an entry."""

    revision: int
    compacted: int
    leases: dict[int, int]  # id → time to live


class Model:
    """`live` is now; `events` is every version ever; `marks[index]` is what it was after each entry."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0
        self.live: dict[bytes, Version] = {}
        self.events: list[Version] = []
        self.of_key: dict[bytes, list[Version]] = {}
        self.leases: dict[int, int] = {}  # id → time to live
        self.marks: list[Mark] = [Mark(1, 0, {})]
        self._sub = 0

    def apply(self, command: int, body: bytes) -> Any:
        """Carries out a command; returns the answer that clients must get, None where this model does not know it."""
        match command:
            case Command.BATCH:
                return self._batch(batch_pb2.BatchRequest.FromString(body))
            case Command.JOINED_BATCH:
                return self._joined_batch(batch_pb2.BatchRequest.FromString(body))
            case Command.TXN:
                return self._txn(etcd_pb2.TxnRequest.FromString(body))
            case Command.LEASE_GRANT:
                return self._grant(etcd_pb2.LeaseGrantRequest.FromString(body))
            case Command.LEASE_REVOKE:
                return self._revoke(etcd_pb2.LeaseRevokeRequest.FromString(body).ID)
            case Command.COMPACT:
                return self._compact(etcd_pb2.CompactionRequest.FromString(body).revision)
        return None

    def mark(self) -> None:
        """An entry is done, whatever it was."""
        self.marks.append(Mark(self.revision, self.compacted, self.leases))

    # ---- commands

    def _batch(self, request: Any) -> Any:
        if any(write.lease and write.lease not in self.leases for write in request.writes):
            return "NOT_FOUND"
        response = batch_pb2.BatchResponse()
        for write in request.writes:
            if self._is_expected(write):
                self._carry_out(write, response)
            else:
                self._refuse(write, response)
        response.revision = self.revision
        return response.SerializeToString()

    def _joined_batch(self, request: Any) -> Any:
        if any(write.lease and write.lease not in self.leases for write in request.writes):
            return "NOT_FOUND"
        response = batch_pb2.BatchResponse()
        waiting = list(request.writes)
        while waiting:
            company = [waiting.pop(0)]
            while waiting and waiting[0].joined:
                company.append(waiting.pop(0))
            is_twice = len({write.key for write in company}) < len(company)
            if not is_twice and all(self._is_expected(write) for write in company):
                for write in company:
                    self._carry_out(write, response)
            else:
                for write in company:
                    self._refuse(write, response)
        response.revision = self.revision
        return response.SerializeToString()

    def _is_expected(self, write: Any) -> bool:
        current = self.live.get(write.key)
        return write.expected_revision < 0 or (current.mod if current else 0) == write.expected_revision

    def _carry_out(self, write: Any, response: Any) -> None:
        if write.HasField("value"):
            self._put(write.key, write.value, write.lease)
        else:
            self._delete(write.key)
        self._commit()
        response.results.add(applied=True, revision=self.revision)

    def _refuse(self, write: Any, response: Any) -> None:
        result = response.results.add()
        if write.key in self.live:
            result.current.CopyFrom(kv_of(self.live[write.key]))

    def _txn(self, request: Any) -> Any:
        succeeded = all(self._holds(compare) for compare in request.compare)
        response = etcd_pb2.TxnResponse(succeeded=succeeded)
        branch = request.success if succeeded else request.failure
        if any(
            operation.HasField("request_range") and not self._is_readable(operation.request_range.revision)
            for operation in branch
        ):
            return "OUT_OF_RANGE"
        for operation in branch:
            answer = response.responses.add()
            match operation.WhichOneof("request"):
                case "request_put":
                    put = operation.request_put
                    self._put(put.key, put.value, put.lease)
                    answer.response_put.SetInParent()
                case "request_delete_range":
                    deleted = [key for key in self._keys(operation.request_delete_range) if self._delete(key)]
                    answer.response_delete_range.deleted = len(deleted)
                case "request_range":
                    found = self._range(operation.request_range)
                    answer.response_range.kvs.extend(found)
                    answer.response_range.count = len(found)
        self._commit()
        response.header.revision = self.revision
        return response

    def _is_readable(self, revision: int) -> bool:
        return not revision or self.compacted <= revision <= self.revision

    def _range(self, request: Any) -> list[Any]:
        if not request.revision:
            return [kv_of(self.live[key]) for key in self._keys(request)]
        version = self.value_at(request.key, request.revision)
        return [] if version is None else [kv_of(version)]

    def _keys(self, request: Any) -> list[bytes]:
        if not request.range_end:
            return [request.key] if request.key in self.live else []
        return sorted(key for key in self.live if request.key <= key < request.range_end)

    def _holds(self, compare: Any) -> bool:
        current = self.live.get(compare.key)
        if compare.target == Compare.VALUE:
            return current is not None and compare.result == Compare.EQUAL and current.value == compare.value
        if compare.target == Compare.MOD:
            actual, wanted = (current.mod if current else 0), compare.mod_revision
        else:
            actual, wanted = (current.number if current else 0), compare.version
        return actual > wanted if compare.result == Compare.GREATER else actual == wanted

    def _grant(self, request: Any) -> Any:
        if request.ID in self.leases:
            return "FAILED_PRECONDITION"
        self.leases = {**self.leases, request.ID: request.TTL}  # marks keep the old ones
        response = etcd_pb2.LeaseGrantResponse(ID=request.ID, TTL=request.TTL)
        response.header.revision = self.revision
        return response

    def _revoke(self, lease: int) -> Any:
        if lease not in self.leases:
            return "NOT_FOUND"
        for key in sorted(key for key, version in self.live.items() if version.lease == lease):
            self._delete(key)
        self.leases = {other: ttl for other, ttl in self.leases.items() if other != lease}
        self._commit()
        response = etcd_pb2.LeaseRevokeResponse()
        response.header.revision = self.revision
        return response

    def _compact(self, revision: int) -> Any:
        if not self.compacted < revision <= self.revision:
            return "OUT_OF_RANGE"
        self.compacted = revision
        response = etcd_pb2.CompactionResponse()
        response.header.revision = self.revision
        return response

    def _put(self, key: bytes, value: bytes, lease: int) -> None:
        old, mod = self.live.get(key), self.revision + 1
        create, number = (old.create, old.number + 1) if old else (mod, 1)
        self._add(Version(key, mod, self._sub, create, number, value, lease))

    def _delete(self, key: bytes) -> bool:
        if key not in self.live:
            return False
        self._add(Version(key, self.revision + 1, self._sub, 0, 0, None, 0))
        return True

    def _add(self, version: Version) -> None:
        self._sub += 1
        self.events.append(version)
        self.of_key.setdefault(version.key, []).append(version)
        if version.value is None:
            del self.live[version.key]
        else:
            self.live[version.key] = version

    def _commit(self) -> None:
        if self._sub:
            self.revision += 1
            self._sub = 0

    # ---- questions

    def position(self, revision: int) -> int:
        """Where in `events` the first event at or after `revision` is."""
        return bisect_left(self.events, revision, key=lambda version: version.mod)

    def value_at(self, key: bytes, revision: int) -> Version | None:
        """What a reader at `revision` sees of a key."""
        versions = self.of_key.get(key, [])
        position = bisect_left(versions, revision + 1, key=lambda version: version.mod)
        version = versions[position - 1] if position else None
        return version if version is not None and version.value is not None else None

    def before(self, version: Version) -> Version | None:
        """The live version that `version` replaced."""
        return self.value_at(version.key, version.mod - 1)

    def versions(self, mark: Mark) -> list[Version]:
        """All that a store in this state holds for readers and watchers, in order."""
        horizon = mark.compacted
        base = [self.value_at(key, horizon) for key in self.of_key] if horizon else []
        kept = [version for version in base if version is not None and version.mod < horizon]
        kept.sort(key=lambda version: (version.mod, version.sub))
        return kept + self.events[self.position(horizon) : self.position(mark.revision + 1)]

    def attached(self, mark: Mark) -> dict[int, set[bytes]]:
        """The keys of each lease in this state."""
        keys: dict[int, set[bytes]] = {lease: set() for lease in mark.leases}
        if keys:
            for key in self.of_key:
                version = self.value_at(key, mark.revision)
                if version is not None and version.lease in keys:
                    keys[version.lease].add(key)
        return keys


def kv_of(version: Version) -> Any:
    return mvcc_pb2.KeyValue(
        key=version.key,
        create_revision=version.create,
        mod_revision=version.mod,
        version=version.number,
        value=version.value or b"",
        lease=version.lease,
    )
