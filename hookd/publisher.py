"""When manifests are written: soon after something was stored, at once in a drain."""

from __future__ import annotations

import time

import anyio

from hookd.backoff import Backoff
from hookd.errors import JournalError, StoreError
from hookd.fence import Fence, Fenced
from hookd.log import get

log = get("fence")

PUBLISH_EVERY_S = 5.0
"""Manifests are at least so far apart while files are being stored; at a standstill one comes at once."""

ASK_EVERY_S = 60.0
"""So often a frontend that stores nothing asks whether the store is still its own: zdb's writes would be
taken, and never stored."""

AGAIN_S = 1.0
"""In a drain a store that failed is asked again after so long at most."""

DUTY = 20
"""And at least so many times as far as writing one takes."""


class Publisher:
    """Has the fence write them."""

    def __init__(self, fence: Fence, backoff: Backoff) -> None:
        self._fence = fence
        self._backoff = backoff
        self._failures = 0
        self._error, self._failed_at = "", 0.0
        self._hurry = False

    @property
    def last_error(self) -> str | None:
        """Why no manifest could be written, None once there is one again."""
        newer = (self._fence.published_at or 0.0) > self._failed_at
        return None if newer else self._error or None

    def hurry(self) -> None:
        """No pause between manifests any more (a drain)."""
        self._hurry = True
        self._fence.woken.set()

    async def run(self) -> None:
        """Publish whenever something changed, until cancelled."""
        while True:
            if self._fence.unpublished or self._fence.unsaid:
                wait_s = await self._publish()
                await self._pause(wait_s, hurried_s=min(wait_s, AGAIN_S) if self._failures else 0.0)
            else:
                await self._watch()

    async def _publish(self) -> float:
        """Seconds until the next one."""
        began = time.monotonic()
        try:
            await self._fence.publish()
        except (StoreError, JournalError) as error:
            self._failures += 1
            self._failed(error)
            if self._failures == 1 and not isinstance(error, Fenced):
                log.warning("manifest not written, will retry", error=str(error))
            return self._backoff.after(self._failures)
        self._failures = 0
        return max(PUBLISH_EVERY_S, DUTY * (time.monotonic() - began))

    async def _watch(self) -> None:
        """Nothing is due: look now and then whose the store is, until something is."""
        self._fence.woken = anyio.Event()
        with anyio.move_on_after(ASK_EVERY_S):
            await self._fence.woken.wait()
            return
        if self._fence.is_held:
            try:
                await self._fence.confirm()
            except (StoreError, JournalError) as error:
                self._failed(error)
            else:
                self._error = ""

    def _failed(self, error: Exception) -> None:
        self._error, self._failed_at = str(error), time.time()

    async def _pause(self, seconds: float, *, hurried_s: float) -> None:
        """`hurried_s` from the moment on that there is a hurry."""
        ends = time.monotonic() + seconds
        while not self._hurry and (left := ends - time.monotonic()) > 0:
            self._fence.woken = anyio.Event()
            with anyio.move_on_after(left):
                await self._fence.woken.wait()
        if self._hurry:
            await anyio.sleep(max(0.05, hurried_s))
