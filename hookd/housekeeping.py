"""What a daemon does each minute: the journal forgets what is over and old, leftovers are looked for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import anyio

from hookd.errors import JournalError
from hookd.log import get
from hookd.parts import Parts
from hookd.zdb import HEARD

log = get("daemon")

PRUNE_EVERY_S = 60.0
PRUNE_PAUSE_S = 0.05
"""Between two windows of a pass: 20,000 row ids a second, four times what can come in."""


async def run(parts: Parts, ask_for_scan: Callable[[], None]) -> None:
    """Each PRUNE_EVERY_S, until cancelled."""
    while True:
        await anyio.sleep(PRUNE_EVERY_S)
        await keep_address(parts)
        try:
            await parts.leftovers.look()
        except OSError as error:
            log.error("could not look for leftovers", error=str(error))
        if parts.journal.had_errors:
            # a shim may have found neither journal nor spool while the disk was full
            parts.journal.had_errors = False
            ask_for_scan()
        try:
            await _prune(parts)
        except JournalError as error:
            log.error("prune failed", error=str(error))


async def keep_address(parts: Parts) -> None:
    """Remember where zdb listens: a daemon that comes later hears no hook of an idle one for long."""
    life = parts.life
    if life.address is not None and life.address != life.heard_before:
        with contextlib.suppress(JournalError):
            await parts.journal.set_meta(HEARD, life.address)
            life.heard_before = life.address


async def _prune(parts: Parts) -> None:
    """Forget all that is over and old, a window at a time, so that hooks are answered meanwhile."""
    before = time.time() - parts.config.journal.keep_s
    # Events to come are younger than `before`: what is open now is all that has to stay.
    open_events = frozenset(job.event for job in parts.scheduler)
    more = True
    while more:
        more = await parts.journal.prune(before=before, open_events=open_events)
        await anyio.sleep(PRUNE_PAUSE_S)
