"""Stage audit: one run over a `World`: scan, local files, ledger, store, and deep if asked.

    scan → each namespace: files, then ledger entries → the store: ledger entries, then what only it has

What a look at local files finds is believed when a second look, CONFIRM_S later, finds it too: zdb makes
a file before it writes the header. And a namespace that was deleted and made again has less than the
ledger says until the deletion is known: shims on their way and the spool are heard before that look. A
store that cannot be reached ends a run as incomplete, with what was found by then.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.abc
import anyio.to_thread

from hookd.audit import local
from hookd.audit.deep import Deep
from hookd.audit.finding import Covered, Finding, Problem
from hookd.audit.remote import Remotes
from hookd.audit.world import World
from hookd.errors import JournalError, StoreError, StoreUnreachable
from hookd.files import FileKey, Kind, namespace_key
from hookd.journal import LedgerEntry

T = TypeVar("T")

CONFIRM_S = 1.0
PAGE = 256
"""Ledger entries read at once: a few milliseconds of the event loop."""

BATCH = 32
"""Files in one question, where the store takes more than one: a few milliseconds."""

WORKERS = 4
"""Questions to the store in flight, where it takes more than one."""

MAX_FINDINGS = 1000
"""Told one by one; the rest is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What to look at."""

    namespace: str | None = None
    deep: bool = False
    after: str = ""
    """Deep: go on after this file (`data/NS/dN`)."""
    scan: bool = True
    """Whether to look for unannounced files first (not right after a scan)."""


@dataclass(slots=True)
class Progress:
    """How far it is, and what it found."""

    state: str = "waiting"
    """waiting, local, store, deep; then done, incomplete or cancelled."""
    began: float = 0.0
    """Unix seconds."""
    ended: float | None = None
    files: int = 0
    """To compare with the store in this state (or in the last)."""
    bytes: int = 0
    files_done: int = 0
    bytes_done: int = 0
    last: str = ""
    """Deep: all files up to this one are done."""
    error: str | None = None
    """Why it is incomplete."""
    unreachable: bool = False
    """Whether that is because the store cannot be reached."""
    owed: int = 0
    """Files still on their way to the store when it ended."""
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """Problem → findings, those not listed too."""
    queued: int = 0
    noted: int = 0
    covered: Covered = field(default_factory=Covered)
    _clock: float = 0.0

    def enter(self, state: str, files: int = 0, size: int = 0) -> None:
        """The next part."""
        self.state, self.files, self.bytes = state, files, size
        self.files_done = self.bytes_done = 0
        self._clock = time.monotonic()

    def found(self, finding: Finding) -> None:
        """Count it, and list it while there is room."""
        name = finding.problem.value
        self.counts[name] = self.counts.get(name, 0) + 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)

    @property
    def wrong(self) -> int:
        """Findings in all."""
        return sum(self.counts.values())

    def view(self) -> dict[str, Any]:
        """Plain data; the contract of docs/reference/stats-socket.md."""
        passed_s = max(time.monotonic() - self._clock, 0.001)
        rate = self.bytes_done / passed_s
        share = self.bytes_done / self.bytes if self.bytes else 0.0
        if self.state != "deep" and self.files:
            share = self.files_done / self.files
        eta_s = passed_s / share - passed_s if 0 < share < 1 else None
        return {
            "state": self.state,
            "began": self.began,
            "ended": self.ended,
            "files": self.files,
            "files_done": self.files_done,
            "bytes": self.bytes,
            "bytes_done": self.bytes_done,
            "files_per_s": self.files_done / passed_s,
            "rate_bytes_s": rate,
            "eta_s": eta_s if self.ended is None else None,
            "last": self.last or None,
            "error": self.error,
            "unreachable": self.unreachable,
            "owed": self.owed,
            "wrong": self.wrong,
            "problems": dict(sorted(self.counts.items())),
            "queued": self.queued,
            "noted": self.noted,
        }


class Run:
    """One audit. `progress` may be read while `execute` runs; cancelling it leaves nothing behind."""

    def __init__(self, world: World, scope: Scope, *, against: local.Against | None = None) -> None:
        """`against` remembers hashes from run to run."""
        self.scope = scope
        self.progress = Progress()
        self.world = world
        self._against = against or local.Against(world.roots)
        self._remotes = Remotes(world, self.progress.found)
        self._missing: list[tuple[FileKey, int]] = []

    async def execute(self) -> None:
        """To the end. Raises JournalError; a store that cannot be reached makes it incomplete."""
        progress, scope = self.progress, self.scope
        progress.began = time.time()
        done_local = done_store = done_deep = False
        try:
            await self._decided()
            progress.enter("local")
            if scope.scan:
                await self._scan()
            while not (done_local := await self._look_here()):
                await self._decided()  # zdb has started meanwhile: what was seen says nothing
            self._tell_stuck()
            done_store = await self._ask_store()
            if scope.deep:
                done_deep = await self._retrieve_all()
            progress.state = "done"
        except StoreError as error:
            progress.state, progress.error = "incomplete", str(error)
            progress.unreachable = True
        except anyio.get_cancelled_exc_class():
            progress.state = "cancelled"
            raise
        except JournalError as error:
            progress.state, progress.error = "incomplete", f"the journal: {error}"
        finally:
            progress.ended, progress.owed = time.time(), self.world.owed()
            progress.queued += len(self._remotes.queued)
            progress.noted = self._remotes.noted
            progress.covered = Covered(
                local=done_local,
                store=done_store,
                deep=done_deep,
                namespace=scope.namespace,
                after=scope.after,
            )

    async def _decided(self) -> None:
        while self.world.undecided():  # noqa: ASYNC110 what decides has no event
            await anyio.sleep(0.2)

    async def _scan(self) -> None:
        for key in await self.world.scan():
            if self.scope.namespace in (None, key.namespace):
                self.progress.queued += 1
                what = (
                    "is queued now" if self.world.repairs else "the daemon stores it when it runs"
                )
                detail = f"it was announced by no hook and is not known to be stored; it {what}"
                if not self.world.repairs:
                    detail = f"it is not known to be stored, and not queued; {what}"
                self.progress.found(
                    Finding(key=key, problem=Problem.NOT_STORED, detail=detail, alarm=False)
                )

    def _tell_stuck(self) -> None:
        """What is known already not to be stored: no comparison looks at it, so it is told here."""
        only, world = self.scope.namespace, self.world
        for name, why in sorted(world.held.items()):
            if only in (None, name) and name not in world.skip:
                detail = (
                    f"namespace {name} is held, nothing of it is stored or compared here: {why}"
                )
                self._told(namespace_key(name), Problem.HELD, detail)
        for key, why in sorted(world.quarantined(), key=lambda each: str(each[0])):
            name = key.namespace
            if only in (None, name) and name not in world.skip and name not in world.held:
                detail = f"it is not stored before somebody decides (`hookd queue`): {why}"
                self._told(key, Problem.QUARANTINED, detail)

    def _told(self, key: FileKey, problem: Problem, detail: str) -> None:
        """No alarm of the audit: `hookd health` has it from where it is known."""
        self.progress.found(Finding(key=key, problem=problem, detail=detail, alarm=False))

    # -- local files -------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        world, only = self.world, self.scope.namespace
        names = [name for name in world.roots.namespaces() if only in (None, name)]
        return [name for name in names if name not in world.skip and name not in world.held]

    async def _look_here(self) -> bool:
        """Whether it could be looked at to the end; if not, nothing was found."""
        self._missing = []
        confirmed: list[Finding] = []
        suspects: dict[str, set[tuple[FileKey, Problem]]] = {}
        for name in await anyio.to_thread.run_sync(self._names):
            found = await self._look_at(name, self._missing)
            if found:
                suspects[name] = {(each.key, each.problem) for each in found}
        if suspects:
            await anyio.sleep(CONFIRM_S)
            await self.world.heard()
        for name, ids in suspects.items():
            for finding in await self._look_at(name, []):
                if (finding.key, finding.problem) in ids:
                    confirmed.append(finding)
        if self.world.undecided():
            return False
        for finding in confirmed:
            self.progress.found(finding)
        return True

    async def _look_at(self, name: str, missing: list[tuple[FileKey, int]]) -> list[Finding]:
        space = await _in_thread(partial(local.look, self.world.roots, name))
        known: list[int] = []
        async for entries in self._pages(f"data/{name}/", f"index/{name}/"):
            known += [entry.key.number for entry in entries if entry.key.kind is Kind.DATA]
            space.findings += await _in_thread(
                partial(self._against.compare, space, entries, self.scope.deep)
            )
        missing += [(key, space.ends.get(key.number, 0)) for key in space.missing_data(known)]
        # too short for entries, and for the ledger: that is one thing
        return list({(each.key, each.problem): each for each in space.findings}.values())

    # -- the store ---------------------------------------------------------------------------------

    def _prefixes(self) -> tuple[str, ...]:
        only = self.scope.namespace
        return ("",) if only is None else (f"data/{only}/", f"index/{only}/")

    async def _pages(self, *prefixes: str, after: str = "") -> AsyncIterator[list[LedgerEntry]]:
        for prefix in prefixes:
            last = after
            while entries := await self.world.page(last, PAGE, prefix):
                yield entries
                last = str(entries[-1].key)

    async def _totals(self, after: str = "") -> tuple[int, int]:
        if self.scope.namespace is None and not after:
            return await self.world.totals()
        files = size = 0
        async for entries in self._pages(*self._prefixes(), after=after):
            files += len(entries)
            size += sum(entry.size_bytes for entry in entries)
        return files, size

    async def _ask_store(self) -> bool:
        progress, remotes = self.progress, self._remotes
        files, size = await self._totals()
        progress.enter("store", files + len(self._missing), size)
        async for entries in self._pages(*self._prefixes()):
            some = [entries[start : start + BATCH] for start in range(0, len(entries), BATCH)]
            await self._side_by_side(some, remotes.compare_many)
        line = iter(self._missing)

        async def work() -> None:
            for key, end in line:
                await remotes.ask_for(key, end)
                progress.files_done += 1

        await _together(work, self._workers())
        if not self.world.undecided():
            for name in await anyio.to_thread.run_sync(self._names):
                await self._look_beyond(name)
        return True

    async def _look_beyond(self, name: str) -> None:
        try:
            await self._remotes.look_beyond(name)
        except StoreUnreachable:
            raise
        except StoreError:
            pass  # it is asked for again when zdb makes it

    async def _retrieve_all(self) -> bool:
        """In steps of as many as run together, so that all before `progress.last` are done."""
        progress, after, step = self.progress, self.scope.after, self._workers()
        progress.enter("deep", *await self._totals(after))
        deep = Deep(self.world, self._remotes, progress.found)
        await deep.open()
        try:
            async for entries in self._pages(*self._prefixes(), after=after):
                for start in range(0, len(entries), step):
                    some = entries[start : start + step]
                    await self._side_by_side([[each] for each in some], deep.compare_many)
                    progress.last = str(some[-1].key)
        finally:
            deep.close()
        return True

    def _workers(self) -> int:
        """One question at a time for a serial store (zstor)."""
        store = self.world.store
        return 1 if store.concurrency == 1 else max(1, min(store.readers, WORKERS))

    async def _side_by_side(
        self,
        batches: Sequence[Sequence[LedgerEntry]],
        compare: Callable[[Sequence[LedgerEntry]], Awaitable[None]],
    ) -> None:
        """Raises the first error of the store."""
        progress, line = self.progress, iter(batches)

        async def work() -> None:
            for entries in line:
                await compare(entries)
                progress.files_done += len(entries)
                progress.bytes_done += sum(entry.size_bytes for entry in entries)

        await _together(work, self._workers())


async def _together(work: Callable[[], Coroutine[Any, Any, None]], workers: int) -> None:
    """`workers` of it; an error comes out as itself, not in a group."""
    if workers == 1:
        await work()
        return
    try:
        async with anyio.create_task_group() as group:
            for _ in range(workers):
                group.start_soon(work)
    except BaseExceptionGroup as errors:
        raise _first(errors) from errors


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _in_thread(work: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
