"""Long work takes turns; what is short does not stand in its line."""

import asyncio

from raykube.apiserver.turns import Turns


async def test_one_piece_runs_in_a_turn_of_the_loop() -> None:
    turns, ran = Turns(), list[str]()

    async def long(name: str) -> None:
        for _ in range(3):
            await turns.next()
            ran.append(name)

    async def short() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            ran.append("short")

    await asyncio.gather(*(long(name) for name in "abcd"), short())
    assert "".join(name for name in ran if name != "short") == "abcd" * 3
    # Three waits of what is short took three turns, with a piece in each at most.
    last = len(ran) - 1 - ran[::-1].index("short")
    assert last <= 6, ran


async def test_who_gives_up_takes_no_turn() -> None:
    turns = Turns()
    waiting = [asyncio.create_task(turns.next()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    async with asyncio.timeout(1):
        await waiting[2]
        await turns.next()
