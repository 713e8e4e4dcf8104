"""Stage snapshot: freezes files that zdb rewrites in place, before zdb is answered.

A snapshot is a private copy `STAGING/<run>-<serial>/<name>` (zstor derives the key from the name),
made by reflink where the file system can (FICLONE), else by copying; hashed in the same pass. A
large one is fsynced with its folders, a small one goes into the journal as well. The invariants: a
`Snapshot` that was returned is on disk, or will be with the commit that takes its `content`; its digest
is of exactly these bytes; two of one file are never made at once, so that of two the one begun later is
newer; a path is never used twice, because a store may still be reading it for a call that hookd has
given up.

The staging folder is bounded (`max_bytes`); beyond it, and with its disk full, `NoRoom` is raised
and nothing is left behind. Every function here blocks: call it in a thread.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hookd import faults
from hookd.digest import CHUNK_BYTES, digest_fd, hasher
from hookd.entries import DESCRIPTOR_HEAD_BYTES, least_bytes
from hookd.errors import NoRoom, SourceGone, StorePermanent, StoreTemporary
from hookd.log import get
from hookd.orphans import ORPHANED, keep_copies, move, sync
from hookd.restore.place import sync_folder

log = get("snapshot")

FICLONE = 0x40049409
"""ioctl: share the extents of another file (linux/fs.h)."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_CLONE = frozenset(
    {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}
)

INLINE_BYTES = 256 * 1024
INLINE_AT_ONCE_BYTES = 4 * 1024 * 1024
"""Snapshots up to the first size, and together up to the second, travel in the journal's commit. To
fsync new files beside a zdb that writes costs a file system commit each: 28 ms for a jump-index instead
of 4 (measured on ext4)."""

_FOLDER = re.compile(r"[0-9a-f]{12}-[0-9]+", re.ASCII)

RETRIEVES = "get-"
"""Prefix of the private folders of retrieves (recovery, zstor's stage); worth nothing after a crash."""

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Never through a symbolic link, and never stuck in a pipe that lies in a file's place."""

TURNS = 64
"""Locks that the files share between them: which of two snapshots is newer is no matter of luck."""

STABLE_TRIES = 5
"""How often a file that changes under the copy is copied again before it is called unstable."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One frozen file."""

    staged: str
    """Its path below the staging folder."""
    begun: int
    """A number given before the first byte was read: of two of one file the higher one is newer."""
    size_bytes: int
    digest: bytes
    content: bytes | None = None
    """A small one's bytes, for the journal: its commit makes them durable with one sync for all.
    None: the copy itself was fsynced."""


class Staging:
    """The folder of snapshots and its account of bytes. Safe to use from several threads."""

    def __init__(self, folder: Path, *, max_bytes: int | None) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        self._run = os.urandom(6).hex()
        self._begin: Callable[[], int] = itertools.count(1).__next__
        self._turns = tuple(threading.Lock() for _ in range(TURNS))
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="snapshot")
        self._clones = True
        self.refused: str | None = None
        """Why the last snapshot found no room, None since one was made again."""

    @property
    def size_bytes(self) -> int:
        """What the snapshots take, in bytes."""
        return self._bytes

    def lacks(self, size_bytes: int) -> int:
        """How many bytes must go for `size_bytes` more: what exceeds the limit; on a full disk all."""
        if self.max_bytes is None:
            return size_bytes
        beyond = self._bytes + size_bytes - self.max_bytes
        return beyond if beyond > 0 else size_bytes

    def open(
        self,
        known: Iterable[str],
        *,
        begin: Callable[[], int] | None = None,
        keep_unknown: bool = False,
    ) -> list[str]:
        """Make the folder, keep what is `known` to the journal, let go of the rest.

        `begin` numbers the snapshots (`Journal.begin`); a folder without a journal has its own count.
        What no commit refers to was never acknowledged: the process died before. With
        `keep_unknown` (the journal was lost) it is moved to `orphaned/`.
        Returns the known ones that are not there (someone emptied the folder).
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if begin is not None:
            self._begin = begin
        missing: list[str] = []
        kept: set[str] = set()
        for staged in known:
            try:
                self._account(staged, os.path.getsize(self.folder / staged))
                kept.add(staged.partition("/")[0])
            except FileNotFoundError:
                missing.append(staged)
        for name in os.listdir(self.folder):
            if name.startswith(RETRIEVES):
                shutil.rmtree(self.folder / name, ignore_errors=True)
                continue
            unknown = _FOLDER.fullmatch(name) and name not in kept
            if unknown and not (keep_unknown and move(self.folder, name)):  # `orphans` tells
                shutil.rmtree(self.folder / name, ignore_errors=True)
        if keep_unknown:
            sync(self.folder)
        return missing

    def orphans(self) -> int:
        """How many snapshots lie in `orphaned/`, put there by this start or an earlier one."""
        return sum(1 for _ in (self.folder / ORPHANED).glob("*/*"))

    def restore(self, staged: str, content: bytes) -> None:
        """Before `open`: a small snapshot as the journal has it; the copy was never synced.

        Put in place whole: a store that the last daemon gave up may be reading the old copy now.
        """
        path = self.folder / staged
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        whole = path.with_name(f".{path.name}.whole")
        with open(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        os.replace(whole, path)

    def path(self, staged: str) -> Path:
        """Where a snapshot lies."""
        return self.folder / staged

    def freeze(self, sources: Sequence[Path]) -> list[Snapshot | None]:
        """Copy `sources`, all or nothing; None for each that does not exist.

        A copy is made again while its source changes under it: zdb may not be waiting (the event came
        from the spool, its shim was killed). Raises NoRoom, StoreTemporary (it never stood still),
        SourceGone (it is there, but zdb is still making it), OSError.
        """
        made: list[Snapshot | None] = []
        inline = INLINE_AT_ONCE_BYTES
        try:
            for source in sources:
                snapshot = self._freeze_one(source, min(INLINE_BYTES, inline))
                made.append(snapshot)
                if snapshot is not None and snapshot.content is not None:
                    inline -= snapshot.size_bytes
            faults.point("snapshot-copied")
            self._sync([item.staged for item in made if item and item.content is None])
            faults.point("snapshot-synced")
        except BaseException as error:
            self.remove([item.staged for item in made if item is not None])
            if isinstance(error, NoRoom):
                self.refused = str(error)
            elif isinstance(error, OSError) and error.errno in _FULL:
                self.refused = f"{self.folder}: {os.strerror(error.errno)}"
                raise NoRoom(self.refused) from error
            raise
        self.refused = None
        return made

    def remove(self, staged: Iterable[str]) -> None:
        """Let go of snapshots. Idempotent; never raises for what is gone."""
        for name in staged:
            with self._lock:
                self._bytes -= self._sizes.pop(name, 0)
            path = self.folder / name
            path.unlink(missing_ok=True)
            try:
                path.parent.rmdir()
            except OSError:
                pass  # not empty or gone already

    def keep(self, staged: Sequence[str]) -> None:
        """See `keep_copies`."""
        keep_copies(self.folder, staged)

    def close(self) -> None:
        """Take no more work; a thread that hangs in a disk is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- inside --------------------------------------------------------------------------------

    def _freeze_one(self, source: Path, inline: int) -> Snapshot | None:
        with self._turns[hash(source) % TURNS]:
            return self._freeze_alone(source, inline)

    def _freeze_alone(self, source: Path, inline: int) -> Snapshot | None:
        try:
            reader = os.open(source, _READ)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            found = os.fstat(reader)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file", str(source))
            size = found.st_size
            staged, begun = self._reserve(source.name, size)
            try:
                return self._fill(reader, staged, begun, inline=size <= inline)
            except BaseException:
                self.remove([staged])
                raise
        finally:
            os.close(reader)

    def _reserve(self, name: str, size: int) -> tuple[str, int]:
        with self._lock:
            if self.max_bytes is not None and self._bytes + size > self.max_bytes:
                raise NoRoom(
                    f"staging holds {self._bytes} of at most {self.max_bytes} bytes,"
                    f" {size} more do not fit",
                    size_bytes=size,
                )
            begun = self._begin()
            staged = f"{self._run}-{begun}/{name}"
            self._sizes[staged] = size
            self._bytes += size
        return staged, begun

    def _account(self, staged: str, size: int) -> None:
        with self._lock:
            self._bytes += size - self._sizes.get(staged, 0)
            self._sizes[staged] = size

    def _fill(self, reader: int, staged: str, begun: int, *, inline: bool) -> Snapshot:
        path = self.folder / staged
        path.parent.mkdir(mode=0o700, parents=True)
        writer = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for _ in range(STABLE_TRIES):
                digest, size = self._copy(reader, writer)
                if self._again(reader) == (digest, size):
                    self._account(staged, size)
                    _refuse_half_made(path, os.pread(writer, DESCRIPTOR_HEAD_BYTES, 0), size)
                    content = os.pread(writer, size, 0) if inline else None
                    return Snapshot(staged, begun, size, digest, content)
                os.ftruncate(writer, 0)
            raise StoreTemporary("freeze", staged, "the file kept changing while it was copied")
        finally:
            os.close(writer)

    def _copy(self, reader: int, writer: int) -> tuple[bytes, int]:
        os.lseek(reader, 0, os.SEEK_SET)
        os.lseek(writer, 0, os.SEEK_SET)
        if self._clones:
            try:
                fcntl.ioctl(writer, FICLONE, reader)
                return digest_fd(writer)
            except OSError as error:
                if error.errno not in _NO_CLONE:
                    raise
                self._clones = False
        state, size = hasher(), 0
        while chunk := os.read(reader, CHUNK_BYTES):
            state.update(chunk)
            size += len(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(writer, view) :]
        return state.digest(), size

    @staticmethod
    def _again(reader: int) -> tuple[bytes, int]:
        os.lseek(reader, 0, os.SEEK_SET)
        return digest_fd(reader)

    def _sync(self, staged: Sequence[str]) -> None:
        """Files, their folders, then the staging folder: in parallel, one device flush each."""
        if not staged:
            return
        list(self._pool.map(self._sync_one, staged))
        sync_folder(self.folder)

    def _sync_one(self, staged: str) -> None:
        path = self.folder / staged
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        sync_folder(path.parent)


def _refuse_half_made(path: Path, begin: bytes, size: int) -> None:
    """Raise SourceGone for a file that zdb has made and not filled yet: what its namespace had before is
    gone, and what it will have is not there. `begin`: its first bytes.
    """
    least = least_bytes(path.name, begin)
    if size < least:
        raise SourceGone("freeze", path.name, f"zdb is making it: {size} of {least} bytes")


def hash_live(path: Path) -> tuple[bytes, int]:
    """Digest and size of a live file that nobody writes any more. Blocking.

    Raises SourceGone, StorePermanent for what is no file, StoreTemporary where it cannot be read.
    """
    try:
        handle = os.open(path, _READ)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceGone("read", path, "the file is gone") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StorePermanent("read", path, "it is a symbolic link") from error
        raise StoreTemporary("read", path, os.strerror(error.errno or 0)) from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise StorePermanent("read", path, "it is no regular file")
        return digest_fd(handle)
    except OSError as error:
        raise StoreTemporary("read", path, os.strerror(error.errno or 0)) from error
    finally:
        os.close(handle)
