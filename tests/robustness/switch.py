"""The network between the members: a program that carries every packet itself, and mistreats them as it is told.

Started with the open descriptors of tunnel devices, one per address; each is the only interface of a namespace. A line
of JSON on standard input sets the rules, and is answered with a line once they hold:

    {"blocked": [["10.77.0.1", "10.77.0.2"]], "loss": 0.05, "duplicate": 0.01, "delay_s": [0.0, 0.02]}

`blocked` pairs are one-way and lose everything without a word, like a cable that is cut. Packets that are delayed by
different times overtake each other. It needs nothing from the kernel but tunnel devices: no packet filter, no queue
discipline. It ends with its standard input.
"""

import contextlib
import heapq
import json
import os
import random
import select
import socket
import sys
import time
from typing import Any

PACKET_BYTES_MAX = 1 << 16
BURST = 32  # packets read from one device before others have their turn


class Switch:
    """Reads each device's packets and writes them to the device that has their destination."""

    def __init__(self, devices: dict[str, int], seed: int) -> None:
        self._address_of = {device: socket.inet_aton(address) for address, device in devices.items()}
        self._device_of = {address: device for device, address in self._address_of.items()}
        self._rng = random.Random(seed)
        self._late: list[tuple[float, int, int, bytes]] = []  # due, order, device, packet
        self._count = 0
        self.set_rules({})

    def set_rules(self, rules: dict[str, Any]) -> None:
        self._blocked = {(socket.inet_aton(one), socket.inet_aton(other)) for one, other in rules.get("blocked", ())}
        self._loss = float(rules.get("loss", 0.0))
        self._duplicate = float(rules.get("duplicate", 0.0))
        self._delay_s = tuple(rules.get("delay_s", (0.0, 0.0)))

    def on_readable(self, device: int) -> None:
        for _ in range(BURST):
            try:
                packet = os.read(device, PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            target = self._device_of.get(packet[16:20])  # IPv4's destination
            if target is None or (self._address_of[device], packet[16:20]) in self._blocked:
                continue
            if self._loss and self._rng.random() < self._loss:
                continue
            copies = 2 if self._duplicate and self._rng.random() < self._duplicate else 1
            for _ in range(copies):
                if self._delay_s[1]:
                    self._count += 1
                    due = time.monotonic() + self._rng.uniform(*self._delay_s)
                    heapq.heappush(self._late, (due, self._count, target, packet))
                else:
                    _send(target, packet)

    def send_due(self) -> float | None:
        """Sends what has waited long enough; returns the seconds until the next packet is due, None without one."""
        now = time.monotonic()
        while self._late and self._late[0][0] <= now:
            _, _, device, packet = heapq.heappop(self._late)
            _send(device, packet)
        return self._late[0][0] - now if self._late else None


def _send(device: int, packet: bytes) -> None:
    # A full queue loses packets, as everywhere.
    with contextlib.suppress(BlockingIOError, OSError):
        os.write(device, packet)


def main() -> None:
    devices: dict[str, int] = json.loads(sys.argv[1])
    switch = Switch(devices, int(sys.argv[2]))
    poll = select.epoll()
    for device in (*devices.values(), sys.stdin.fileno()):
        poll.register(device, select.EPOLLIN)
    while True:
        wait_s = switch.send_due()
        for device, _ in poll.poll(-1 if wait_s is None else wait_s):
            if device != sys.stdin.fileno():
                switch.on_readable(device)
                continue
            line = sys.stdin.readline()
            if not line:
                return
            switch.set_rules(json.loads(line))
            os.write(sys.stdout.fileno(), b"ok\n")


if __name__ == "__main__":
    main()
