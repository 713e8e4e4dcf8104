"""What is decided for one namespace: its cell of the table, and the restore that comes of it.

In: what is here, what our journal knows, one look at the store; out: a `Finding`, or Waits raised. The
invariant: a namespace is served or restored only if nothing speaks for more there, or another history.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio.to_thread

from hookd.admin.words import count, size
from hookd.errors import Conflict, JournalError, StoreError
from hookd.fence import Fence
from hookd.files import FileKey, Kind, Roots, index_key, namespace_key
from hookd.journal import Journal, LedgerEntry
from hookd.log import get
from hookd.manifest import Manifest, ManifestBad, ManifestNewer
from hookd.restore import compare, remote
from hookd.restore.choices import Choices
from hookd.restore.claim import SET_BACK, Claim, differs
from hookd.restore.finding import APART, WITH_FILES, Finding, Holds, Waits, not_whole, to_decide
from hookd.restore.fit import Refused
from hookd.restore.local import Local, look
from hookd.restore.proof import Altered
from hookd.restore.restorer import Disturbed, Restorer
from hookd.restore.result import without
from hookd.restore.table import Decision, Here, There, decide
from hookd.restore.view import View
from hookd.restore.weigh import Weighed
from hookd.scheduler import Scheduler
from hookd.stores.base import Remote, Store

log = get("survey")

LEFT_OUT = "it was left out of a restore by hand, and comes back with zdb's next start"

CHOSEN = "what is stored was chosen, and is waited for"

UNNAMED = "no manifest names what the store has of it: restore all together, without --namespace"


@dataclass(slots=True)
class Verdicts:
    """Decides namespace by namespace, within one round of a survey."""

    journal: Journal
    store: Store
    roots: Roots
    fence: Fence
    restorer: Restorer
    scheduler: Scheduler
    holds: Holds
    choices: Choices
    claim: Claim
    stopping: Callable[[], bool] = lambda: False

    async def of(
        self, name: str, local: Local, known: Mapping[FileKey, int], view: View
    ) -> Finding:
        """One cell of the table; a restore is done right away. Raises Waits."""
        followed = await self.choices.follow(name, local, view)
        if isinstance(followed, Finding):
            return followed
        local = followed
        if not any(key.kind is Kind.INDEX for key in known) and (
            lost := await self.choices.blank_again(name, local, view)
        ):
            return Finding(Decision.REFUSE, Here.EMPTY, There.MANIFEST, lost)
        if not view.readable:
            here, why = self._unread(local, known)
            decision = decide(here, view.there)
            if self.choices.of(name) == "remote":  # zdb would write what is set aside later
                decision, why = Decision.WAIT, f"{CHOSEN}; {to_decide(name)}"
            return Finding(
                decision, here, view.there, why if decision is not Decision.SERVE else ""
            )
        if view.ours:
            here, why = compare.classify(local, known)
            # of one that was held the manifest names what is there, not what is here
            if here is Here.COMPLETE and name not in self.holds.held and not _unasked(view, known):
                return Finding(Decision.SERVE, here, There.MANIFEST)
        elif view.conflict is not None and local.indexes and not local.blank:
            here, why = Here.FOREIGN, view.conflict
            if view.manifest is not None:
                row, older = compare.classify(local, view.manifest.sizes(name))
                here, why = (row, f"{older}; {why}") if row is Here.OLDER else (here, why)
            return Finding(Decision.REFUSE, here, There.MANIFEST, f"{why}; {to_decide(name)}")
        return await self._decide_by_files(name, local, known, view)

    async def _decide_by_files(
        self, name: str, local: Local, known: Mapping[FileKey, int], view: View
    ) -> Finding:
        """The store was read, and it is not plain that all is here: ask it file by file."""
        manifest = view.manifest
        if view.ours:
            try:
                manifest, _ = await self.fence.record.read()
            except (StoreError, ManifestBad, ManifestNewer) as error:
                raise Waits(f"{name}: {error}") from error
        if view.conflict is not None and manifest is None:
            return Finding(Decision.REFUSE, Here.EMPTY, There.MANIFEST, view.conflict)
        try:
            stale = await self.choices.stale(view)
            meant, given = await self.choices.meant(name, view, manifest)
            there = await remote.look(self.store, name, meant, stale, given)
            if (replaced := there.replaced) is not None:
                there = await remote.look(self.store, name, manifest, stale)
                if not there.indexes:
                    why = f"{replaced} was given up, and has been stored over since"
                    return Finding(Decision.REFUSE, Here.EMPTY, There.MANIFEST, why)
            else:
                manifest = meant
        except StoreError as error:
            here, why = self._unread(local, known)
            column = There.UNREACHABLE
            if decide(here, column) is Decision.WAIT or _unasked(view, known):
                raise Waits(f"{name}: {why}; {error}") from error
            return Finding(Decision.SERVE, here, column)
        in_manifest = manifest is not None and name in manifest.namespaces
        stored = view.proven.get(name, {})
        lost = not there.indexes and compare.worth(stored)
        there.waiting.update(self._waiting(name, view))
        column = There.MANIFEST if in_manifest else There.FILES if there.all else There.EMPTY
        if lost and not in_manifest:
            column = There.LOST
        # with our own manifest lengths tell: the ledger has them
        strange = not view.ours or name in self.holds.held or _unasked(view, known)
        weighed = Weighed()
        if strange or not local.indexes or local.interrupted:
            try:
                weighed = await self.claim.scales.weigh(local, there, manifest)
            except (StoreError, OSError) as error:
                raise Waits(f"{name}: comparing: {error}") from error
        sizes = dict(known)
        for key, found in there.files.items():
            length = weighed.lengths.get(key, found.size_bytes or 0)
            sizes[key] = max(sizes.get(key, 0), length)
        if manifest is not None:
            for key, named in manifest.files.items():
                if key.namespace == name:
                    sizes[key] = max(sizes.get(key, 0), named.size_bytes)
        here, why = compare.classify(local, sizes)
        if weighed.apart is not None and here not in APART and not local.blank:
            here, why = weighed.apart, weighed.why
        if here in WITH_FILES and manifest is not None and strange:
            why_not = await differs(self.roots, local, manifest)
            here, why = (Here.FOREIGN, why_not) if why_not else (here, why)
        decision = decide(here, column)
        if decision is Decision.RESTORE and not self.choices.meant_for(name):
            left = LEFT_OUT if column is There.MANIFEST else UNNAMED
            return Finding(Decision.REFUSE, here, column, f"{why}; {left}")
        if decision is Decision.RESTORE and view.stuck is not None:
            return Finding(Decision.REFUSE, here, column, f"{why}; first {view.stuck}")
        if decision is Decision.RESTORE:
            if (gone := _lacking(local, there, stored)) is not None:
                why = (
                    f"the store lacks {gone.name}, which was stored; {await self._not_whole(name)}"
                )
                return Finding(Decision.REFUSE, here, column, why)
            return await self._restore(name, here, column, local, there, manifest, view)
        if decision is Decision.REFUSE and lost:
            why = f"{why}, and the store lacks what was stored: is it the right one?"
            return Finding(decision, here, column, f"{why} {await self._not_whole(name)}")
        if decision is Decision.REFUSE:
            return Finding(decision, here, column, f"{why}; {to_decide(name)}")
        return Finding(decision, here, column)

    async def _restore(
        self,
        name: str,
        here: Here,
        column: There,
        local: Local,
        there: remote.There,
        manifest: Manifest | None,
        view: View,
    ) -> Finding:
        if self.stopping():
            raise Waits(f"{name}: hookd stops")
        log.warning("restoring", namespace=name, why=here.value)
        started = time.monotonic()
        ledger = [each for each in await self.journal.ledger() if each.key.namespace == name]
        before = {entry.key: entry.digest for entry in ledger}
        proven = self._proven(name, ledger, there) if view.ours else {}

        async def fetched(entries: Sequence[LedgerEntry]) -> None:
            """All is there: from here on the ledger says so, whatever becomes of us."""
            await self.claim.still_so(view, there, manifest)
            if view.superseded and self.choices.disown is not None:
                await self.choices.disown(name, SET_BACK)
            await self.choices.make_way(name)
            # of a file that is here and altered there the audit stores ours again
            sound = [e for e in entries if e.digest in proven.get(e.key, (e.digest,))]
            # what a manifest has just told us may be behind; what a job of ours has put is not
            told = {each.key: each.digest for each in await self.journal.ledger() if not each.job}
            await self.journal.adopt(sound, seen=before | told)
            for entry in sound:
                self.scheduler.remote(entry.key, entry.size_bytes, sealed=entry.sealed)

        try:
            done = await self.restorer.restore(
                local,
                there,
                manifest,
                proven=proven,
                fetched=fetched,
                chosen=self.choices.of(name) == "remote",
            )
            await self.journal.note_holes(done.spared, spared=True)
        except Disturbed as error:
            return Finding(Decision.REFUSE, here, column, str(error))
        except Refused as error:
            if there.waiting and not isinstance(
                error, Altered
            ):  # without them there may be a whole, older
                newest = "snapshots here that are not stored yet are newer"
                why = f"{error}; {newest}; {to_decide(name)}"
                return Finding(Decision.REFUSE, here, column, why)
            hint = await self._not_whole(name, spared=error.spared)
            return Finding(Decision.REFUSE, here, column, f"{error}; {hint}")
        except StoreError as error:
            raise Waits(f"{name}: restoring: {error}") from error
        except (OSError, JournalError) as error:
            raise Waits(f"{name}: restoring, cannot write here: {error}") from error
        seconds = round(time.monotonic() - started, 3)
        log.warning("restored", namespace=name, files=done.files, bytes=done.bytes, seconds=seconds)
        brought = (
            f"{count(done.files, 'file')}, {size(done.bytes)}{without(done.holes, done.spared)}"
        )
        return Finding(Decision.RESTORE, here, column, brought=brought)

    async def _not_whole(self, name: str, *, spared: bool = False) -> str:
        local = await anyio.to_thread.run_sync(look, self.roots, name)
        return not_whole(name, nothing=local.nothing, spared=spared)

    @property
    def had_store(self) -> bool:
        """Whether the store was read once; a new journal knows nothing of what it has."""
        identity = self.fence.identity
        return identity is not None and bool(identity.digest)

    def _unread(self, local: Local, known: Mapping[FileKey, int]) -> tuple[Here, str]:
        """The row where the store cannot be asked, and the reason."""
        here, why = compare.classify(local, known)
        if here is Here.COMPLETE and not self.had_store:
            if local.blank:
                return Here.EMPTY, "its files are blank, and the store was never asked for it"
            if local.length(namespace_key(local.namespace)) is None:
                return Here.NO_DESCRIPTOR, "its descriptor is absent, which has its password"
        return here, why

    def _proven(
        self, name: str, ledger: Sequence[LedgerEntry], there: remote.There
    ) -> dict[FileKey, set[bytes]]:
        """What we have put there, or are about to, where the store can have nothing else.

        What was given up and is taken back is other content. Where what is stored was chosen, puts whose
        jobs were given up for it may have taken effect, unknown to the ledger. What no job of ours put
        was named by another frontend's manifest, which may have been behind.
        """
        if there.only is not None or self.choices.of(name) == "remote":
            return {}
        found: dict[FileKey, set[bytes]] = {}
        for entry in ledger:
            jobs = self.scheduler.of(entry.key)
            if not entry.job or any(job.digest is None for job in jobs):
                continue
            found[entry.key] = {entry.digest, *(job.digest for job in jobs if job.digest)}
        return found

    def _waiting(self, name: str, view: View) -> dict[FileKey, Remote]:
        """Frozen contents of a namespace on their way to a store that is ours, newer than what it has."""
        theirs = view.conflict is not None or view.superseded
        if theirs or self.choices.of(name) == "remote":
            return {}
        jobs = {job.key: job for job in self.scheduler if job.key.namespace == name}
        newest = (self.scheduler.of(key)[-1] for key in jobs)
        return {
            job.key: Remote(job.digest, job.size_bytes)
            for job in newest
            if job.staged is not None and job.digest and job.error_class != Conflict.error_class
        }


def _unasked(view: View, known: Mapping[FileKey, int]) -> bool:
    """Whether our manifest does not name it because the store was never asked for it."""
    return view.unasked and not known


def _lacking(local: Local, there: remote.There, stored: Mapping[FileKey, int]) -> FileKey | None:
    """An index file that was proven stored and is neither here nor there now: the rest would be older."""
    lacking = sorted(
        key.number
        for key in stored
        if key.kind is Kind.INDEX and key not in there.all and key not in local.lengths
    )
    return index_key(local.namespace, lacking[-1]) if lacking else None
