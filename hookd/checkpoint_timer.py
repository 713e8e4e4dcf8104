"""Stage checkpoint timer: a checkpoint each `checkpoint.interval_s` while something is dirty.

It is put off while the store is known to be down (closing files then would only make more of them), or
while something else is in the way, and made as soon as that is over.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio

from hookd.checkpoint import Checkpoints
from hookd.checkpoint_run import Outcome
from hookd.errors import MountUnusable
from hookd.log import get

log = get("checkpoint")

LOOK_EVERY_S = 0.5
"""How soon it is seen that the store is back."""

AGAIN_S = 10.0
"""After a checkpoint that failed, unless the interval is shorter."""

LEAST_PATIENCE_S = 300.0
"""A checkpoint of the timer may take the interval, or this where it is longer."""


class Timer:
    """Runs until cancelled."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        interval_s: float,
        hindrance: Callable[[], str | None],
        flush: Callable[[], Awaitable[None]] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`hindrance` says why there should be none now; `flush` as in `Checkpoints`."""
        self._checkpoints = checkpoints
        self.interval_s = interval_s
        self._hindrance = hindrance
        self._flush = flush
        self._clock = clock
        self._due = clock() + interval_s
        self._last: Outcome | None = None
        self.skipped: str | None = None
        """Why the one that is due is put off."""

    @property
    def next_in_s(self) -> float:
        """Seconds until the next one is due."""
        return max(0.0, self._due - self._clock())

    async def run(self) -> None:
        """Wait, look, take one, again and again."""
        while True:
            await anyio.sleep(min(self.next_in_s, LOOK_EVERY_S))
            if self._clock() >= self._due:
                await self.tick()

    async def tick(self) -> None:
        """One is due."""
        reason = self._hindrance()
        if reason != self.skipped:
            if reason is not None:
                log.warning("checkpoint put off", reason=reason)
            self.skipped = reason
        if reason is not None:
            await anyio.sleep(LOOK_EVERY_S)
            return
        began = self._clock()
        self._due = began + self.interval_s
        if not await self._dirty():
            return
        outcome = await self._checkpoints.take(max(self.interval_s, LEAST_PATIENCE_S))
        self._checkpoints.note(outcome)
        self._say(outcome)
        if not outcome.safe:
            self._due = self._clock() + min(self.interval_s, AGAIN_S)

    async def _dirty(self) -> bool:
        """What zdbfs has in its cache is in no file yet, so it is written out first."""
        if self._flush is not None:
            try:
                await self._flush()
            except MountUnusable:
                pass  # the checkpoint says so
            else:
                return await self._checkpoints.anything()
        return await self._checkpoints.anything()

    def _say(self, outcome: Outcome) -> None:
        before, self._last = self._last, outcome
        if outcome.safe:
            log.info("checkpoint", until=outcome.until, jumped=len(outcome.jumped))
        elif before is None or before.code != outcome.code:  # not each time anew
            log.warning("checkpoint failed", problems=list(outcome.problems))
