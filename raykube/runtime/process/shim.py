"""The shim: the parent of one container's process, and all that remains of the runtime when the runtime is gone.

    python -I -S start.py DIRECTORY REPORT_FD LOG_PATH MODE OOM_FILE [CONTROL_GROUP…]

MODE is made of letters: t, the container has a terminal; i, it takes input; o, that ends with the first who gave it.

It detaches from whoever started it, starts the process that DIRECTORY/spec describes, copies the output into the
log file, waits, ends whatever the process left running, removes its
control groups, and writes DIRECTORY/exit.json. Every file appears complete or
not at all:

- `claim`: a shim was started for this container (never two), its pid and start time.
- `started.json`: the container's process, once the program runs.
- `exit.json`: how it ended.

One line on REPORT_FD tells the runtime how the start went: `ok`, or `error MESSAGE`.
SIGUSR1: open the log file anew (it was rotated). SIGUSR2: listen for those who attach (attach.py). SIGTERM: kill
everything in the container now.

Imports are chosen by weight, for every container pays for them: `_signal` is what `signal` wraps in enums (5 ms and
0.7 MB), marshal is built in where json brings the regular expressions (9 ms).

Log lines are CRI's: `TIME stdout|stderr F|P TEXT`; P is a part of a line longer than 16 KiB, or without its end.
"""

import marshal
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal

    from raykube.runtime.process import namespaces
    from raykube.runtime.process.attach import Attachments
else:
    import _signal as signal

    import namespaces

LINE_BYTES_MAX = 16 * 1024
READ_BYTES = 64 * 1024
START_ERROR_CODE = 128


def start_time(pid: int) -> int:
    """Clock ticks between boot and the start of `pid`: with the pid, a process's identity."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def write_file(path: str, text: str) -> None:
    """Creates or replaces `path` in one step."""
    temporary = f"{path}.new"
    with open(temporary, "w") as file:
        file.write(text)
    os.rename(temporary, path)


def json_text(text: str) -> str:
    """A JSON string. The json module would cost every container 0.7 MB."""
    escaped = "".join(
        f"\\u{ord(char):04x}" if ord(char) < 0x20 or 0xD800 <= ord(char) < 0xE000 else char
        for char in text.replace("\\", "\\\\").replace('"', '\\"')
    )
    return f'"{escaped}"'


class Log:
    """The container's log file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = -1
        self._rest = {b"stdout": b"", b"stderr": b""}
        self.reopen()

    def reopen(self) -> None:
        """Raises OSError the first time only: later, a file that cannot be made must not stop the container."""
        if not self._path:
            return
        try:
            opened = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o640)
        except OSError:
            if self._file < 0:
                raise
            return  # the old one is written on, until somebody asks again
        if self._file >= 0:
            os.close(self._file)
        self._file = opened

    def feed(self, stream: bytes, data: bytes) -> None:
        """Writes the complete lines of `data`, and keeps an unfinished one until its rest comes."""
        if self._file < 0:
            return
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        stamp = self._stamp(stream)
        out = []
        for line in lines:
            while len(line) > LINE_BYTES_MAX:
                out.append(stamp + b"P " + line[:LINE_BYTES_MAX])
                line = line[LINE_BYTES_MAX:]
            out.append(stamp + b"F " + line)
        while len(rest) >= LINE_BYTES_MAX:
            out.append(stamp + b"P " + rest[:LINE_BYTES_MAX])
            rest = rest[LINE_BYTES_MAX:]
        self._rest[stream] = rest
        self._write(out)

    def finish(self) -> None:
        """Writes what has no end of line and never will."""
        for stream, rest in self._rest.items():
            if rest:
                self._write([self._stamp(stream) + b"P " + rest])

    def _stamp(self, stream: bytes) -> bytes:
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return f"{text}.{nanoseconds:09d}Z ".encode() + stream + b" "

    def _write(self, lines: list[bytes]) -> None:
        data = b"".join(line + b"\n" for line in lines)
        while data:
            try:
                data = data[os.write(self._file, data) :]
            except OSError:
                return  # a full disk must not stop the container: these lines are lost


def prepare(directory: str) -> tuple[list[str], dict[str, str]]:
    """In the new process, before the program: everything that the spec says. Returns arguments and environment."""
    with open(os.path.join(directory, "spec"), "rb") as file:
        spec = marshal.load(file)  # our own file: only its owner may write it
    for path in spec["cgroups"]:
        with open(path, "w") as file:
            file.write("0")
    if spec["oom_score_adj"] is not None:
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write(str(spec["oom_score_adj"]))
        except OSError:
            pass  # lowering it needs a capability; the container runs without
    user, group = spec["user"], spec["group"]
    mounts = spec["mounts"]
    is_root = os.getuid() == 0
    shared = [entry["source"] for entry in mounts if entry["propagation"] == namespaces.BIDIRECTIONAL]
    for path in shared:
        namespaces.check_shared(path)
    try:
        shown = namespaces.isolate(
            os.getuid() if user is None else user, os.getgid() if group is None else group, shared
        )
        isolated = True
    except OSError as error:
        isolated = False
        needed = [entry for entry in mounts if not entry["optional"]]
        if needed or spec["read_only_root"]:
            wanted = f"mount {needed[0]['target']}" if needed else "make the root read-only"
            raise OSError(
                f"cannot {wanted}: this machine gives ordinary users no namespaces ({error}); "
                "enable them (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces=15000, "
                "kernel.apparmor_restrict_unprivileged_userns=0) or run the runtime as root"
            ) from None
        if not is_root and user is not None and user != os.getuid():
            raise OSError(f"cannot run as user {user}: the runtime is user {os.getuid()}, not root") from None
    if isolated:
        layout = namespaces.Layout(spec["scratch"])
        layout.bind_all(mounts, shown)
        if spec["read_only_root"]:
            layout.make_root_read_only()
        if spec["hostname"]:
            namespaces.set_hostname(spec["hostname"])
    if is_root and (user is not None or group is not None or spec["groups"]):
        for output in (1, 2):  # else /dev/stdout and /dev/stderr, opened by name, are refused to the user
            os.fchown(output, user or 0, -1)
        os.setgroups(spec["groups"])
        os.setgid(group or 0)
        os.setuid(user or 0)
    if spec["no_new_privileges"]:
        namespaces.forbid_new_privileges()
    try:
        os.chdir(spec["working_directory"])
    except OSError as error:
        raise OSError(f"working directory {spec['working_directory']}: {error.strerror}") from None
    return spec["arguments"], spec["environment"]


def become(arguments: list[str], environment: dict[str, str]) -> None:
    """Replaces this process by the program, which is looked up in the container's own PATH.

    os.execvpe would import a module here, and the container's user may not be able to read Python's directory.
    """
    name = arguments[0]
    problem = "no such file or directory" if "/" in name else "executable file not found in $PATH"
    places = [""] if "/" in name else [f"{place}/" for place in environment["PATH"].split(":") if place]
    for place in places:
        try:
            os.execve(place + name, arguments, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problem = str(error.strerror)
    raise OSError(f'exec: "{name}": {problem}')


def run_program(directory: str, outputs: tuple[int, int], stdin: int, terminal: bool, failure: int) -> None:
    """The child's side of the fork: becomes the program, or writes why not to `failure`."""
    try:
        os.setsid()
        ours = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGPIPE)
        # A runtime that was started in the background of a shell ignores these, and children would, too.
        for number in (*ours, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.umask(0o022)
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        if stdin >= 0:
            os.dup2(stdin, 0)
        if terminal:
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        arguments, environment = prepare(directory)
        become(arguments, environment)
    except BaseException as error:
        os.write(failure, str(error).encode()[:4000] or type(error).__name__.encode())
    os._exit(START_ERROR_CODE)


def kill_descendants() -> None:
    """Kills every process below this one. Orphans come up to us, so that repeating reaches all of them."""
    own = os.getpid()
    while True:
        try:
            with open(f"/proc/{own}/task/{own}/children") as file:
                children = [int(pid) for pid in file.read().split()]
        except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
            children = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if parent_of(pid) == own]
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def parent_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


class Supervision:
    """The shim's life after the start: copies output, obeys signals, notices the end."""

    def __init__(
        self, pid: int, log: Log, streams: dict[int, bytes], stdin: int, wakeup: int, directory: str, mode: str
    ) -> None:
        self._pid = pid
        self._stdin = stdin
        self._directory = directory
        self._mode = mode
        self._attached: Attachments | None = None
        self._log = log
        self._streams = streams
        self._wakeup = wakeup
        self._poll = select.poll()
        self._poll.register(wakeup, select.POLLIN)
        for handle in streams:
            self._poll.register(handle, select.POLLIN)

    def run(self) -> int:
        """Returns the wait status of the container's process, everything it left behind being dead."""
        while True:
            for handle, events in self._poll.poll():
                if handle in self._streams:
                    self._copy(handle)
                    continue
                if handle != self._wakeup:
                    if self._attached is not None:
                        self._attached.on_event(handle, events)
                    continue
                for number in os.read(self._wakeup, 64):
                    if number == signal.SIGUSR1:
                        self._log.reopen()
                    elif number == signal.SIGUSR2:
                        self._listen()
                    elif number == signal.SIGTERM:
                        self._kill()
                status = self._reap()
                if status is not None:
                    kill_descendants()
                    for remaining in self._streams:
                        os.set_blocking(remaining, True)
                    while self._streams:
                        # Nobody is left to write: what is in the pipes ends with an end of file.
                        for remaining in list(self._streams):
                            self._copy(remaining)
                    self._log.finish()
                    if self._attached is not None:
                        self._attached.finish()
                    return status

    def _listen(self) -> None:
        if self._attached is not None:
            return
        if not TYPE_CHECKING:
            from attach import Attachments
        try:
            self._attached = Attachments(self._directory, self._poll, self._stdin, self._mode, self._pause)
        except OSError:
            self._attached = None  # who wanted to attach hears that nobody listens

    def _pause(self, paused: bool) -> None:
        """Stops or resumes the reading of the container's output."""
        for handle in self._streams:
            self._poll.register(handle, 0 if paused else select.POLLIN)

    def _copy(self, handle: int) -> None:
        try:
            data = os.read(handle, READ_BYTES)
        except BlockingIOError:  # a terminal's two directions share this flag
            return
        except OSError:  # a terminal whose other side closed
            data = b""
        if data:
            self._log.feed(self._streams[handle], data)
            if self._attached is not None:
                self._attached.send(self._streams[handle], data)
        else:
            self._poll.unregister(handle)
            os.close(handle)
            del self._streams[handle]

    def _reap(self) -> "int | None":
        found = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            if pid == self._pid:
                found = status

    def _kill(self) -> None:
        try:
            os.kill(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def oom_kills(path: str) -> int:
    """The kernel's count of processes killed for lack of memory in a cgroup (v1 and v2 write the same line)."""
    if not path:
        return 0
    try:
        with open(path) as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    except OSError:
        return 0
    return 0


def outputs_of(terminal: bool) -> tuple[tuple[int, int], dict[int, bytes]]:
    """Ends for the container's process, and our ends with the name of the stream."""
    if terminal:
        ours, theirs = os.openpty()
        return (theirs, theirs), {ours: b"stdout"}
    out_reader, out_writer = os.pipe()
    err_reader, err_writer = os.pipe()
    return (out_writer, err_writer), {out_reader: b"stdout", err_reader: b"stderr"}


def input_of(mode: str, outputs: tuple[int, int], streams: dict[int, bytes]) -> tuple[int, int]:
    """The end for the container's process and ours; -1 where there is none: it reads /dev/null then."""
    if "t" in mode:
        (ours,) = streams
        return outputs[0], os.dup(ours)
    return os.pipe() if "i" in mode else (-1, -1)


def main(directory: str, report: int, log_path: str, mode: str, oom_file: str, control_groups: list[str]) -> None:
    def note(name: str, text: str) -> None:
        write_file(os.path.join(directory, name), text)

    os.set_inheritable(report, False)
    if os.fork():
        os._exit(0)  # the runtime waits for this process only; the shim belongs to nobody
    claim = os.open(os.path.join(directory, "claim"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    shim_pid = os.getpid()
    shim_start = start_time(shim_pid)
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    os.write(claim, f'{{"shim_pid":{shim_pid},"shim_start":{shim_start},"boot":"{boot}"}}'.encode())
    os.close(claim)

    namespaces.become_subreaper()
    log = Log(log_path)
    outputs, streams = outputs_of("t" in mode)
    their_stdin, our_stdin = input_of(mode, outputs, streams)
    wakeup, wakeup_writer = os.pipe()
    for end in (wakeup, wakeup_writer):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    failure, failure_writer = os.pipe()
    oom_before = oom_kills(oom_file)
    pid = os.fork()
    if pid == 0:
        run_program(directory, outputs, their_stdin, "t" in mode, failure_writer)
    os.close(failure_writer)
    for end in {*outputs, their_stdin} - {-1}:
        os.close(end)
    problem = b""
    while part := os.read(failure, READ_BYTES):  # ends when the program starts: the pipe closes with exec
        problem += part
    os.close(failure)
    started_at = time.time_ns()
    if problem:
        message = problem.decode(errors="replace")
        note("exit.json", exit_record(START_ERROR_CODE, 0, "StartError", message))
        tell(report, b"error " + problem)
        return
    try:
        process_start = start_time(pid)
    except FileNotFoundError:  # cannot be: nobody but us reaps it
        process_start = 0
    note(
        "started.json",
        f'{{"shim_pid":{shim_pid},"shim_start":{shim_start},"boot":"{boot}",'
        f'"pid":{pid},"start":{process_start},"started_at":{started_at}}}',
    )
    tell(report, b"ok")
    os.close(report)
    status = Supervision(pid, log, streams, our_stdin, wakeup, directory, mode).run()
    killed = os.WIFSIGNALED(status)
    code = 128 + os.WTERMSIG(status) if killed else os.WEXITSTATUS(status)
    reason = "Completed" if code == 0 else "Error"
    if killed and oom_kills(oom_file) > oom_before:
        reason = "OOMKilled"
    for group in control_groups:
        remove_groups(group)
    note("exit.json", exit_record(code, os.WTERMSIG(status) if killed else 0, reason, ""))


def tell(report: int, words: bytes) -> None:
    """Answers the runtime, unless it was killed meanwhile."""
    try:
        os.write(report, words)
    except BrokenPipeError:
        return  # the next one reads what is noted


def remove_groups(group: str) -> None:
    """Removes a container's control group, and the levels above it (see cgroups.py) that are empty then."""
    for _ in range(4):
        try:
            os.rmdir(group)
        except FileNotFoundError:
            pass
        except OSError:
            return  # in use; the runtime tries again when it removes the container
        group = os.path.dirname(group)


def exit_record(code: int, number: int, reason: str, message: str) -> str:
    return (
        f'{{"code":{code},"signal":{number},"finished_at":{time.time_ns()},'
        f'"reason":"{reason}","message":{json_text(message)}}}'
    )
