"""What of a namespace is in the store: asked file by file, because a manifest may be behind.

The store is asked for every index file that the manifest names, and on from the newest until one is not
there. "Not there" is believed only after a proof (`Store.prove_absence`): a zstor that was blind when it
was asked may have been started anew before it is proven to see. Data files are asked for once
the entries of the indexes have said which ones matter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from hookd.errors import StoreTemporary
from hookd.files import FileKey, Kind, data_key, index_key, namespace_key
from hookd.manifest import Manifest
from hookd.stores.base import Remote, Store

T = TypeVar("T")


@dataclass(slots=True)
class There:
    """One namespace in the store."""

    namespace: str
    files: dict[FileKey, Remote] = field(default_factory=dict)
    """What the store says it has; a size is filled in from the manifest where the store tells none."""
    stale: Mapping[FileKey, bytes] = field(default_factory=dict)
    """What it has of a deleted namespace of that name, with the digests: as if it were not there."""
    only: Mapping[FileKey, bytes] | None = None
    """Where what was given up is taken back: those files, with their digests; all else is as absent."""

    @property
    def replaced(self) -> FileKey | None:
        """An index file of `only` that has been stored over."""
        indexes = (key for key in self.only or {} if key.kind is Kind.INDEX)
        return next((key for key in indexes if key not in self.files), None)

    def counts(self, key: FileKey, digest: bytes) -> bool:
        """Whether what the store has under the key is this namespace's."""
        if self.only is not None:
            return self.only.get(key) == digest
        return self.stale.get(key) != digest

    waiting: dict[FileKey, Remote] = field(default_factory=dict)
    """Frozen contents on their way there, newer than what it has: they lie in the staging folder."""

    @property
    def all(self) -> dict[FileKey, Remote]:
        """What a restore brings: what waits, and else what is there."""
        return {**self.files, **self.waiting}

    @property
    def indexes(self) -> list[int]:
        """Numbers of the index files that a restore can bring, ascending."""
        return sorted(key.number for key in self.all if key.kind is Kind.INDEX)

    @property
    def gap(self) -> int | None:
        """The first index file that is lacking below the newest."""
        here = set(self.indexes)
        return next((number for number in range(len(here)) if number not in here), None)


async def ask(store: Store, keys: Iterable[FileKey]) -> dict[FileKey, Remote]:
    """Those of `keys` that the store has, some asked for at once. Raises StoreError."""

    async def one(key: FileKey) -> tuple[FileKey, Remote | None]:
        return key, await store.stat(key)

    found = await side_by_side(one, list(keys), store.readers)
    return {key: remote for key, remote in found if remote is not None}


async def _ask(store: Store, there: There, keys: Sequence[FileKey]) -> dict[FileKey, Remote]:
    found = await ask(store, keys)
    return {key: each for key, each in found.items() if there.counts(key, each.digest)}


async def look(
    store: Store,
    namespace: str,
    manifest: Manifest | None,
    stale: Mapping[FileKey, bytes] | None = None,
    only: Mapping[FileKey, bytes] | None = None,
) -> There:
    """The index files and the descriptor. Raises StoreError.

    `stale`: what is known to be of a deleted namespace, beside what the manifest says of that; `only`:
    see `There`.
    """
    theirs = dict(manifest.stale) if manifest else {}
    theirs |= {key: each.digest for key, each in manifest.given_up.items()} if manifest else {}
    theirs |= dict(stale or {})
    files = manifest.files if manifest else {}
    # what a manifest names as somebody's is not nobody's, whoever said so before
    named_now = {
        key for key, digest in theirs.items() if key in files and files[key].digest == digest
    }
    theirs = {key: digest for key, digest in theirs.items() if key not in named_now}
    there = There(namespace, stale=theirs, only=only)
    named = manifest.numbers(namespace, Kind.INDEX) if manifest else []
    keys = [namespace_key(namespace), *(index_key(namespace, number) for number in named)]
    there.files.update(await _ask(store, there, keys))
    beyond = await _look_on(store, there, named[-1] + 1 if named else 0)
    await store.prove_absence()  # that there are no more is believed
    await _absent_still(store, there, [*keys, beyond])
    _fill_sizes(there, manifest)
    return there


async def _absent_still(store: Store, there: There, keys: Sequence[FileKey]) -> None:
    """Ask again for those that were not there before the proof. Raises StoreTemporary for one that is."""
    for key in await _ask(store, there, [key for key in keys if key not in there.files]):
        raise StoreTemporary("look for", key, "it was not there a moment ago, and is now")


async def _look_on(store: Store, there: There, start: int) -> FileKey:
    """Index files from `start` on, in growing strides, up to the first that is absent: returns that."""
    stride = 1
    while True:
        keys = [index_key(there.namespace, number) for number in range(start, start + stride)]
        found = await _ask(store, there, keys)
        for key in keys:
            if key not in found:
                return key
            there.files[key] = found[key]
        start += stride
        stride = min(2 * stride, 64)


async def look_for_data(
    store: Store, there: There, numbers: Sequence[int], manifest: Manifest | None
) -> None:
    """Add the data files of these numbers that the store has. Raises StoreError."""
    keys = [data_key(there.namespace, number) for number in numbers]
    found = await _ask(store, there, [key for key in keys if key not in there.files])
    there.files.update(found)
    if any(key not in there.files for key in keys):
        await store.prove_absence()
        await _absent_still(store, there, keys)
    _fill_sizes(there, manifest)


def _fill_sizes(there: There, manifest: Manifest | None) -> None:
    if manifest is None:
        return
    for key, remote in there.files.items():
        named = manifest.files.get(key)
        if remote.size_bytes is None and named is not None and named.digest == remote.digest:
            there.files[key] = Remote(remote.digest, named.size_bytes or None)


async def side_by_side(
    work: Callable[[FileKey], Awaitable[T]], keys: Sequence[FileKey], at_once: int
) -> list[T]:
    """`work` for each, `at_once` of them at a time, results in order.

    The first error of one ends all, and is raised as it is.
    """
    results: dict[FileKey, T] = {}
    todo = iter(keys)

    async def worker() -> None:
        for key in todo:
            results[key] = await work(key)

    try:
        async with anyio.create_task_group() as group:
            for _ in range(min(at_once, len(keys))):
                group.start_soon(worker)
    except BaseExceptionGroup as errors:
        raise _first(errors) from errors
    return [results[key] for key in keys]


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
