"""The program of the child process that talks nftables: through libnftables, or `nft` where there is no library.

A process of its own because a library may abort on what others have installed, and because it blocks.

    request: {"nft": text, "json": bool, "check": bool}
"""

import ctypes
import shutil
import subprocess
import sys
from typing import Any

from raykube.nftables.child import Answer, serve

OUTPUT_JSON, OUTPUT_NUMERIC = 1 << 4, (1 << 7) | (1 << 8) | (1 << 9) | (1 << 10)  # proto, priority, symbol, time
LIBRARIES = ("libnftables.so.1", "libnftables.so")
SYSTEM_PATH = "/usr/sbin:/sbin:/usr/local/sbin"


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
        self._spent: list[int] = []

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
            self._spent.append(context)

    def tidy(self) -> None:
        """Frees the contexts that were used. Closing one's socket waits up to 15 ms until the kernel has freed what the
        transaction replaced; the rules are live before that.
        """
        while self._spent:
            self._lib.nft_ctx_free(self._spent.pop())


class Program:
    """nftables through the program `nft`. Raises OSError when there is none."""

    def __init__(self) -> None:
        path = shutil.which("nft") or shutil.which("nft", path=SYSTEM_PATH)
        if path is None:
            raise FileNotFoundError("there is no program nft: install the package nftables")
        self._path = path

    def run(self, text: str, *, json: bool = False, check: bool = False) -> Answer:
        # Asked for JSON, it takes its standard input for JSON, too.
        asked = ["-j", *text.split()] if json else [*(["-c"] if check else []), "-f", "-"]
        ended = subprocess.run([self._path, "-n", *asked], input=text.encode(), capture_output=True, check=False)
        error = ended.stderr.decode(errors="replace")
        return {"code": ended.returncode, "out": ended.stdout.decode(), "error": error}

    def tidy(self) -> None:
        """Nothing is left of a program that ended."""


class Backend:
    """The library or the program, found at the first request."""

    def __init__(self) -> None:
        self._found: Library | Program | None = None

    def answer(self, request: dict[str, Any]) -> Answer:
        """Runs one transaction. Raises OSError when this machine has neither."""
        if self._found is None:
            self._found = _find()
        return self._found.run(request["nft"], json=request.get("json", False), check=request.get("check", False))

    def tidy(self) -> None:
        """What can be done after the answer is on its way."""
        if self._found is not None:
            self._found.tidy()


def _find() -> Library | Program:
    try:
        return Library()
    except OSError as library:
        try:
            return Program()
        except OSError as program:
            raise OSError(f"no libnftables ({library}), and {program}") from None


if __name__ == "__main__":
    backend = Backend()
    serve(int(sys.argv[1]), backend.answer, backend.tidy)
