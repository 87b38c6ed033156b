"""The steward renews certificates by their date, though nothing else changes."""

import asyncio
import fcntl
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509

from raykube.cluster import authority, pki, placement
from raykube.cluster.plan import plan
from raykube.cluster.state import ClusterState, Machine
from raykube.cluster.steward import tending
from raykube.cluster.steward.config import Config
from raykube.cluster.steward.decide import Member

DAY_S = 86400.0


def test_certificates_are_renewed_long_before_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(name="c-1", address="127.9.0.2", index=1, control_plane=True)
    state = ClusterState(name="c", id="f" * 32, subnet=9, local=True, machines=[machine])
    clock = SimpleNamespace(days=0.0)
    given: list[set[str]] = []

    def told(items: Any, *_: object) -> None:
        given.append({item.name for item in items})

    async def on_ray(call: Callable[[], Any], _timeout_s: float) -> Any:
        return call()

    begin = time.time()
    monkeypatch.setattr(authority, "time", SimpleNamespace(time=lambda: begin + clock.days * DAY_S))
    monkeypatch.setattr(tending, "time", SimpleNamespace(monotonic=lambda: clock.days * DAY_S))
    monkeypatch.setattr(placement, "renew_files", told)
    steward = tending.Tending(Config(state=state, machine="c-1", data_dir=tmp_path), on_ray)
    items = plan(state, tmp_path)

    def at(days: float) -> bytes:
        clock.days = days
        asyncio.run(steward.renew_certificates(items, state))
        return pki.read_pair(tmp_path / "pki", "kv").cert

    first = at(0.0)
    assert given == [{item.name for item in items}], "a new leader's certificates are other ones"
    assert at(0.01) == first
    assert len(given) == 1, "not in every pass"
    assert at(200.0) == first
    assert len(given) == 2, "a machine that was away gets what it missed"
    assert at(250.0) != first
    assert len(given) == 3


def test_apiservers_are_known_by_the_address_of_a_new_machine_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its router leads to those that run: clients that ask there would be told that this is another server."""
    first, second = (
        Machine(name=f"c-{n}", address=f"10.0.0.{n}", index=n, control_plane=n == 1, runtime="") for n in (1, 2)
    )
    state = ClusterState(name="c", id="f" * 32, subnet=0, local=False, machines=[first], generation=1)
    given: list[set[str]] = []
    started: list[str] = []

    async def on_ray(call: Callable[[], Any], _timeout_s: float) -> Any:
        return call()

    async def labelled(*_: object) -> bool:
        return True

    monkeypatch.setattr(placement, "renew", lambda *_: None)
    monkeypatch.setattr(placement, "renew_files", lambda items, *_: given.append({item.name for item in items}))
    monkeypatch.setattr(placement, "start", lambda item, *_: started.append(item.name))
    monkeypatch.setattr(tending.nodes, "show_role", labelled)
    steward = tending.Tending(Config(state=state, machine="c-1", data_dir=tmp_path), on_ray)

    def tend(state: ClusterState) -> None:
        rows = [{"NodeManagerAddress": machine.address, "Alive": True} for machine in state.machines]
        sight = tending.Sight(
            (Member(1, "c-1"),), rows, {item.name for item in plan(state, tmp_path)} - {"kubelet-c-2"}
        )
        asyncio.run(steward.tend(None, state, 1, sight))  # type: ignore[arg-type]

    tend(state)
    tend(state)
    assert len(given) == 1
    state = state.model_copy(update={"machines": [first, second], "generation": 2})
    tend(state)
    assert started == ["kubelet-c-2"]
    assert "apiserver-c-1" in given[-1]
    assert len(given) == 2
    names = x509.load_pem_x509_certificate((tmp_path / "pki" / "apiserver.crt").read_bytes()).extensions
    assert "10.0.0.2" in str(names.get_extension_for_class(x509.SubjectAlternativeName))
    tend(state)
    assert len(given) == 2


def test_who_makes_certificates_has_their_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one has the certificate of the other's key: `up` and the steward beside it see a new machine together."""
    machine = Machine(name="c-1", address="127.9.0.2", index=1, control_plane=True)
    state = ClusterState(name="c", id="f" * 32, subnet=9, local=True, machines=[machine])
    write_pair = pki.write_pair
    kept_out = 0

    def write(directory: Path, name: str, pair: pki.PemPair) -> None:
        nonlocal kept_out
        with (directory / authority.LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                kept_out += 1
        write_pair(directory, name, pair)

    monkeypatch.setattr(pki, "write_pair", write)
    written = authority.certify(state, tmp_path / "pki")
    assert kept_out == len(written) - 1, "all pairs, and the key of ServiceAccounts"
    assert authority.certify(state, tmp_path / "pki") == []
