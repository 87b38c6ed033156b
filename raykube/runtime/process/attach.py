"""Those who are attached to a container: its output goes to each of them, what they type goes to its input.

An attachment is a connection of packets to the socket `attach` in the container's directory. A packet is a channel's
number and its bytes, as in Kubernetes' streaming protocols:

    to the shim    0 input · 4 "WIDTH HEIGHT" of the terminal · 255 the input has ended
    from the shim  1 stdout · 2 stderr

Nothing is lost: while one who is attached does not read, the container's output waits in its pipe; while the container
does not read, those who type wait.

Loaded when the first one attaches: most containers never pay for it.
"""

import _socket
import os
import select
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

INPUT, RESIZE, INPUT_END = 0, 4, 255
CHANNELS = {b"stdout": b"\1", b"stderr": b"\2"}
PACKET_BYTES_MAX = 64 * 1024 + 1
LAST_WAIT_MS = 5000


class Attachments:
    """`pause(True)` stops the reading of the container's output, `pause(False)` lets it go on."""

    def __init__(
        self, directory: str, poll: "select.poll", stdin: int, mode: str, pause: "Callable[[bool], None]"
    ) -> None:
        self._poll = poll
        self._stdin = stdin
        self._terminal = "t" in mode
        self._takes_input = "i" in mode
        self._once = "o" in mode and not self._terminal
        self._pause = pause
        self._clients: dict[int, _socket.socket] = {}
        self._unsent: dict[int, list[bytes]] = {}
        self._typed = b""  # what the container did not take yet
        self._waits = False  # for the container to take what was typed
        self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        self._listener.setblocking(False)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # By way of the open directory: a socket's path may have 107 bytes, and the directory's may be longer.
            self._listener.bind(f"/proc/self/fd/{handle}/attach.new")
            os.rename("attach.new", "attach", src_dir_fd=handle, dst_dir_fd=handle)
        finally:
            os.close(handle)
        self._listener.listen(8)
        poll.register(self._listener.fileno(), select.POLLIN)
        if stdin >= 0:
            os.set_blocking(stdin, False)

    def on_event(self, handle: int, events: int) -> bool:
        """Serves a file descriptor of ours; False for one that is not."""
        if handle == self._listener.fileno():
            self._accept()
        elif handle == self._stdin and self._stdin >= 0:
            self._type()
        elif handle in self._clients:
            if events & select.POLLOUT:
                self._flush(handle)
            elif events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._receive(handle)
        else:
            return False
        return True

    def _accept(self) -> None:
        try:
            handle, _ = self._listener._accept()  # type: ignore[attr-defined]  # what socket.accept calls
        except OSError:
            return
        client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, handle)
        client.setblocking(False)
        os.set_inheritable(handle, False)
        self._clients[handle] = client
        self._poll.register(handle, select.POLLIN)

    def _drop(self, handle: int) -> None:
        self._poll.unregister(handle)
        self._clients.pop(handle).close()
        if self._unsent.pop(handle, None) and not self._unsent:
            self._pause(False)

    # -- from the container

    def send(self, stream: bytes, data: bytes) -> None:
        """Gives output to everybody; pauses the output when one is not ready for it."""
        packet = CHANNELS[stream] + data
        for handle in list(self._clients):
            self._unsent.setdefault(handle, []).append(packet)
            self._flush(handle)

    def _flush(self, handle: int) -> None:
        unsent = self._unsent.get(handle, [])
        try:
            while unsent:
                self._clients[handle].send(unsent[0])
                del unsent[0]
        except BlockingIOError:
            self._poll.modify(handle, select.POLLOUT)
            self._pause(True)
            return
        except OSError:
            self._drop(handle)
            return
        if self._unsent.pop(handle, None) is not None and not self._unsent:
            self._pause(False)
        self._poll.modify(handle, 0 if self._typed else select.POLLIN)

    def finish(self) -> None:
        """Delivers the last output, to those who read on."""
        for handle, unsent in list(self._unsent.items()):
            client = self._clients[handle]
            ready = select.poll()
            ready.register(handle, select.POLLOUT)
            try:
                while unsent and ready.poll(LAST_WAIT_MS):
                    client.send(unsent.pop(0))
            except OSError:
                continue
        for client in self._clients.values():
            client.close()

    # -- to the container

    def _receive(self, handle: int) -> None:
        try:
            packet = self._clients[handle].recv(PACKET_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._drop(handle)
            return
        channel, data = packet[0], packet[1:]
        if channel == INPUT and self._takes_input and self._stdin >= 0:
            self._typed += data
            self._type()
        elif channel == INPUT_END and self._once:
            self._once = False
            self._end_input()
        elif channel == RESIZE and self._terminal:
            self._resize(data)

    def _type(self) -> None:
        try:
            while self._typed:
                self._typed = self._typed[os.write(self._stdin, self._typed) :]
        except BlockingIOError:
            self._wait_for_container(True)
            return
        except OSError:
            self._typed = b""
            self._end_input()
        self._wait_for_container(False)

    def _wait_for_container(self, waits: bool) -> None:
        if self._stdin >= 0 and waits != self._waits:
            self._waits = waits
            if waits:
                self._poll.register(self._stdin, select.POLLOUT)
            else:
                self._poll.unregister(self._stdin)
        for handle in self._clients:
            if handle not in self._unsent:
                self._poll.modify(handle, 0 if waits else select.POLLIN)

    def _end_input(self) -> None:
        if self._stdin < 0:
            return
        if self._waits:
            self._poll.unregister(self._stdin)
            self._waits = False
        os.close(self._stdin)
        self._stdin = -1

    def _resize(self, data: bytes) -> None:
        import fcntl
        import termios

        try:
            width, height = (int(side) for side in data.split())
            fcntl.ioctl(self._stdin, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        except (ValueError, OSError, struct.error):
            pass
