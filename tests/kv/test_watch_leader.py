"""A watch stays only with a member that knows a leader: one that is cut off has no events, and would never end it."""

from pathlib import Path
from typing import Any

from raykube.pb.batch_pb2 import Write
from tests.kit.waiting import until
from tests.kv.group import Group, running_group


def cut_off(group: Group, name: str) -> None:
    """Nothing passes between this member and the others any more; clients reach it as before."""
    alone = group.services[name].member
    assert alone is not None
    for service in group.services.values():
        member = service.member
        assert member is not None
        carrier = member.carrier
        assert carrier is not None
        send = carrier.send

        def passed(messages: list[Any], is_cut: bool = member is alone, send: Any = send) -> None:
            send([] if is_cut else [message for message in messages if message.to != alone.id])

        carrier.send = passed  # type: ignore[method-assign]


async def test_a_watch_leaves_a_member_that_is_cut_off_from_the_others(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        await group.leader()
        watch = group.client.watch(b"/", b"0")
        first = await anext(watch)
        assert not first.events
        cut_off(group, "m1")  # which a client asks first
        left = group.services["m1"].member
        assert left is not None
        await until(lambda: not left.replica.node.leader, what="m1 knows no leader")
        results = await group.client.write([Write(key=b"/a", value=b"1")], 15)
        seen: list[tuple[bytes, int]] = []
        async for batch in watch:
            seen += [(event.kv.value, event.kv.mod_revision) for event in batch.events]
            if seen:
                break
        assert seen == [(b"1", results[0].revision)]
        await watch.aclose()
