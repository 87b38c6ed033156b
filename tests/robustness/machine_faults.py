"""What goes wrong with machines: disks that are full, fail or rot, descriptors used up, clocks that jump."""

import asyncio
import os
import random
import resource
import signal
from pathlib import Path

from tests.robustness.faults import HARM_S, Fault, Scene

FREE_BYTES = (
    0,
    0,
    1 << 20,
    20 << 20,
    50 << 20,
)  # what is left on a full disk: nothing, or less than a member keeps back
FILE_BYTES_MIN = 512
JUMPS_S = (3600, 90, 4, 1)


async def disk_full(scene: Scene) -> None:
    """The disks of some members fill up, of a quorum too, and are emptied again: all goes on by itself."""
    names = scene.rng.sample(scene.names, scene.rng.randint(1, len(scene.names)))
    try:
        for name in names:
            scene.members.disks[name].fill(scene.rng.choice(FREE_BYTES))
        await scene.pass_time((1.0, 3.0))
        scene.members.check_alive()
    finally:
        for name in names:
            scene.members.disks[name].empty()


async def power_loss(scene: Scene) -> None:
    """All or some machines lose their power at one moment: what was not synced to the disks is gone."""
    names = scene.names if scene.rng.random() < 0.6 else scene.rng.sample(scene.names, 1)
    for name in names:
        scene.members.signal(name, signal.SIGKILL)
    for name in names:
        await scene.members.end(name)
    for name in names:
        await asyncio.to_thread(scene.members.disks[name].lose_power)
    for name in scene.rng.sample(names, len(names)):
        await scene.members.start(name)


async def disk_error(scene: Scene) -> None:
    """A disk fails: sync says EIO. Its member stops, and has all that it acknowledged when the disk works again."""
    name = scene.rng.choice(scene.names)
    scene.members.may_exit.add(name)
    disk = scene.members.disks[name]
    disk.fail()
    await scene.pass_time((0.5, 2.0))
    await scene.progress()
    await _stopped(scene, name)
    await asyncio.to_thread(disk.repair)
    await scene.members.start(name)


async def failing_writes(scene: Scene) -> None:
    """One member's log cannot be written any more: the member stops, and its log is whole when it starts again."""
    name = scene.rng.choice(scene.names)
    members = scene.members
    members.may_exit.add(name)
    members.limit(name, resource.RLIMIT_FSIZE, 1)
    await scene.progress()
    # The others have written more since, and it with them, or it is cut off and behind anyway.
    await scene.pass_time(HARM_S)
    await _again(scene, name)


async def no_descriptors(scene: Scene) -> None:
    """A member can open nothing more for a while: no connection, no segment, no snapshot."""
    name = scene.rng.choice(scene.names)
    members = scene.members
    members.may_exit.add(name)
    used = len(os.listdir(f"/proc/{members.running[name].pid}/fd"))
    members.limit(name, resource.RLIMIT_NOFILE, used + scene.rng.randrange(2))
    try:
        await scene.pass_time((1.0, 3.0))
    finally:
        members.limit(name, resource.RLIMIT_NOFILE, -1)
    if members.running[name].returncode is not None:
        await _again(scene, name)
    members.may_exit.discard(name)


async def rotten_bits(scene: Scene) -> None:
    """A member is killed and bits of its log or snapshots are flipped: it never serves them, and gets its data back."""
    name = scene.rng.choice(scene.names)
    await scene.members.end(name)
    files = [path for path in scene.members.data_dir(name).glob("*/*") if path.stat().st_size >= FILE_BYTES_MIN]
    if files:
        _flip(scene.rng.choice(files), scene.rng)
    await scene.members.start(name)


def _flip(path: Path, rng: random.Random) -> None:
    """Flips a bit in the first three quarters of what is written in the file; its last frame stays what it is."""
    data = bytearray(path.read_bytes())
    written = len(bytes(data).rstrip(b"\0"))
    place = rng.randrange(max(1, written * 3 // 4))
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


async def _again(scene: Scene, name: str) -> None:
    """Ends what is left of a member and starts it."""
    await _stopped(scene, name)
    await scene.members.start(name)


async def _stopped(scene: Scene, name: str) -> None:
    """Ends what is left of a member; it may have stopped by itself, but only in the proper way."""
    process = scene.members.running[name]
    if process.returncode is not None:
        assert process.returncode == 1, f"{name} exited with {process.returncode}:\n{scene.members.log_end(name)}"
    await scene.members.end(name, signal.SIGKILL)
    scene.members.may_exit.discard(name)


async def clock_jump(scene: Scene) -> None:
    """The clocks of some members jump: the leader's, somebody's, or everybody's."""
    clocks = scene.members.clocks
    assert clocks is not None
    leader = await scene.members.leader()
    for name in scene.rng.choice([[leader], scene.names, scene.rng.sample(scene.names, 1)]):
        clocks.jump(name, scene.rng.choice(JUMPS_S))
    await scene.pass_time((1.0, 3.0))
    await scene.progress()


CLOCKS: dict[str, Fault] = {"clock-jump": clock_jump}
LIMITS: dict[str, Fault] = {"failing-writes": failing_writes, "no-descriptors": no_descriptors}
DISKS: dict[str, Fault] = {
    "disk-full": disk_full, "power-loss": power_loss, "disk-error": disk_error, "rotten-bits": rotten_bits,
}  # fmt: skip
