"""Whose turn it is in a namespace: events that freeze its files go side by side, its deletion alone.

An event that froze a file of a deleted namespace, and is committed after the deletion was followed,
would bring that file into the store as one of the namespace that was made anew. So the deletion waits
until such events are committed and in line (it gives them up with the rest), and those that come
meanwhile wait for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class Turns:
    """Per namespace: any number of `beside`, or one `alone`. Used on one event loop."""

    def __init__(self) -> None:
        self._inside: dict[str, int] = {}
        self._closed: dict[str, anyio.Event] = {}
        """Set when the deletion has been followed."""
        self._left: dict[str, anyio.Event] = {}
        """Set when the last event has gone that the deletion waits for."""

    @asynccontextmanager
    async def beside(self, namespace: str) -> AsyncIterator[None]:
        """Together with other events of the namespace."""
        while (closed := self._closed.get(namespace)) is not None:
            await closed.wait()
        self._inside[namespace] = self._inside.get(namespace, 0) + 1
        try:
            yield
        finally:
            self._inside[namespace] -= 1
            if not self._inside[namespace]:
                del self._inside[namespace]
                if left := self._left.get(namespace):
                    left.set()

    @asynccontextmanager
    async def alone(self, namespace: str) -> AsyncIterator[None]:
        """After all that came before, and before all that comes meanwhile."""
        while (closed := self._closed.get(namespace)) is not None:
            await closed.wait()
        mine = self._closed[namespace] = anyio.Event()
        try:
            if namespace in self._inside:
                left = self._left[namespace] = anyio.Event()
                await left.wait()
            yield
        finally:
            self._left.pop(namespace, None)
            del self._closed[namespace]
            mine.set()
