"""Stage store: a folder (a local disk, NFS, an rclone mount) that an admin reads with plain tools.

In: `Store` calls; out: `PATH/index/NAMESPACE/iN`, `PATH/data/NAMESPACE/dN`, exact bytes. The work
is done by `Folder` in threads, because any call on a network file system may hang forever. A call
that is cancelled leaves its thread behind; this module owns the invariants that such a thread
changes nothing after it was given up (`Folder.put`), and that there are never more than
`MAX_ABANDONED` of them.

Weakness: a thread that hangs in the kernel keeps the interpreter from ending (threads are joined at
exit), so a daemon that is told to stop at once has to end with `os._exit`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync

from hookd.errors import StorePermanent, StoreTemporary, StoreUnreachable
from hookd.files import FileKey
from hookd.stores.base import Remote
from hookd.stores.directory_copy import Withdrawn
from hookd.stores.directory_folder import Folder

MAX_ABANDONED = 32
"""Threads of cancelled calls that may still run; beyond it every call is refused at once."""

READERS = 12
"""Gets and stats at once: on a network folder each waits for a round trip."""

SPARE_THREADS = 8
"""For what a full restore must not hold up: stats beside puts, records, health."""

T = TypeVar("T")


class _Call:
    """One call in a thread: whether somebody still wants it, and whether it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._withdrawn = False
        self.running = False

    def withdraw(self) -> None:
        with self._lock:
            self._withdrawn = True

    def withdrawn(self) -> bool:
        return self._withdrawn

    def create(self, target: Path) -> int:
        """The new file `target`, unless the call was given up: its caller may clean up already."""
        with self._lock:
            if self._withdrawn:
                raise Withdrawn
            return os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


class DirectoryStore:
    """A `Store` in the folder `path`. Call `prepare` before anything else."""

    kind = "directory"
    proves_copies = True

    def __init__(
        self,
        path: Path,
        *,
        concurrency: int = 4,
        health_timeout_s: float = 10.0,
        must_exist: bool = False,
        known: str | None = None,
    ) -> None:
        """`concurrency`: puts at once; 4 keep 2 cores hashing while others wait for the disk. For the
        last two see `Folder`.
        """
        self.concurrency = concurrency
        self.readers = READERS
        self._health_timeout_s = health_timeout_s
        self._folder = Folder(path, must_exist=must_exist, known=known)
        self.identified: Callable[[str], Awaitable[None]] | None = None
        """Told the id of a folder that was not there at the start, before anything is done in it."""
        self._arrival = anyio.Lock()
        self._taken = False
        """Whether the folder is there, and its id told to whoever has to know it."""
        self._abandoned: set[_Call] = set()
        # its own: a folder that hangs must not take the threads of the rest of the daemon
        self._threads = anyio.CapacityLimiter(concurrency + READERS + SPARE_THREADS)

    @property
    def store_id(self) -> str:
        """32 hex digits made with the folder; a new one under an old journal means: not mounted."""
        return self._folder.store_id

    @property
    def awaited(self) -> str | None:
        """Why the folder, which must exist, is not taken yet; None once it is."""
        return self._folder.awaited

    def prepare(self) -> None:
        """Make the folder (its parent must exist) and empty its tmp. Blocking; call it at start. One that
        must exist and does not is looked for again with each call.

        Raises UserError with the one line to print.
        """
        self._folder.prepare()
        self._taken = bool(self.store_id)  # whoever made us reads it

    def attach(self) -> None:
        """Instead of `prepare`, to read only: make nothing, remove nothing. Blocking.

        Raises UserError with the one line to print.
        """
        self._folder.attach()
        self._taken = True

    async def put(self, key: FileKey, source: Path, digest: bytes | None) -> None:
        """See `Store.put`. Cancelled, it has either happened already or never will."""
        call = _Call()
        await self._run(
            "put", key, call, lambda: self._folder.put(key, source, digest, call.withdrawn)
        )

    async def stat(self, key: FileKey) -> Remote | None:
        """See `Store.stat`. Reads the whole file if no record of this very file is kept."""
        return await self._run("stat", key, _Call(), lambda: self._folder.stat(key))

    async def stat_many(self, keys: Sequence[FileKey]) -> list[Remote | None]:
        """See `StatsMany`. One thread for all of them: it costs more than a stat."""
        call = _Call()

        def stats() -> list[Remote | None]:
            found: list[Remote | None] = []
            for key in keys:
                if call.withdrawn():
                    break
                try:
                    found.append(self._folder.stat(key))
                except (StoreTemporary, StorePermanent):
                    found.append(None)
            return found

        return await self._run("stat", self._folder.path, call, stats)

    async def get(self, key: FileKey, target: Path) -> None:
        """See `Store.get`."""
        call = _Call()
        await self._run(
            "get",
            key,
            call,
            lambda: self._folder.get(key, lambda: call.create(target), call.withdrawn),
        )

    async def health(self) -> None:
        """Write and remove a small file. Raises StoreUnreachable, also when that hangs."""
        await self._bounded("health", self._folder.probe)

    async def prove_absence(self) -> None:
        """Return if the folder is the one that was there at start. Raises StoreUnreachable."""
        await self._bounded(
            "prove absence",
            lambda: self._folder.require_mounted("prove absence", self._folder.path),
        )

    async def namespaces(self) -> Sequence[str]:
        """Names of the namespaces with files here, sorted. Raises StoreUnreachable."""
        return await self._run("namespaces", self._folder.path, _Call(), self._folder.namespaces)

    async def put_record(self, name: str, content: bytes) -> None:
        """See `Store.put_record`: `PATH/.hookd/NAME.json`."""
        call = _Call()
        await self._run(
            "put record", name, call, lambda: self._folder.put_record(name, content, call.withdrawn)
        )

    async def get_record(self, name: str) -> bytes | None:
        """See `Store.get_record`."""
        return await self._run("get record", name, _Call(), lambda: self._folder.record(name))

    async def stat_record(self, name: str) -> bytes | None:
        """See `Store.stat_record`."""
        return await self._run("stat record", name, _Call(), lambda: self._folder.sum_of(name))

    async def aclose(self) -> None:
        """Nothing is held open between calls."""

    # -- inside --------------------------------------------------------------------------------

    async def _bounded(self, operation: str, work: Callable[[], None]) -> None:
        path = self._folder.path
        try:
            with anyio.fail_after(self._health_timeout_s):
                await self._run(operation, path, _Call(), work)
        except TimeoutError as error:
            raise StoreUnreachable(
                operation, path, f"{path}: no answer within {self._health_timeout_s:g} s"
            ) from error

    async def _run(self, operation: str, key: object, call: _Call, work: Callable[[], T]) -> T:
        """`work`, once the folder is there, in a thread that is left behind if this is cancelled."""
        if not self._taken:
            async with self._arrival:
                if not self._taken:
                    arrive = partial(self._folder.arrive, operation, key)
                    await self._in_thread(operation, key, _Call(), arrive)
                    if self.identified is not None:
                        await self.identified(self.store_id)
                    self._taken = True
        return await self._in_thread(operation, key, call, work)

    async def _in_thread(
        self, operation: str, key: object, call: _Call, work: Callable[[], T]
    ) -> T:
        if len(self._abandoned) >= MAX_ABANDONED:
            raise StoreUnreachable(
                operation, key, f"{self._folder.path}: {MAX_ABANDONED} calls hang in this folder"
            )

        def tracked() -> T:
            call.running = True
            try:
                return work()
            finally:
                call.running = False
                self._abandoned.discard(call)

        try:
            return await run_sync(tracked, abandon_on_cancel=True, limiter=self._threads)
        except anyio.get_cancelled_exc_class():
            call.withdraw()
            self._abandoned.add(call)
            # it may have ended between the two lines above, and nobody else would remove it
            if not call.running:
                self._abandoned.discard(call)
            raise
