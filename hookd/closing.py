"""Has zdb close its active files (NSJUMP) where they have something that is not in the store.

The moment at which a file is closed is zdb's; what it writes afterwards is in the next one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import anyio
import anyio.to_thread

from hookd.checkpoint_run import Run
from hookd.errors import ZdbError, ZdbUnreachable
from hookd.files import Kind
from hookd.journal import Job
from hookd.recovery_point import Files
from hookd.recovery_point import dirty as active_if_dirty
from hookd.scheduler import Scheduler

JUMP_TRIES = 3
"""zdb may stop, or start, between the look whether it runs and the call."""

JUMP_AGAIN_S = 0.3


class Closing:
    """Closes files for a checkpoint."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        disk: Files,
        skip: Collection[str],
        held: Callable[[], Collection[str]],
        zdb_runs: Callable[[], Awaitable[bool]],
        jump: Callable[[str], Awaitable[None]],
        scan: Callable[[bool], Awaitable[int]],
    ) -> None:
        """See `Checkpoints`."""
        self._scheduler = scheduler
        self._disk = disk
        self._skip = skip
        self._held = held
        self._zdb_runs = zdb_runs
        self._jump = jump
        self._scan = scan

    async def close(self, run: Run) -> None:
        """Raises ZdbUnreachable where zdb runs and cannot be asked."""
        for attempt in range(1, JUMP_TRIES + 1):
            if not await self._zdb_runs():
                run.doing = "zdb does not run: its files are taken as they are"
                await self._scan(True)
                if not await self._zdb_runs():
                    return
            try:
                await self._jump_all(run)
                return
            except ZdbUnreachable:
                if attempt == JUMP_TRIES:
                    raise
                run.doing = "zdb does not answer, once more"
                await anyio.sleep(JUMP_AGAIN_S)

    async def _jump_all(self, run: Run) -> None:
        held = self._held()
        for name, before in await anyio.to_thread.run_sync(self.dirty):
            if name in held or name in run.jumped:
                continue
            run.doing = f"zdb closes the files of {name}"
            try:
                await self._jump(name)
            except ZdbUnreachable:
                raise
            except ZdbError as error:
                run.problems.append(f"zdb did not close the files of {name}: {error}")
                continue
            after = await anyio.to_thread.run_sync(self._disk.numbers, Kind.DATA, name)
            if not after or after[-1] <= before:
                run.problems.append(f"zdb made no new files for {name}; its log says why")
                continue
            run.jumped.append(name)

    def dirty(self) -> list[tuple[str, int]]:
        """(namespace, number of its active files) where something is to be stored. Blocking.

        Those that speak of others go first: what zdbfs-meta says of blocks then in zdbfs-data is in
        files that are closed a moment later, never the other way round.
        """
        found = []
        for name in self._disk.namespaces():
            if name not in self._skip:
                active = active_if_dirty(self._disk, self._scheduler, name)
                if active is not None:
                    found.append((name, active))
        return sorted(found, key=lambda item: ("meta" not in item[0], item[0]))

    async def close_again(self, run: Run, left: list[Job]) -> bool:
        """Whether what is left waited for files that zdb writes to, and they have been closed now.

        A file that was frozen during this run may point into what zdb has begun since.
        """
        active = dict(await anyio.to_thread.run_sync(self.dirty))
        waited = [(job.key.namespace, self._scheduler.waits_for(job)) for job in left]
        names = {name for name, key in waited if key is not None and active.get(name) == key.number}
        if not names or not await self._zdb_runs():
            return False
        run.jumped = [name for name in run.jumped if name not in names]
        await self._jump_all(run)
        return names <= set(run.jumped)
