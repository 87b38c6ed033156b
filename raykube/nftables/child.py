"""The child's side of a pipe to a process that may block or die on what the kernel holds.

It ends with its parent, at once: what a dead parent had asked for must not be committed after the next one has looked.

    parent ──► length (4 bytes, big endian), JSON: what the program understands
           ◄── length, JSON {"code": 0, "out": "…", "error": ""}
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import orjson

PR_SET_PDEATHSIG = 1

Request = dict[str, Any]
Answer = dict[str, Any]


def serve(parent: int, answer: Callable[[Request], Answer], tidy: Callable[[], None] = lambda: None) -> None:
    """Answers the parent's requests until it is gone; `tidy` runs when an answer is on its way."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it died in between
    while (request := _read(sys.stdin.buffer)) is not None:
        try:
            found = answer(request)
        except Exception as error:  # the parent reads it, and this process stays of use
            found = {"code": 1, "out": "", "error": f"{type(error).__name__}: {error}"}
        body = orjson.dumps(found)
        sys.stdout.buffer.write(len(body).to_bytes(4, "big") + body)
        sys.stdout.buffer.flush()
        tidy()


def _read(source: BinaryIO) -> Request | None:
    head = source.read(4)
    if len(head) < 4:
        return None
    request: Request = orjson.loads(source.read(int.from_bytes(head, "big")))
    return request
