"""The process that talks to the kernel for kube-proxy: nftables through libnftables, and conntrack.

A process of its own because a library may abort on what others have installed, and because it blocks. It ends with its
parent, at once: what a dead parent had asked for must not be committed after the next one has looked.

    parent ──► length (4 bytes, big endian), JSON {"nft": text, "json": bool, "check": bool} or {"flows": [...]}
           ◄── length, JSON {"code": 0, "out": "…", "error": ""}

Flows: each is {"family", "protocol", "address", "port", "keep": [[address, port], …]}: every tracked flow to that
address and port is forgotten but those to the endpoints to keep.
"""

import ctypes
import ctypes.util
import os
import signal
import socket
import subprocess
import sys
from typing import Any, BinaryIO

import orjson

PR_SET_PDEATHSIG = 1
OUTPUT_JSON, OUTPUT_NUMERIC = 1 << 4, (1 << 7) | (1 << 8) | (1 << 9) | (1 << 10)  # proto, priority, symbol, time
LIBRARIES = ("libnftables.so.1", "libnftables.so")

Answer = dict[str, Any]


class Library:
    """nftables through libnftables. Raises OSError when there is none."""

    def __init__(self) -> None:
        for name in LIBRARIES:
            try:
                self._lib = ctypes.CDLL(name)
                break
            except OSError as error:
                missing = error
        else:
            raise missing
        lib = self._lib
        lib.nft_ctx_new.restype = ctypes.c_void_p
        lib.nft_ctx_new.argtypes = [ctypes.c_uint32]
        for function in (lib.nft_ctx_get_output_buffer, lib.nft_ctx_get_error_buffer):
            function.restype = ctypes.c_char_p
            function.argtypes = [ctypes.c_void_p]
        for function in (lib.nft_ctx_buffer_output, lib.nft_ctx_buffer_error):
            function.argtypes = [ctypes.c_void_p]
        lib.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        lib.nft_ctx_set_dry_run.argtypes = [ctypes.c_void_p, ctypes.c_bool]
        lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        lib.nft_ctx_free.argtypes = [ctypes.c_void_p]

    def run(self, text: str, *, json: bool = False, check: bool = False) -> Answer:
        """One transaction, in a context of its own: one that is kept remembers objects that others have changed."""
        lib = self._lib
        context = lib.nft_ctx_new(0)
        if not context:
            return {"code": 1, "out": "", "error": "nft_ctx_new failed"}
        try:
            lib.nft_ctx_buffer_output(context)
            lib.nft_ctx_buffer_error(context)
            lib.nft_ctx_output_set_flags(context, OUTPUT_NUMERIC | (OUTPUT_JSON if json else 0))
            lib.nft_ctx_set_dry_run(context, check)
            code = lib.nft_run_cmd_from_buffer(context, text.encode())
            out, error = lib.nft_ctx_get_output_buffer(context), lib.nft_ctx_get_error_buffer(context)
            return {"code": code, "out": (out or b"").decode(), "error": (error or b"").decode(errors="replace")}
        finally:
            lib.nft_ctx_free(context)


class Program:
    """nftables through the program `nft`. Raises OSError when there is none."""

    def __init__(self) -> None:
        subprocess.run(["nft", "--version"], check=True, capture_output=True)

    def run(self, text: str, *, json: bool = False, check: bool = False) -> Answer:
        # Asked for JSON, it takes its standard input for JSON, too.
        asked = ["-j", *text.split()] if json else [*(["-c"] if check else []), "-f", "-"]
        ended = subprocess.run(["nft", "-n", *asked], input=text.encode(), capture_output=True, check=False)
        error = ended.stderr.decode(errors="replace")
        return {"code": ended.returncode, "out": ended.stdout.decode(), "error": error}


def forget(flows: list[dict[str, Any]]) -> Answer:
    """Deletes tracked flows; the answer's `out` is how many."""
    from pyroute2 import NFCTSocket  # 100 ms, which a node without UDP Services need not pay
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

    count, problems = 0, []
    for flow in flows:
        family = socket.AF_INET6 if flow["family"] == "ip6" else socket.AF_INET
        wanted = (flow["address"], flow["protocol"], flow["port"])
        keep = {tuple(endpoint) for endpoint in flow["keep"]}
        with NFCTSocket(nfgen_family=family) as conntrack:
            asked = NFCTAttrTuple(family=family, daddr=wanted[0], proto=wanted[1], dport=wanted[2])
            for entry in list(conntrack.dump(tuple_orig=asked)):
                if entry["nfgen_family"] != family:
                    continue
                there = NFCTAttrTuple.from_netlink(family, entry.get_attr("CTA_TUPLE_ORIG"))
                back = NFCTAttrTuple.from_netlink(family, entry.get_attr("CTA_TUPLE_REPLY"))
                # A kernel before 5.8 does not filter.
                if (there.daddr, there.proto, there.dport) != wanted or (back.saddr, back.sport) in keep:
                    continue
                try:
                    conntrack.entry("del", tuple_orig=there)
                    count += 1
                except Exception as error:
                    if getattr(error, "code", None) != 2:  # ENOENT: it ended by itself
                        problems.append(str(error))
    return {"code": 1 if problems else 0, "out": str(count), "error": "; ".join(problems[:3])}


def _read(source: BinaryIO) -> dict[str, Any] | None:
    head = source.read(4)
    if len(head) < 4:
        return None
    body = source.read(int.from_bytes(head, "big"))
    request: dict[str, Any] = orjson.loads(body)
    return request


def main(parent: int) -> None:
    """Serves the parent until it is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it died in between
    backend: Library | Program | None = None
    while (request := _read(sys.stdin.buffer)) is not None:
        try:
            if "flows" in request:
                answer = forget(request["flows"])
            else:
                if backend is None:
                    backend = _backend()
                answer = backend.run(request["nft"], json=request.get("json", False), check=request.get("check", False))
        except Exception as error:  # the parent reads it, and this process stays of use
            answer = {"code": 1, "out": "", "error": f"{type(error).__name__}: {error}"}
        body = orjson.dumps(answer)
        sys.stdout.buffer.write(len(body).to_bytes(4, "big") + body)
        sys.stdout.buffer.flush()


def _backend() -> Library | Program:
    try:
        return Library()
    except OSError as library:
        try:
            return Program()
        except (OSError, subprocess.CalledProcessError) as program:
            raise OSError(f"neither libnftables ({library}) nor nft ({program})") from None


if __name__ == "__main__":
    main(int(sys.argv[1]))
