"""What of a namespace is on disk. Reads folders and headers; blocking."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field

from hookd.entries import DATA_HEADER_BYTES, HEADER_BYTES
from hookd.errors import PathRefused
from hookd.files import FileKey, Kind, Roots, data_key, index_key, namespace_key
from hookd.restore.place import sync_folder

WORK = ".hookd-restore"
"""Folder in a namespace's folders for what was fetched and is not in place yet. zdb takes every folder of
its index root for a namespace, but looks into a namespace's folder for its own names only."""

CHOSEN = ".hookd-restore-chosen"
"""The same while other files are here still, which are set aside when all is fetched: nobody takes those
for the rest of a restore."""


@dataclass(frozen=True, slots=True)
class Local:
    """One namespace on disk."""

    namespace: str
    lengths: dict[FileKey, int] = field(default_factory=dict)
    """Every file of zdb there, with its length in bytes."""
    interrupted: bool = False
    """Whether a restore was begun and not finished."""

    @property
    def indexes(self) -> list[int]:
        """Numbers of the index files, ascending."""
        return sorted(key.number for key in self.lengths if key.kind is Kind.INDEX)

    @property
    def data(self) -> list[int]:
        """Numbers of the data files, ascending."""
        return sorted(key.number for key in self.lengths if key.kind is Kind.DATA)

    @property
    def active(self) -> int | None:
        """The number that zdb would go on with, None without index files."""
        return self.indexes[-1] if self.indexes else None

    @property
    def blank(self) -> bool:
        """Whether zdb made it and nothing was ever written: one index and one data file, both empty."""
        numbers = {*self.indexes, *self.data}
        return numbers <= {0} and all(
            length <= (DATA_HEADER_BYTES if key.kind is Kind.DATA else HEADER_BYTES)
            for key, length in self.lengths.items()
            if key.kind is not Kind.NAMESPACE
        )

    @property
    def nothing(self) -> bool:
        """Whether nothing was ever written, or it is lost."""
        return not self.indexes or self.blank

    @property
    def gap(self) -> int | None:
        """The first index file that is absent below the newest; zdb would not load those after it."""
        here = set(self.indexes)
        return next((number for number in range(len(here)) if number not in here), None)

    @property
    def lacks_active_data(self) -> bool:
        """Whether zdb would make its active data file anew, empty."""
        return self.active is not None and data_key(self.namespace, self.active) not in self.lengths

    def length(self, key: FileKey) -> int | None:
        """Bytes of a file, None if it is not there."""
        return self.lengths.get(key)


def forget_fetched(roots: Roots, namespace: str) -> None:
    """Remove what a restore has fetched and not placed; the store has it. Blocking."""
    for root in (roots.data, roots.index):
        for work in (WORK, CHOSEN):
            shutil.rmtree(root / namespace / work, ignore_errors=True)
        if (root / namespace).is_dir():
            sync_folder(root / namespace)


def forget_chosen(roots: Roots, namespace: str) -> None:
    """The same of what came for a choice. Blocking."""
    for root in (roots.data, roots.index):
        shutil.rmtree(root / namespace / CHOSEN, ignore_errors=True)


def look(roots: Roots, namespace: str) -> Local:
    """What is on disk now."""
    keys = [namespace_key(namespace)]
    keys += [index_key(namespace, number) for number in roots.numbers(Kind.INDEX, namespace)]
    keys += [data_key(namespace, number) for number in roots.numbers(Kind.DATA, namespace)]
    lengths: dict[FileKey, int] = {}
    for key in keys:
        try:
            length = roots.length(key)
        except PathRefused:  # a symbolic link: something is there, and it is not ours to replace
            length = 0
        if length is not None:
            lengths[key] = length
    return Local(namespace, lengths, interrupted=(roots.index / namespace / WORK).is_dir())
