"""A store in memory that can be told to fail in every way that the contract allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio

from hookd.digest import digest_of
from hookd.errors import RemoteMissing, StoreError, StoreUnreachable
from hookd.files import FileKey
from hookd.stores.base import Remote


class MemoryStore:
    """Implements `Store`. Every switch is an attribute that a test sets; all are off at first."""

    kind = "memory"

    def __init__(self, *, concurrency: int = 1, proves_copies: bool = False) -> None:
        self.concurrency = concurrency
        self.readers = 4
        self.records: dict[str, bytes] = {}
        self.proves_copies = proves_copies
        self.content: dict[FileKey, bytes] = {}
        self.calls: list[tuple[str, FileKey]] = []
        """(operation, file) in the order in which they began."""
        self.puts: list[tuple[FileKey, bytes]] = []
        """What took effect, in that order."""
        self.at_once = 0
        """The most puts that ever ran together."""
        self.changed: Callable[[], None] = lambda: None
        """Told after each call."""

        self.down: str | None = None
        """Why every call fails, for the store as a whole."""
        self.blind = False
        """Whether `stat` finds nothing and `prove_absence` cannot tell."""
        self.lies = False
        """Whether `put` says done and keeps nothing."""
        self.wrong: set[FileKey] = set()
        """Files that are kept with another content than was given."""
        self.cut: set[FileKey] = set()
        """Files of which `get` gives the first half only."""
        self.refuse: dict[FileKey, StoreError | OSError] = {}
        """Files whose `put` fails so."""
        self.hang: set[str] = set()
        """Operations that never answer."""
        self.gates: dict[FileKey, anyio.Event] = {}
        """Files whose `put` waits for this, when the source has been read."""
        self.waiting: set[FileKey] = set()
        """Those that wait so now."""
        self.knows_sizes = True
        self.lists = True

        self._running: Counter[FileKey] = Counter()

    def of(self, operation: str) -> list[FileKey]:
        """The files of every call of one operation, in order."""
        return [key for name, key in self.calls if name == operation]

    async def put(self, key: FileKey, source: Path, digest: bytes | None) -> None:
        """See `Store.put`."""
        assert source.name == key.name
        assert digest is not None or self.proves_copies
        self._running[key] += 1
        assert self._running[key] == 1, f"two puts of {key} at once"
        self.at_once = max(self.at_once, self._running.total())
        assert self.at_once <= self.concurrency
        try:
            await self._begin("put", key)
            if key in self.refuse:
                raise self.refuse[key]
            content = source.read_bytes()
            if key in self.gates:
                self.waiting.add(key)
                self.changed()
                await self.gates[key].wait()
                self.waiting.discard(key)
            if self.lies:
                return
            self.content[key] = content + b"?" if key in self.wrong else content
            self.puts.append((key, content))
        finally:
            self._running[key] -= 1
            self._running += Counter()
            self.changed()

    async def stat(self, key: FileKey) -> Remote | None:
        """See `Store.stat`."""
        await self._begin("stat", key)
        content = self.content.get(key)
        if content is None or self.blind:
            return None
        return Remote(digest_of(content), len(content) if self.knows_sizes else None)

    async def get(self, key: FileKey, target: Path) -> None:
        """See `Store.get`. Writes other bytes than `stat` said where the file is in `wrong`."""
        await self._begin("get", key)
        if key not in self.content:
            raise RemoteMissing("get", key, "nothing there")
        content = self.content[key] + (b"?" if key in self.wrong else b"")
        with target.open("xb") as file:
            file.write(content[: len(content) // 2] if key in self.cut else content)

    async def health(self) -> None:
        """See `Store.health`."""
        if self.down is not None:
            raise StoreUnreachable("health", "store", self.down)

    async def prove_absence(self) -> None:
        """See `Store.prove_absence`."""
        await self.health()
        if self.blind:
            raise StoreUnreachable("prove absence", "store", "it is blind")

    async def namespaces(self) -> Sequence[str] | None:
        """See `Store.namespaces`."""
        await self.health()
        if not self.lists:
            return None
        return sorted({key.namespace for key in self.content})

    async def put_record(self, name: str, content: bytes) -> None:
        """See `Store.put_record`."""
        await self._answer("put-record", name)
        if not self.lies:
            self.records[name] = content

    async def get_record(self, name: str) -> bytes | None:
        """See `Store.get_record`."""
        await self._answer("get-record", name)
        return None if self.blind else self.records.get(name)

    async def stat_record(self, name: str) -> bytes | None:
        """See `Store.stat_record`."""
        await self._answer("stat-record", name)
        content = None if self.blind else self.records.get(name)
        return None if content is None else digest_of(content)

    async def aclose(self) -> None:
        """See `Store.aclose`."""

    async def _begin(self, operation: str, key: FileKey) -> None:
        self.calls.append((operation, key))
        self.changed()
        await self._answer(operation, key)

    async def _answer(self, operation: str, key: object) -> None:
        await anyio.lowlevel.checkpoint()
        if operation in self.hang:
            await anyio.sleep_forever()
        if self.down is not None:
            raise StoreUnreachable(operation, key, self.down)
