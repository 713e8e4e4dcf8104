"""Stage admission: one event frame into a durable promise and its answer.

Frame → event → plan → snapshots → one transaction → answer. The invariants:

- the answer 0 leaves only after the commit that holds the event and everything it causes;
- one event id is done once: a shim that comes again gets the answer of the first time, and while the
  first is still being worked on it waits for that;
- an event that cannot be acted on (no room, refused path, held namespace) is still kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import anyio
import anyio.to_thread

from hookd.errors import (
    EventMalformed,
    JournalError,
    NoRoom,
    PathRefused,
    SourceGone,
    StoreTemporary,
)
from hookd.event import HOOKS, Event, IndexJumped, UnknownHook, parse
from hookd.files import FileKey, Roots
from hookd.journal import EventRow, Job, Journal, Outcome
from hookd.log import get
from hookd.needs import no_further, points_to
from hookd.policy import Action, Plan, Rules, Want, plan
from hookd.recall import Recall
from hookd.snapshot import Snapshot, Staging
from hookd.tally import Tally
from hookd.turns import Turns
from hookd.wire import ANSWER_SPOOL, Answer, EventFrame

log = get("admission")

_KNOWN = frozenset(HOOKS)

AT_ONCE_FILES = 16
AT_ONCE_BYTES = 1 << 20
"""Snapshots up to here are made on the event loop: under a busy zdb a thread costs more than the copy."""

MAX_TEXT = 1000
"""Characters of an answer that names refused files: a dirty list may hold thousands of them."""


class Actions(Protocol):
    """What an event may cause beside stores; `recovery` and `scan` in the daemon."""

    async def survey(self) -> Answer:
        """Compare local with remote before zdb loads anything."""
        ...

    async def judge(self) -> Answer:
        """Whether zdb may serve."""
        ...

    async def retrieve(self, key: FileKey) -> Answer:
        """Bring one data file back."""
        ...

    async def withdraw(self, namespace: str) -> None:
        """zdb has removed the namespace."""
        ...

    def scan(self) -> None:
        """Look for unannounced files soon; returns at once."""
        ...


class Admission:
    """Takes events, keeps them, answers."""

    def __init__(
        self,
        *,
        journal: Journal,
        staging: Staging,
        roots: Roots,
        rules: Callable[[], Rules],
        enqueue: Callable[[list[Job]], None],
        actions: Actions,
        seen: Callable[[Event], None],
    ) -> None:
        """`enqueue` takes committed jobs, `seen` is told each event (the drain follows zdb's life)."""
        self._journal = journal
        self._staging = staging
        self._roots = roots
        self._rules = rules
        self._enqueue = enqueue
        self._actions = actions
        self._seen = seen
        self.recall = Recall(journal)
        self._under_way: dict[bytes, asyncio.Future[Answer]] = {}
        self._acting: set[bytes] = set()
        """Blocking events whose answer is the outcome of work."""
        self._turns = Turns()
        self.tally = Tally()
        self.last_event_at: float | None = None
        """Unix seconds."""

    @property
    def busy(self) -> int:
        """Events being worked on now."""
        return len(self._under_way)

    @property
    def committing(self) -> Collection[bytes]:
        """The ids of those that announce something: they are answered as soon as they are committed."""
        return self._under_way.keys() - self._acting

    async def admit(self, frame: EventFrame, origin: str) -> Answer:
        """Keep the event and say what the shim is to exit with.

        Raises nothing: whatever prevents keeping it becomes ANSWER_SPOOL, and the shim (or the spool
        file it came from) keeps the event instead.
        """
        event_id = frame.event_id
        first = self._under_way.get(event_id)
        if first is not None:
            self.tally.duplicate += 1
            return await asyncio.shield(first)
        known = self.recall.get(event_id)
        if known is not None and known[1] is not None:
            self.tally.duplicate += 1
            return Answer(known[1], "")
        # The work belongs to the event, not to the connection: intake does not cancel it when the
        # shim goes, and one that comes again over a new connection waits for the same future.
        promise = asyncio.get_running_loop().create_future()
        self._under_way[event_id] = promise
        try:
            answer = await self._first_time(frame, origin, known[0] if known else None)
            promise.set_result(answer)
            return answer
        finally:
            promise.cancel()  # nothing unless we were cancelled
            del self._under_way[event_id]

    async def _first_time(self, frame: EventFrame, origin: str, seq: int | None) -> Answer:
        self.last_event_at = time.time()
        hook = frame.argv[0] if frame.argv else ""
        counted = hook if hook in _KNOWN else "unknown"
        self.tally.by_hook[counted] = self.tally.by_hook.get(counted, 0) + 1
        try:
            if seq is None and origin == "spool":
                found = await self.recall.find(frame.event_id)
                if found is not None and found[1] is not None:
                    self.tally.duplicate += 1
                    return Answer(found[1], "")
            return await self._admit(frame, origin, seq)
        except JournalError as error:
            log.error("cannot commit, the shim spools", hook=hook, error=str(error))
            return Answer(ANSWER_SPOOL, f"the journal cannot be written: {error}")
        except Exception as error:  # a fault of ours must not lose the event
            log.exception("internal error, the shim spools", hook=hook)
            return Answer(ANSWER_SPOOL, f"internal error: {error!r}")

    async def _admit(self, frame: EventFrame, origin: str, seq: int | None) -> Answer:
        resolve = partial(self._roots.key, cwd=frame.cwd or "/")
        try:
            event = parse(frame.argv)
            todo = plan(event, self._rules(), resolve)
            todo, lengths, refused = self._measure(todo)
        except (EventMalformed, PathRefused) as error:
            return await self._refuse(frame, origin, str(error))
        self._seen(event)
        if todo.action in (Action.SURVEY, Action.JUDGE, Action.RETRIEVE):
            self._acting.add(frame.event_id)
            try:
                return await self._act(frame, origin, todo, seq)
            finally:
                self._acting.discard(frame.event_id)
        if todo.held is not None:
            await self._keep(frame, origin, Outcome.HELD, todo.held, 0)
            self.tally.held += 1
            log.warning("held", hook=frame.argv[0], namespace=todo.namespace, reason=todo.held)
            return Answer(0, "")
        if todo.action is Action.WITHDRAW and todo.namespace is not None:
            # Before the commit: what fails now is done again, an answered event never is.
            async with self._turns.alone(todo.namespace):
                await self._actions.withdraw(todo.namespace)
        if not todo.wants:
            return await self._store(frame, origin, event, todo, lengths, refused)
        async with self._turns.beside(todo.wants[0].key.namespace):
            return await self._store(frame, origin, event, todo, lengths, refused)

    async def _store(
        self,
        frame: EventFrame,
        origin: str,
        event: Event,
        todo: Plan,
        lengths: Mapping[FileKey, int | None],
        refused: list[str],
    ) -> Answer:
        """Freeze what the plan wants, commit, put it in line."""
        answer, jobs = await self._freeze(event, todo, lengths)
        if refused:
            # not 0: what was named is not all going to be stored, and zdb keeps its dirty list
            answer = Answer(1, "; ".join(filter(None, (answer.text, *refused)))[:MAX_TEXT])
        unknown = isinstance(event, UnknownHook)
        outcome = Outcome.UNKNOWN if unknown else Outcome.ACCEPTED
        try:
            await self._keep(frame, origin, outcome, answer.text, answer.code, jobs)
        except JournalError:
            staged = [job.staged for job in jobs if job.staged is not None]
            if staged:
                await anyio.to_thread.run_sync(self._staging.remove, staged)
            raise
        # Nothing between the commit and this: what is owed is in line, whatever goes wrong from here on.
        if jobs:
            self._enqueue(jobs)
        if unknown:
            self.tally.unknown += 1
            log.warning("unknown hook, kept", argv=list(frame.argv))
        if todo.action is Action.SCAN:
            self._actions.scan()
        return answer

    def _measure(self, todo: Plan) -> tuple[Plan, dict[FileKey, int | None], list[str]]:
        """The plan without the files that must not be read, the lengths of the others, and a line for
        each that was left out. Raises PathRefused where nothing would be left.
        """
        lengths: dict[FileKey, int | None] = {}
        refused: list[PathRefused] = []
        for want in todo.wants:
            try:
                lengths[want.key] = self._roots.length(want.key)
            except PathRefused as error:
                refused.append(error)
        if not refused:
            return todo, lengths, []
        kept = tuple(want for want in todo.wants if want.key in lengths)
        if not kept:
            raise refused[0]
        self.tally.refused += 1
        reasons = [str(error) for error in refused]
        for reason in reasons:
            log.error("refused a file, the others are kept", reason=reason)
        return replace(todo, wants=kept), lengths, reasons

    async def _refuse(self, frame: EventFrame, origin: str, reason: str) -> Answer:
        self.tally.refused += 1
        log.error("refused", argv=[text[:200] for text in frame.argv], reason=reason)
        await self._keep(frame, origin, Outcome.REFUSED, reason, 1)
        return Answer(1, reason)

    async def _keep(
        self,
        frame: EventFrame,
        origin: str,
        outcome: Outcome,
        note: str,
        answer: int | None,
        jobs: list[Job] | None = None,
    ) -> int:
        """The one commit of an event."""
        row = EventRow(
            event_id=frame.event_id,
            argv=frame.argv,
            cwd=frame.cwd,
            received_at=time.time(),
            origin=origin,
            outcome=outcome,
            note=note,
            answer=answer,
        )
        seq = await self._journal.append(row, jobs or ())
        self.tally.accepted += 1
        self.recall.note(frame.event_id, seq, answer)
        return seq

    async def _act(self, frame: EventFrame, origin: str, todo: Plan, seq: int | None) -> Answer:
        """A blocking event whose answer is the outcome of work; kept before, answered after.

        With the journal's disk full it is worked on all the same: nothing of it needs to last.
        """
        try:
            if seq is None:
                seq = await self._keep(frame, origin, Outcome.ACCEPTED, "", None)
        except JournalError as error:
            log.error("cannot commit, goes on without", hook=frame.argv[0], error=str(error))
        if todo.action is Action.SURVEY:
            answer = await self._actions.survey()
        elif todo.action is Action.JUDGE:
            answer = await self._actions.judge()
        else:
            assert todo.retrieve is not None
            answer = await self._actions.retrieve(todo.retrieve)
        # "Come again" is no outcome: whoever comes again is to be worked on, by us or the next daemon.
        if seq is not None and answer.code != ANSWER_SPOOL:
            try:
                await self._journal.answered(seq, answer.code)
                self.recall.note(frame.event_id, seq, answer.code)
            except JournalError as error:
                log.error("answer not kept", hook=frame.argv[0], error=str(error))
        return answer

    # -- files ---------------------------------------------------------------------------------

    async def _freeze(
        self, event: Event, todo: Plan, lengths: Mapping[FileKey, int | None]
    ) -> tuple[Answer, list[Job]]:
        """Snapshots of what zdb rewrites, and the jobs for all files of the plan.

        Without room, or while zdb is making one of the files, nothing is frozen: the jobs are kept and
        freeze their files later, and jump-index says 1, so that zdb keeps its dirty list.
        """
        frozen = [want for want in todo.wants if want.freeze]
        if not frozen:
            return Answer(0, ""), [_job(want, None, lengths) for want in todo.wants]
        sizes = [lengths[want.key] or 0 for want in frozen]
        work = partial(self._freeze_now, todo.wants, frozen, lengths)
        try:
            if len(sizes) <= AT_ONCE_FILES and sum(sizes) <= AT_ONCE_BYTES:
                return Answer(0, ""), work()
            return Answer(0, ""), await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        except (NoRoom, StoreTemporary, SourceGone, OSError) as error:
            waits = isinstance(event, IndexJumped)
            self.tally.deferred += 1
            # a late event of a namespace that was deleted, and is being made anew, is no trouble
            say = log.info if isinstance(error, SourceGone) else log.error
            say("no snapshot, will freeze later", hook=type(event).__name__, error=str(error))
            jobs = [
                _job(want, None, lengths)
                for want in todo.wants
                if not (want.optional and lengths[want.key] is None)
            ]
            for job in jobs:
                if job.needs is not None:
                    job.needs = no_further(self._roots, job)
            return Answer(1 if waits else 0, f"no snapshot: {error}"), jobs

    def _freeze_now(
        self,
        wants: Sequence[Want],
        frozen: Sequence[Want],
        lengths: Mapping[FileKey, int | None],
    ) -> list[Job]:
        """The snapshots, then what they can point into. Blocking."""
        made = self._staging.freeze([self._roots.path(want.key) for want in frozen])
        snapshots = dict(zip((want.key for want in frozen), made, strict=True))
        jobs = [
            _job(want, snapshots.get(want.key), lengths)
            for want in wants
            if not (want.optional and snapshots[want.key] is None)
        ]
        self._bound(jobs)
        return jobs

    def _bound(self, jobs: list[Job]) -> None:
        """What the index snapshots point into. Blocking."""
        for job in jobs:
            if job.needs is not None and job.staged is not None:
                content = job.content or self._staging.path(job.staged)
                job.needs, job.needs_bytes = points_to(self._roots, job, content)


def _job(want: Want, snapshot: Snapshot | None, lengths: Mapping[FileKey, int | None]) -> Job:
    """`lengths` is for the queue's count of bytes; a live file is measured when it is read."""
    return Job(
        key=want.key,
        since=time.time(),
        staged=snapshot.staged if snapshot else None,
        freeze=want.freeze and snapshot is None,
        begun=snapshot.begun if snapshot else 0,
        size_bytes=snapshot.size_bytes if snapshot else lengths[want.key],
        digest=snapshot.digest if snapshot else None,
        content=snapshot.content if snapshot else None,
        sealed=want.sealed,
        needs=want.needs,
    )
