"""The certificates of a cluster's machines, made wherever the authority's files are: by `up` on the operator's machine,
and by a steward on any machine with a member of the store.
"""

import fcntl
import time
from pathlib import Path

from raykube.cluster import addresses, pki
from raykube.cluster.state import ClusterState

LOCK = ".lock"


def certify(state: ClusterState, folder: Path) -> list[str]:
    """Makes `folder` hold every certificate of the cluster; returns the names of those that were (re)issued.

    One at a time: `up` and the steward of its machine have the same folder, and a certificate of one beside a key of
    the other is good for nothing. Blocks. Raises OSError, and ValueError with a line that says what to do.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return pki.write_pki(
            folder,
            {machine.name: [machine.address] for machine in state.machines},
            now=time.time(),
            service_ip=addresses.first_service_address(state),
            extra_sans=[addresses.api_address(state.subnet)] if state.local else [],
        )
