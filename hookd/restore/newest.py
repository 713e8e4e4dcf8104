"""A file's newest content that is not stored yet: it lies in the staging folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hookd.errors import Conflict
from hookd.files import FileKey
from hookd.journal import Job
from hookd.scheduler import Scheduler


def newest_snapshot(
    scheduler: Scheduler, staging_path: Callable[[str], Path]
) -> Callable[[FileKey], tuple[Path, Job] | None]:
    """Finds a file's newest content that waits in the staging folder (`Restorer.snapshot`)."""

    def find(key: FileKey) -> tuple[Path, Job] | None:
        for job in scheduler.of(key)[-1:]:
            if job.staged is not None and job.digest and job.error_class != Conflict.error_class:
                return staging_path(job.staged), job
        return None

    return find
