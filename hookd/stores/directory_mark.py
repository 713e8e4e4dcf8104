"""The mark of a directory store, `PATH/.hookd/store-id`: made once, and what tells a store from the bare
folder below a mount point. Blocking.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hookd.errors import Exit, StorePermanent, StoreUnreachable, UserError
from hookd.stores.directory_copy import fsync_folder

OWN = ".hookd"
NAME = "store-id"

FSTAB = Path("/etc/fstab")

_PERMANENT = frozenset(
    {errno.ENAMETOOLONG, errno.EILSEQ, errno.EISDIR, errno.ENOTEMPTY, errno.EFBIG, errno.ELOOP}
)
"""This file can never lie here until somebody acts; anything else says the folder is not well."""

WRITE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
# O_NONBLOCK: a FIFO that somebody left in the folder must not hang the open
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def read(path: Path) -> str | None:
    """32 hex digits, or None where PATH has none. Raises OSError."""
    try:
        return (path / OWN / NAME).read_text("ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def make(path: Path, fresh: Path) -> None:
    """Give PATH its mark, durable; `fresh` is the new file that it is written to first."""
    fresh.write_text(secrets.token_hex(16) + "\n", "ascii")
    fresh.chmod(0o600)
    with fresh.open("rb") as handle:
        os.fsync(handle.fileno())
    fresh.rename(path / OWN / NAME)
    for folder in (path / OWN, path, path.parent):
        fsync_folder(folder)


def unmounted(path: Path) -> Path | None:
    """The mount point of /etc/fstab at `path` or around it on which nothing is mounted, if there is one.

    Only places on the way to `path` are looked at: a dead mount elsewhere would hang who looks.

    Weakness: systemd's own mount units, autofs, and what is bound into a container are not seen, nor a
    mount point that is written by way of a link which `path` does not take.
    """
    try:
        lines = FSTAB.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    ways = (Path(os.path.abspath(path)), Path(os.path.realpath(path)))
    for line in lines:
        fields = line.split()
        if len(fields) < 3 or line.lstrip().startswith("#") or not fields[1].startswith("/"):
            continue
        place = Path(os.path.normpath(_plain(fields[1])))
        if any(way.is_relative_to(place) for way in ways) and not os.path.ismount(place):
            return place
    return None


def _plain(field: str) -> str:
    """Without fstab's octal escapes (`\\040` for a space)."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


class Mounted:
    """A folder that is a store, or waits for one. Every method blocks."""

    def __init__(self, path: Path, *, must_exist: bool = False, known: str | None = None) -> None:
        """`must_exist`: only a folder with a `.hookd` in it is taken, and waited for; `known`: only the
        store of that id is, and none is made.
        """
        self.path = path
        self.store_id = ""
        """Random, made with the folder: another one means that another folder is mounted here. Empty
        while nothing was taken yet.
        """
        self.must_exist = must_exist
        self._known = known
        self._arriving = threading.Lock()
        self._own = path / OWN
        self._tmp = self._own / "tmp"

    def prepare(self) -> None:
        """Make what is missing, remove what a killed daemon left. Raises UserError (one line).

        Where it must exist and is not there, or another one than `known` is, nothing is changed.
        """
        try:
            found = read(self.path)
            if found is None and not self._may_make():
                return
            if found is not None and self._known is not None and found != self._known:
                self.store_id = found  # somebody else's: not even its tmp is ours
                return
            for folder in (self.path, self._own, self._tmp, self._own / "sums"):
                with suppress(FileExistsError):
                    os.mkdir(folder, 0o700)
            for name in os.listdir(self._tmp):
                os.unlink(self._tmp / name)
            if found is None:
                make(self.path, self._tmp / NAME)
            self.store_id = read(self.path) or ""
            self.probe()
        except OSError as error:
            raise UserError(f"store.directory.path: {words(error, self.path)}") from error
        except StoreUnreachable as error:
            raise UserError(f"store.directory.path: {error.detail}") from error

    def _may_make(self) -> bool:
        """Raises UserError."""
        if self.must_exist or self._known is not None:
            return self._known is None and self._own.is_dir()
        if (place := unmounted(self.path)) is not None:
            raise UserError(
                f"store.directory.path: {self.path} would be made below {place}, on which nothing is"
                f" mounted (see {FSTAB}); mount it first",
                code=Exit.UNAVAILABLE,
            )
        return True

    @property
    def awaited(self) -> str | None:
        """Why there is no store yet, or None."""
        if self.store_id or not self.must_exist:
            return None
        new = "" if self._known else f" To make a new store of it: `mkdir -m 700 -p {self._own}`."
        return f"store.directory.path: {self.path} is no store now; is it mounted?{new}"

    def arrive(self, operation: str, key: object) -> None:
        """Take the folder that was not there at the start, if it is now. Raises StoreUnreachable."""
        with self._arriving:
            if self.store_id:
                return
            try:
                self.prepare()
            except UserError as error:
                self.store_id = ""  # it is there, but not well: looked at again
                raise StoreUnreachable(operation, key, str(error)) from error
            if self._known is not None and self.store_id not in ("", self._known):
                other, self.store_id = self.store_id, ""
                detail = (
                    f"{self.path} is another store ({other}) than the journal knows ({self._known})"
                )
                raise StoreUnreachable(operation, key, detail)
            if not self.store_id:
                raise StoreUnreachable(operation, key, self.awaited or f"{self.path} is no store")

    def attach(self) -> None:
        """Take the folder as it is, to read. Raises UserError (one line) where it is no store."""
        try:
            self.store_id = (self._own / NAME).read_text("ascii").strip()
        except OSError as error:
            raise UserError(
                f"store.directory.path: {words(error, self.path)}; is it mounted?",
                code=Exit.UNAVAILABLE,
            ) from error

    def probe(self) -> None:
        """Write and remove a small file. Raises StoreUnreachable."""
        with self._blame("health", self.path):
            self.require_mounted("health", self.path)
            probe = self._tmp / f"probe.{secrets.token_hex(8)}"
            handle = os.open(probe, WRITE, 0o600)
            try:
                os.write(handle, b"hookd")
                os.fsync(handle)
            finally:
                os.close(handle)
                os.unlink(probe)

    def require_mounted(self, operation: str, key: object) -> None:
        """Raises StoreUnreachable unless this is still the folder that `prepare` saw."""
        with self._blame(operation, key):
            found = (self._own / "store-id").read_text("ascii").strip()
        if found != self.store_id:
            raise StoreUnreachable(
                operation, key, f"{self.path} is another folder than at start (store-id differs)"
            )

    @contextmanager
    def _blame(self, operation: str, key: object) -> Iterator[None]:
        """An OSError in here is the folder's."""
        try:
            yield
        except OSError as error:
            kind = StorePermanent if error.errno in _PERMANENT else StoreUnreachable
            raise kind(operation, key, words(error, self.path)) from error


def words(error: OSError, path: Path | None = None) -> str:
    """The error's own words, with the path where it has none."""
    where = error.filename or path
    text = error.strerror or str(error)
    return f"{where}: {text}" if where else text
