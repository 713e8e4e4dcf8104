"""Stage scheduler, rule 3: of two jobs of one file, which stands for which. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from hookd.files import Kind
from hookd.journal.records import Job, JobState

NO_ROOM = "no-room"
"""Error class of a job that found no room for its snapshot."""


def has_more(old: Job, new: Job) -> bool:
    """Whether `old` holds content that would be lost if `new` took its place."""
    if old.staged is None:
        return False
    if new.staged is None or new.size_bytes is None:
        return True
    return old.key.kind is not Kind.NAMESPACE and new.size_bytes < (old.size_bytes or 0)


def older_in(line: Iterable[Job], job: Job) -> list[Job]:
    """Those that do not run, were not read later than `job`, and hold nothing that it does not."""
    return [
        old
        for old in line
        if old.state is not JobState.RUNNING and old.begun <= job.begun and not has_more(old, job)
    ]


def take_over(old: Job, new: Job) -> None:
    """`new` gets the turn and the age of `old`."""
    new.turn = min(new.turn, old.turn)
    new.since = min(new.since, old.since)
    new.queued_at = min(new.queued_at, old.queued_at)
    # What no hook announced may be older here than in the store (`damage`), whatever zdb wrote since.
    new.ask_first |= old.ask_first


def lacks_room(job: Job) -> bool:
    """Whether it found none for its snapshot when it was tried last, and waits to be tried again. One
    that was frozen since, or that waits for another file, keeps the error that it had.
    """
    return job.error_class == NO_ROOM and job.staged is None and job.place == "later"
