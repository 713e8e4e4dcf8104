"""Snapshots that nobody is to store any more, kept in the staging folder's `orphaned/` for a person.

Their journal was lost, or the store has later files. The invariant: what is kept is durable before any
row stops to speak of it. Blocking.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from hookd.log import get
from hookd.restore.place import sync_folder

log = get("snapshot")

ORPHANED = "orphaned"
"""The folder."""

_NO_LINK = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def move(staging: Path, name: str) -> bool:
    """One folder of snapshots as a whole, for there may be 100,000; durable after `sync`. False where an
    earlier start has kept one of that name: then its copies are added to that, and stay here.
    """
    kept = staging / ORPHANED
    kept.mkdir(mode=0o700, exist_ok=True)
    try:
        os.rename(staging / name, kept / name)
    except OSError:
        lost = [f"{name}/{file}" for file in os.listdir(staging / name)]
        keep_copies(staging, lost, quiet=True)
        return False
    return True


def sync(staging: Path) -> None:
    """What was kept is durable."""
    for changed in (staging / ORPHANED, staging):
        if changed.is_dir():
            sync_folder(changed)


def keep_copies(folder: Path, staged: Sequence[str], *, quiet: bool = False) -> None:
    """Snapshots that nobody is to store any more are kept for a person, in `orphaned/`: durable when this
    returns, and still where they were. One that is gone is said. Raises OSError. Blocking.
    """
    kept = folder / ORPHANED
    for name in staged:
        target = kept / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with (folder / name).open("rb") as copy:
                os.fsync(copy.fileno())  # a small one was the journal's to keep
            _link(folder / name, target)
        except FileExistsError:
            pass  # kept by one that was killed before the rows said so
        except FileNotFoundError as error:
            if not target.exists():
                log.error("not kept", snapshot=name, error=str(error))
            continue
        sync_folder(target.parent)
        if not quiet:
            log.warning("kept", snapshot=str(target))
    if staged:
        sync(folder)


def _link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        part = target.with_name(f".{target.name}.part")
        shutil.copyfile(source, part)
        with part.open("rb") as copy:
            os.fsync(copy.fileno())
        os.replace(part, target)
