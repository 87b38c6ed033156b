"""A Redis on a host, started at each boot, that keeps what it acknowledged on the host's disk."""

from tests.kit.require import require_program
from tests.testbed.host import Host

PORT = 6380  # Ray's head may be on the same host, and has Redis' own


def install(host: Host, password: str) -> str:
    """Starts a Redis on a running host; returns its address. Skips the test (fails it in CI) where there is none."""
    require_program("redis-server")
    folder = host.disk / "var" / "lib" / "redis"
    folder.mkdir(exist_ok=True)
    (host.disk / "etc" / "redis-test.conf").write_text(
        f"bind {host.address}\nport {PORT}\nrequirepass {password}\nappendonly yes\nappendfsync always\n"
        "dir /var/lib/redis\n"
    )
    host.at_boot("setsid redis-server /etc/redis-test.conf >>/var/log/redis.log 2>&1 </dev/null &")
    host.wait_for(f"redis-cli -h {host.address} -p {PORT} -a {password} --no-auth-warning ping | grep -q PONG")
    return f"{host.address}:{PORT}"
