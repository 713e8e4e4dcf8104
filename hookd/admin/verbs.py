"""The few things an administrator may tell a running daemon: retry, skip, pause, checkpoint, audit.

Each returns one line for whoever asked, and leaves a log line that names the user: what is given
up or held back must be found again later. Raises `Refused` with the line that says why not.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from hookd.admin.lines import Refused
from hookd.admin.view import scrubbed, state_of
from hookd.admin.words import count, duration, listed, verb
from hookd.checkpoint_run import Outcome
from hookd.errors import JournalError, PathRefused, StoreError
from hookd.files import FileKey, index_key
from hookd.journal.records import Job, JobState
from hookd.log import get
from hookd.manifest import ManifestBad, ManifestNewer

if TYPE_CHECKING:
    from hookd.admin.picture import AsksZdb
    from hookd.parts import Parts

log = get("admin")

T = TypeVar("T")

CHECKPOINT_WITHIN_S = 300.0
CHECKPOINT_WITHIN_MOST_S = 86_400.0

MOST_WAITING = 8
"""Who waits for a checkpoint has a connection for as long; the others' are for `hookd status`."""

AT_ONCE = 256
"""Retries under way together: they share the journal's commits."""


LOOK_WITHIN_S = 5.0
"""For a look at the manifest, so that an answer can say what is there."""

SHOWN = 5
"""Jobs of one file that an answer names."""


async def retry(parts: Parts, target: str, uid: int) -> str:
    """Have a file stored at once, its attempts counted anew; `all`: every one that has failed."""
    if target == "all":
        jobs = [job for job in parts.scheduler if job.error is not None and _is_idle(job)]
    else:
        if (key := _skipped(parts, target)) is not None:
            log.info("skipped no more", file=str(key), uid=uid)
            await _durable(parts.dispatcher.owe([key]))
            return f"{key} is in line again"
        jobs = [job for job in _find(parts, target) if _is_idle(job)]
        if not jobs:
            raise Refused(f"{target} is being stored right now")
    log.info("retry", target=target, files=len(jobs), uid=uid)
    await _each(parts, jobs)
    return f"{count(len(jobs), 'file')} will be tried at once" if jobs else "nothing has failed"


async def skip(parts: Parts, target: str, uid: int) -> str:
    """Give up a quarantined file: it is not stored, and the journal says who decided that.

    Snapshots of it that are on their way stay, and are named. A file may also be given up that waits
    for another which is not on its way any more (it was skipped, or is gone): nothing else would ever
    end its wait.
    """
    found = _find(parts, target)
    jobs = [job for job in found if _may_skip(parts, job)]
    stays = [job for job in found if job not in jobs]
    if not jobs:
        raise Refused(f"{target} is {state_of(stays[0])}: only quarantined files can be skipped")
    given_up = False
    for job in jobs:
        log.warning("skipped", file=str(job.key), job=job.id, error=job.error, uid=uid)
        given_up = await _durable(
            parts.dispatcher.departures.withdraw(job, f"skipped by uid {uid}")
        )
    text = f"{jobs[0].key} is given up: it will not be stored"
    if not given_up:
        text = f"{jobs[0].key} is given up as it was; as it is now it stays owed"
    if stays:  # later snapshots of it, whose turn comes now
        numbers = listed([str(job.id) for job in jobs], SHOWN)
        names = [f"{job.id} ({state_of(job)})" for job in stays]
        text = (
            f"job {numbers} of {jobs[0].key} is given up; others of it stay in line:"
            f" {listed(names, SHOWN)}"
        )
    elif waiting := _waiting_for(parts, {job.key for job in jobs}):
        text += f"; {count(waiting, 'file')} still {verb(waiting, 'waits', 'wait')} for it"
    return text


def pause(parts: Parts, uid: int) -> str:
    """Start no further store until `resume`, a drain or the next start."""
    if parts.phase != "running":
        raise Refused(f"hookd is {parts.phase}: it stores what is left, and cannot be paused")
    parts.dispatcher.paused = True
    log.warning("paused", uid=uid)
    running = parts.dispatcher.running
    rest = f"; {count(running, 'file')} under way will be finished" if running else ""
    return f"storing is paused{rest}; events are taken as ever"


def release(parts: Parts, uid: int) -> str:
    """Let zdb write into what `zdb.keep_free_bytes` keeps free: zdbfs writes out what it holds."""
    if parts.room.shut:
        log.warning("zdb may write into what is kept free", uid=uid)
    parts.room.release()
    return "zdb takes writes" + (", into what is kept free" if parts.room.shut else "")


def resume(parts: Parts, uid: int) -> str:
    """Store again."""
    was, parts.dispatcher.paused = parts.dispatcher.paused, False
    parts.dispatcher.wake()
    if not was:
        return "storing was not paused"
    log.info("resumed", uid=uid)
    return "storing goes on"


async def checkpoint(
    parts: Parts, timeout_s: float, uid: int, say: Callable[[str], Awaitable[None]]
) -> Outcome:
    """Close and store what zdb holds now; `say` gets a line as it goes on."""
    if parts.phase != "running":
        raise Refused(f"hookd is {parts.phase}: it stores everything before it ends")
    if parts.checkpoints.waiting >= MOST_WAITING:
        raise Refused(f"{MOST_WAITING} wait for a checkpoint already")
    log.info("checkpoint asked for", uid=uid, timeout_s=timeout_s)
    outcome = await parts.checkpoints.take(timeout_s, say)
    parts.checkpoints.note(outcome)
    if outcome.safe:
        log.info("checkpoint", until=outcome.until, jumped=len(outcome.jumped))
    else:
        log.warning("checkpoint failed", problems=list(outcome.problems))
    return outcome


async def take(parts: Parts, zdb: AsksZdb, namespace: str, choice: str, uid: int) -> str:
    """An administrator decides whose files of a namespace (`*`: of all) are the right ones."""
    if choice not in ("local", "remote"):
        raise Refused(f"read {choice[:40]!r}, expected local or remote")
    if namespace != "*":
        try:
            index_key(namespace, 0)
        except PathRefused as error:
            raise Refused(str(error)) from None
    log.warning("choice", namespace=namespace, take=choice, uid=uid)
    survey = parts.survey
    shown = "every namespace" if namespace == "*" else namespace
    try:
        names = None
        if choice == "local" and parts.life.started:
            names = await survey.take_local(namespace, zdb.zdb_runs)
        if names is not None:
            if not names:
                why = parts.held.get(namespace) or "; ".join(parts.held.values())
                raise Refused(f"{namespace}: {why}" if why else "nothing is here to be taken")
            jobs = [job for job in parts.scheduler if job.key.namespace in names and _is_idle(job)]
            await _each(parts, jobs)
            left = f"; still held: {listed(sorted(parts.held))}" if parts.held else ""
            return (
                f"{listed(names)}: what is here is stored over what the store has; until a checkpoint"
                " (`hookd checkpoint`) says that it is safe, a lost disk brings back a part of it at most"
                + left
            )
        await survey.choices.choose(namespace, choice)
    except (StoreError, JournalError, ManifestNewer) as error:
        raise Refused(str(error)) from error
    if choice == "local":
        return f"{shown}: what is here is served, and stored, from zdb's next start on"
    return f"{shown}: {await _what_comes_back(parts)}"


async def _what_comes_back(parts: Parts) -> str:
    """What *remote* means: whose files are there now, as far as can be seen."""
    try:
        with anyio.fail_after(LOOK_WITHIN_S):
            seen, _ = await parts.fence.record.read_any()
    except (StoreError, ManifestBad, ManifestNewer, TimeoutError) as error:
        why = str(error) or f"no answer within {LOOK_WITHIN_S:g} s"
        return (
            f"the store cannot be read now ({why}): zdb's next start waits until it can; then what is"
            " here is set aside, and what is stored by then comes back. `--take local` withdraws that"
        )
    what = "what is stored"
    if seen is not None:
        age = duration(max(0.0, time.time() - seen.written_at))
        what += (
            f" (manifest {seen.sequence} of {seen.writer[:8]}, written {age} ago, or a later one)"
        )
    return (
        f"at zdb's next start what is here is set aside, and {what} is brought back;"
        " stop zdb and start it again"
    )


def audit(parts: Parts, words: str, uid: int) -> int:
    """Have an audit run; its number, for `audit_report`. `words` are written as on a command line."""
    from hookd.audit.auditor import TooMany
    from hookd.audit.run import Scope

    if parts.phase != "running":
        raise Refused(f"hookd is {parts.phase}: it stores what is left, and audits nothing now")
    namespace, deep, after = _audit_words(words)
    scope = Scope(namespace=namespace, deep=deep, after=after)
    try:
        number = parts.auditor.request(scope)
    except TooMany:
        raise Refused("too many audits wait already; try again later") from None
    log.info("audit", deep=deep, namespace=namespace, uid=uid)
    return number


def audit_report(parts: Parts, number: str) -> dict[str, Any]:
    """How far it is, what it found."""
    found = parts.auditor.report(_number(number))
    if found is None:
        raise Refused(f"there is no audit {number}, or it ended long ago")
    clean: dict[str, Any] = scrubbed(found)
    return clean


def audit_cancel(parts: Parts, number: str, uid: int) -> str:
    """Give it up; what it found by then stays."""
    if not parts.auditor.cancel(_number(number)):
        raise Refused(f"audit {number} neither waits nor runs")
    log.info("audit cancelled", run=int(number), uid=uid)
    return f"audit {number} is given up"


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refused(f"read {text[:40]!r}, expected the number of an audit")
    return int(text)


def _audit_words(words: str) -> tuple[str | None, bool, str]:
    """(namespace, deep, after). Raises Refused."""
    try:
        parts = shlex.split(words)
    except ValueError as error:
        raise Refused(f"read {words[:40]!r}: {error}") from None
    namespace, deep, after = None, False, ""
    line = iter(parts)
    for word in line:
        if word == "--deep":
            deep = True
        elif word in ("--namespace", "--after") and (value := next(line, "")):
            if word == "--namespace":
                namespace = value
            else:
                after = value
        else:
            raise Refused(f"read {word[:40]!r}, expected --deep, --namespace NAME or --after FILE")
    if after:
        try:
            FileKey.parse(after)
        except PathRefused as error:
            raise Refused(str(error)) from None
        if not deep:
            raise Refused("--after goes on with a --deep one")
    return namespace, deep, after


def _find(parts: Parts, target: str) -> Sequence[Job]:
    """The open jobs that a number, a file's key or its path names."""
    scheduler = parts.scheduler
    if target.isascii() and target.isdigit():
        job = scheduler.get(int(target))
        found: Sequence[Job] = () if job is None else (job,)
    else:
        try:
            key = parts.roots.key(target) if target.startswith("/") else FileKey.parse(target)
        except PathRefused as error:
            raise Refused(str(error)) from None
        found = scheduler.of(key)
    if not found:
        raise Refused(f"{target} is not in the queue")
    return found


def _skipped(parts: Parts, target: str) -> FileKey | None:
    """The file, if it was given up earlier and is in no line."""
    skips = parts.dispatcher.departures.skips
    keys = (key for key in skips if target in (str(key), parts.roots.text(key)))
    return next((key for key in keys if not parts.scheduler.covers(key)), None)


def _is_idle(job: Job) -> bool:
    return job.state is not JobState.RUNNING


def _may_skip(parts: Parts, job: Job) -> bool:
    if job.state is JobState.QUARANTINED:
        return True
    obstacle = parts.scheduler.waits_for(job) if _is_idle(job) else None
    return obstacle is not None and not parts.scheduler.covers(obstacle)


def _waiting_for(parts: Parts, keys: set[FileKey]) -> int:
    """How many jobs need what was just given up."""
    spaces = {key.namespace for key in keys}
    return sum(
        1
        for job in parts.scheduler
        if job.key.namespace in spaces and parts.scheduler.waits_for(job) in keys
    )


async def _each(parts: Parts, jobs: Sequence[Job]) -> None:
    """Retry them, some at a time."""
    for start in range(0, len(jobs), AT_ONCE):
        tasks = [_again(parts, job) for job in jobs[start : start + AT_ONCE]]
        await _durable(asyncio.gather(*tasks))


async def _again(parts: Parts, job: Job) -> None:
    """Retry it, unless it has been stored or superseded since it was found."""
    if parts.scheduler.get(job.id) is job and _is_idle(job):
        await parts.dispatcher.retry(job)


async def _durable(change: Awaitable[T]) -> T:
    try:
        return await change
    except JournalError as error:
        raise Refused(
            f"the journal cannot be written, so this holds until the next start only: {error}"
        ) from None
