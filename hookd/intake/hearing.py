"""Stage intake, its third part: wait until all that zdb has announced so far is known.

Hooks come out of order, and a shim that finds no daemon keeps its event for seconds, then spools it.
Who judges files by what is known of them (a survey, an alarm of the audit) hears them out first: what is
on disk of a namespace that was deleted and made again looks like a disk that lost its files, until the
deletion is known.

Weakness: a shim in another pid namespace is not seen, and one that was killed says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass

import anyio

from hookd.log import get

log = get("hearing")

LIMIT_S = 10.0
"""Twice what a shim waits by default before it spools: zdb may be waiting for us."""

LOOK_EVERY_S = 0.02

MATTERS = "namespace-deleted"
"""The hook that changes what files on disk mean; any other only says that there are more of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """What to look at, as functions."""

    shims: Callable[[], Awaitable[Mapping[int, str]]]
    """Process id → hook of the shims that live."""
    committing: Callable[[], Collection[bytes]]
    """The ids of the events that are being taken in now."""
    sweep: Callable[[], Awaitable[int]]
    """Take in what is spooled."""
    limit_s: float = LIMIT_S

    async def out(self) -> None:
        """Return when the shims of now have ended and what they left is taken in, or after `limit_s`."""
        ends = time.monotonic() + self.limit_s
        shims = {pid for pid, hook in (await self.shims()).items() if hook == MATTERS}
        events = set(self.committing())  # a shim may have been killed once it had sent its event
        while shims or events:
            if time.monotonic() >= ends:
                log.warning("not waited for any longer", shims=len(shims), events=len(events))
                break
            await anyio.sleep(LOOK_EVERY_S)
            shims &= (await self.shims()).keys()
            events.intersection_update(self.committing())
        await self.sweep()
