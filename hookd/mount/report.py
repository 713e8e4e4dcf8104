"""Stage mount, the end: what is not on the remote, named, and the exit code that goes with it.

0 is said only if three witnesses agree once the mounter has ended: no record in the cache is dirty, the
last queue held nothing whose record is gone, and nothing lies aside undecided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hookd.admin.words import count
from hookd.errors import Exit
from hookd.log import get
from hookd.mount.bounded import bounded
from hookd.mount.cache import PROBE_PREFIX, Cache
from hookd.mount.drain import Left, Why, left_of
from hookd.mount.provider import Queue
from hookd.mount.rescue import lines

log = get("mount")

SCAN_WITHIN_S = 60.0
MOST_NAMED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """All that is not on the remote."""

    waiting: list[Left]
    """In the cache with a record: uploaded first at the next start."""
    lost_track: list[Left]
    """In the last queue, without a record: their content is looked at at the next start."""
    aside: list[str]
    """In `rescued`; a line for each."""


def remains(cache: Cache, queue: Queue | None) -> Remains:
    """What is left, by the cache as it is and the last `queue`. Blocking. Raises OSError."""
    dirty = cache.dirty()
    known = {each.name for each in dirty}
    lost = [
        Left(
            name=upload.name,
            size_bytes=upload.size_bytes,
            why=Why.FAILING if upload.tries else Why.WAITING,
            detail=upload.why,
        )
        for upload in (queue.uploads if queue is not None else ())
        if upload.name not in known
        and not upload.name.rpartition("/")[2].startswith(PROBE_PREFIX)
        and not cache.has_record(upload.name)  # a clean one: it arrived in the last moment
    ]
    return Remains(
        waiting=left_of(dirty, queue),
        lost_track=lost,
        aside=lines(cache),
    )


async def report(cache: Cache, queue: Queue | None, *, announce: Callable[[str], None]) -> Exit:
    """Name what is left, each by a line: 75; 0 if there is nothing."""
    try:
        found = await bounded(lambda: remains(cache, queue), SCAN_WITHIN_S)
    except (OSError, TimeoutError) as error:
        why = getattr(error, "strerror", None) or "it takes too long"
        announce(
            f"stopped; what is not uploaded is not known: {cache.folder} cannot be read ({why})"
        )
        log.error("the cache cannot be read", folder=str(cache.folder), error=str(error))
        return Exit.TEMPFAIL
    left = [*found.waiting, *found.lost_track]
    if left:
        announce(
            f"stopped with {count(len(left), 'file')} not uploaded; they lie in {cache.folder} and are"
            " uploaded first at the next start with this cache:"
        )
    named = [
        *(f"left: {each.line()}" for each in left),
        *(f"aside: {each}" for each in found.aside),
    ]
    for line in named[:MOST_NAMED]:
        announce(line)
    if len(named) > MOST_NAMED:
        announce(f"left: and {len(named) - MOST_NAMED} more")
    if not named:
        return Exit.OK
    log.error(
        "files left in the cache", files=len(left), aside=len(found.aside), folder=str(cache.folder)
    )
    return Exit.TEMPFAIL
