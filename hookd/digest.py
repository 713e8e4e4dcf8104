"""BLAKE2b-128 of content: the one checksum of hookd, the same that zstor reports for `check`."""

from __future__ import annotations

import hashlib
import os
from typing import Protocol

DIGEST_SIZE = 16
CHUNK_BYTES = 1 << 20


class Hasher(Protocol):
    """What hashlib's objects do."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


def hasher() -> Hasher:
    """A fresh BLAKE2b-128 state."""
    return hashlib.blake2b(digest_size=DIGEST_SIZE)


def digest_of(data: bytes) -> bytes:
    """The 16 bytes for content held in memory."""
    return hashlib.blake2b(data, digest_size=DIGEST_SIZE).digest()


def digest_fd(fd: int) -> tuple[bytes, int]:
    """Digest and size in bytes of what is read from `fd` to its end. Blocking; raises OSError."""
    state = hasher()
    size = 0
    buffer = bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    while count := os.readv(fd, [buffer]):
        state.update(view[:count])
        size += count
    return state.digest(), size
