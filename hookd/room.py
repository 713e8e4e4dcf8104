"""Stage room: free bytes of zdb's disks → whether zdb takes writes.

A write that zdb begins and cannot finish mixes up what zdbfs holds. So below `zdb.keep_free_bytes` zdb
is told to refuse writes before its disk does: it answers `No space left on this namespace` to whatever
makes a namespace larger (NSSET maxsize, which it looks at before it touches a file). Reads go on, and
what is kept free is for hookd's journal and snapshots, and for what zdbfs has accepted and not written
yet when it is stopped (`release`). With room again, the limits go back to what they were.

The invariant: a limit of ours is `SHUT`, which nobody sets for themselves. It lies in the descriptor, so
whoever finds it there, another hookd or a restored machine, knows whose it is. What it stands for is in
the journal.

Weakness: who fills the disk faster than `FASTEST_BYTES_S` from outside is seen too late; and zdb's own
namespace `default` has no limit that could be set.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread

from hookd.errors import JournalError, ZdbError, ZdbRefused, ZdbUnreachable
from hookd.files import Roots, namespace_key
from hookd.journal.journal import Journal
from hookd.log import get
from hookd.zdb_client import ZdbClient, limit_of

log = get("room")

SHUT = 1
"""The limit in bytes that stands for "no writes"; 0 is none (0-db zdbd/commands_set.c)."""

AGAIN_TIMES = 1.25
"""Writes are taken again when there is so much more than must be kept free: not to and fro."""

FASTEST_BYTES_S = 1 << 30
"""How fast the disk may fill: the next look comes before what is left above the mark can be gone."""

LOOK_AT_LEAST_S, LOOK_AT_MOST_S = 0.01, 1.0

DEFAULT = "default"
"""The namespace that is always there; NSSET refuses it."""

_NOT_LOADED = "Namespace not found"
"""Its files are there, and zdb has not loaded them."""

RELEASED_S = 600.0
"""zdbfs has to write what it holds by then."""

LIMITS = "limits"
"""Key in the journal: namespace → its limit before ours."""


class Room:
    """Runs until cancelled."""

    def __init__(
        self,
        roots: Roots,
        journal: Journal,
        *,
        keep_free: int,
        address: Callable[[], str | None],
        admin_password: str | None,
        limits: object = None,
        free: Callable[[Path], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keep_free` bytes; `address` is zdb's, once known; `limits` as the journal has them; `free`
        bytes of a disk (default: as the kernel says). Nothing is looked at yet.
        """
        self._roots = roots
        self._journal = journal
        self._keep = keep_free
        self._address = address
        self._password = admin_password
        self._before: dict[str, int] = limits if isinstance(limits, dict) else {}
        self._free_of = free or _free
        self._clock = clock
        self._released_until = 0.0
        self._looking = anyio.Lock()
        self.free_bytes: int | None = None
        self.shut = False
        """Whether there is too little room."""
        self.problem: str | None = None
        """Why zdb could not be told."""

    @property
    def keep_free_bytes(self) -> int:
        """Below this zdb takes no writes."""
        return self._keep

    def release(self) -> None:
        """Let zdb write into what is kept free, for RELEASED_S: zdbfs is about to be stopped."""
        self._released_until = self._clock() + RELEASED_S

    async def run(self) -> None:
        """Look, act, sleep, for ever."""
        while True:  # noqa: ASYNC110 - a disk that fills tells nobody
            await anyio.sleep(await self.look())

    async def look(self) -> float:
        """One look; seconds until the next. One at a time: an older one must not undo a release."""
        async with self._looking:
            return await self._look()

    async def _look(self) -> float:
        free = self.free_bytes = min(
            self._free_of(self._roots.data), self._free_of(self._roots.index)
        )
        shut = free < self._keep * (AGAIN_TIMES if self.shut else 1)
        if shut != self.shut:
            self.shut = shut
            if shut:
                log.error("the disk is nearly full: zdb takes no more writes", free_bytes=free)
            else:
                log.info("there is room again: zdb takes writes", free_bytes=free)
        wanted = shut and self._clock() >= self._released_until
        try:
            await self._tell(wanted)
        except ZdbUnreachable:
            pass  # nothing is written while it is away; the next look finds it
        except (
            ZdbError,
            JournalError,
            OSError,
        ) as error:  # OSError: a root that cannot be listed now
            if str(error) != self.problem:
                log.warning("zdb could not be told", shut=wanted, error=str(error))
            self.problem = str(error)
        else:
            self.problem = None
        left = free - self._keep if not shut else FASTEST_BYTES_S
        return min(max(left / FASTEST_BYTES_S, LOOK_AT_LEAST_S), LOOK_AT_MOST_S)

    async def _tell(self, shut: bool) -> None:
        """Bring the limits of all namespaces to what they have to be. Raises ZdbError, JournalError."""
        limits = await anyio.to_thread.run_sync(self._limits)
        changes: dict[str, int] = {}
        before = dict(self._before)
        for name, limit in limits.items():
            if shut and limit != SHUT:
                before[name] = limit
                changes[name] = SHUT
            elif not shut and limit == SHUT:
                changes[name] = before.pop(name, 0)
        address = self._address()
        if not changes or address is None:
            return
        if shut:
            await self._remember(before)
        await anyio.to_thread.run_sync(self._set, address, changes)
        if not shut:
            await self._remember(before)

    async def _remember(self, before: dict[str, int]) -> None:
        """A journal that cannot be written must not keep zdb from being stopped."""
        self._before = before
        try:
            await self._journal.set_meta(LIMITS, before or None)
        except JournalError as error:
            log.warning("limits of namespaces are remembered in memory only", error=str(error))

    def _limits(self) -> dict[str, int]:
        """Namespace → limit in its descriptor."""
        found = {}
        for name in self._roots.namespaces():
            if name == DEFAULT:
                continue
            try:
                found[name] = limit_of(self._roots.path(namespace_key(name)).read_bytes())
            except (OSError, ValueError):
                continue  # zdb is making it
        return found

    def _set(self, address: str, changes: dict[str, int]) -> None:
        """All that can be set; raises ZdbRefused for the first that could not, and should."""
        refused = None
        with ZdbClient(address) as zdb:
            if self._password is not None:
                zdb.sign_in(self._password)
            for name, limit in changes.items():
                try:
                    zdb.ask("NSSET", name, "maxsize", str(limit))
                except ZdbRefused as error:
                    if str(error) != _NOT_LOADED:
                        refused = refused or f"NSSET {name} maxsize: {error}"
        if refused is not None:
            raise ZdbRefused(refused)


def _free(path: Path) -> int:
    """Bytes that a user may still write; where nobody can tell, as many as there can be."""
    try:
        found = os.statvfs(path)
    except OSError:
        return 1 << 62
    return found.f_bavail * found.f_frsize
