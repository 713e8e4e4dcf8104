"""Stage fence: one frontend at a time: hookd's name on the store, and a stop when another's is there.

The manifest in the store names its writer. `guard` is asked before every put: the manifest must be the
one that this frontend wrote last (or is writing), else nothing is stored any more, for good: `fenced`.
`publish` writes the next manifest, after the files that it names. A frontend that takes over (a restore,
or an administrator's word) publishes under a new writer before it lets zdb serve, so an old one that is
still alive stops with its next put.

Weakness: no store here compares and swaps. A frontend that passed `guard` less than FRESH_S ago may
still begin a put, so the new one stores nothing for as long after its name is there; a put that takes
longer than that can still come after. Both sides notice: the old one asks `guard` again after each put,
and says which file it was; the new one has its store audited (`taken`) once such a put must have ended,
and stores its own again. Two that take over in the same second are told apart at their next guard, by the
name that was written last.

Each process writes under a name of its own, for a copied disk has the journal's: the one of two copies
that zdb or a put comes to later finds another name than it knows, and stops.

Where the store could be read and did not take our name, the frontend before us may have stored on
after we looked. So once it takes it, `recheck` asks whether what we brought is still what is there.

The identity is kept in the journal (`meta.identity`), the coming one before it is written: a death in
between leaves two names that are ours, not none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio

from hookd import manifest
from hookd.digest import digest_of
from hookd.errors import (
    StoreTemporary,
    StoreUnreachable,
)
from hookd.identity import MAX_FORMER, Identity
from hookd.journal import Journal
from hookd.log import get
from hookd.manifest import Manifest, ManifestBad, ManifestNewer
from hookd.manifest_record import ManifestRecord
from hookd.stores.base import Store

log = get("fence")

FRESH_S = 1.0
"""How long a look at the manifest is believed."""

CHOICE = (
    "`hookd restore --take local` stores from here again, `hookd restore --take remote` sets aside"
    " what is here and brings back what is stored"
)

MAX_COMING = 8
"""How many manifests that were begun and not confirmed are remembered."""


class Fenced(StoreUnreachable):
    """Another frontend has taken the store over: nothing is stored from here any more."""

    error_class = "fenced"


class ManifestMoved(StoreTemporary):
    """The manifest in the store is not the one that was looked at: look again."""


class Fence:
    """The one who knows whose the store is."""

    def __init__(
        self,
        *,
        store: Store,
        journal: Journal,
        identity: Identity | None,
        compare: Callable[[Manifest | None], Awaitable[str | None]],
        home: str = "",
    ) -> None:
        """`compare` is asked once, with a manifest that is not the one we wrote last (or None where the
        store has none): it holds the namespaces that may not be stored, and returns why nothing may be
        stored at all, or None: then the store is taken over. `home`: see `home_of`.
        """
        self._store = store
        self.record = ManifestRecord(store)
        self._journal = journal
        self._compare = compare
        self._home = home
        self.identity = identity
        self.fenced: str | None = None
        """Why nothing is stored any more."""
        self.compared = False
        """Whether the manifest in the store was compared with what is here since the start."""
        self.published_at: float | None = None
        """Unix seconds of the newest manifest that we wrote."""
        self.settle_s = FRESH_S
        """How long a frontend that has just lost the store may still begin a put."""
        self.taken: Callable[[int], None] = lambda largest_bytes: None
        """Told that another frontend's store was taken over, and how long the longest file there is."""
        self.recheck: Callable[[], Awaitable[str | None]] | None = None
        """Why what was brought is not what is there, once our name came late. Raises StoreError."""
        self._alone = False
        """Whether the one that wrote our last manifest is known to have ended."""
        self._renamed = False
        """Whether our name was made by this process."""
        self._begun = False
        """Whether our name there was written by this process."""
        self._settled_at = float("-inf")
        self._looked_at = float("-inf")
        self.woken = anyio.Event()
        """Something has happened since it was made anew; for the publisher."""
        self._lock = anyio.Lock()
        self._changes = 0
        self._published_changes = 0

    # -- whose it is ---------------------------------------------------------------------------

    def is_ours(self, digest: bytes | None) -> bool:
        """Whether a manifest is the one that we wrote last."""
        known = self.identity.digests if self.identity else set()
        return digest is not None and digest.hex() in known

    async def still_ours(self) -> bool:
        """Ask the store whether our name is there now; False before it was compared with what is here.

        Raises StoreError.
        """
        return self.is_held and self.is_ours(await self._store.stat_record(manifest.NAME))

    @property
    def is_held(self) -> bool:
        """Whether our name was there when we looked last."""
        return self.fenced is None and self.compared and self._named

    @property
    def unsaid(self) -> bool:
        """Whether zdb is served from what is ours, and the name there is that of the process before."""
        identity = self.identity
        named = identity is not None and identity.named and not self._begun
        return named and self.compared and self.fenced is None

    def seen_ours(self) -> None:
        """Somebody else has just found our own manifest in the store."""
        self._looked_at, self.compared = time.monotonic(), True
        self.woken.set()

    # -- before each put -----------------------------------------------------------------------

    async def guard(self) -> None:
        """Return if this frontend may store now. Raises Fenced, StoreError."""
        if self.fenced is None and self._fresh() and time.monotonic() >= self._settled_at:
            return
        async with self._lock:
            await self._guard()
        # What the one before us had looked at a moment before would come after what we store.
        await anyio.sleep(max(0.0, self._settled_at - time.monotonic()))

    def _fresh(self) -> bool:
        """Whether our own name was seen there a moment ago."""
        return self.compared and self._named and time.monotonic() - self._looked_at < FRESH_S

    @property
    def _named(self) -> bool:
        return self._begun and self.identity is not None and self.identity.named

    async def _guard(self) -> bool:
        """Whether a manifest was written."""
        if self.fenced is not None:
            raise Fenced("store", self._store.kind, self.fenced)
        if self._fresh():
            return False
        found = await self._store.stat_record(manifest.NAME)
        if not self.is_ours(found):
            try:
                await self._look_closely(found)
            except (ManifestBad, ManifestNewer) as error:
                self._stop(str(error))
            if self.fenced is not None:
                raise Fenced("store", self._store.kind, self.fenced)
        self._looked_at, self.compared = time.monotonic(), True
        if self._named:
            return False
        await self._put_name()  # the frontend before us would go on beside us
        return True

    async def _put_name(self) -> None:
        """The manifest there is ours, but our name is not there, or is that of the process before."""
        assert self.identity is not None
        renewal, before = self.identity.named, self.identity.digest
        if not self._renamed:
            self._alone = self._home != "" and self.identity.home == self._home
            await self._keep(self.identity.renamed(os.urandom(16).hex()))
            self._renamed = True
        if renewal:
            await self._write()
            if not self._alone:  # the one that was copied may be alive
                self._settle()
            return
        await self._write(named=not before)
        if not before:
            return
        self._settle()
        self.taken(await self._largest())
        await anyio.sleep(max(0.0, self._settled_at - time.monotonic()))
        if self.recheck is not None and (reason := await self.recheck()):
            self._stop(reason)
            raise Fenced("store", self._store.kind, reason)
        await self._keep(replace(self.identity, named=True))

    def _settle(self) -> None:
        """Nothing is stored before the last look of the one before us is too old."""
        self._settled_at = time.monotonic() + self.settle_s

    async def _largest(self) -> int:
        """Bytes of the longest file that a put of the one before us may be about."""
        return max((entry.size_bytes for entry in await self._journal.ledger()), default=0)

    async def _look_closely(self, found: bytes | None) -> None:
        """The manifest is not the one that we know of."""
        try:
            seen, digest = await (self.record.read() if self.compared else self.record.read_any())
        except ManifestBad as error:
            if self.compared:
                raise
            log.error("the manifest will be written anew", error=str(error))
            seen, digest = None, found
        if self.is_ours(digest):
            return
        if not self.compared:
            if reason := await self._compare(seen):
                self._stop(reason)
            else:
                await self._take_over(seen, digest)
        elif seen is not None and self._older(seen):
            assert self.identity is not None
            detail = (
                f"the store has an older manifest of this frontend ({seen.sequence}, the last was"
                f" {self.identity.sequence}): where it was set back, restart hookd, which compares"
            )
            raise ManifestMoved("look", self._store.kind, detail)
        elif seen is not None:
            self._stop(
                f"another frontend ({seen.writer[:8]}) has taken the store over; stop one of the two;"
                f" {CHOICE}"
            )
        elif self.identity is not None and self.identity.digest:
            log.error("the manifest is gone from the store, writing it anew")
            self.changed()

    def _older(self, seen: Manifest) -> bool:
        """Whether a manifest that is not our last one is ours all the same."""
        return self.identity is not None and self.identity.wrote(
            lineage=seen.lineage, writer=seen.writer, sequence=seen.sequence
        )

    def _stop(self, reason: str) -> None:
        self.fenced = reason
        self.woken.set()
        log.error("fenced: nothing is stored any more", reason=reason)

    # -- taking over ---------------------------------------------------------------------------

    async def take_over(self, seen: Manifest | None, digest: bytes | None) -> None:
        """From now on the store is ours, if it is still as it was `seen`; our name is written at once.

        Raises ManifestMoved if it is not, and nothing has changed then; StoreError, JournalError: it is
        ours, but nothing is stored before our name is.
        """
        async with self._lock:
            found = await self._store.stat_record(manifest.NAME)
            if found != digest and not self.is_ours(found):
                detail = "another frontend has written its manifest a moment ago"
                raise ManifestMoved("take over", self._store.kind, detail)
            self.fenced = None
            await self._take_over(seen, found)

    async def _take_over(self, seen: Manifest | None, digest: bytes | None) -> None:
        old = self.identity
        former: tuple[str, ...] = ()
        if seen is not None and old is not None and self._older(seen):
            # a store that was set back: the next number is new to both
            lineage, sequence = old.lineage, max(old.sequence, seen.sequence)
            former = (*old.former, old.writer)[-MAX_FORMER:]
        elif seen is not None:
            lineage, sequence = seen.lineage, seen.sequence
        elif old is not None:
            lineage, sequence = old.lineage, old.sequence
            former = (*old.former, old.writer)[-MAX_FORMER:]  # one that comes back is still ours
        else:
            lineage, sequence = os.urandom(16).hex(), 0
        self._changes += 1
        self.woken.set()
        before = digest.hex() if digest else ""
        name = os.urandom(16).hex()
        ours = Identity(lineage, name, sequence, before, named=False, former=former)
        await self._keep(ours)
        self._renamed = self.compared = True
        await self._write()
        if seen is not None:
            self._settle()
            self.taken(max((named.size_bytes for named in seen.files.values()), default=0))
        log.info("this frontend has the store now", lineage=lineage[:8], sequence=sequence + 1)

    # -- writing -------------------------------------------------------------------------------

    def changed(self) -> None:
        """Something was stored or withdrawn: a manifest is due."""
        self._changes += 1
        self.woken.set()

    @property
    def unpublished(self) -> bool:
        """Whether the store holds files that its manifest does not name yet."""
        return self._changes != self._published_changes and self.fenced is None

    async def publish(self) -> None:
        """Write the manifest of all that is stored now. Raises StoreError, JournalError."""
        async with self._lock:
            if not await self._guard():
                await self._write()

    async def confirm(self) -> None:
        """The store is ours now, asked and not remembered, and its manifest names all that is stored.

        Nothing is written where it does already. Raises Fenced, StoreError, JournalError.
        """
        if self.fenced is None and self.identity is None and not self.unpublished:
            return  # nothing was ever stored
        async with self._lock:
            self._looked_at = float("-inf")
            if not await self._guard() and self.unpublished:
                await self._write()

    async def _write(self, *, named: bool = True) -> None:
        """`named`: whether it counts as our name at once."""
        assert self.identity is not None
        changes = self._changes
        identity = self.identity
        entries = await self._journal.ledger()
        deleted = await self._journal.deleted_namespaces()
        sequence = identity.sequence + 1
        made = manifest.build(
            entries,
            lineage=identity.lineage,
            writer=identity.writer,
            sequence=sequence,
            deleted=deleted,
            stale=await self._journal.retired(),
            given_up=await self._journal.given_up(),
            holes=await self._journal.holes(),
        )
        content = manifest.encode(made)
        digest = digest_of(content).hex()
        coming = (*identity.coming, digest)[-MAX_COMING:]
        await self._keep(replace(identity, coming=coming))
        await self.record.put(made, content)
        written = replace(identity, sequence=sequence, digest=digest, coming=(), named=named)
        await self._keep(replace(written, home=self._home))
        self._begun = True
        self._published_changes = changes
        self._looked_at = time.monotonic()
        self.published_at = time.time()

    async def _keep(self, identity: Identity) -> None:
        self.identity = identity
        await self._journal.set_meta("identity", identity.as_meta())
