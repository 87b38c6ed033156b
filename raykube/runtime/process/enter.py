"""Runs one command inside a running container: its namespaces, user and working directory.

    python -I -S enter.py PID UID GID DIRECTORY MODE CONTROL_GROUPS COMMAND [ARGUMENT…]

UID and GID are numbers, or `-` to stay who we are. MODE is `t` where standard input is a terminal to control the
session by. CONTROL_GROUPS are the files by which to join them, with colons between. The environment is the caller's. A
command that cannot start ends with 126 or 127, as a shell's would.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal

    from raykube.runtime.process import namespaces
else:
    # What `signal` wraps in enums, which a start need not pay for.
    import _signal as signal

    import namespaces

# Of a runtime that was started in the background of a shell, and of Python itself: children would ignore them, too.
IGNORED = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGPIPE)


def become(command: list[str]) -> None:
    """Replaces this process by the command; os.execvp would import a module that the container's user may not read."""
    problem: OSError = FileNotFoundError(2, "executable file not found in $PATH")
    places = [""] if "/" in command[0] else [f"{place}/" for place in os.environ["PATH"].split(":") if place]
    for place in places:
        try:
            os.execv(place + command[0], command)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problem = error
    raise problem


def main(pid: int, uid: str, gid: str, directory: str, mode: str, groups: str, command: list[str]) -> None:
    try:
        for number in IGNORED:
            signal.signal(number, signal.SIG_DFL)
        for path in filter(None, groups.split(":")):
            with open(path, "w") as file:
                file.write("0")
        if mode == "t":
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        namespaces.enter(pid)
        if os.getuid() == 0 and uid != "-":
            os.setgroups([])
            os.setgid(int(gid))
            os.setuid(int(uid))
        os.chdir(directory)
        become(command)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror or error}\n")
        sys.stderr.flush()
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5], sys.argv[6], sys.argv[7:])
