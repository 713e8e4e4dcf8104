"""Stage leftover: what nobody is going to store although no line holds it.

    folders, spool, /proc → lines for an administrator

The invariant: a stop that leaves any of it behind says so and is no clean one (`Leftovers.of_a_stop`).
Two kinds are looked for all the time (`look`): namespaces whose names hookd cannot keep, and spool
folders that zdb's shims were told and hookd was not.

Weakness: an environment is seen while its process lives, and only in our pid namespace.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

import anyio.to_thread

from hookd import zdb
from hookd.admin.words import count, elsewhere_line, nameless_line, one_line
from hookd.errors import JournalError
from hookd.files import Roots
from hookd.intake.spool import Spool, events_in
from hookd.log import get
from hookd.restore.finding import to_decide

log = get("leftover")


class Leftovers:
    """What was seen of it so far."""

    def __init__(
        self,
        *,
        roots: Roots,
        socket: Path,
        spool: Spool,
        held: Mapping[str, str],
        unstored: Callable[[Collection[str]], Awaitable[Mapping[str, int]]],
    ) -> None:
        """`held` is namespace → why; `unstored` says of namespaces how many files of them on disk are not
        in the store as they are.
        """
        self._roots = roots
        self._socket = socket
        self._spool = spool
        self._held = held
        self._unstored = unstored
        self.nameless: tuple[str, ...] = ()
        """Namespaces with files whose names are no UTF-8, as they can be shown."""
        self.elsewhere: dict[str, int] = {}
        """Folder that shims spool to and nobody reads → events that lie there now."""

    async def look(self) -> None:
        """Look again. Cancelled it is given up, a disk that hangs holds nobody up."""
        nameless, elsewhere = await anyio.to_thread.run_sync(self._look, abandon_on_cancel=True)
        for name in nameless:
            if name not in self.nameless:
                log.error("a namespace that cannot be stored: its name is no UTF-8", namespace=name)
        for folder in elsewhere:
            if folder not in self.elsewhere:
                log.error(
                    "zdb's shims spool to another folder than hook.spool", folder=folder,
                    hook_spool=str(self._spool.folder),
                )  # fmt: skip
        self.nameless, self.elsewhere = nameless, elsewhere

    def _look(self) -> tuple[tuple[str, ...], dict[str, int]]:
        """Blocking. What cannot be listed is left to who scans it."""
        try:
            nameless = tuple(_shown(name) for name in self._roots.nameless())
        except OSError:
            nameless = self.nameless
        roots = (self._roots.index, self._roots.data)
        try:
            folders = zdb.spools_elsewhere(self._socket, self._spool.folder, roots)
        except OSError:
            folders = set(self.elsewhere)
        # one that was seen once is looked at until it is empty: zdb may have ended
        found = {folder: events_in(folder) for folder in {*folders, *self.elsewhere}}
        return nameless, {f: n for f, n in sorted(found.items()) if n or f in folders}

    async def of_a_stop(self) -> list[str]:
        """A line for each thing that a stop of now would leave behind. Cancelled as `look`."""
        await self.look()
        lines = [nameless_line(name) for name in self.nameless]
        lines += await self._of_held()
        lines += [
            elsewhere_line(folder, events, self._spool.folder)
            for folder, events in self.elsewhere.items()
            if events
        ]
        lines += await anyio.to_thread.run_sync(self._spool.problems, abandon_on_cancel=True)
        return lines

    async def _of_held(self) -> list[str]:
        if not self._held:
            return []
        try:
            owed = {
                name: f"{count(files, 'file')} of it not stored"
                for name, files in (await self._unstored(self._held.keys())).items()
            }
        except (JournalError, OSError) as error:
            owed = dict.fromkeys(self._held, f"what of it is not stored is not known ({error})")
        return [
            f"namespace {one_line(name)} is held, {what}; {to_decide(one_line(name))}"
            for name, what in owed.items()
        ]


def _shown(name: str) -> str:
    """A name that is no text, its strange bytes as `\\xHH`."""
    return one_line(os.fsencode(name).decode("utf-8", "backslashreplace"))
