"""A container with what only this process of the runtime knows of it."""

import asyncio
import subprocess
from dataclasses import dataclass, field

from raykube.runtime import processes
from raykube.runtime.core.records import Container


@dataclass(slots=True)
class Live:
    record: Container
    shim: processes.Handle | None = None
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    commands: "set[subprocess.Popen[bytes]]" = field(default_factory=set)
    entered: bool = False  # by commands, which may have left something running that is not below the shim
