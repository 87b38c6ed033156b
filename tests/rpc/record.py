"""Records real conversations into `testdata/`, as seeds of the fuzz tests: `python -m tests.rpc.record`.

A file has a line for each piece that crossed the wire: `>` (from the client) or `<`, and the bytes in hexadecimal.
"""

import asyncio
import contextlib
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from tests.kit.etcd import etcd_program, real_etcd
from tests.rpc.echo import Bytes, Handler, say, served

FOLDER = Path(__file__).parent / "testdata"
Piece = tuple[str, bytes]


def conversations() -> dict[str, list[Piece]]:
    """What was recorded, by name."""
    found = {}
    for path in sorted(FOLDER.glob("*.txt")):
        lines = [line.split(" ") for line in path.read_text().splitlines()]
        found[path.stem] = [(way, bytes.fromhex(text)) for way, text in lines]
    return found


def said(pieces: list[Piece], way: str) -> bytes:
    """All bytes of one direction."""
    return b"".join(data for side, data in pieces if side == way)


@contextlib.asynccontextmanager
async def recorded(name: str, address: str) -> AsyncIterator[str]:
    """The address of a proxy of `address`; its first connection is written to the file `name`."""
    host, _, port = address.rpartition(":")
    pieces: list[Piece] = []
    count = 0

    async def carry(way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keep: bool) -> None:
        while data := await reader.read(1 << 16):
            if keep:
                pieces.append((way, data))
            writer.write(data)
        writer.close()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        keep = count == 1
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        ways = (carry(">", reader, far_writer, keep), carry("<", far_reader, writer, keep))
        with contextlib.suppress(asyncio.CancelledError):  # the recording is over
            await asyncio.gather(*ways, return_exceptions=True)

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    FOLDER.mkdir(exist_ok=True)
    text = "".join(f"{way} {data.hex()}\n" for way, data in pieces)
    (FOLDER / f"{name}.txt").write_text(text)
    print(name, len(pieces), "pieces", len(text), "bytes")  # noqa: T201


async def grpcio() -> None:
    """grpcio's client and server: all kinds of calls and ends."""
    async with (
        served("reference", Handler()) as address,
        recorded("grpcio", address) as through,
        grpc.aio.insecure_channel(through) as channel,
    ):

        def method(make: str, name: str) -> object:
            return getattr(channel, make)(
                f"/tests.rpc.Echo/{name}",
                request_serializer=Bytes.SerializeToString,
                response_deserializer=Bytes.FromString,
            )

        unary, spread = method("unary_unary", "Unary"), method("unary_stream", "Spread")
        gather, both = method("stream_unary", "Gather"), method("stream_stream", "Both")
        for text in ("hello", "", "bytes 5000", "x" * 3_000):
            await unary(say(text), metadata=(("key", "value"),))  # type: ignore[operator]
        for bad in (unary(say("fail NOT_FOUND nö")), unary(say("hang"), timeout=0.05)):  # type: ignore[operator]
            with contextlib.suppress(grpc.aio.AioRpcError):
                await bad
        _ = [message async for message in spread(say("count 3 100"))]  # type: ignore[operator]
        await gather(iter([say("a"), say("b")]))  # type: ignore[operator]
        _ = [message async for message in both(iter([say("a"), say("b")]))]  # type: ignore[operator]
        leaving = spread(say("count 1 1 hang"))  # type: ignore[operator]
        await leaving.read()
        leaving.cancel()
        await asyncio.gather(*(unary(say(f"{n}")) for n in range(5)))  # type: ignore[operator]


async def etcdctl() -> None:
    """grpc-go on both sides: etcdctl and etcd."""
    with tempfile.TemporaryDirectory() as folder:
        async with real_etcd(Path(folder)) as address:
            commands = {
                "put": ("put", "/registry/pods/default/a", "x" * 1000),
                "get": ("get", "/registry/", "--prefix"),
                "lease": ("lease", "grant", "100"),
                "members": ("member", "list"),
                "refused": ("get", "a", "--rev", "100"),
                "watch": ("watch", "/", "--prefix", "--rev", "1"),
            }
            for name, arguments in commands.items():
                async with recorded(f"etcdctl-{name}", address) as through:
                    program = (etcd_program("etcdctl"), "--endpoints", through, *arguments)
                    child = await asyncio.create_subprocess_exec(
                        *program, env={"ETCDCTL_API": "3"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
                    )
                    if name == "watch":
                        assert child.stdout is not None
                        await child.stdout.readline()
                        child.send_signal(signal.SIGINT)
                    await child.communicate()


if __name__ == "__main__":
    asyncio.run(grpcio())
    asyncio.run(etcdctl())
