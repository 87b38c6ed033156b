"""What components say of themselves at their health addresses: for when Ray, which else is asked, cannot be.

Each is asked as kubectl, etcdctl or a load balancer would ask it, all at once, with the cluster's certificates.
"""

import asyncio
import os
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from raykube.cluster.plan import COMPONENTS, Placement
from raykube.pb import etcd_pb2
from raykube.rpc import RpcError, Tls
from raykube.rpc.channel import Channel
from raykube.rpc.tls import client_context

TIMEOUT_S = 3.0
DETAIL_CHARS_MAX = 200
MAINTENANCE = etcd_pb2.DESCRIPTOR.services_by_name["Maintenance"]


@dataclass(frozen=True, slots=True)
class Said:
    """A component's own words. `healthy` is None when it has no address to be asked at."""

    healthy: bool | None
    role: str = ""
    detail: str = ""


def ask(placements: Iterable[Placement], folders: Sequence[Path]) -> dict[str, Said]:
    """What each placement says, by name. `folders`: where the cluster's certificates may be."""
    return asyncio.run(_ask_all(list(placements), folders))


async def _ask_all(placements: list[Placement], folders: Sequence[Path]) -> dict[str, Said]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:

        async def question(item: Placement) -> Said:
            scheme, _, path = COMPONENTS[item.component].page.partition(":")
            address = item.health_address
            if not (scheme and address):
                return Said(None, detail="unknown: it serves no health address")
            try:
                if scheme == "grpc":
                    return await _ask_store(address, pair("apiserver-etcd-client", folders))
                context = client_context(pair("admin", folders)) if scheme == "https" else None
            except ValueError as error:
                return Said(None, detail=f"unknown: {error}")
            return await _ask_page(session, f"{scheme}://{address}{path}", context)

        said = await asyncio.gather(*map(question, placements))
    return {item.name: one for item, one in zip(placements, said, strict=True)}


def pair(name: str, folders: Sequence[Path]) -> Tls:
    """The certificate `name` of the first folder that has it."""
    folder = next((each for each in folders if (each / f"{name}.key").exists()), folders[0])
    return Tls(folder / f"{name}.crt", folder / f"{name}.key", folder / "ca.crt")


async def _ask_page(session: aiohttp.ClientSession, url: str, context: ssl.SSLContext | None) -> Said:
    try:
        async with session.get(url, ssl=context or False, allow_redirects=False) as response:
            text = (await response.content.read(16 * DETAIL_CHARS_MAX)).decode(errors="replace").strip()
            if response.status == 200:
                return Said(True, detail="says that it is healthy")
            return Said(False, detail=" ".join(text.split())[:DETAIL_CHARS_MAX] or f"answers {response.status}")
    except TimeoutError:
        return Said(False, detail=f"no answer within {TIMEOUT_S:.0f} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Said(False, detail=f"no answer: {_reason(error)}"[:DETAIL_CHARS_MAX])


def _reason(error: Exception) -> str:
    """Why a page was not read, in the system's words: aiohttp's hold a context's repr and the address twice."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
    elif isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        if isinstance(cause, ssl.SSLError):
            why = cause.strerror or str(cause)
        else:
            why = os.strerror(cause.errno).lower() if cause.errno and cause.errno > 0 else cause.strerror or str(cause)
    else:
        return str(error) or type(error).__name__
    return f"cannot connect to {error.host}:{error.port}: {why}"


async def _ask_store(address: str, tls: Tls) -> Said:
    channel = Channel(address, tls)
    try:
        answer = await channel.stub(MAINTENANCE).Status(etcd_pb2.StatusRequest(), timeout=TIMEOUT_S)
    except RpcError as error:
        return Said(False, detail=f"no answer: {error.message}"[:DETAIL_CHARS_MAX])
    finally:
        await channel.close()
    if not answer.leader:
        return Said(False, "", "knows no leader")
    role = "learner" if answer.isLearner else "leader" if answer.leader == answer.header.member_id else "follower"
    return Said(True, role, f"term {answer.raftTerm}, revision {answer.header.revision}, leader {answer.leader:x}")
