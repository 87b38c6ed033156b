"""Which proxy serves this node: rules in the kernel where they can be, sockets in user space elsewhere."""

import logging
import os

from raykube.kubeproxy.config import Config
from raykube.kubeproxy.nft_proxier import cleanup, usable_families
from raykube.nftables.kernel import ChildEnded, Kernel, KernelError

log = logging.getLogger(__name__)

NFTABLES, USERSPACE = "nftables", "userspace"
ATTEMPTS = 3  # a machine that is short of memory or time once must not serve in user space, or without IPv6, ever after


async def choose(config: Config, kernel: Kernel) -> list[str]:
    """The families ("ip", "ip6") to serve in the kernel; none: in user space.

    Raises OSError with a line for the user where --proxy-mode=nftables cannot be had.
    """
    if config.proxy_mode != USERSPACE:
        problem = _against(config)
        if not problem:
            for _ in range(ATTEMPTS):
                try:
                    return await usable_families(kernel)
                except ChildEnded as error:
                    problem = f"nftables cannot be asked: {error}"
                except KernelError as error:
                    problem = f"this system takes no nftables rules: {error}"
                    break
        if config.proxy_mode == NFTABLES:
            raise OSError(f"--proxy-mode=nftables is not possible: {problem}")
        log.info("serving in user space: %s", problem.splitlines()[0])
    if os.geteuid() == 0 and not config.shared_host:
        await _leave_no_rules(kernel)
    return []


def _against(config: Config) -> str:
    """Why the kernel cannot serve, as far as flags tell."""
    if os.geteuid() != 0:
        return "it needs root"
    if config.shared_host:
        return "machines that share a host (--shared-host) share its rules, too"
    if config.relay == "always":
        return "relays (--relay=always) are sockets"
    return ""


async def _leave_no_rules(kernel: Kernel) -> None:
    """Rules of a former life in the other mode would be in front of our sockets."""
    try:
        for family in await cleanup(kernel):
            log.info("removed the %s rules that a kube-proxy in nftables mode had left", family)
    except KernelError as error:
        log.debug("no nftables here: %s", error)
    finally:
        await kernel.stop()
