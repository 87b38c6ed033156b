"""The proxy in the kernel: installs what the table says as rules of nftables, in tables of its own.

    Table ──Change──► core.nftables.Desired ──text──► Kernel (a child process) ──► one transaction for both families

The rules outlive this process. At its start it reads what is installed and changes the difference, so that traffic goes
on and what is stale goes away. A transaction that the kernel refuses has changed nothing: what is installed is read
again, and, when that does not help, the tables are replaced as a whole.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace

from raykube.base.backoff import Backoff
from raykube.base.clock import Clock
from raykube.kubeproxy.core.conntrack import StaleFlows, gone_while_away, stale
from raykube.kubeproxy.core.metrics import Metrics
from raykube.kubeproxy.core.nftables.desired import Desired
from raykube.kubeproxy.core.nftables.layout import FAMILIES, TABLE, Options, base, family_of, table_of
from raykube.kubeproxy.core.table import Table
from raykube.nftables.core.listing import Unreadable, installed
from raykube.nftables.core.objects import Delta
from raykube.nftables.core.ruleset import difference
from raykube.nftables.core.text import removal, replacement, transaction
from raykube.nftables.kernel import Child, ChildEnded, Kernel, KernelError

log = logging.getLogger(__name__)

RETRY = Backoff(initial_s=0.5, max_s=30.0)
ANY_ADDRESS = ("0.0.0.0", "::")  # node ports have one rule each; `node-ips` says which addresses they are for
ATTEMPTS = 3
FLOWS_AT_ONCE = 100  # addresses whose flows the child looks for in one go
FAILURES_MAX = 3  # syncs in a row, after which this proxy is not healthy


async def usable_families(kernel: Kernel) -> list[str]:
    """The families whose tables this kernel takes. Raises KernelError where it takes no IPv4, or was not asked."""
    found = []
    for family in FAMILIES:
        try:
            await kernel.run(replacement(table_of(family), base(family, Options())), check=True)
            found.append(family)
        except KernelError as error:
            if family == "ip" or isinstance(error, ChildEnded):
                raise
            log.warning("no Services for IPv6: %s", str(error).splitlines()[0])
    return found


async def cleanup(kernel: Kernel) -> list[str]:
    """Removes our tables; returns the families that had one. Raises KernelError."""
    found = []
    for family in FAMILIES:
        if await kernel.has_table(table_of(family)):
            await kernel.run(removal(table_of(family)))
            found.append(family)
    return found


class NftProxier:
    """The rules of this node, in the kernel."""

    def __init__(
        self,
        table: Table,
        kernel: Kernel,
        families: Iterable[str],
        options: Options,
        metrics: Metrics,
        clock: Clock,
        conntrack: Child | None = None,
    ) -> None:
        """`conntrack` forgets UDP flows (`flows`)."""
        self.table = table
        self.desired = Desired(table.node, options, families)
        self.unbound = ()  # rules never clash with what listens
        self._options = options
        self._kernel = kernel
        self._conntrack = conntrack or Child("raykube.kubeproxy.flows")
        self._metrics = metrics
        self._clock = clock
        self._node_ips: tuple[str, ...] = ()
        self._known = False  # whether what is installed is what `desired` last gave out
        self._lost = False  # somebody removed a table, which `intact` saw
        self._started = False
        self._failures = 0
        self._retry_at: float | None = None
        self._stale: list[StaleFlows] = []  # once the rules are installed
        self._due: dict[tuple[str, int], StaleFlows] = {}  # now; the newest word on an address, and last
        self._forgetting: asyncio.Task[None] | None = None

    @property
    def failing(self) -> bool:
        """Whether the rules are known to be old, and another attempt did not help."""
        return self._failures >= FAILURES_MAX

    @property
    def served(self) -> int:
        """How many addresses and ports are served."""
        return sum(rule.served for rule in self.desired.rules.values())

    def set_node(self, zone: str, addresses: Iterable[str], pod_networks: Iterable[str]) -> None:
        """What the node is, from the next sync on."""
        self._node_ips = tuple(addresses)
        self.table.set_node(zone, ANY_ADDRESS)
        self.desired.set_node_ips(self._node_ips)
        self._options = replace(self._options, pod_networks=tuple(pod_networks))
        self.desired.set_options(self._options)

    async def sync(self) -> None:
        """Brings the kernel to what the table says now. A refusal is logged, counted and tried again."""
        started = self._clock.monotonic()
        change = self.table.sync()
        rules = self.desired.rules
        for frontend in change.removed:
            self._stale += stale(frontend, rules.get(frontend), None, self._node_ips)
        for frontend, rule in change.set.items():
            self._stale += stale(frontend, rules.get(frontend), rule, self._node_ips)
        self.desired.apply(change)
        try:
            full = await self._install()
        except KernelError as error:
            self._failures += 1
            self._retry_at = self._clock.monotonic() + RETRY.delay_s(self._failures)
            log.error("rules not installed, the former ones stay: %s", error)
            return
        self._failures, self._retry_at = 0, None
        now = self._clock.monotonic()
        self._metrics.on_sync(now - started, self._clock.now(), full=full)
        self._metrics.frontends = len(rules)
        for flow in self._stale:
            self._due.pop((flow.address, flow.port), None)
            self._due[flow.address, flow.port] = flow
        self._stale = []
        if self._due and (self._forgetting is None or self._forgetting.done()):
            self._forgetting = asyncio.get_running_loop().create_task(self._forget())

    def next_retry(self) -> float | None:
        """When to sync again though nothing has changed, on the monotonic clock."""
        return self._retry_at

    async def intact(self) -> bool:
        """Whether the tables are still there; if not (`nft flush ruleset`), the next sync installs them again."""
        try:
            await self._kernel.require_chains(f"{table_of(family)} services" for family in self.desired.families)
        except KernelError as error:
            log.warning("the table %s is not as it was, comparing: %s", TABLE, str(error).splitlines()[0])
            self._lost = True
        return not self._lost

    async def _install(self) -> bool:
        """Whether everything was compared. Raises KernelError."""
        for attempt in range(ATTEMPTS):
            full = not self._known or self._lost
            self._lost = False
            try:
                deltas = self.desired.take()
                if attempt == ATTEMPTS - 1:
                    text = "".join(replacement(table_of(family), self.desired.items(family)) for family in deltas)
                else:
                    if full:
                        deltas = await self._compared()
                    text = "".join(transaction(table_of(family), delta) for family, delta in deltas.items())
                self._known = False
                if text:
                    await self._kernel.run(text)
                self._known = True
            except KernelError as error:
                self._metrics.sync_failures += 1
                if attempt == ATTEMPTS - 1:
                    raise
                log.warning("a change of the rules was refused; comparing with what is installed: %s", error)
                continue
            return full
        raise AssertionError("unreachable")

    async def _compared(self) -> dict[str, Delta]:
        """What there is to change in what is installed. Raises KernelError."""
        deltas: dict[str, Delta] = {}
        for family in self.desired.families:
            listing = await self._kernel.list_table(table_of(family))
            try:
                items = installed(listing, self.desired.base(family)) if listing is not None else {}
            except Unreadable as error:
                raise KernelError(f"table {table_of(family)}: {error}") from None
            deltas[family] = difference(items, self.desired.items(family))
            if not self._started:
                served = {(flow.address, flow.port) for flow in self._stale}  # it may be in another map than before
                gone = gone_while_away(deltas[family], family, self._node_ips)
                self._stale += [flow for flow in gone if (flow.address, flow.port) not in served]
        self._started = True
        return deltas

    async def _forget(self) -> None:
        """Beside the rules, and in pieces: a table of a hundred thousand flows, or a thousand Services of which a proxy
        that has just started cannot know what they were, must not hold up rules. The newest go first: an endpoint
        went just now, while most of the others have nothing to forget."""
        while self._due:
            part = [self._due.popitem()[1] for _ in range(min(FLOWS_AT_ONCE, len(self._due)))]
            asked = [
                {
                    "family": family_of(flow.address),
                    "protocol": 17,
                    "address": flow.address,
                    "port": flow.port,
                    "keep": sorted(flow.keep),
                }
                for flow in part
            ]
            try:
                self._metrics.flows_forgotten += int(await self._conntrack.ask({"flows": asked}))
            except KernelError as error:
                log.warning("UDP flows to former endpoints live on until the next change: %s", error)
                self._due = {(flow.address, flow.port): flow for flow in part} | self._due
                return

    async def stop(self) -> None:
        """Ends the child processes; the rules stay."""
        if self._forgetting is not None:
            self._forgetting.cancel()
            await asyncio.gather(self._forgetting, return_exceptions=True)
        await self._kernel.stop()
        await self._conntrack.stop()
