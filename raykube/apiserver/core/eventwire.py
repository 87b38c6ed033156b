"""Events of a gRPC watch as their bytes, encoded once however many watchers there are.

    WatchResponse   0a <length> Event, as often as there are events
    Event           08 <type>  12 <length> object  18 <resource version>

As protos/raykube/pb/api.proto has it. A message is its events' bytes one behind the other, so that another watcher of
the same event, alone or among others, costs a copy.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache

from raykube.apiserver.core.item import Item
from raykube.base.encoded import Encoded, varint
from raykube.pb import api_pb2

TYPES = {"ADDED": api_pb2.ADDED, "MODIFIED": api_pb2.MODIFIED, "DELETED": api_pb2.DELETED}

# What is kept of encoded events: 2,048 of 16 KiB at most, for watchers that get to them a little later.
_KEPT_EVENTS = 2048
_KEPT_BYTES_MAX = 16 * 1024


def message(
    events: Iterable[tuple[str, Item]], data_of: Callable[[Item], bytes] | None = None, *, shared: bool = True
) -> Encoded:
    """One message. `data_of`: an object in the version that the client speaks, where that is not the stored one.
    `shared`: other watchers have these events too."""
    if data_of is not None:
        return Encoded(b"".join([_event(kind, data_of(item), item.revision) for kind, item in events]))
    return Encoded(
        b"".join(
            [
                _kept(kind, item)
                if shared and len(item.data) <= _KEPT_BYTES_MAX
                else _event(kind, item.data, item.revision)
                for kind, item in events
            ]
        )
    )


@lru_cache(maxsize=_KEPT_EVENTS)
def _kept(kind: str, item: Item) -> bytes:
    return _event(kind, item.data, item.revision)


def _event(kind: str, data: bytes, revision: int) -> bytes:
    size, version = varint(len(data)), varint(revision)
    whole = 4 + len(size) + len(data) + len(version)
    return b"\n%b\x08%c\x12%b%b\x18%b" % (varint(whole), TYPES[kind], size, data, version)
