"""Every asynchronous test here runs on asyncio's own loop and on uvloop, which components use where there is one."""

import asyncio
import inspect
from typing import Any

import pytest
import uvloop


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if inspect.iscoroutinefunction(metafunc.function):
        metafunc.parametrize("event_loop_policy", ["asyncio", "uvloop"], indirect=True)


@pytest.fixture
def event_loop_policy(request: Any) -> Any:
    if getattr(request, "param", "") == "uvloop":
        return uvloop.EventLoopPolicy()
    return asyncio.DefaultEventLoopPolicy()
