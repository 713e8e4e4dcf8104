"""A pipe whose reader takes nothing: its next writer waits."""

from __future__ import annotations

import contextlib
import os


def fill(writing: int) -> None:
    """With zeros, until not one more goes in."""
    os.set_blocking(writing, False)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(size))
    os.set_blocking(writing, True)
