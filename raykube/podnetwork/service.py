"""The pod network as a service: follows Nodes, Pods, Namespaces and NetworkPolicies, and keeps the kernel as they say.

    Nodes ────────► peers ──► Links (routes, tunnel)          a change of the kernel's own wakes it too
    own Node ─────► pod CIDRs ──► CNI file, masquerading
    Pods, … ──────► Policies ──► nft

While no apiserver answers, everything stays as it was last known.
"""

import asyncio
import logging
import os
import shutil
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from raykube.api.resources import builtin
from raykube.base.backoff import Backoff
from raykube.client.api import ApiClient
from raykube.client.core.listwatch import Change, ListWatch, identity
from raykube.client.core.sharing import Sharing
from raykube.client.events import EventRecorder
from raykube.client.informer import Informer
from raykube.nftables.core.text import removal, replacement, transaction
from raykube.nftables.kernel import Kernel, KernelError
from raykube.podnetwork import forwarding, links
from raykube.podnetwork.config import Config
from raykube.podnetwork.core.conflist import FILE_NAME, NETWORK_NAME, PluginKind, conflist
from raykube.podnetwork.core.endpoints import endpoint_of
from raykube.podnetwork.core.masquerade import MASQUERADE_HOOKS, MASQUERADE_TABLE, masquerading
from raykube.podnetwork.core.policies import HOOKS, TABLE, Policies
from raykube.podnetwork.core.policy import parse
from raykube.podnetwork.core.routes import Peer, peer_of, same_family, wanted
from raykube.podnetwork.routewatch import RouteWatch
from raykube.rpc.health import HealthServer
from raykube.rpc.lifetime import until_stopped
from raykube.rpc.listen import join_address, split_address

log = logging.getLogger(__name__)

RETRY = Backoff(initial_s=0.5, max_s=30.0)


class Service:
    """The pod network of one machine."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._name = config.hostname_override or socket.gethostname().lower()
        self._peers: dict[str, Peer] = {}
        self._policies = Policies(self._name)
        self._kernel = Kernel()
        self._known = False  # whether what is in the kernel is what `_policies` last gave out
        self._guarded = not config.network_policy  # policies were installed once: pods may start
        self._routes_news = asyncio.Event()
        self._policy_news = asyncio.Event()
        self._ready = asyncio.Event()
        self._failures: dict[str, str] = {}
        self._refused = ""  # why some peers have no route, while all else is done
        self._tasks: list[asyncio.Task[None]] = []
        self._client: ApiClient | None = None
        self._watch = RouteWatch(self._routes_news.set)
        self._stopped = asyncio.Event()
        self._health_address = ""
        self._health = HealthServer(self._problem, lambda: "", pages={"/healthz": self._healthz})
        self._written: tuple[tuple[str, ...], PluginKind, int] | None = None

    # -- life

    async def start(self) -> None:
        """Returns when the kernel is prepared; routes and rules follow as soon as an apiserver answers."""
        config = self._config
        if config.cleanup:
            await self.clear()
            self._stopped.set()
            return
        if shutil.which("modprobe"):
            with suppress(OSError):
                await self._load_br_netfilter()
        if config.healthz_bind_address:
            host, port = split_address(config.healthz_bind_address, 10257)
            self._health_address = join_address(host, await self._health.start(host, port))
        switches = {TABLE: config.network_policy, MASQUERADE_TABLE: config.masquerade}
        if off := "".join(removal(table) for table, on in switches.items() if not on):
            with suppress(KernelError):  # without nftables nothing was left
                await self._kernel.run(off)
        if config.network_policy and not await self._has_chains(TABLE, HOOKS):
            # The machine was started anew: the file outlived the rules, and the runtime waits for nothing else.
            (config.cni_conf_dir / FILE_NAME).unlink(missing_ok=True)
        self._watch.start()
        client = self._client = ApiClient(config.api_servers, config.tls)
        self._events = EventRecorder(client, "pod-network", self._name)
        nodes = Informer(client, builtin("v1", "Node"))
        nodes.add_batch_handler(self._on_nodes)
        runs = [nodes.run(), self._events.run(), self._keep("routes", [nodes], self._routes_news, self._sync_routes)]
        runs.append(self._watch_over())
        if config.network_policy:
            policies = Informer(client, builtin("networking.k8s.io/v1", "NetworkPolicy"))
            namespaces = Informer(client, builtin("v1", "Namespace"))
            # Every machine hears of all pods: endpoints are kept of them, no more.
            pods = Informer(client, builtin("v1", "Pod"), decode=Sharing(), machine=ListWatch(kept=identity))
            policies.add_batch_handler(self._on_policies)
            namespaces.add_batch_handler(self._on_namespaces)
            pods.add_batch_handler(self._on_pods)
            runs += [one.run() for one in (policies, namespaces, pods)]
            runs.append(self._keep("policies", [policies, namespaces, pods], self._policy_news, self._sync_policies))
        self._tasks = [asyncio.get_running_loop().create_task(run) for run in runs]

    async def _load_br_netfilter(self) -> None:
        """Packets between pods on one bridge meet the rules only with this module; without it ptp attaches pods."""
        if self._config.cni_plugin == "ptp" or links.has_br_netfilter():
            return
        process = await asyncio.create_subprocess_exec("modprobe", "-q", "br_netfilter")
        await process.wait()

    async def wait(self) -> None:
        """Returns after `stop`; raises what ended a part of the service."""
        await until_stopped(self._stopped, self._tasks)

    async def stop(self) -> None:
        """Routes, rules and the file stay: pods keep their network."""
        self._stopped.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._watch.stop()
        await self._health.stop()
        await self._kernel.stop()
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def clear(self) -> None:
        """Removes all that this machine holds of the pod network, but the bridge and what addresses its pods have only
        if no pod has a part in it."""
        await asyncio.to_thread(links.Links().remove)
        await asyncio.to_thread(forwarding.take_back)
        if await asyncio.to_thread(links.remove_idle_bridge, self._config.bridge):
            taken = self._config.cni_data_dir / NETWORK_NAME
            await asyncio.to_thread(shutil.rmtree, taken, ignore_errors=True)
        await self._kernel.run(removal(TABLE) + removal(MASQUERADE_TABLE))
        (self._config.cni_conf_dir / FILE_NAME).unlink(missing_ok=True)

    # -- what informers tell

    def _on_nodes(self, news: list[Change]) -> None:
        for change in news:
            name = change.object["metadata"]["name"]
            peer = peer_of(change.new) if change.new is not None else None
            if peer == self._peers.get(name):
                continue  # a heartbeat
            if peer is None:
                del self._peers[name]
            else:
                self._peers[name] = peer
            self._routes_news.set()

    def _on_pods(self, news: list[Change]) -> None:
        for change in news:
            metadata = change.object["metadata"]
            key = (metadata.get("namespace", ""), metadata["name"])
            if self._policies.set_pod(key, endpoint_of(change.new) if change.new is not None else None):
                self._policy_news.set()

    def _on_namespaces(self, news: list[Change]) -> None:
        for change in news:
            metadata = change.object["metadata"]
            labels = None if change.new is None else metadata.get("labels") or {}
            if self._policies.set_namespace(metadata["name"], labels):
                self._policy_news.set()

    def _on_policies(self, news: list[Change]) -> None:
        for change in news:
            metadata = change.object["metadata"]
            key = (metadata.get("namespace", ""), metadata["name"])
            policy = parse(change.new) if change.new is not None else None
            for flaw in policy.flaws if policy else ():
                log.warning("NetworkPolicy %s/%s allows less than it says: %s", *key, flaw)
                self._events.record(change.object, "Warning", "UnreadableRule", f"node {self._name}: {flaw}")
            if self._policies.set_policy(key, policy):
                self._policy_news.set()

    # -- what follows from it

    async def _keep(
        self, what: str, informers: list[Informer], news: asyncio.Event, sync: Callable[[], Awaitable[None]]
    ) -> None:
        """Calls `sync` once the informers are complete, then whenever there is news, and again after a failure."""
        for informer in informers:
            await informer.synced()
        news.set()
        failures = 0
        while True:
            await news.wait()
            news.clear()
            try:
                await sync()
                failures = 0
                self._failures.pop(what, None)
            except OSError as error:
                failures += 1
                problem = self._failures[what] = str(error).partition("\n")[0]  # of nft's, the rest quotes the text
                log.warning("%s: %s", what, problem)
                news.set()
                await asyncio.sleep(RETRY.delay_s(failures))
            await asyncio.sleep(self._config.min_sync_period)

    async def _sync_routes(self) -> None:
        own = self._peers.get(self._name)
        if own is None or not own.addresses or not own.pod_cidrs:
            return  # not registered yet: its registration is news
        config = self._config
        segments = await asyncio.to_thread(links.segments)
        plan = wanted(own, self._peers.values(), segments, config.backend, config.cluster_cidr)
        local = same_family(own.addresses, 4) or own.addresses[0]
        own_mtu = await asyncio.to_thread(links.mtu_of, local)
        tunnel = links.Tunnel(
            local, own.pod_cidrs, config.vxlan_vni, config.vxlan_port, links.pod_mtu(own_mtu, tunnels=True)
        )
        done, problems = await asyncio.to_thread(links.Links().sync, plan, tunnel)
        if done:
            log.info("routes: %d changed, %d peers", done, len(plan.routes))
        # "auto" may need the tunnel when the next machine comes, and running pods keep their MTU.
        mtu = config.mtu or links.pod_mtu(own_mtu, tunnels=config.backend != "direct")
        if self._guarded:
            await self._attach(own, mtu)
        # No failure, or the next Node would wait as long as one that is odd; `_watch_over` has it tried again.
        refused = f"{problems[0]}, and {len(problems) - 1} more" if len(problems) > 1 else "".join(problems)
        if refused and refused != self._refused:
            log.warning("routes: %s", refused)
        self._refused = refused

    async def _attach(self, own: Peer, mtu: int) -> None:
        """Masquerading and the CNI file, which says to the runtime that pods may come: last, and not before the
        policies are there, for a pod that starts without them is open to all."""
        config = self._config
        bridged = links.has_br_netfilter() if config.cni_plugin == "auto" else config.cni_plugin == "bridge"
        kind: PluginKind = "bridge" if bridged else "ptp"
        facts = (own.pod_cidrs, kind, mtu)
        path = config.cni_conf_dir / FILE_NAME
        if facts == self._written and path.exists():
            return
        versions = {6 if ":" in cidr else 4 for cidr in own.pod_cidrs}
        links.set_kernel(versions, bridged=bridged and links.has_br_netfilter())
        if config.forward_rules:
            await asyncio.to_thread(forwarding.let_through, config.cluster_cidr)
        if config.masquerade:
            items = masquerading(own.pod_cidrs, config.cluster_cidr)
            await self._kernel.run(replacement(MASQUERADE_TABLE, items))
        available, data_dir = links.plugins(config.cni_bin_dir), str(config.cni_data_dir)
        text = conflist(own.pod_cidrs, kind, bridge=config.bridge, mtu=mtu, available=available, data_dir=data_dir)
        await asyncio.to_thread(_write_if_changed, path, text)
        self._written = facts
        self._ready.set()

    async def _sync_policies(self) -> None:
        delta = self._policies.take()
        text = transaction(TABLE, delta) if self._known else replacement(TABLE, self._policies.items)
        self._known = False  # until it is done, and after a failure
        if text:
            await self._kernel.run(text)
        self._known = True
        if not self._guarded:
            self._guarded = True
            self._routes_news.set()

    async def _watch_over(self) -> None:
        """Looks now and then whether the tables are still there: whoever flushes the ruleset (a firewall that is loaded
        anew) opens all pods to all, and tells nobody. Nor does who starts to drop what is forwarded. What the kernel
        refused is tried again here."""
        while True:
            await asyncio.sleep(self._config.sync_period)
            if self._known and not await self._has_chains(TABLE, HOOKS):
                log.warning("the table %s is gone, or not as it was: it is installed anew", TABLE)
                self._known = False
                self._policy_news.set()
            masquerades = self._written is not None and self._config.masquerade
            if masquerades and not await self._has_chains(MASQUERADE_TABLE, MASQUERADE_HOOKS):
                log.warning("the table %s is gone, or not as it was: it is installed anew", MASQUERADE_TABLE)
                self._written = None
                self._routes_news.set()
            if self._written is not None and self._config.forward_rules:
                await asyncio.to_thread(forwarding.let_through, self._config.cluster_cidr)
            if self._refused:
                self._routes_news.set()

    async def _has_chains(self, table: str, chains: tuple[str, ...]) -> bool:
        try:
            await self._kernel.require_chains(f"{table} {chain}" for chain in chains)
        except KernelError:
            return False
        return True

    # -- what it tells

    def _problem(self) -> str | None:
        if any(task.done() for task in self._tasks):
            return "a part of it has ended"
        return "; ".join(filter(None, [*self._failures.values(), self._refused])) or (
            None if self._ready.is_set() else "waiting for this node's pod CIDR, or for NetworkPolicies"
        )

    def _healthz(self) -> web.Response:
        problem = self._problem()
        return web.Response(text=problem or "ok", status=503 if problem else 200)

    def status(self) -> dict[str, object]:
        problem = self._problem()
        return {
            "role": "active",
            "healthy": problem is None,
            "detail": problem or f"{len(self._peers)} nodes",
            "addresses": {"healthz": self._health_address} if self._health_address else {},
        }


def _write_if_changed(path: Path, text: bytes) -> None:
    """Atomically: the runtime reads the folder whenever something in it changes."""
    with suppress(OSError):
        if path.read_bytes() == text:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")  # the runtime takes names that end in .conf, .conflist and .json
    with draft.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
