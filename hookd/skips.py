"""Files that somebody decided not to store (`hookd skip`), and what was there when they did.

In: keys, the journal; out: whether a file on disk is still the one that was given up. The invariant: the
decision is about that content. It ends when the file is another one (or is there again), when a hook
names it, with `hookd retry`, and with its namespace.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

import anyio.to_thread

from hookd.errors import PathRefused, StoreError
from hookd.files import FileKey, Kind, Roots
from hookd.journal import Job, Journal
from hookd.order import NOWHERE
from hookd.snapshot import hash_live

SKIPPED = "skipped"
"""Key in the journal: file → what was there."""

ABSENT = "absent"


class Skips:
    """What was given up. Read by `load` at the start; changes are durable when their call returns."""

    def __init__(self, journal: Journal, roots: Roots) -> None:
        self._journal = journal
        self._roots = roots
        self._known: dict[FileKey, str] = {}

    def load(self, meta: Mapping[str, object]) -> None:
        """What the journal has, without what has changed on disk since. Blocking."""
        found = meta.get(SKIPPED)
        for text, mark in found.items() if isinstance(found, dict) else ():
            try:
                key = FileKey.parse(text)
            except PathRefused:
                continue
            if self._mark(key) == mark:
                self._known[key] = str(mark)

    def __iter__(self) -> Iterator[FileKey]:
        return iter(tuple(self._known))

    def __contains__(self, key: object) -> bool:
        return key in self._known

    def still(self, key: FileKey) -> bool:
        """Whether the file is what was given up. Blocking, reads it if it was; from any thread."""
        known = self._known.get(key)
        return known is not None and self._mark(key) == known

    def length(self, key: FileKey) -> int:
        """Of a file that was given up, its length then; NOWHERE where there was none."""
        return length_of(self._known[key])

    async def mark(self, key: FileKey) -> str:
        """What is there now, for `add`."""
        return await anyio.to_thread.run_sync(self._mark, key)

    async def add(self, key: FileKey, mark: str) -> None:
        """Somebody gave up what is there. Raises JournalError; then it holds until the next start."""
        self._known[key] = mark
        if key.kind is Kind.DATA:  # first: an index that points into it goes next
            await self._journal.note_holes([key])
        await self._keep()

    async def drop(self, keys: Iterable[FileKey]) -> None:
        """These are to be stored again. Raises JournalError; it holds now in any case."""
        gone = [self._known.pop(key, None) for key in keys]
        if any(gone):
            await self._keep()

    async def _keep(self) -> None:
        known = {str(key): mark for key, mark in self._known.items()}
        await self._journal.set_meta(SKIPPED, known or None)

    def _mark(self, key: FileKey) -> str:
        path = self._roots.path(key)
        try:
            digest, size = hash_live(path)
        except (StoreError, OSError):
            pass
        else:
            return _content(size, digest)
        try:
            return f"link to {os.readlink(path)}"
        except FileNotFoundError:
            return ABSENT
        except OSError as error:
            return f"no file: {error.strerror}"


def length_of(mark: str) -> int:
    """In bytes; NOWHERE where no file was."""
    size, _, digest = mark.partition(" ")
    return int(size) if size.isdecimal() and digest else NOWHERE


def is_what(job: Job, mark: str) -> bool:
    """Whether what is there is what the job was to store, as far as it had read that; or no file at all,
    so that nothing else can be lost with it.
    """
    if job.digest is None or job.size_bytes is None or length_of(mark) == NOWHERE:
        return True
    return mark == _content(job.size_bytes, job.digest)


def _content(size: int, digest: bytes) -> str:
    return f"{size} {digest.hex()}"
