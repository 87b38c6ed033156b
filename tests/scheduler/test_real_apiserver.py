"""The scheduler as the user system:kube-scheduler on a real store and apiserver: what RBAC gives it is enough."""

import asyncio
import ssl
from pathlib import Path

import aiohttp

from raykube.api.resources import by_path
from raykube.client import operations
from raykube.client.informer import Informer
from raykube.scheduler.config import Config
from raykube.scheduler.service import Service
from tests.kit import pki
from tests.kit.apiservers import Apiservers
from tests.kit.waiting import until
from tests.scheduler.objects import node

PODS, EVENTS = by_path("", "v1", "pods"), by_path("", "v1", "events")


def pod(name: str, cpu: str) -> operations.Object:
    container = {"name": "c", "image": "i", "command": ["x"], "resources": {"requests": {"cpu": cpu}}}
    spec = {"containers": [container], "automountServiceAccountToken": False}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


async def test_binds_reports_and_leads(tmp_path: Path) -> None:
    assert PODS is not None
    assert EVENTS is not None
    async with Apiservers(tmp_path) as servers, servers.client() as admin:
        tls = pki.tls("system:kube-scheduler", server=True)
        service = Service(
            Config(
                api_servers=[servers.address("grpc")],
                tls_cert_file=tls.cert_file,
                tls_private_key_file=tls.key_file,
                client_ca_file=tls.ca_file,
                secure_port=0,
            )
        )
        await service.start()
        pods, events = Informer(admin, PODS), Informer(admin, EVENTS)
        tasks = [asyncio.create_task(informer.run()) for informer in (pods, events)]
        try:
            account = {"kind": "ServiceAccount", "apiVersion": "v1"}
            account |= {"metadata": {"name": "default", "namespace": "default"}}
            batch = [
                account,
                node("a", cpu="2"),
                *(pod(f"p{number}", "100m") for number in range(20)),
                pod("big", "64"),
            ]
            results = await admin.write([operations.create(batch[0])])
            results += await admin.write([operations.create(obj) for obj in batch[1:]])
            assert {result.code for result in results} == {201}, [r.body for r in results if r.code != 201]

            def node_of(name: str) -> str:
                return str(((pods.get("default", name) or {}).get("spec") or {}).get("nodeName") or "")

            await until(lambda: all(node_of(f"p{number}") == "a" for number in range(20)), 30)

            def why() -> str:
                conditions = ((pods.get("default", "big") or {}).get("status") or {}).get("conditions") or []
                return next((c.get("message", "") for c in conditions if c["type"] == "PodScheduled"), "")

            expected = (
                "0/1 nodes are available: 1 Insufficient cpu. "
                "no new claims to deallocate, preemption: 0/1 nodes are available: "
                "1 Preemption is not helpful for scheduling."
            )
            await until(lambda: why() == expected, 20)
            await until(lambda: sum(event["reason"] == "Scheduled" for event in events.list()) == 20, 20)
            await until(lambda: any(event["reason"] == "FailedScheduling" for event in events.list()), 20)
            bound = pods.get("default", "p1")
            assert bound is not None
            assert any(c["type"] == "PodScheduled" and c["status"] == "True" for c in bound["status"]["conditions"])
            assert service.status()["role"] == "leader"
            await _health(service)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await service.stop()


async def _health(service: Service) -> None:
    """Health is for everybody; metrics for those with a certificate."""
    addresses = service.status()["addresses"]
    assert isinstance(addresses, dict)
    stranger = ssl.create_default_context(cafile=str(pki.tls("x").ca_file))
    async with aiohttp.ClientSession(f"https://{addresses['health']}") as session:
        async with session.get("/healthz", ssl=stranger) as response:
            assert response.status == 200
        async with session.get("/metrics", ssl=stranger) as response:
            assert response.status == 401
        async with session.get("/metrics", ssl=pki.client_context("kubernetes-admin", ("system:masters",))) as response:
            assert 'result="scheduled"} 20' in await response.text()
