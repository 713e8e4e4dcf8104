"""Blocking calls that may hang in a dead file system, given up after a time.

A call that hangs cannot be interrupted; its thread is left behind, a daemon thread, so that it
holds up neither the event loop nor the end of the process. It returns when its mount is aborted
(which ending the mounter does).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


async def bounded(call: Callable[[], T], within_s: float | None) -> T:
    """What `call` returns or raises. Raises TimeoutError after `within_s` seconds; None: never."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(value)  # type: ignore[arg-type]  # T may be None itself

    def run() -> None:
        value: T | None = None
        error: BaseException | None = None
        try:
            value = call()
        except BaseException as found:
            error = found
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, daemon=True, name="hookd-bounded").start()
    with anyio.fail_after(within_s):
        return await outcome
