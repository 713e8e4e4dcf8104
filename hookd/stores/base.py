"""The store contract: what the dispatcher and recovery may rely on.

A store keeps one current content per `FileKey`. It classifies its own errors into the tree of
`hookd.errors` and retries nothing: retrying, backoff and verification belong to the dispatcher.

Rules every store keeps, and the contract suite proves:

1. `put` returns only when the content is durable at the remote (fsynced, or acknowledged by it).
2. A reader never sees half of a put: it is atomic, also when killed in the middle.
3. A put that failed, was cancelled or timed out leaves the old content or the new, never a mix;
   and it never takes effect after a later put of the same key has returned.
4. `get` writes only to `target`, which must not exist; on any error it may leave a partial `target`
   that the caller removes. It never touches a live file of zdb.
5. No error text holds a password, a key or a token.
6. Cancellation is safe at every await.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from hookd.files import FileKey


@dataclass(frozen=True, slots=True)
class Remote:
    """What a store says it holds for a key."""

    digest: bytes
    """BLAKE2b-128 of the content, 16 bytes, as the store itself knows it."""
    size_bytes: int | None
    """None where the store cannot tell (zstor)."""


class Store(Protocol):
    """One place for zdb's files."""

    kind: str
    """The configuration's `store.kind`."""

    concurrency: int
    """How many puts may usefully be in flight; 1 for a serial store (zstor)."""

    readers: int
    """How many gets and stats may usefully be in flight."""

    proves_copies: bool
    """Whether `put` compares what it wrote with `source` byte by byte. Then a file that nobody writes
    any more may come without a digest: the one that `stat` gives afterwards is that of the source."""

    async def put(self, key: FileKey, source: Path, digest: bytes | None) -> None:
        """Keep the content of `source` under `key`, replacing what was there.

        `source` is a live file or a snapshot; its name is `key.name`. `digest` is what its content
        hashed to a moment ago; None only where `proves_copies`.

        Raises SourceGone, SourceChanged (where the store can tell), StoreTemporary,
        StorePermanent, StoreUnreachable.
        """
        ...

    async def stat(self, key: FileKey) -> Remote | None:
        """What the store holds for `key`, or None if it says that it has nothing.

        None is no proof of absence for a store that may be blind: see `prove_absence`.
        Raises StoreUnreachable, StoreTemporary.
        """
        ...

    async def get(self, key: FileKey, target: Path) -> None:
        """Write the content of `key` to the new file `target` (not fsynced).

        Raises RemoteMissing, StoreUnreachable, StoreTemporary, StorePermanent.
        """
        ...

    async def health(self) -> None:
        """Return if the store as a whole can be reached. Bounded I/O. Raises StoreUnreachable."""
        ...

    async def prove_absence(self) -> None:
        """Return only if a `stat` that just said None can be believed.

        Raises StoreUnreachable while it cannot (zstor says "not found" also when it is blind).
        """
        ...

    async def namespaces(self) -> Sequence[str] | None:
        """Names of the namespaces that have files here, or None where the store cannot list."""
        ...

    async def put_record(self, name: str, content: bytes) -> None:
        """Keep one of hookd's own small objects (the manifest) under a fixed key, durable and atomic
        as `put`; `name` is letters and dashes.

        Raises StoreUnreachable, StoreTemporary, StorePermanent.
        """
        ...

    async def get_record(self, name: str) -> bytes | None:
        """The content of a record, or None if the store says that it has none (as for `stat`).

        Raises StoreUnreachable, StoreTemporary, ChecksumMismatch where the store can tell.
        """
        ...

    async def stat_record(self, name: str) -> bytes | None:
        """BLAKE2b-128 of a record as the store has it now (16 bytes), or None as for `get_record`.

        Called before puts: it must be cheap. Raises StoreUnreachable, StoreTemporary.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections and threads. Idempotent."""
        ...


@runtime_checkable
class StatsMany(Protocol):
    """A store to which many questions at once cost little more than one (a folder)."""

    async def stat_many(self, keys: Sequence[FileKey]) -> list[Remote | None]:
        """As `Store.stat` for each of `keys`, in their order; None also where `stat` would raise an error
        that concerns that file alone, so whoever gets None asks again.

        Raises StoreUnreachable.
        """
        ...
