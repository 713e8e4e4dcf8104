"""How a retrieve of zstor is made to end in a private folder instead of over a live file.

zstor takes one path for both the object's key and the destination. It cleans the path lexically
to make the key, but opens it through the kernel (upstream: meta.rs `canonicalize`, pipeline.rs
RecoverFile; tried on v0.4.0 and v0.5.0-rc.1). So a path through a symbolic link, followed by as
many `..` as the link has components, is the plain path for the key and lies below our folder for
the kernel:

    /proc/PID/fd/N/../../../../srv/data/ns/d0     key /srv/data/ns/d0
                                                  opens STAGE/srv/data/ns/d0

The link is /proc/PID/fd/N, a handle of ours on the folder STAGE/_/_/_/_. An ordinary link would do,
but only as long as it exists: zstor makes missing folders (create_dir_all), so with the link
removed before a queued retrieve runs, or out of zstor's sight, it would make a *folder* of that
name, the kernel would agree with the lexical path, and the live file would be overwritten. Nobody
can make a folder in /proc: a handle that is closed, by us or by our death, is an error.

For this zstor must share hookd's PID namespace and run as the same user or as root.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from hookd.stores.directory_copy import copy

PREFIX = "get-"
"""Names of the private folders in staging."""

_COMPONENTS = 4  # of /proc/PID/fd/N
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK})


class Stage:
    """A private folder for one retrieve of `live`. Every method blocks."""

    def __init__(self, staging: Path, live: Path) -> None:
        self._staging = staging
        self._live = str(live)
        self._folder: Path | None = None
        self._handle: int | None = None
        self.path = ""
        """What to ask zstor for, from `open` on."""
        self.staged = Path()
        """Where the content then is."""

    def open(self) -> None:
        """Make the folder. Raises OSError; `close` is due in any case."""
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._staging))
        deep = self._folder.joinpath(*"_" * _COMPONENTS)
        deep.mkdir(parents=True)
        self._handle = os.open(deep, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        link = f"/proc/{os.getpid()}/fd/{self._handle}"
        self.path = link + "/.." * _COMPONENTS + self._live
        self.staged = self._folder / self._live.lstrip("/")

    def deliver(self, target: Path) -> None:
        """Make what was retrieved the new file `target`, mode 0600. Raises OSError."""
        try:
            os.chmod(self.staged, 0o600)
            # not a rename: it would replace a target that exists
            os.link(self.staged, target)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            self._copy(target)

    def close(self) -> None:
        """Let go of the folder; a retrieve that still runs fails or writes to nowhere."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _copy(self, target: Path) -> None:
        """Another file system, or a file that is not ours to link."""
        reader = os.open(self.staged, os.O_RDONLY | os.O_CLOEXEC)
        try:
            writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                copy(reader, writer, lambda: False)
            finally:
                os.close(writer)
        finally:
            os.close(reader)


def remove_leftovers(staging: Path) -> None:
    """What a killed process left; no retrieve can reach it any more. Raises OSError."""
    for name in os.listdir(staging):
        if name.startswith(PREFIX):
            shutil.rmtree(staging / name, ignore_errors=True)


def write_record(staging: Path, name: str, content: bytes) -> Path:
    """A private file of that name, or nothing. Blocking; raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=staging))
    try:
        (folder / name).write_bytes(content)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder / name


def write_canary(place: Path, content: bytes) -> None:
    """Put the canary's content there, unless it is. Blocking; raises OSError."""
    if place.is_file() and place.read_bytes() == content:
        return
    place.unlink(missing_ok=True)
    with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
        handle.write(content)
