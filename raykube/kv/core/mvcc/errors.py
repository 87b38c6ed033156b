"""What the store answers when it refuses: gRPC code names and etcd's own messages, on which etcd's clients match."""


class StoreError(Exception):
    """A refusal, the same on every member that applies the request. `code` is the name of a gRPC status code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def compacted() -> StoreError:
    return StoreError("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted")


def future_revision() -> StoreError:
    return StoreError("OUT_OF_RANGE", "etcdserver: mvcc: required revision is a future revision")


def key_missing() -> StoreError:
    return StoreError("INVALID_ARGUMENT", "etcdserver: key not found")


def lease_missing() -> StoreError:
    return StoreError("NOT_FOUND", "etcdserver: requested lease not found")


def lease_exists() -> StoreError:
    return StoreError("FAILED_PRECONDITION", "etcdserver: lease already exists")


def invalid(message: str) -> StoreError:
    return StoreError("INVALID_ARGUMENT", f"etcdserver: {message}")
