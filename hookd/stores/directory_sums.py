"""What the files of a directory store hashed to, so that a stat after a put reads no content.

One small file per stored file: digest, then what tells that very file, unmodified, from any other
of its name. A record is only a shortcut: lost, torn or stale, it costs one hash pass. Hence it is
neither fsynced nor ever a reason to fail.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from hookd.files import FileKey


def identity(found: os.stat_result) -> str:
    """Size, times and inode; the ctime is there because nobody can set it back."""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}\n"


class Sums:
    """The records under `folder`, which must exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def digest(self, key: FileKey, found: os.stat_result) -> bytes | None:
        """What the file with this stat hashed to, None if that is not known."""
        with suppress(OSError, ValueError):
            text = (self._folder / str(key)).read_text("ascii")
            digest, _, recorded = text.partition(" ")
            if recorded == identity(found) and len(digest) == 32:
                return bytes.fromhex(digest)
        return None

    def record(self, key: FileKey, found: os.stat_result, digest: bytes) -> None:
        """The file with this stat hashed to `digest`."""
        place = self._folder / str(key)
        with suppress(OSError):
            for folder in (place.parent.parent, place.parent):
                with suppress(FileExistsError):
                    os.mkdir(folder, 0o700)
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, f"{digest.hex()} {identity(found)}".encode("ascii"))
            finally:
                os.close(handle)
