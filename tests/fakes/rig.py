"""The core wired over temporary folders: all of hookd between a frame and a store, but the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from hookd.admission import Admission
from hookd.backoff import Backoff
from hookd.dispatcher import Dispatcher
from hookd.event import Event
from hookd.fence import Fence
from hookd.files import FileKey, Roots, data_key, index_key, namespace_key
from hookd.identity import identity_of
from hookd.journal import Job, Journal, LedgerEntry, connect, ledger_rows, tables
from hookd.manifest import Manifest
from hookd.policy import Rules
from hookd.recovery import Retriever
from hookd.restore.newest import newest_snapshot
from hookd.restore.restorer import Restorer
from hookd.restore.wiring import survey_of
from hookd.scheduler import Scheduler
from hookd.snapshot import Staging
from hookd.wire import Answer, EventFrame
from tests.fakes.store import MemoryStore

Z = "tcp://127.0.0.1:9900"
LIMIT_S = 10.0
"""No test waits longer for what must come."""


class Actions:
    """What events cause beside stores, written down."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.answers: dict[str, Answer] = {}
        self.gate: anyio.Event | None = None
        self.fault: Exception | None = None

    async def _do(self, what: str) -> Answer:
        self.done.append(what)
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return self.answers.get(what, Answer(0))

    async def survey(self) -> Answer:
        return await self._do("survey")

    async def judge(self) -> Answer:
        return await self._do("judge")

    async def retrieve(self, key: FileKey) -> Answer:
        return await self._do(f"retrieve {key}")

    async def withdraw(self, namespace: str) -> None:
        await self._do(f"withdraw {namespace}")

    def scan(self) -> None:
        self.done.append("scan")


async def _allow() -> None:
    """No other frontend is looked for."""


class Rig:
    """One life of the core. Made by `rig`."""

    def __init__(self, folder: Path, store: MemoryStore, **options: Any) -> None:
        self.folder = folder
        self.store = store
        for name in ("index", "data"):
            (folder / name).mkdir(exist_ok=True)
        self.roots = Roots(folder / "index", folder / "data")
        self.held: dict[str, str] = {}
        self.skip: frozenset[str] = options.get("skip", frozenset())
        self.broken: list[Exception] = []
        self.seen: list[Event] = []
        self.actions = Actions()
        self.staging = Staging(folder / "staging", max_bytes=options.get("staging_bytes"))
        db = connect(folder / "journal.db")
        tables.running_to_pending(db)
        jobs = list(tables.open_jobs(db))
        for staged, content in tables.snapshots(db):
            self.staging.restore(staged, content)
        events = tables.recent_events(db, 100_000)
        ledger = ledger_rows.ledger(db)
        meta = tables.get_meta(db).get("held")
        self.held.update(meta if isinstance(meta, dict) else {})
        self.journal = Journal(db, on_broken=self.broken.append)
        self.staging.open([job.staged for job in jobs if job.staged], begin=self.journal.begin)
        self.scheduler = Scheduler()
        self.backoff = Backoff(
            base_s=options.get("backoff_s", 0.002), cap_s=options.get("backoff_cap_s", 0.01)
        )
        self.fence = Fence(
            store=store,
            journal=self.journal,
            identity=identity_of(tables.get_meta(db)),
            compare=self._compare,
        )
        self.fence.settle_s = 0.0
        self.dispatcher = Dispatcher(
            scheduler=self.scheduler,
            journal=self.journal,
            store=store,
            staging=self.staging,
            roots=self.roots,
            workers=options.get("workers", 4),
            time_limit_s=lambda size: float(options.get("time_limit_s", 30.0)),
            backoff=self.backoff,
            held=self.held.get,
            guard=self.fence.guard if options.get("guarded", True) else _allow,
            changed=self.fence.changed,
            chosen=lambda namespace: self.survey.brings_chosen(namespace),
        )
        self.admission = Admission(
            journal=self.journal,
            staging=self.staging,
            roots=self.roots,
            rules=lambda: Rules(skip=self.skip, held=self.held),
            enqueue=self.dispatcher.enqueue,
            actions=self.actions,
            seen=self.seen.append,
        )
        self.retriever = Retriever(
            journal=self.journal,
            store=store,
            staging=self.staging,
            scheduler=self.scheduler,
            roots=self.roots,
            deadline_s=options.get("deadline_s", 5.0),
            backoff=self.backoff,
            prefetch=options.get("prefetch", 0),
        )
        self.survey = survey_of(
            journal=self.journal,
            store=store,
            roots=self.roots,
            fence=self.fence,
            restorer=Restorer(
                store=store,
                roots=self.roots,
                full=options.get("full", False),
                snapshot=newest_snapshot(self.scheduler, self.staging.path),
            ),
            scheduler=self.scheduler,
            skip=self.skip,
            names=options.get("names", ("default", "zdbfs-meta", "zdbfs-data")),
            held=self.held,
            changed=self._holds_changed,
            backoff=self.backoff,
            private=self.staging.folder,
            disown=self.dispatcher.departures.disown,
            forsake=self.dispatcher.departures.forsake,
        )
        self.holds_changed = 0
        self._worker: asyncio.Future[None] | None = None
        self._changed = anyio.Event()
        store.changed = self._tell
        wake = self.dispatcher.wake

        def wake_and_tell() -> None:
            wake()
            self._tell()

        self.dispatcher.wake = wake_and_tell  # type: ignore[method-assign]
        for entry in ledger:
            self.scheduler.remote(entry.key, entry.size_bytes, sealed=entry.sealed)
        self.admission.recall.load(events)
        self.dispatcher.enqueue(jobs)

    async def _compare(self, manifest: Manifest | None) -> str | None:
        return await self.survey.compare(manifest)

    async def _holds_changed(self) -> None:
        self.holds_changed += 1

    def _tell(self) -> None:
        self._changed.set()

    def work(self) -> None:
        """Start the dispatcher."""
        self._worker = asyncio.ensure_future(self.dispatcher.run())

    async def stop(self) -> None:
        """Stop without a drain. A dispatcher that ended by itself fails the test."""
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
        await self.journal.aclose()
        self.staging.close()

    # -- files ---------------------------------------------------------------------------------

    def write(self, key: FileKey, content: bytes) -> Path:
        """A live file of zdb."""
        path = self.roots.path(key)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    def index(self, number: int, content: bytes | None = None, *, ns: str = "ns") -> FileKey:
        """iN with entries (a header alone has 29 bytes)."""
        key = index_key(ns, number)
        self.write(key, content or f"index {number} of {ns} ".encode() * 10)
        return key

    def data(self, number: int, content: bytes | None = None, *, ns: str = "ns") -> FileKey:
        """dN with values."""
        key = data_key(ns, number)
        self.write(key, content or f"data {number} of {ns} ".encode() * 10)
        return key

    def descriptor(self, content: bytes = b"descriptor", *, ns: str = "ns") -> FileKey:
        """zdb-namespace."""
        key = namespace_key(ns)
        self.write(key, content)
        return key

    def live(self, key: FileKey) -> bytes:
        return self.roots.path(key).read_bytes()

    def staged(self) -> list[str]:
        """Snapshots that lie in the staging folder."""
        folder = str(self.staging.folder)  # os.walk bears that folders go meanwhile
        found = [f"{at}/{name}" for at, _, names in os.walk(folder) for name in names]
        return sorted(os.path.relpath(path, folder) for path in found)

    # -- events --------------------------------------------------------------------------------

    def frame(self, hook: str, *arguments: str, event_id: bytes | None = None) -> EventFrame:
        return EventFrame(event_id or os.urandom(16), (hook, Z, *arguments), "/", 5000)

    def jumped(self, number: int, dirty: str = "", *, ns: str = "ns") -> EventFrame:
        """jump-index from iN."""
        closed = self.roots.path(index_key(ns, number))
        opened = self.roots.path(index_key(ns, number + 1))
        return self.frame("jump-index", str(closed), str(opened), dirty)

    def sealed(self, number: int, *, ns: str = "ns") -> EventFrame:
        """jump-data from dN."""
        closed = self.roots.path(data_key(ns, number))
        opened = self.roots.path(data_key(ns, number + 1))
        return self.frame("jump-data", str(closed), str(opened))

    def closing(self, number: int, dirty: str = "", *, ns: str = "ns") -> EventFrame:
        """namespace-closing with iN and dN active."""
        index, data = self.roots.path(index_key(ns, number)), self.roots.path(data_key(ns, number))
        return self.frame("namespace-closing", ns, str(index), str(data), dirty)

    async def admit(self, frame: EventFrame, origin: str = "socket") -> Answer:
        return await self.admission.admit(frame, origin)

    async def owe(self, key: FileKey, **fields: Any) -> Job:
        """A job that no event caused, committed and in line."""
        job = Job(**{"key": key} | fields)
        await self.journal.add_jobs([job])
        self.dispatcher.enqueue([job])
        return job

    @property
    def running(self) -> int:
        """Jobs that workers have now; what they leave in the journal is there when it falls to 0."""
        return self.dispatcher.running

    # -- what came of it -----------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool], *, limit_s: float = LIMIT_S) -> None:
        """Wait for what the store or the dispatcher does next, again and again, until it holds."""
        with anyio.fail_after(limit_s):
            while not condition():
                self._changed = anyio.Event()
                if condition():
                    return
                await self._changed.wait()

    async def eventually(self, condition: Callable[[], bool]) -> None:
        """As `until`, for what has no event of its own (a file removed in a thread)."""
        with anyio.fail_after(LIMIT_S):
            while not condition():
                await anyio.sleep(0.002)

    async def empty(self) -> None:
        """Until no job is open."""
        await self.until(lambda: not len(self.scheduler))

    async def ledger(self) -> dict[FileKey, LedgerEntry]:
        return {entry.key: entry for entry in await self.journal.ledger()}

    def rows(self, question: str) -> list[Any]:
        """What the journal's tables hold now."""
        return self.journal._db.execute(question).fetchall()

    def states(self) -> list[tuple[str, str]]:
        """(file, state) of every job row, in the order of ids."""
        return self.rows("SELECT key, state FROM jobs ORDER BY id")


@asynccontextmanager
async def rig(
    folder: Path, store: MemoryStore | None = None, *, run: bool = True, **options: Any
) -> AsyncIterator[Rig]:
    """The core over `folder`; used again for the same folder it is a restart.

    `run`: whether the dispatcher works. Leaving is a stop without a drain: open jobs stay.
    """
    found = Rig(folder, store or MemoryStore(), **options)
    if run:
        found.work()
    try:
        yield found
    finally:
        await found.stop()
