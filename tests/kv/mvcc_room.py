"""A store to be spoken to in transcripts."""

from collections.abc import Callable

from raykube.kv.core.mvcc import image, txn
from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.core.mvcc.store import Outcome, Store
from raykube.kv.core.mvcc.version import Version
from raykube.pb import batch_pb2, etcd_pb2
from tests.kit.transcript import Step


def show(version: Version | None) -> str:
    """A version in a few words."""
    if version is None:
        return "none"
    if version.value is None:
        return f"{version.key.decode()} deleted at {version.mod}.{version.sub}"
    lease = f" lease {version.lease}" if version.lease else ""
    return (
        f"{version.key.decode()}={version.value.decode()} at {version.mod}.{version.sub}"
        f" created {version.create} version {version.number}{lease}"
    )


class MvccRoom:
    """One store; every answer ends with its revision."""

    def __init__(self) -> None:
        self.store = Store()

    def handle(self, step: Step) -> str:
        try:
            lines = self._run(step)
        except StoreError as error:
            lines = [str(error)]
        return "\n".join([*lines, f"revision {self.store.revision}"])

    def _run(self, step: Step) -> list[str]:
        store = self.store
        flags = dict(argument.split("=", 1) for argument in step.arguments if "=" in argument)
        words = [argument.encode() for argument in step.arguments if "=" not in argument]
        match step.command:
            case "put":
                response = txn.put(
                    store,
                    etcd_pb2.PutRequest(key=words[0], value=words[1], lease=int(flags.get("lease", 0)), prev_kv=True),
                )
                return [f"was {response.prev_kv.value.decode()}"] if response.HasField("prev_kv") else []
            case "delete":
                end = words[1] if len(words) > 1 else b""
                request = etcd_pb2.DeleteRangeRequest(key=words[0], range_end=end)
                return [f"deleted {txn.delete_range(store, request).deleted}"]
            case "range":
                found, count = store.range(
                    words[0],
                    words[1] if len(words) > 1 else b"",
                    int(flags.get("revision", 0)),
                    int(flags.get("limit", 0)),
                )
                return [*map(show, found), f"count {count}"]
            case "writes":
                return self._writes(step.body, self.store.apply_writes)
            case "joined":
                return self._writes(step.body, self.store.apply_joined)
            case "compact":
                store.compact(int(words[0]))
                return []
            case "sweep":
                return ["more" if store.sweep(int(words[0])) else "done"]
            case "events":
                return [show(version) for version in store.events]
            case "history":
                return [show(version) for version in store.index.histories.get(words[0], [])]
            case "grant":
                store.grant(int(words[0]), int(words[1]))
                return []
            case "revoke":
                store.revoke(int(words[0]))
                return []
            case "leases":
                return [f"{lease.id}: {b' '.join(sorted(lease.keys)).decode()}" for lease in store.leases.values()]
            case "image":
                before = store.hash()
                self.store, _ = image.restore(image.capture(store).chunks())
                return ["same" if self.store.hash() == before else "another"]
        raise ValueError(f"unknown command {step.command}")

    def _writes(self, body: list[str], apply: Callable[[list[batch_pb2.Write]], list[Outcome]]) -> list[str]:
        writes = []
        for line in body:
            key, value, expected, *joined = line.split()
            write = batch_pb2.Write(key=key.encode(), expected_revision=int(expected), joined=bool(joined))
            if value != "delete":
                write.value = value.encode()
            writes.append(write)
        return [
            f"applied at {outcome.revision}" if outcome.applied else f"refused: {show(outcome.current)}"
            for outcome in apply(writes)
        ]
