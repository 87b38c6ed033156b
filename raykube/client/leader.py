"""Leader election between the instances of one component, on a Lease in kube-system (decisions: `core.election`).

`run` campaigns until cancelled: it calls `on_started` when this instance becomes the leader and `on_stopped` when it
no longer is, and gives the Lease up when it is cancelled, so that the next one takes over at once. After a loss,
`on_stopped` comes at least lease_duration - renew_deadline before somebody else's `on_started`.
"""

import asyncio
import logging
import random
import socket
import uuid
from collections.abc import Callable
from contextlib import suppress

from raykube.api.errors import ApiError
from raykube.api.resources import Resource, by_path
from raykube.base.clock import Clock
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.config import ElectedConfig
from raykube.client.core.election import Election, Lease
from raykube.rpc.clock import SystemClock

log = logging.getLogger(__name__)

JITTER = 1.2  # candidates that start together do not stay in step (client-go's JitterFactor)


def _leases() -> Resource:
    resource = by_path("coordination.k8s.io", "v1", "leases")
    assert resource is not None
    return resource


class LeaderElector:
    """One candidate. `leading` says whether it leads now."""

    def __init__(
        self,
        client: ApiClient,
        name: str,
        identity: str,
        lease_duration: float = 15,
        renew_deadline: float = 10,
        retry_period: float = 2,
        *,
        namespace: str = "kube-system",
        on_started: Callable[[], None] = lambda: None,
        on_stopped: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
    ) -> None:
        if renew_deadline <= retry_period * JITTER:
            raise ValueError("the renew deadline must be greater than 1.2 times the retry period")
        self._client = client
        self._election = Election(namespace, name, identity, lease_duration, renew_deadline)
        self._retry_period_s = retry_period
        self._on_started = on_started
        self._on_stopped = on_stopped
        self._clock = clock or SystemClock()
        self._resource = _leases()
        self._announced = False
        self._became = asyncio.Event()

    @classmethod
    def of(
        cls, config: ElectedConfig, client: ApiClient, on_started: Callable[[], None], on_stopped: Callable[[], None]
    ) -> "LeaderElector":
        """A candidate as the flags of a component say; its identity is new at each start."""
        return cls(
            client,
            config.leader_elect_resource_name,
            f"{socket.gethostname()}_{uuid.uuid4()}",
            config.leader_elect_lease_duration,
            config.leader_elect_renew_deadline,
            config.leader_elect_retry_period,
            namespace=config.leader_elect_resource_namespace,
            on_started=on_started,
            on_stopped=on_stopped,
        )

    @property
    def leading(self) -> bool:
        return self._announced

    @property
    def holder(self) -> str:
        """The identity that holds the Lease as far as seen."""
        return self._election.holder

    @property
    def term(self) -> str:
        """Another one each time that the Lease changes hands; the same to who lost it for a moment, to nobody."""
        return self._election.term

    async def led(self) -> None:
        """Returns when this instance leads."""
        await self._became.wait()

    async def run(self) -> None:
        """Campaigns, leads, campaigns again; until cancelled."""
        try:
            while True:
                started = self._clock.monotonic()
                left = self._election.renew_deadline_s
                if self._election.leading:
                    left = max(0.1, self._election.renewed_at + left - started)
                try:
                    # An answer that comes later than the renew deadline is worth nothing.
                    async with asyncio.timeout(left):
                        await self._round()
                except (ApiError, TimeoutError) as error:
                    log.debug("lease %s: %s", self._election.name, error)
                if self._election.expired(self._clock.monotonic()):
                    self._election.leading = False
                    log.warning("lost the lease %s: could not renew it in time", self._election.name)
                self._announce()
                pause_s = self._retry_period_s * (1 if self._election.leading else random.uniform(1.0, JITTER))
                await asyncio.sleep(pause_s)
        finally:
            await self._give_up()

    async def _round(self) -> None:
        election = self._election
        if not election.leading:
            found = await self._read()
            election.on_observed(found, self._clock.monotonic())  # not before: it may have been renewed meanwhile
        now = self._clock.monotonic()
        proposal = election.propose(now, self._clock.now())
        if proposal is None:
            return
        try:
            election.on_written(await self._write(proposal), now)
        except ApiError as error:
            if error.code not in (404, 409):
                raise
            # Somebody wrote in between (or an attempt of ours did, whose answer was lost): look again.
            election.on_observed(await self._read(), self._clock.monotonic())

    async def _read(self) -> Lease | None:
        try:
            return await self._client.get(self._resource, self._election.namespace, self._election.name)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def _write(self, lease: Lease) -> Lease:
        make = operations.update if self._election.lease is not None else operations.create
        return await self._client.write_one(make(lease))

    def _announce(self) -> None:
        if self._election.leading == self._announced:
            return
        self._announced = self._election.leading
        if self._announced:
            log.info("%s leads %s", self._election.identity, self._election.name)
            self._became.set()
            self._on_started()
        else:
            self._became.clear()
            self._on_stopped()

    async def _give_up(self) -> None:
        lease = self._election.release(self._clock.now())
        self._election.leading = False
        self._announce()
        if lease is not None:
            with suppress(ApiError, TimeoutError):
                async with asyncio.timeout(2):
                    await self._write(lease)
