"""The file that is put: read once, for our digest and for the hash that the remote knows."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from hookd.digest import CHUNK_BYTES, hasher
from hookd.errors import SourceChanged, SourceGone, StorePermanent, StoreTemporary


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a file held when it was read."""

    digest: bytes
    """BLAKE2b-128."""
    size_bytes: int
    hash: str | None
    """Hexadecimal, of the kind that was asked for."""
    identity: tuple[int, ...]
    """Another one means that the file may have been written to."""


def identity(found: os.stat_result) -> tuple[int, ...]:
    """Of the very file, unmodified; the ctime is there because nobody can set it back."""
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def look(key: object, path: Path) -> tuple[int, ...]:
    """The identity of the file at `path`. Blocking. Raises SourceGone, StoreTemporary."""
    try:
        return identity(os.stat(path, follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceGone("put", key, f"{path}: {error.strerror}") from error
    except OSError as error:
        raise StoreTemporary("put", key, f"{path}: {error.strerror}") from error


def read(key: object, path: Path, digest: bytes | None, hash_name: str | None) -> Source:
    """Read the file at `path`, which hashed to `digest` a moment ago. Blocking.

    `hash_name` is one of hashlib's. Raises SourceGone, SourceChanged, StorePermanent (it is no
    regular file), StoreTemporary.
    """
    before = look(key, path)
    state, size, buffer = hasher(), 0, bytearray(CHUNK_BYTES)
    second = hashlib.new(hash_name, usedforsecurity=False) if hash_name else None
    view = memoryview(buffer)
    try:
        # O_NONBLOCK: a FIFO that lies in a file's place must not hang the open
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise StorePermanent("put", key, f"{path} is no regular file")
            while count := os.readv(handle, [buffer]):
                state.update(view[:count])
                if second is not None:
                    second.update(view[:count])
                size += count
            after = identity(os.fstat(handle))
        finally:
            os.close(handle)
    except FileNotFoundError as error:
        raise SourceGone("put", key, f"{path}: {error.strerror}") from error
    except OSError as error:
        raise StoreTemporary("put", key, f"{path}: {error.strerror}") from error
    found = state.digest()
    if digest is not None and found != digest:
        raise SourceChanged("put", key, f"{path} is not what it was when it was hashed")
    if after != before:
        raise SourceChanged("put", key, f"{path} changed while it was read")
    return Source(
        digest=found,
        size_bytes=size,
        hash=second.hexdigest() if second is not None else None,
        identity=before,
    )
