"""Every test of kube-proxy in this process runs on uvloop, which the product uses, and on asyncio's own loop."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("integration"):
        return {"uvloop": uvloop.new_event_loop}  # kube-proxy is a process there
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
