"""What containers use, read from /proc."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raykube.pb import cri_pb2

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    cpu_ns: int
    rss_bytes: int
    processes: int
    page_faults: int
    major_faults: int


def usage_of(pids: Iterable[int]) -> Usage:
    """The sum over processes, with the time of children they have waited for. One that is gone counts nothing."""
    cpu = rss = count = faults = major = 0
    for pid in pids:
        with suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            cpu += sum(int(field) for field in fields[11:15])
            faults += int(fields[7])
            major += int(fields[9])
            rss += int(fields[21]) * PAGE_BYTES
            count += 1
    return Usage(cpu * TICK_NS, rss, count, faults, major)


def cpu_usage(usage: Usage) -> cri_pb2.CpuUsage:
    return cri_pb2.CpuUsage(timestamp=time.time_ns(), usage_core_nano_seconds=cri_pb2.UInt64Value(value=usage.cpu_ns))


def memory_usage(usage: Usage) -> cri_pb2.MemoryUsage:
    def number(value: int) -> cri_pb2.UInt64Value:
        return cri_pb2.UInt64Value(value=value)

    return cri_pb2.MemoryUsage(
        timestamp=time.time_ns(),
        working_set_bytes=number(usage.rss_bytes),
        usage_bytes=number(usage.rss_bytes),
        rss_bytes=number(usage.rss_bytes),
        page_faults=number(usage.page_faults),
        major_page_faults=number(usage.major_faults),
    )
