"""The blocking half of the directory store: what is done to its folder, in threads.

    PATH/index/NAMESPACE/iN, zdb-namespace    exact bytes, for ordinary tools
    PATH/data/NAMESPACE/dN                    exact bytes
    PATH/.hookd/manifest.json                 what is here, and whose it is (hookd.manifest)
    PATH/.hookd/store-id                      made once; its absence means "not mounted"
    PATH/.hookd/tmp/                          what is being written; emptied at start
    PATH/.hookd/sums/ROOT/NAMESPACE/NAME      what a file hashed to, while it was this very file

This module owns two invariants. A name outside .hookd only ever changes by the rename of a file
that is complete, verified and fsynced. And nothing is created at PATH but by `prepare`: a folder
that is unmounted later is missed, not silently filled.

Weakness: a put is verified against the page cache, so a disk that corrupts in silence is found
only by a deep verify later. Two daemons must not share one PATH: each would empty the other's tmp.
"""

from __future__ import annotations

import os
import secrets
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hookd.digest import digest_fd, digest_of
from hookd.errors import (
    PathRefused,
    RemoteMissing,
    SourceChanged,
    SourceGone,
    StoreTemporary,
)
from hookd.files import FileKey
from hookd.stores.base import Remote
from hookd.stores.directory_copy import (
    Differs,
    ReadFailed,
    Withdrawn,
    copy,
    copy_proven,
    fsync_folder,
)
from hookd.stores.directory_mark import READ, WRITE, Mounted, words
from hookd.stores.directory_sums import Sums, identity

_LOCKS = 64


class Folder(Mounted):
    """One directory store on disk. Every method blocks; all but `prepare` are thread-safe."""

    def __init__(self, path: Path, *, must_exist: bool = False, known: str | None = None) -> None:
        """See `Mounted`."""
        super().__init__(path, must_exist=must_exist, known=known)
        self._sums = Sums(self._own / "sums")
        self._made: set[Path] = set()
        self._making = threading.Lock()
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._records: dict[str, tuple[str, bytes]] = {}
        """Name → identity of the file and its digest, so that asking again costs one stat."""

    def put(
        self, key: FileKey, source: Path, digest: bytes | None, withdrawn: Callable[[], bool]
    ) -> None:
        """Copy, verify, fsync, rename, fsync the folder; see `Store.put`.

        The content is hashed once, on its way. `withdrawn` is asked between chunks and,
        under the lock of the key, right before the rename: from when it says True nothing changes.
        """
        temporary = self._tmp / f"{key.name}.{secrets.token_hex(8)}"
        reader = _open_source(key, source)
        try:
            with self._blame("put", key):
                self.require_mounted("put", key)
                writer = os.open(temporary, WRITE, 0o600)
                try:
                    written = self._fill(key, source, reader, writer, digest, withdrawn)
                    self._publish(key, temporary, writer, written, withdrawn)
                except BaseException:
                    # renamed already (then only a folder's fsync failed), or to be removed
                    with suppress(OSError):
                        os.unlink(temporary)
                    raise
                finally:
                    os.close(writer)
        finally:
            os.close(reader)

    def stat(self, key: FileKey) -> Remote | None:
        """Size and digest of what lies here: recorded, or else hashed now. See `Store.stat`."""
        with self._blame("stat", key):
            handle = self._open("stat", key)
            if handle is None:
                return None
            try:
                before = os.fstat(handle)
                digest = self._sums.digest(key, before)
                if digest is not None:
                    return Remote(digest, before.st_size)
                digest, size = digest_fd(handle)
                after = os.fstat(handle)
                if identity(before) == identity(after):
                    self._sums.record(key, after, digest)
                return Remote(digest, size)
            finally:
                os.close(handle)

    def get(self, key: FileKey, create: Callable[[], int], withdrawn: Callable[[], bool]) -> None:
        """Copy what lies here into the file that `create` makes; see `Store.get`."""
        with self._blame("get", key):
            handle = self._open("get", key)
        if handle is None:
            raise RemoteMissing("get", key, f"{self._place(key)} does not exist")
        try:
            writer = create()
            try:
                copy(handle, writer, withdrawn)
            finally:
                os.close(writer)
        except ReadFailed as error:
            with self._blame("get", key):
                raise error.cause from error
        except OSError as error:
            raise StoreTemporary("get", key, f"target: {words(error)}") from error
        finally:
            os.close(handle)

    def namespaces(self) -> list[str]:
        """Names of the folders with at least one zdb file, sorted. Raises StoreUnreachable."""
        found: set[str] = set()
        with self._blame("namespaces", self.path):
            self.require_mounted("namespaces", self.path)
            for root in ("index", "data"):
                with suppress(FileNotFoundError):
                    for name in os.listdir(self.path / root):
                        if name not in found and self._has_files(root, name):
                            found.add(name)
        return sorted(found)

    def put_record(self, name: str, content: bytes, withdrawn: Callable[[], bool]) -> None:
        """Write, fsync, rename, fsync the folder; see `Store.put_record`."""
        temporary = self._tmp / f"{name}.{secrets.token_hex(8)}"
        with self._blame("put record", name):
            self.require_mounted("put record", name)
            try:
                with open(os.open(temporary, WRITE, 0o600), "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                with self._locks[0]:
                    if withdrawn():
                        raise Withdrawn
                    os.rename(temporary, self._record_place(name))
                    fsync_folder(self._own)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise

    def record(self, name: str) -> bytes | None:
        """The content of a record, None where there is none. Raises StoreUnreachable."""
        with self._blame("get record", name):
            self.require_mounted("get record", name)
            try:
                return self._record_place(name).read_bytes()
            except FileNotFoundError:
                return None

    def sum_of(self, name: str) -> bytes | None:
        """The digest of a record, None where there is none. Raises StoreUnreachable."""
        with self._blame("stat record", name):
            self.require_mounted("stat record", name)
            try:
                with self._record_place(name).open("rb") as file:
                    found = identity(os.fstat(file.fileno()))
                    known = self._records.get(name)
                    if known is None or known[0] != found:
                        known = self._records[name] = (found, digest_of(file.read()))
                    return known[1]
            except FileNotFoundError:
                return None

    # -- inside --------------------------------------------------------------------------------

    def _fill(
        self,
        key: FileKey,
        source: Path,
        reader: int,
        writer: int,
        digest: bytes | None,
        withdrawn: Callable[[], bool],
    ) -> bytes:
        """Write, prove and fsync the temporary; returns what it hashes to."""
        try:
            written, size = copy_proven(reader, writer, withdrawn)
        except ReadFailed as error:
            raise StoreTemporary("put", key, words(error.cause, source)) from error
        except Differs as error:
            detail = f"what was read back differs from {source}"
            raise StoreTemporary("put", key, detail) from error
        if digest is not None and written != digest:
            raise _difference(key, source, digest, size)
        os.fsync(writer)
        return written

    def _publish(
        self,
        key: FileKey,
        temporary: Path,
        writer: int,
        digest: bytes,
        withdrawn: Callable[[], bool],
    ) -> None:
        place = self._place(key)
        self._make_folder(place.parent)
        # A put that was given up may still run here. Its flag is set before a later put of the
        # key begins, so either it holds the lock already and the later one renames after it, or
        # it sees the flag.
        with self._locks[hash(key) % _LOCKS]:
            if withdrawn():
                raise Withdrawn
            os.rename(temporary, place)
            fsync_folder(place.parent)
            # after the rename: it sets the ctime
            self._sums.record(key, os.fstat(writer), digest)

    def _record_place(self, name: str) -> Path:
        return self._own / f"{name}.json"

    def _make_folder(self, folder: Path) -> None:
        """PATH/ROOT and PATH/ROOT/NAMESPACE, each known to its parent on disk."""
        with self._making:
            for each in (folder.parent, folder):
                try:
                    os.mkdir(each, 0o700)
                except FileExistsError:
                    if each in self._made:
                        continue
                # also where it existed: whoever made it may have died before this
                fsync_folder(each.parent)
                self._made.add(each)

    def _open(self, operation: str, key: FileKey) -> int | None:
        """A handle on the stored file, None if there is none and the folder is mounted."""
        place = self._place(key)
        try:
            handle = os.open(place, READ)
        except FileNotFoundError:
            self.require_mounted(operation, key)
            return None
        except PermissionError as error:
            # this file's, if the folder as a whole is fine
            self.require_mounted(operation, key)
            raise StoreTemporary(operation, key, words(error)) from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise StoreTemporary(operation, key, f"{place} is no regular file")
        return handle

    def _place(self, key: FileKey) -> Path:
        return self.path / key.root / key.namespace / key.name

    def _has_files(self, root: str, namespace: str) -> bool:
        try:
            names = os.listdir(self.path / root / namespace)
        except (FileNotFoundError, NotADirectoryError):
            return False
        for name in names:
            with suppress(PathRefused):
                FileKey.named(root, namespace, name, shown=name)
                return True
        return False


def _open_source(key: FileKey, source: Path) -> int:
    try:
        return os.open(source, READ | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceGone("put", key, words(error, source)) from error
    except OSError as error:
        raise StoreTemporary("put", key, words(error, source)) from error


def _difference(
    key: FileKey, source: Path, digest: bytes, size: int
) -> SourceChanged | StoreTemporary:
    """Whose fault it is that `size` bytes were written that do not hash to `digest`."""
    handle = _open_source(key, source)
    try:
        now, _ = digest_fd(handle)
    except OSError as error:
        return StoreTemporary("put", key, words(error, source))
    finally:
        os.close(handle)
    if now != digest:
        return SourceChanged("put", key, f"{source} is not what it was when it was hashed")
    return StoreTemporary("put", key, f"the {size} bytes read back differ from {source}")
