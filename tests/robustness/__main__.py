"""`python -m tests.robustness --rounds 200`: harms members of a store, and prints what it found.

It is a program of its own because it moves into network namespaces. Exit status: 0 nothing was wrong; 1 something was,
and the folder with the members' data and logs is kept; 3 this system does not allow what was asked for.
"""

import argparse
import asyncio
import itertools
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.robustness.faults import KILLS, PARTITIONS, PAUSES, Fault
from tests.robustness.machine_faults import CLOCKS, DISKS, LIMITS
from tests.robustness.member_faults import MEMBERSHIP
from tests.robustness.network import Impossible, Loopback, Namespaces
from tests.robustness.rounds import Run
from tests.robustness.sabotage import MISTAKES

GROUPS = {
    "kills": KILLS, "pauses": PAUSES, "partitions": PARTITIONS, "disks": DISKS, "limits": LIMITS,
    "members": MEMBERSHIP, "clocks": CLOCKS,
}  # fmt: skip
FAULTS = {name: fault for group in GROUPS.values() for name, fault in group.items()}
GROUPS["all"] = FAULTS
EXIT_IMPOSSIBLE = 3


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness", description="Harms a store and checks it.")
    parser.add_argument("--rounds", type=int, default=10, help="faults in all")
    parser.add_argument("--members", type=int, default=3, choices=[3, 5])
    parser.add_argument(
        "--faults", default="all", help=f"names or groups, with commas: {', '.join([*GROUPS, *FAULTS])}"
    )
    parser.add_argument("--network", default="namespaces", choices=["namespaces", "loopback"])
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--folder", type=Path, help="an empty one for data and logs; without it, a temporary one")
    parser.add_argument("--mistake", choices=list(MISTAKES), help="plant one, which must be noticed")
    options = parser.parse_args()
    faults: dict[str, Fault] = {}
    for name in options.faults.split(","):
        faults |= GROUPS.get(name) or {name: FAULTS[name]}
    names = [f"m{number}" for number in range(1, options.members + 1)]
    try:
        network = Loopback(names) if options.network == "loopback" else Namespaces(names, options.seed)
    except Impossible as error:
        say(f"not possible here: {error}; --network=loopback has kills and pauses")
        return EXIT_IMPOSSIBLE
    folder = options.folder or Path(tempfile.mkdtemp(prefix="raykube-robustness-"))
    say(f"seed {options.seed}, {options.members} members in {folder}")
    run = Run(network, folder, names, options.seed, say)
    for group, provide in ((PARTITIONS, network.set_rules), (DISKS, run.members.make_disks), (CLOCKS, run.make_clocks)):
        if not group.keys() & faults.keys():
            continue
        try:
            provide()
        except Impossible as error:
            say(f"not possible here: {', '.join(group)}: {error}")
            if options.faults != "all":
                return EXIT_IMPOSSIBLE
            faults = {name: fault for name, fault in faults.items() if name not in group}
    if options.mistake:
        run.members.program = [sys.executable, "-m", "tests.robustness.sabotage", options.mistake]
    shuffled = run.rng.sample(list(faults.items()), len(faults))
    plan = list(itertools.islice(itertools.cycle(shuffled), options.rounds))
    try:
        asyncio.run(live(run, plan))
    except Exception as error:
        where = "" if isinstance(error, AssertionError) else traceback.format_exc()
        say(f"{run.report}\nWRONG (seed {options.seed}, files in {folder}): {error}\n{where}")
        run.members.take_disks(keep=True)
        return 1
    finally:
        network.close()
    run.members.take_disks(keep=False)
    say(str(run.report))
    shutil.rmtree(folder)
    return 0


async def live(run: Run, plan: list[tuple[str, Fault]]) -> None:
    try:
        await run.start()
        await run.rounds(plan)
    finally:
        await run.close()


if __name__ == "__main__":
    sys.exit(main())
