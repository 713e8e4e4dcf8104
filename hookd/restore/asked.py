"""Which names a store is asked for that nobody here knows of, and whether that was done once.

A store may have files that no manifest names (of hook.sh). Our own manifest names what we know, so once
it is there nobody else would ask for the rest: until one survey has asked for every name and left nothing
open, each one asks. The fact is durable (`meta.asked_all`), and is none any more where the store is taken
over from somebody else.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from hookd.journal import Journal
from hookd.manifest import Manifest
from hookd.stores.base import Store

ASKED_ALL = "asked_all"


@dataclass(slots=True)
class Asked:
    """Names that nobody here knows of."""

    journal: Journal
    store: Store
    names: Collection[str]
    """Asked for where nothing tells their names (a store that cannot list)."""
    _all: bool | None = field(default=None)
    """As the journal has it; None before it was read."""

    async def all(self) -> bool:
        """Whether every name was asked for since the store is ours. Raises JournalError."""
        if self._all is None:
            self._all = bool(await self.journal.meta(ASKED_ALL))
        return self._all

    async def note(self, asked_all: bool) -> None:
        """Remember it, on disk if it is another than before. Raises JournalError."""
        if await self.all() != asked_all:
            self._all = False
            await self.journal.set_meta(ASKED_ALL, asked_all or None)
            self._all = asked_all

    async def listed(self) -> Collection[str]:
        """Every name under which the store may have files. Raises StoreError."""
        found = await self.store.namespaces()
        return self.names if found is None else found

    async def deleted(self, manifest: Manifest | None, *, theirs: bool = False) -> set[str]:
        """Those of which what the store has is nobody's; of `theirs`, another frontend's store, its
        manifest says that alone. Raises JournalError.
        """
        deleted = set() if theirs else set(await self.journal.deleted_namespaces())
        if manifest is not None:
            deleted = (deleted | set(manifest.deleted)) - set(manifest.namespaces)
        return deleted
