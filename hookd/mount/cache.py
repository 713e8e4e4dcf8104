"""Stage mount, the write-back cache: whose it is, and what in it is not on the remote.

rclone keeps, below its --cache-dir, `vfs/REMOTE/PATH` (the content) and `vfsMeta/REMOTE/PATH` (JSON with
`"Dirty": true` while the content is not uploaded; also for a file that is open and in no queue).
The records on disk are the truth at the end: the queue is rclone's memory.

One folder per place (`Remotes.identity`), so that a changed password finds the cache again and what
was written for one remote is never uploaded to another. Nothing here deletes.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hookd.errors import Exit, UserError
from hookd.sockets import lock_file, make_folder

PROBE_PREFIX = ".hookd-probe-"
"""How the files are named that hookd writes to see whether the remote takes them."""

RESCUED = "rescued"
"""Folder of the cache with what `repair` moved aside, below one numbered folder each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dirty:
    """One file whose content the remote does not have."""

    name: str
    """Below the mount point."""
    size_bytes: int
    since: float
    """Unix time of its record."""
    readable: bool = True
    """Whether its record could be read; if not, it counts as not uploaded."""


class Cache:
    """The cache of one place, locked for this process."""

    def __init__(self, root: Path, *, remote: str, path: str, identity: str) -> None:
        """For `remote:path`. Raises UserError if another hookd has it."""
        make_folder(root, "mount.cache")
        self.root = root
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in remote)
        self.folder = root / f"{safe}-{identity}"
        try:
            self._lock = lock_file(self.folder / "lock", "mount.cache")
        except UserError as error:
            if error.code is not Exit.UNAVAILABLE:
                raise
            # 69 means "remote" here; two mounts of one place want to be told apart from that
            raise UserError(
                f"{error}, or give this one a mount.cache of its own", code=Exit.CONFIG
            ) from None
        self.prefix = "/".join([remote, path.strip("/")]).rstrip("/") + "/"
        """Of the paths below `vfs` and `vfsMeta`: what comes after it is the name below the mount."""

    def dirty(self) -> list[Dirty]:
        """Every file that is not on the remote, by name. Blocking.

        Raises OSError: what cannot be read may be dirty.
        """
        found = _dirty_in(self.folder, self.prefix)
        return sorted(found, key=lambda each: each.name)

    def has_record(self, name: str) -> bool:
        """Whether the file `name` below the mount has one, dirty or clean. Raises OSError."""
        try:
            (self.folder / "vfsMeta" / f"{self.prefix}{name}").lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def free_bytes(self) -> int:
        """Room that is left on its disk."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def strangers(self) -> dict[Path, int]:
        """Caches of other places beside this one that nobody serves → dirty files in them."""
        found = {}
        for folder in self.root.iterdir():
            if folder == self.folder or not (folder / "lock").exists():
                continue
            try:
                handle = lock_file(folder / "lock", "mount.cache")
            except UserError:
                continue  # another mount is at it
            os.close(handle)
            if count := len(_dirty_in(folder)):
                found[folder] = count
        return found

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._lock)


def _dirty_in(folder: Path, prefix: str = "") -> list[Dirty]:
    base = folder / "vfsMeta"
    found = []
    for inside in files_below(base):
        record = _record(base / inside)
        if record is not None and not inside.name.startswith(PROBE_PREFIX):
            size, since, readable = record
            # The record of an open file has the size it was opened with.
            with contextlib.suppress(OSError):
                size = max(size, (folder / "vfs" / inside).stat().st_size)
            # The first folders are the remote's name and what of its path is mounted.
            shown = str(inside).removeprefix(prefix)
            found.append(Dirty(name=shown, size_bytes=size, since=since, readable=readable))
    return found


def files_below(base: Path) -> Iterator[Path]:
    """Every file below `base`, as a path below it. Blocking.

    Raises OSError for a folder that cannot be read: what lies in it would count as not there. One that
    is not there any more holds nothing.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for place, _, names in os.walk(base, onerror=fail):
        for name in names:
            yield Path(place, name).relative_to(base)


def _record(path: Path) -> tuple[int, float, bool] | None:
    """(size, since, readable) of a dirty file; None for a clean one. rclone may be at it just now."""
    for _ in range(3):
        try:
            since = path.stat().st_mtime
            record = json.loads(path.read_bytes())
            return (int(record["Size"]), since, True) if record["Dirty"] else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(0.01)  # half written: rclone writes it in place
    return 0, time.time(), False
