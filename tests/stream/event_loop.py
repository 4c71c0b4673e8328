"""Tests that run on an event loop, and waiting for what another process or task does."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import ParamSpec

DEADLINE_S = 20.0
POLL_S = 0.01

Arguments = ParamSpec("Arguments")


def on_a_loop(test: Callable[Arguments, Coroutine[object, object, None]]) -> Callable[Arguments, None]:
    """Run a coroutine function as a test, on an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Return as soon as `condition` holds; for what a broker or a thread does in its own time.

    Raises:
        AssertionError: It did not hold within `DEADLINE_S`.
    """
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # noqa: ASYNC110  # brokers and threads set no events
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"not within {DEADLINE_S:g} s: {what}") from None
